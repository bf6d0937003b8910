"""Whether what relay.yaml says in one place agrees with what it says in another; each problem starts with its key."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from traced_relay.downstream.addresses import Reach, is_local_host, range_of
from traced_relay.formats.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.config.relay_yaml import RelayFile
    from traced_relay.downstream.addresses import Range
    from traced_relay.downstream.rules import Place

MAX_TIMEOUT_APP_ENGINE = 86_400.0
MAX_TIMEOUT_HTTP_WORKER = 1_785.0  # Cloud Tasks waits 30 minutes for an HTTP target, less the 15 s of slack


def _ceiling(rules: RelayFile) -> float:
    return MAX_TIMEOUT_APP_ENGINE if rules.worker.app_engine else MAX_TIMEOUT_HTTP_WORKER


def longest_timeout(rules: RelayFile) -> float:
    return _ceiling(rules) if rules.max_timeout is None else rules.max_timeout


def rule_problems(rules: RelayFile, *, is_local: bool) -> Iterator[str]:
    """For these a relay does not start; one that *is_local* has its queue on the same machine."""
    url = rules.worker.url
    if url and not is_local and is_local_host(urlsplit(url).netloc):
        yield f"worker.url must not be on this machine, where Cloud Tasks is not, got {url}"
    ceiling = _ceiling(rules)
    if rules.max_timeout is not None and rules.max_timeout > ceiling:
        yield (
            f"max_timeout must be at most {format_duration(ceiling)} with this worker,"
            f" got {format_duration(rules.max_timeout)}"
        )
    if (rules.callers or rules.worker.url) and not rules.audience:
        yield "audience must be set: ID tokens have to name it"
    yield from _out_of_reach(rules)
    known_queues = {queue.name for queue in rules.queues if queue.use == "calls"}
    known_downstreams = {rule.name for rule in rules.downstreams}
    for caller in rules.callers:
        for key, named, known in (
            ("queues", caller.queues, known_queues),
            ("downstreams", caller.downstreams, known_downstreams),
        ):
            for unknown in sorted(set(named) - known) if named != "*" else []:
                meant = '; all of them is "*" and no list' if unknown == "*" else ""
                yield f"callers.{key} of {caller.email} names {unknown}, which is not there{meant}"


def _out_of_reach(rules: RelayFile) -> Iterator[str]:
    for key, place in places(rules):
        found = range_named_by(place)
        if found is not None and found.reach is Reach.NEVER:
            yield f"{key} must not be in {found}, which no rule can allow, got {place.url}"


def places(rules: RelayFile) -> Iterator[tuple[str, Place]]:
    """Everywhere that requests may go, by key."""
    yield from ((f"downstreams.{rule.name}.url", rule) for rule in rules.downstreams)
    yield from (("callbacks.url", receiver) for receiver in rules.callbacks)


def range_named_by(place: Place) -> Range | None:
    """The range of the address that *place* is, in any spelling (0x7f.1, 2130706433); None where its host is a name."""
    host = (urlsplit(place.url).hostname or "").rstrip(".")
    try:
        return range_of(host if ":" in host else socket.inet_ntoa(socket.inet_aton(host)))
    except OSError:
        return None
