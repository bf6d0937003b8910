"""The body of an enqueue request, and every rule that one breaks."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from traced_relay.errors import FieldError, InvalidCall
from traced_relay.formats.validation import Duration, Model, Time, invalid_call, quoted, read
from traced_relay.tasks import header_policy
from traced_relay.tasks.api_types import Method
from traced_relay.tasks.call import REPEATABLE, SCHEDULE_AHEAD, Callback, JsonBody, RetryPolicy, Url, content_of

_PARTS: dict[str, type[Model]] = {"retry": RetryPolicy, "callback": Callback}


_STRING = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_STRINGS = re.compile(rf"{_STRING.pattern}(?:[ \t]*,[ \t]*{_STRING.pattern})*")


def without_nulls(model: type[Model], document: Any) -> Any:
    """
    The *document* without its nulls, which mean "not given"; nulls inside a body stay.

    A null under a name that the *model* does not have stays, so that the name is rejected.
    """
    if not isinstance(document, dict):
        return document
    kept = {name: value for name, value in document.items() if value is not None or name not in model.model_fields}
    for name in ("headers", "labels"):
        if isinstance(kept.get(name), dict):
            kept[name] = {inner: value for inner, value in kept[name].items() if value is not None}
    return kept | {name: without_nulls(part, kept[name]) for name, part in _PARTS.items() if name in kept}


def idempotency_key(field: str | None) -> str | None:
    """
    The key in an `Idempotency-Key` *field*, whose lines are joined by commas.

    A quoted key is a string of RFC 9651, and the same key as its text without quotes. Only a quoted key may contain a
    comma.
    """
    if field is None:
        return None
    lines = [found[0] for found in _STRING.finditer(field)] if _STRINGS.fullmatch(field) else field.split(",")
    keys = {_key(line.strip(" \t")) for line in lines}
    if len(keys) > 1:
        rule = "must be one key; a key with a comma must be in double quotes"
        raise InvalidCall(f"Idempotency-Key: {rule}, got {len(keys)} keys", status=400)
    (key,) = keys
    if not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        rule = "must be 1 to 255 printable ASCII characters, quoted or bare"
        raise invalid_call([FieldError("Idempotency-Key", f"{rule}, got {quoted(field)}")])
    return key


def _key(line: str) -> str:
    """The key of one line; empty if it starts with a quote but is not a string."""
    if not line.startswith('"'):
        return line
    string = _STRING.fullmatch(line)
    return re.sub(r"\\(.)", r"\1", string[1]) if string else ""


class RetryRequest(RetryPolicy):
    """A policy as a caller gives it; relay.yaml completes it before its fields are compared."""

    @field_validator("max_backoff")
    @classmethod
    def _max_is_not_below_min(cls, value: float) -> float:  # type: ignore[override]
        return value


def _check_label(text: str) -> str:
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in text):
        raise ValueError(f"must not contain control characters, got {quoted(text)}")
    return text


LabelKey = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_check_label)]
LabelValue = Annotated[str, Field(max_length=256), AfterValidator(_check_label)]


class EnqueueRequest(Model):
    """
    The body of `POST /v1/tasks`.

    null means "not given" for every field, `body` too: JSON's null is sent as
    `"body": "null"` with its content type. With `route: direct` Cloud Tasks
    calls the URL itself; such a call has no status.
    """

    url: Url
    method: Annotated[Method, Field(description="HTTP method of the request.")] = "POST"
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Header fields of the request; hop-by-hop fields and those that the relay sets are refused.",
        examples=[{"content-type": "application/json"}],
    )
    body: Annotated[
        JsonBody,
        Field(
            description="Any JSON value, sent as compact JSON; a string is sent as it is, as text/plain.",
            examples=[{"report": 7}],
        ),
    ] = None
    body_base64: Annotated[
        str | None,
        Field(description="Bytes in base64 instead of `body`, sent as application/octet-stream.", examples=["/wA="]),
    ] = None
    queue: Annotated[
        str | None,
        Field(description="Name of the queue; null: the first call queue of relay.yaml.", examples=["relay"]),
    ] = None
    route: Annotated[
        Literal["relay", "direct"],
        Field(
            description="`direct`: Cloud Tasks calls the URL itself, for at most 30 minutes, and there is no status."
        ),
    ] = "relay"
    schedule_time: Annotated[
        Time | None,
        Field(
            description="When the first attempt is due, at most 30 days ahead; null or past: now.",
            examples=["2026-11-21T18:00:00Z"],
        ),
    ] = None
    delay: Annotated[
        Annotated[Duration, Field(ge=0, le=SCHEDULE_AHEAD)] | None,
        Field(
            description="Instead of `schedule_time`: time from now to the first attempt, at most 30 days.",
            examples=["10m"],
        ),
    ] = None
    timeout: Annotated[
        Annotated[Duration, Field(gt=0)] | None,
        Field(
            description="Longest time of one attempt; null: 10m, or the relay's maximum if that is less.",
            examples=["10m"],
        ),
    ] = None
    retry: Annotated[RetryRequest | None, Field(description="Retry policy; relay.yaml fills in what is left out.")] = (
        None
    )
    idempotent: Annotated[
        bool | None,
        Field(
            description="Whether the downstream may be called twice, which allows more retries; "
            f"null: true for {', '.join(REPEATABLE)}, else false."
        ),
    ] = None
    callback: Annotated[Callback | None, Field(description="Where to report the task's end; null: nowhere.")] = None
    labels: Annotated[
        dict[LabelKey, LabelValue],
        Field(
            max_length=16,
            description="At most 16 labels to find the task by: keys of 1 to 63 characters, values up to 256.",
            examples=[{"team": "billing"}],
        ),
    ] = Field(default_factory=dict)

    @field_validator("body_base64")
    @classmethod
    def _body_is_base64(cls, value: str | None) -> str | None:
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("must be base64 (RFC 4648, section 4) with its padding") from None
        return value

    @model_validator(mode="after")
    def _one_of_each(self) -> EnqueueRequest:
        for one, other in (("body", "body_base64"), ("schedule_time", "delay")):
            if {one, other} <= self.model_fields_set:
                raise ValueError(f"{other}: must not be given together with {one}")
        return self

    def content(self) -> tuple[bytes, str | None]:
        """The body to send, byte for byte, and its content type unless the caller gives one."""
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64), "application/octet-stream"
        if "body" not in self.model_fields_set:
            return b"", None
        return content_of(self.body), "text/plain; charset=utf-8" if isinstance(self.body, str) else "application/json"


def enqueue_request(document: Any) -> EnqueueRequest:
    """The request in a parsed JSON *document*; InvalidCall with every rule that it breaks."""
    errors = []
    try:
        request = read(EnqueueRequest, document)
        errors = list(header_policy.broken_rules(request.headers))
    except InvalidCall as exc:
        headers = document.get("headers") if isinstance(document, dict) else None
        if isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values()):
            errors = list(header_policy.broken_rules(headers))
        raise invalid_call([*exc.errors, *errors]) from None
    if errors:
        raise invalid_call(errors)
    return request
