"""
Records as they come, from wherever a relay's go: asked for again and again, each given once.

Cloud Logging also has a stream of entries. It ends after an hour, leaves out what comes too fast, and knows nothing
of what came while it was cut; a question about the last minute, put again, has none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traced_relay.errors import Unavailable
from traced_relay.formats.durations import parse_time
from traced_relay.logs import cloud_entries
from traced_relay.runtime.clock import pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from traced_relay.client.dev_console import DevConsole
    from traced_relay.logs.cloud_logging import CloudLogging
    from traced_relay.runtime.clock import Clock

    Record = dict[str, Any]

EVERY_LOCALLY = 1.0  # seconds
EVERY = 3.0  # a project may be asked 60 times a minute, by all who read its log together
LATE = 60.0  # how much older than the newest one an entry may be that still comes
LOOK_BACK = 600.0  # and how far back is looked where nothing new comes


def follow_dev(console: DevConsole, clock: Clock, trouble: Callable[[str], None]) -> Iterator[Record]:
    """All that `dev` keeps, and what it says from then on, through its restarts; raises at once if it is away."""
    return _from_dev(console, clock, trouble, *console.records(0))


def _from_dev(
    console: DevConsole, clock: Clock, trouble: Callable[[str], None], records: list[Record], reached: int
) -> Iterator[Record]:
    last, is_away = records[-1:], False
    while True:
        yield from records
        pause(clock, clock.monotonic() + EVERY_LOCALLY)
        try:
            records, reached = _after(console, reached, last)
            last, is_away = records[-1:] or last, False
        except Unavailable as exc:
            records = []
            if not is_away:
                trouble(f"{exc}; waiting for it")
            is_away = True


def _after(console: DevConsole, reached: int, last: list[Record]) -> tuple[list[Record], int]:
    """What came after the *last* record, the one of that count; where that is another one, so is `dev`."""
    records, following = console.records(max(reached - 1, 0))
    return (records[1:], following) if last and records[:1] == last else console.records(0)


def follow_cloud(
    log: CloudLogging, wanted: Callable[[float], str], since: float, clock: Clock, trouble: Callable[[str], None]
) -> Iterator[Record]:
    """What the filter *wanted*, for entries since some time, finds from *since* on; raises if it may not be asked."""
    given: dict[tuple[str, str], float] = {}
    start = newest = since
    is_first, is_away = True, False
    while True:
        try:
            for entry in log.entries(wanted(start)):
                time = cloud_entries.time_of(entry)
                name, at = (str(entry.get("insertId")), time), parse_time(time) if time else newest
                newest = max(newest, at)
                if name not in given:
                    given[name] = at
                    yield cloud_entries.as_record(entry)
            is_first = is_away = False
        except Unavailable as exc:
            if is_first:
                raise
            if not is_away:
                trouble(f"{exc}; asking again")
            is_away = True
        else:
            now = clock.now()
            start = max(start, min(newest, now) - LATE, now - LOOK_BACK)  # an entry's time may be one to come
            given = {name: at for name, at in given.items() if at >= start}
        pause(clock, clock.monotonic() + EVERY)
