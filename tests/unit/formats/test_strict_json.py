from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.formats.strict_json import MAX_DEPTH, MAX_DIGITS, NotJson, canonical, dumps, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"null", None),
        (b' {"a": [1, 2.5, true, "\xc3\xa9", {}]} ', {"a": [1, 2.5, True, "é", {}]}),
        (b"1" * MAX_DIGITS, int("1" * MAX_DIGITS)),
        (b"-0.0", 0.0),
        (b"0." + b"1" * (MAX_DIGITS - 2), 1 / 9),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ud800"', "\ud800"),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_json_is_read(text: bytes, value: Any) -> None:
    assert loads(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "the body is not JSON: Expecting value at line 1, column 1"),
        (b'{"a": 1,}', "the body is not JSON: "),
        (b"{'a': 1}", "the body is not JSON: "),
        (b"[1] 2", "the body is not JSON: Extra data at line 1, column 5"),
        (b"\xef\xbb\xbf{}", "the body is not JSON: Unexpected UTF-8 BOM"),
        (b'"\x00"', "the body is not JSON: Invalid control character at"),
        (b'{"a": "\xff"}', "the body is not UTF-8: invalid byte at 7"),
        (b'"\xed\xa0\x80"', "the body is not UTF-8: invalid byte at 1"),
        (b'{"a": NaN}', "the body is not JSON: NaN is not a JSON value"),
        (b"[-Infinity]", "the body is not JSON: -Infinity is not a JSON value"),
        (b"1e400", "the body contains a number beyond the range of a double"),
        (b"1" * 5000, "the body contains a number of more than 400 digits"),
        (b"-" + b"1" * MAX_DIGITS, "the body contains a number of more than 400 digits"),
        (b"0." + b"1" * 5000, "the body contains a number of more than 400 digits"),
        (b'{"a": 1, "b": 2, "a": 3}', "the body has a duplicate name in an object"),
        (b'[{"x": {"\\u0061": 1, "a": 1}}]', "the body has a duplicate name in an object"),
        (b'{"\\ud800": 1}', "the body contains a name with a lone surrogate"),
        (b'{"a": {"\xc3\xa9\\udfff": 1}}', "the body contains a name with a lone surrogate"),
        (b"[" * 201 + b"]" * 201, "the body is nested deeper than 200 levels"),
        (b'{"a":' * 201 + b"1" + b"}" * 201, "the body is nested deeper than 200 levels"),
        (b"[" * 100_000, "the body is nested deeper than 200 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "the body is nested deeper than 200 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "the body is nested deeper than 200 levels"),
    ],
    ids=range(23),
)
def test_invalid_json_is_refused_with_the_reason(text: bytes, why: str) -> None:
    with pytest.raises(NotJson) as caught:
        loads(text)
    assert str(caught.value).startswith(why)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [b'{"hush": 1, "hush": 2}', b'{"hush\\ud800": 1}', b'{"a": "hush", "a": 1}'])
def test_errors_do_not_repeat_the_text(text: bytes) -> None:
    with pytest.raises(NotJson) as caught:
        loads(text)
    assert "hush" not in str(caught.value)


def test_a_duplicate_name_among_very_many_is_found_fast() -> None:
    text = b"{" + b",".join(b'"n%d":0' % number for number in range(60_000)) + b',"n59999":1}'
    started = perf_counter()
    with pytest.raises(NotJson, match="duplicate name"):
        loads(text)
    assert perf_counter() - started < 5  # comparing each name with each would take half a minute


@given(st.binary() | st.text(alphabet='{}[]":,\\ud8019eE+-.ntfalsr ').map(str.encode))
def test_no_bytes_raise_anything_but_not_json(text: bytes) -> None:
    try:
        value = loads(text)
    except NotJson:
        return
    assert value == loads(canonical(value))


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert loads(dumps(value)) == value
    assert loads(canonical(value)) == value


def test_compact_json_is_utf8_without_spaces() -> None:
    assert dumps({"b": [1, "é"], "a": None}) == '{"b":[1,"é"],"a":null}'.encode()


def test_a_lone_surrogate_cannot_be_written() -> None:
    with pytest.raises(UnicodeEncodeError):
        dumps({"a": "\ud800"})


def test_values_that_json_lacks_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps([float("nan")])


def test_the_canonical_form_ignores_order_and_accepts_any_text() -> None:
    assert canonical({"b": 1, "a": "\ud800"}) == canonical({"a": "\ud800", "b": 1}) == b'{"a":"\\ud800","b":1}'
    assert canonical({"a": 1}) != canonical({"a": 1.0})
