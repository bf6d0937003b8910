"""
Follows a relay's records in `dev` or Cloud Logging: polls for new ones and yields each once.

Cloud Logging also streams entries, but a stream ends after an hour, drops entries at high rates and misses those that
arrive while it is interrupted. Polling the last minute has none of these limits.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from traced_relay.errors import Unavailable
from traced_relay.formats.durations import parse_time
from traced_relay.logs import cloud_entries
from traced_relay.runtime.clock import pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from traced_relay.client.dev_console import DevConsole
    from traced_relay.logs.cloud_logging import CloudLogging
    from traced_relay.runtime.clock import Clock

    Record = dict[str, Any]

DEV_INTERVAL = 1.0  # seconds between polls
CLOUD_INTERVAL = 3.0  # a project allows 60 reads of its log per minute, shared by all readers
LATE = 60.0  # seconds by which an entry may be older than the newest one and still arrive
MAX_WINDOW = 600.0  # seconds that one poll covers at most


def follow_dev(console: DevConsole, clock: Clock, report: Callable[[str], None]) -> Iterator[Record]:
    """All records that `dev` keeps, then new ones, across restarts of `dev`; raises if the first poll fails."""
    first, count = console.records(0)
    last = first[-1:]

    def poll() -> list[Record]:
        nonlocal count, last
        records, count = _records_after(console, count, last)
        last = records[-1:] or last
        return records

    return chain(first, _repeated(poll, DEV_INTERVAL, clock, report))


def _records_after(console: DevConsole, count: int, last: list[Record]) -> tuple[list[Record], int]:
    """Records after the *last* one, which has number *count*; all records if another one has it: `dev` restarted."""
    records, new_count = console.records(max(count - 1, 0))
    return (records[1:], new_count) if last and records[:1] == last else console.records(0)


def follow_cloud(
    log: CloudLogging, filter_since: Callable[[float], str], since: float, clock: Clock, report: Callable[[str], None]
) -> Iterator[Record]:
    """Entries that match the filter, from *since* on; raises if the first poll fails or access is denied."""
    yielded: dict[tuple[str, str], float] = {}
    start = newest = since

    def poll() -> Iterator[Record]:
        nonlocal yielded, start, newest
        for entry in log.entries(filter_since(start)):
            time = cloud_entries.time_of(entry)
            name, at = (str(entry.get("insertId")), time), parse_time(time) if time else newest
            newest = max(newest, at)
            if name not in yielded:
                yielded[name] = at
                yield cloud_entries.as_record(entry)
        now = clock.now()
        start = max(start, min(newest, now) - LATE, now - MAX_WINDOW)  # an entry's time may be in the future
        yielded = {name: at for name, at in yielded.items() if at >= start}

    return chain(poll(), _repeated(poll, CLOUD_INTERVAL, clock, report))


def _repeated(
    poll: Callable[[], Iterable[Record]], interval: float, clock: Clock, report: Callable[[str], None]
) -> Iterator[Record]:
    """The records of each poll, one *interval* apart; each outage is reported once."""
    is_unavailable = False
    while True:
        pause(clock, clock.monotonic() + interval)
        try:
            yield from poll()
            is_unavailable = False
        except Unavailable as exc:
            if not is_unavailable:
                report(f"{exc}; retrying")
            is_unavailable = True
