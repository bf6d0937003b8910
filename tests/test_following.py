"""Following a log that is asked again and again, with a clock to turn."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from example_records import EXAMPLES
from log_service import PROJECT, LogService
from traced_relay import following, log_filters
from traced_relay.clock import ManualClock
from traced_relay.cloud_logging import CloudLogging
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.records import Identity, record

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = 1_790_000_000.0


@pytest.fixture
def log() -> Iterator[LogService]:
    with LogService(page=2) as running:
        yield running


def said(event: str, at: float, **fields: Any) -> dict[str, Any]:
    known, severity = next((known, severity) for name, known, severity in EXAMPLES if name == event)
    identity = Identity(PROJECT, "v1", "i")
    return record(
        event, known | fields, severity=severity, message="m", at=at, identity=identity, trace=None, insert_id=None
    )


class Follower:
    """Follows in a thread of its own, as far as the clock is turned."""

    def __init__(self, log: LogService, **wanted: Any) -> None:
        self.clock = ManualClock(NOW)
        self.troubles: list[str] = []
        self.given: SimpleQueue[Any] = SimpleQueue()
        self._log = log
        self._wanted = wanted
        Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        cloud = CloudLogging(PROJECT, channel=self._log.channel)
        wanted = lambda start: log_filters.of_service(start=start, **self._wanted)  # noqa: E731
        try:
            for one in following.follow_cloud(cloud, wanted, NOW - 60, self.clock, self.troubles.append):
                self.given.put(one)
        except (NotAuthorized, Unavailable) as exc:
            self.given.put(exc)

    def ask(self) -> None:
        """Until it has asked once more, and all of that is answered."""
        asked = len(self._log.requests)
        deadline = 200
        while len(self._log.requests) == asked and deadline:
            self.clock.advance(following.EVERY)
            deadline -= 1
            try:
                self._log.wait_for_requests(asked + 1, 0.05)
            except AssertionError:
                continue

    def times(self, count: int) -> list[float]:
        return [round(self.given.get(timeout=10)["queue_delay_ms"]) for _ in range(count)]


def attempt(number: int, at: float) -> dict[str, Any]:
    return said("attempt.started", at, queue_delay_ms=number)


def test_what_comes_is_given_once_and_what_comes_late_too(log: LogService) -> None:
    log.take([attempt(1, NOW - 70), attempt(2, NOW - 10), attempt(3, NOW - 9), attempt(4, NOW - 8)])
    follower = Follower(log)
    assert follower.times(3) == [2, 3, 4]
    log.take([attempt(5, NOW - 20), attempt(6, NOW + 1)])  # the one is older than what has been given
    follower.ask()
    assert follower.times(2) == [5, 6]
    log.take([attempt(7, NOW + 1)])
    follower.ask()
    assert follower.times(1) == [7]
    assert follower.given.empty()


def test_the_window_moves_on_with_what_has_come(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    follower = Follower(log)
    assert follower.times(1) == [1]
    log.take([attempt(2, NOW + 100)])
    follower.ask()
    assert follower.times(1) == [2]
    follower.ask()
    follower.ask()
    asked = [str(request.filter).split('"')[1] for request in log.requests]
    assert asked[0] == "2026-09-21T14:12:20.000000Z"
    assert asked[-1] == "2026-09-21T14:14:00.000000Z"  # a minute before the latest


def test_a_log_that_is_away_for_a_while_is_waited_for(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    follower = Follower(log)
    assert follower.times(1) == [1]
    log.troubles += [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    log.take([attempt(2, NOW - 5)])
    for _ in range(3):
        follower.ask()
    assert follower.times(1) == [2]
    (told,) = follower.troubles
    assert told.endswith("; asking again")


def test_a_log_that_may_not_be_read_ends_it_whenever_that_is(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    follower = Follower(log)
    assert follower.times(1) == [1]
    log.troubles.append(grpc.StatusCode.PERMISSION_DENIED)
    follower.ask()
    assert isinstance(follower.given.get(timeout=10), NotAuthorized)


def test_one_that_is_away_at_first_is_an_error(log: LogService) -> None:
    log.troubles.append(grpc.StatusCode.UNAVAILABLE)
    assert isinstance(Follower(log).given.get(timeout=10), Unavailable)


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [1, 2, 3]),
        ({"events": ("attempt.*",)}, [1, 3]),
        ({"events": ("task.enqueued", "attempt.finished")}, [2]),
        ({"events": ("nothing",)}, []),
        ({"severity": "error"}, [3]),
        ({"queue": "other"}, [2]),
        ({"task": "ab"}, [2]),
        ({"queue": 'a"b\\'}, []),
    ],
)
def test_the_log_is_asked_for_what_is_wanted_alone(log: LogService, wanted: dict[str, Any], numbers: list[int]) -> None:
    records = [
        attempt(1, NOW),
        said("task.enqueued", NOW + 1, queue_delay_ms=2, queue="other", task_id="ab" * 16),
        attempt(3, NOW + 2) | {"severity": "ERROR"},
        {"message": "a library's line", "severity": "ERROR", "time": "2026-09-21T14:13:20Z", "logger": "x"},
    ]
    log.take(records)
    cloud = CloudLogging(PROJECT, channel=log.channel)
    found = cloud.entries(log_filters.of_service(start=NOW - 1, **wanted))
    assert [entry["jsonPayload"]["queue_delay_ms"] for entry in found] == numbers
