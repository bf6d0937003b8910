"""Which HTTP request calls which method of Cloud Tasks: Google's mapping of v2, assumed for v2beta3 too."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict, ParseError
from grpc import StatusCode

from traced_relay.emulator.errors import ApiError, invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

LOCATION = "projects/*/locations/*"
QUEUE = LOCATION + "/queues/*"
TASK = QUEUE + "/tasks/*"


@dataclass(frozen=True)
class Rule:
    """
    One line of the mapping.

    The braces in *path* name the request field that this part fills; *body* is the field that the JSON
    body fills, `*` for the whole request.
    """

    verb: str
    path: str
    method: str
    body: str | None = None

    @cached_property
    def field(self) -> str:
        return self.path.partition("{")[2].partition("=")[0]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        # A colon in the last segment begins a verb such as `:run`; a project id may contain one too.
        opened = re.sub(r"\{[^=]*=([^}]*)\}", r"(\1)", self.path)
        return re.compile(opened.replace("*/", "[^/]+/").replace("*", "[^/:]+"))


RULES = (
    Rule("POST", f"{{parent={LOCATION}}}/queues", "CreateQueue", "queue"),
    Rule("GET", f"{{parent={LOCATION}}}/queues", "ListQueues"),
    Rule("GET", f"{{name={QUEUE}}}", "GetQueue"),
    Rule("PATCH", f"{{queue.name={QUEUE}}}", "UpdateQueue", "queue"),
    Rule("DELETE", f"{{name={QUEUE}}}", "DeleteQueue"),
    Rule("POST", f"{{name={QUEUE}}}:pause", "PauseQueue", "*"),
    Rule("POST", f"{{name={QUEUE}}}:resume", "ResumeQueue", "*"),
    Rule("POST", f"{{name={QUEUE}}}:purge", "PurgeQueue", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:getIamPolicy", "GetIamPolicy", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:setIamPolicy", "SetIamPolicy", "*"),
    Rule("POST", f"{{resource={QUEUE}}}:testIamPermissions", "TestIamPermissions", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks", "CreateTask", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks:batchCreate", "BatchCreateTasks", "*"),
    Rule("POST", f"{{parent={QUEUE}}}/tasks:batchDelete", "BatchDeleteTasks", "*"),
    Rule("GET", f"{{parent={QUEUE}}}/tasks", "ListTasks"),
    Rule("GET", f"{{name={TASK}}}", "GetTask"),
    Rule("DELETE", f"{{name={TASK}}}", "DeleteTask"),
    Rule("POST", f"{{name={TASK}}}:run", "RunTask", "*"),
    Rule("POST", f"{{name={TASK}}}:buffer", "BufferTask", "*"),
    Rule("POST", f"{{queue={QUEUE}}}/tasks:buffer", "BufferTask", "*"),
    Rule("GET", "{name=projects/*}/locations", "ListLocations"),
    Rule("GET", f"{{name={LOCATION}}}", "GetLocation"),
    Rule("GET", f"{{name={LOCATION}/cmekConfig}}", "GetCmekConfig"),
    Rule("PATCH", f"{{cmek_config.name={LOCATION}/cmekConfig}}", "UpdateCmekConfig", "cmek_config"),
    Rule("GET", f"{{name={LOCATION}/operations/*}}", "GetOperation"),
)


def find(verb: str, path: str) -> tuple[Rule, str]:
    """The rule for a request, and the resource name in its path."""
    version, _, rest = path.removeprefix("/").partition("/")
    is_known = version in ("v2", "v2beta3")
    for rule in RULES:
        if is_known and rule.verb == verb and (match := rule.pattern.fullmatch(rest)):
            named = rule if version == "v2" else replace(rule, method=f"{version}.{rule.method}")
            return named, match[1]
    raise ApiError(StatusCode.NOT_FOUND, "Method not found.")


# https://cloud.google.com/apis/docs/system-parameters; each also with a dollar in front
SYSTEM_PARAMETERS = frozenset(
    ("access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint", "quotaUser", "uploadType",
     "upload_protocol", "userProject", "xgafv")
)  # fmt: skip


def request_from(request: Message, rule: Rule, name: str, body: bytes, query: Iterable[tuple[str, str]]) -> Message:
    """Fill the empty *request* from the HTTP request; the name in the path overrides one in the body."""
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
    """Google's text for the protobuf library's *complaint*."""
    named = re.search(r' at "?\w+((?:\.\w+)*)"?\.*(?:\n|$)', complaint)
    path = named[1].split(".") if named else re.findall(r"Failed to parse (\w+) field: ", complaint)
    where = ".".join(_snake(name) for name in [at, *path] if name)
    if unknown := re.search(r'no field named "(.*?)" at "', complaint):
        location = f" at '{where}'" if where else ""
        return f'Invalid JSON payload received. Unknown name "{unknown[1]}"{location}: Cannot find field.'
    reason = re.sub(r"Failed to parse \w+ field: ", "", complaint[: named.start()] if named else complaint).rstrip(".")
    return f"Invalid value at '{where}': {reason}" if where else f"Invalid JSON payload received. {reason}"


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
