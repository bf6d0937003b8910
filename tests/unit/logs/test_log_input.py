"""Records and other lines in a stream of log text, split into chunks anywhere."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from traced_relay.logs.log_input import LogInput, decoded

A, B = {"n": 1, "text": 'a "quoted" } { \\ brace\nü'}, {"n": 2, "inner": {"list": [{"x": []}, "]"]}}
WRAPPED = {
    "lines": f"{json.dumps(A)}\n{json.dumps(B)}\n",
    "no end of line": f"{json.dumps(A)}\n{json.dumps(B)}",
    "CRLF": f"{json.dumps(A)}\r\n\r\n{json.dumps(B)}\r\n",
    "array": json.dumps([A, B]),
    "pretty": json.dumps([A, B], indent=2),
    "pretty CRLF": json.dumps([A, B], indent=2).replace("\n", "\r\n"),
    "tabs": json.dumps([A, B], indent="\t"),
    "unclosed": json.dumps([A, B], indent=2).removesuffix("\n]"),
    "one after another": json.dumps(A, indent=2) + "\n" + json.dumps(B, indent=4),
    "concatenated": json.dumps(A) + json.dumps(B),
    "BOM": "\ufeff" + json.dumps(A) + "\n" + "\ufeff" + json.dumps(B),
    "kubectl": f"[pod/relay-7d/relay] {json.dumps(A)}\n[pod/relay-7d/relay] {json.dumps(B)}\n",
    "compose": f"relay-1  | {json.dumps(A)}\nrelay-1  | {json.dumps(B)}\n",
    "timestamps": f"2026-11-21T18:00:00.1Z {json.dumps(A)}\n2026-11-21T18:00:00.1Z stdout F {json.dumps(B)}\n",
}


def read(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [found] if isinstance(found, dict) and "n" in found else []


def pieces(*chunks: str, longest: int = 10_000, messages: list[str] | None = None) -> list[dict[str, Any] | str]:
    return list(LogInput(read, longest, [].append if messages is None else messages.append).pieces(chunks))


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_objects_are_found_across_prefixes_and_chunks(text: str) -> None:
    assert pieces(text) == [A, B]
    assert pieces(*text) == [A, B]
    at = random.Random(1)
    for _ in range(30):
        first, second = sorted(at.randrange(len(text)) for _ in range(2))
        assert pieces(text[:first], text[first:second], text[second:]) == [A, B]


def test_an_object_is_yielded_at_its_last_brace() -> None:
    text = json.dumps([A, B], indent=2)
    seen = []
    input_ = LogInput(read, 1000).pieces(seen.append(character) or character for character in text)
    assert next(input_) == A
    assert "".join(seen) == text[: text.index("  },") + 3]
    assert next(input_) == B


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("starting\n\n[1]\n", ["starting", "[1]"]),
        ('a set {1, 2} and {"b": 1}\n', ['a set {1, 2} and {"b": 1}']),
        ('{"foreign": 1}\n', ['{"foreign": 1}']),
        ('{"n": 1} and more\n', [{"n": 1}, " and more"]),
        ('if (x) {\n{"n": 1}\n', ["if (x) {", {"n": 1}]),
        ('{"n": 1, "torn": "of\n{"n": 2}\n', ['{"n": 1, "torn": "of', {"n": 2}]),
        ('[\n  {\n    "n": 1,\n[\n  {\n    "n": 2\n  }\n', ["  {", '    "n": 1,', {"n": 2}]),
        ("{'n': 1,\n 'm': 2}\n", ["{'n': 1,", " 'm': 2}"]),
        ("torn off: {", ["torn off: {"]),
        ('torn off: {"a": "\\', ['torn off: {"a": "\\']),
        ("}\n{\n{\n", ["}", "{", "{"]),
        ("[\n]\n[]\n,\n", []),
    ],
)
def test_other_text_is_yielded_as_lines(text: str, expected: list[Any]) -> None:
    assert pieces(text) == expected
    assert pieces(*text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * 300 + '\n{"n": 1}\n', "a line of more than 100 characters is skipped"),
        ('{"n": "' + "x" * 300 + '"}\n{"n": 1}\n', "an object of more than 100 characters is skipped"),
        ('{\n "n": "' + "x" * 300 + '"\n}\n{"n": 1}\n', "an object of more than 100 characters is skipped"),
        ('{"n": "' + "x" * 300 + '\n{"n": 1}\n', "an object of more than 100 characters is skipped"),
        ("{" * 300 + '\n{"n": 1}\n', "an object of more than 100 characters is skipped"),
    ],
    ids=["line", "object", "pretty", "torn", "braces"],
)
def test_a_too_long_piece_is_skipped_and_the_next_is_read(text: str, message: str) -> None:
    for chunks in ([text], [*text]):
        messages: list[str] = []
        assert pieces(*chunks, longest=100, messages=messages) == [{"n": 1}]
        assert messages == [message]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_character_in_two_chunks_is_joined(encoding: str, size: int) -> None:
    text = "ü東🙂\n"
    content = text.encode(encoding)
    assert "".join(decoded(content[at : at + size] for at in range(0, len(content), size))) == text


@pytest.mark.parametrize(("content", "text"), [(b"", ""), (b"a", "a"), (b"a\xff\xc3", "a\ufffd\ufffd")])
def test_invalid_bytes_are_replaced(content: bytes, text: str) -> None:
    assert "".join(decoded([content])) == text
