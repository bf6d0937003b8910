"""Requests out of protobuf JSON and query parameters, refused in Google's words where they do not fit."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict, ParseError

from traced_relay.emulator.errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

    from traced_relay.emulator.rest_mapping import Rule

# https://cloud.google.com/apis/docs/system-parameters; each also with a dollar in front
SYSTEM_PARAMETERS = frozenset(
    ("access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "uploadType",
     "upload_protocol", "userProject", "xgafv")
)  # fmt: skip


def request_from(request: Message, rule: Rule, name: str, body: bytes, query: Iterable[tuple[str, str]]) -> Message:
    """Fill the empty *request* from what came over HTTP; the name in the path wins over one in the body."""
    if rule.body == "*":
        _fill(request, _object(body), at="")
    elif rule.body:
        _fill(getattr(request, rule.body), _object(body), at=rule.body)
    for key, value in query:
        if key.lstrip("$").removeprefix(".") not in SYSTEM_PARAMETERS:
            _bind(request, key, value)
    *outer, field = rule.field.split(".")
    owner = getattr(request, outer[0]) if outer else request
    setattr(owner, field, name)
    return request


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise invalid(f"Invalid JSON payload received. {exc}") from exc
    if not isinstance(value, dict):
        raise invalid("Invalid JSON payload received. Root element must be a message.")
    return value


def _bind(request: Message, key: str, value: str) -> None:
    field = request.DESCRIPTOR.fields_by_name.get(_snake(key.removesuffix(".paths")))
    if field is None:
        raise invalid(
            f'Invalid JSON payload received. Unknown name "{key}": Cannot bind query parameter. '
            f"Field '{key}' could not be found in request message."
        )
    if field.message_type and field.message_type.full_name == FieldMask.DESCRIPTOR.full_name:
        getattr(request, field.name).paths.extend(_snake(path) for path in value.split(",") if path)
    else:
        _fill(request, {field.name: value}, at="")


def _fill(message: Message, value: dict[str, Any], *, at: str) -> None:
    message.SetInParent()
    try:
        ParseDict(value, message)
    except (ParseError, ValueError, TypeError, RecursionError) as exc:
        raise invalid(_refusal(str(exc), at)) from exc


def _refusal(complaint: str, at: str) -> str:
    """What Google would say where the protobuf library makes its *complaint*."""
    named = re.search(r' at "?\w+((?:\.\w+)*)"?\.*(?:\n|$)', complaint)
    path = named[1].split(".") if named else re.findall(r"Failed to parse (\w+) field: ", complaint)
    where = ".".join(_snake(name) for name in [at, *path] if name)
    if unknown := re.search(r'no field named "(.*?)" at "', complaint):
        place = f" at '{where}'" if where else ""
        return f'Invalid JSON payload received. Unknown name "{unknown[1]}"{place}: Cannot find field.'
    reason = re.sub(r"Failed to parse \w+ field: ", "", complaint[: named.start()] if named else complaint).rstrip(".")
    return f"Invalid value at '{where}': {reason}" if where else f"Invalid JSON payload received. {reason}"


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
