"""The query of a list: its parameters in, a Selection out; and page tokens. Pure."""

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
from traced_relay.tasks.api_types import ListQuery
from traced_relay.tasks.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from traced_relay.ledger.protocol import Position

T = TypeVar("T")

_FILTERS = ListQuery.__optional_keys__


def parse(query: Iterable[tuple[str, str]], *, caller: str | None, now: float) -> tuple[Selection, int]:
    """The selection of the *caller*'s tasks (None: of all) and the limit; InvalidCall names each wrong parameter."""
    pairs = list(query)
    given = dict(reversed(pairs))
    counts = Counter(name for name, _ in pairs)
    labels = {name.removeprefix("label."): value for name, value in given.items() if name.startswith("label.")}
    errors = [FieldError(name, "must be given at most once") for name, count in counts.items() if count > 1]
    errors += [
        FieldError(name, "is not a known filter")
        for name in given
        if name not in _FILTERS and not name.startswith("label.")
    ]
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
    plain = {name: given[name] for name in _FILTERS & given.keys() - {"since", "limit", "page_token"}}
    label = next(iter(labels.items()), None)
    return Selection(caller=caller, since=since, before=before, label=label, **plain), int(limit)


def _since(text: str, now: float) -> float:
    """Seconds since the epoch of a time, or of a duration before *now*."""
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


def page_token(after: Position) -> str:
    """The token of the page that follows this position; opaque to callers."""
    return base64.urlsafe_b64encode(json.dumps(after).encode()).decode().rstrip("=")


def page_position(token: str) -> Position:
    """The position that a page follows; ValueError if no list returned this token."""
    match strict_json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))):
        case [float(created_at), str(task_id)] if task_id.isascii():
            return created_at, task_id
    raise ValueError("not a page token")
