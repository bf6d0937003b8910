"""What a list is to show: the parameters of its query, checked. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from traced_relay.errors import FieldError
from traced_relay.formats import strict_json, validation
from traced_relay.formats.durations import parse_duration, parse_time
from traced_relay.ledger.protocol import Selection
from traced_relay.tasks.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from traced_relay.tasks.row import Row

T = TypeVar("T")

_FILTERS = {"kind", "state", "queue", "rule", "reason", "version", "since", "limit", "page_token"}


def read(query: Iterable[tuple[str, str]], *, caller: str | None, now: float) -> tuple[Selection, int]:
    """What is selected of the *caller*'s tasks (None: of all), and how many are shown; InvalidCall names the filter."""
    pairs = list(query)
    given = dict(reversed(pairs))
    times = Counter(name for name, _ in pairs)
    errors = [FieldError(name, "must be given at most once") for name, count in times.items() if count > 1]
    errors += [
        FieldError(name, "is not a known filter")
        for name in given
        if name not in _FILTERS and not name.startswith("label.")
    ]
    labels = [(name.removeprefix("label."), value) for name, value in given.items() if name.startswith("label.")]
    if len(labels) > 1:
        errors.append(FieldError("label", "must be given at most once"))
    if given.get("state", "queued") not in STATES:
        errors.append(FieldError("state", f"must be one of {', '.join(STATES)}"))
    if given.get("kind", "call") not in ("call", "callback"):
        errors.append(FieldError("kind", "must be call or callback"))
    limit = given.get("limit", "50")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= 200:
        errors.append(FieldError("limit", "must be a number from 1 to 200"))
    before = _parsed(given, "page_token", page_position, "must be a next_page_token of this list", errors)
    since = _parsed(
        given, "since", lambda text: _since(text, now), "must be an RFC 3339 time, its + as %2B, or a duration", errors
    )
    if errors:
        raise validation.invalid_call(errors)
    names = ("state", "queue", "rule", "reason", "version")
    return Selection(
        kind=given.get("kind", "call"),
        caller=caller,
        since=since,
        before=before,
        label=labels[0] if labels else None,
        **{name: given.get(name) for name in names},
    ), int(limit)


def _since(text: str, now: float) -> float:
    """A time, or a duration before now."""
    try:
        return now - parse_duration(text)
    except ValueError:
        return parse_time(text)


def _parsed(
    given: Mapping[str, str], name: str, parse: Callable[[str], T], rule: str, errors: list[FieldError]
) -> T | None:
    if name not in given:
        return None
    try:
        return parse(given[name])
    except (ValueError, TypeError):
        errors.append(FieldError(name, rule))
        return None


def page_token(row: Row) -> str:
    """Opaque to callers: the place after *row* in a list."""
    return base64.urlsafe_b64encode(json.dumps([row.created_at, row.task_id]).encode()).decode().rstrip("=")


def page_position(token: str) -> tuple[float, str]:
    """The place that a page token stands for; ValueError if it is none of ours."""
    match strict_json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))):
        case [float(created_at), str(task_id)] if task_id.isascii():
            return created_at, task_id
    raise ValueError("no place in a list")
