"""Checks a relay's responses against the API's types, before anything reads them. Pure."""

from __future__ import annotations

from functools import cache
from math import isfinite
from types import UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict
from urllib.parse import urlsplit

from traced_relay.formats.durations import parse_time

_LARGEST = 2**53  # every JSON reader takes integers up to this for the same number (RFC 8259, section 6)


def fits(value: object, hint: Any) -> bool:
    """
    Whether *value* has the type of the annotation *hint*.

    An object may have more fields and a Literal may be any text, because later versions of the relay add some.
    """
    if is_typeddict(hint):
        return isinstance(value, dict) and all(
            fits(value[name], inner) if name in value else name not in hint.__required_keys__
            for name, inner in _hints(hint).items()
        )
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return fits(value, arguments[0]) and all(_keeps(value, doc.schema) for doc in hint.__metadata__)
    if origin is NotRequired:
        return fits(value, arguments[0])
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, arguments[1]) for item in value.values())
    return _is_text(value) if origin is Literal else _fits_plain(value, hint)


@cache
def _hints(document: type) -> dict[str, Any]:
    return get_type_hints(document, include_extras=True)


def _fits_plain(value: Any, hint: Any) -> bool:
    if hint is str:
        return _is_text(value)
    if hint in (int, float):
        return type(value) in (int, hint) and isfinite(value) and abs(value) <= _LARGEST
    return hint is Any or isinstance(value, hint)


def _keeps(value: Any, keywords: dict[str, Any]) -> bool:
    """Whether *value*, of the right type, keeps the JSON Schema *keywords* that readers rely on."""
    try:
        match keywords:
            case {"format": "date-time"}:
                parse_time(value)
            case {"format": "uri"}:
                urlsplit(value).port  # noqa: B018  (raises for what readers of the URL cannot split)
            case {"minimum": minimum}:
                return bool(value >= minimum)
            case {"anyOf": options}:
                return any(value.keys() >= set(option["required"]) for option in options)
    except ValueError:
        return False
    return True


def _is_text(value: Any) -> bool:
    """Without lone surrogates, which neither terminals nor URLs accept."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value))
