"""Unambiguous JSON (RFC 8259, I-JSON): no duplicate names, no NaN, at most 200 levels."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 200
MAX_DIGITS = 400


class NotJson(ValueError):
    """The text is not valid JSON; the message names the rule and the position."""


def loads(text: bytes) -> Any:
    """The value of the UTF-8 *text*."""
    try:
        decoded = text.decode()
        if decoded.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM", decoded, 0)
        value = _decode(decoded)
        _check_depth(value)
    except UnicodeDecodeError as exc:
        raise NotJson(f"the body is not UTF-8: invalid byte at {exc.start}") from None
    except RecursionError:
        raise NotJson(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as exc:
        raise NotJson(f"the body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}") from None
    return value


def dumps(value: Any) -> bytes:
    """Compact UTF-8; UnicodeEncodeError for a text with lone surrogates."""
    return _encode(value).encode()


def canonical(value: Any) -> bytes:
    """The same bytes for equal values, regardless of the order of names."""
    return _encode_sorted(value).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotJson("the body has a duplicate name in an object")
    for name in members:
        if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
            raise NotJson("the body contains a name with a lone surrogate")
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise NotJson(f"the body contains a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise NotJson(f"the body contains a number of more than {MAX_DIGITS} digits")
    if not math.isfinite(number := float(digits)):
        raise NotJson("the body contains a number beyond the range of a double")
    return number


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"the body is not JSON: {name} is not a JSON value")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise NotJson(f"the body is nested deeper than {MAX_DEPTH} levels")


# The functions of the module json make a coder of their own for each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_encode_sorted = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode
_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_no_constant
).decode
