"""Which characters of untrusted text are shown as they are, and which as escapes."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from traced_relay.formats.terminal import as_json, is_printable, printable

UNSEEN_KINDS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def test_every_invisible_character_is_escaped() -> None:
    every = map(chr, range(sys.maxunicode + 1))
    shown = [character for character in every if is_printable(character)]
    assert [c for c in shown if unicodedata.category(c) in UNSEEN_KINDS] == []
    assert {c for c in shown if unicodedata.category(c) == "Zs"} == {" "}
    assert len(shown) > 100_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße, 東京 שלום 🙂 e\u0301", "Grüße, 東京 שלום 🙂 e\u0301"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("\u200e\u200f\u061c\u200b\ufeff\u00ad", "\\u200e\\u200f\\u061c\\u200b\\ufeff\\xad"),
        ("\x00\x1b[2J\x7f\x9b\r\n\t", "\\x00\\x1b[2J\\x7f\\x9b\\r\\n\\t"),
        ("\u2028\u2029\u00a0\u3000", "\\u2028\\u2029\\xa0\\u3000"),
        ("\U000e0041\U000e0100\ufe0f\u034f\u180b", "\\U000e0041\\U000e0100\\ufe0f\\u034f\\u180b"),
        ("\u3164\u115f\u1160\uffa0\u2800\u17b4", "\\u3164\\u115f\\u1160\\uffa0\\u2800\\u17b4"),
        ("\ud800x\udfff\ue000\uffff", "\\ud800x\\udfff\\ue000\\uffff"),
    ],
    ids=["letters", "direction", "marks", "controls", "separators", "tags", "fillers", "no character"],
)
def test_an_invisible_character_is_shown_by_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_kept_characters_stay() -> None:
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r"


def test_json_with_escapes_is_the_same_json() -> None:
    value = {"a\u202e": "ü\U000e0041\ud800\x7f\n", "b": ["\u2028"]}
    for indent in (None, 2):
        text = as_json(value, indent=indent)
        assert json.loads(text) == value
        assert "ü\\udb40\\udc41\\ud800\\u007f\\n" in text
        assert is_printable(text.replace("\n", ""))
