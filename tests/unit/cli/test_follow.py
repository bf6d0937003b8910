"""Polls of a log, with a manual clock."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.cloud.logging_v2.types import ListLogEntriesResponse

from support.example_records import EXAMPLES
from support.log_service import PROJECT, LogService
from traced_relay.cli import follow
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.formats.durations import format_time
from traced_relay.logs import cloud_entries
from traced_relay.logs.cloud_logging import MAX_PAGES, CloudLogging
from traced_relay.logs.record import Identity, record
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Condition

NOW = 1_790_000_000.0


@pytest.fixture
def log() -> Iterator[LogService]:
    with LogService(page=2) as running:
        yield running


def log_record(event: str, at: float, **fields: Any) -> dict[str, Any]:
    known = next(known for name, known, _ in EXAMPLES if name == event)
    return record(event, known | fields, message="m", at=at, identity=Identity(PROJECT, "v1", "i"), trace=None)


class AdvancingClock(ManualClock):
    """A wait advances it and returns at once."""

    def wait(self, _: Condition, seconds: float | None) -> None:
        assert seconds is not None
        self.advance(seconds)


class Follower:
    """Yields the numbers of followed records on demand."""

    def __init__(self, log: LogService) -> None:
        self._log = log
        self.troubles: list[str] = []
        cloud = CloudLogging(PROJECT, channel=log.channel)
        wanted = lambda start: cloud_entries.service_filter(start=start)  # noqa: E731
        self._given = follow.follow_cloud(cloud, wanted, NOW - 60, AdvancingClock(NOW), self.troubles.append)

    def next(self, count: int) -> list[int]:
        return [int(next(self._given)["queue_delay_ms"]) for _ in range(count)]

    def until_denied(self, rounds: int) -> list[int]:
        """The numbers from *rounds* more polls; the last poll is denied."""
        self._log.troubles = [*[None] * (rounds - 1), grpc.StatusCode.PERMISSION_DENIED]
        numbers: list[int] = []
        with suppress(NotAuthorized):
            while True:
                numbers += self.next(1)
        assert self._log.troubles == []
        return numbers


def attempt(number: int, at: float) -> dict[str, Any]:
    return log_record("attempt.started", at, queue_delay_ms=number)


def test_late_entries_are_yielded_and_each_entry_once(log: LogService) -> None:
    log.take([attempt(1, NOW - 70), attempt(2, NOW - 10), attempt(3, NOW - 9), attempt(4, NOW - 8)])
    follower = Follower(log)
    assert follower.next(3) == [2, 3, 4]
    log.take([attempt(5, NOW - 20), attempt(6, NOW + 1)])  # the first is older than a yielded one
    assert follower.next(2) == [5, 6]
    log.take([attempt(7, NOW + 1)])
    assert follower.until_denied(6) == [7]


def test_window_moves_with_the_newest_entry(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    follower = Follower(log)
    assert follower.next(1) == [1]
    log.take([attempt(2, NOW + 2)])
    assert follower.next(1) == [2]
    follower.until_denied(2)
    asked = [str(request.filter).split('"')[1] for request in log.requests]
    assert asked[0] == "2026-09-21T14:12:20.000000Z"
    assert asked[-1] == "2026-09-21T14:12:22.000000Z"  # a minute before the latest


def test_entry_with_future_time_hides_no_other(log: LogService) -> None:
    log.take([attempt(1, NOW + 3600)])
    follower = Follower(log)
    assert follower.next(1) == [1]
    log.take([attempt(2, NOW + 1)])
    assert follower.next(1) == [2]


def test_window_without_entries_is_ten_minutes(log: LogService) -> None:
    follower = Follower(log)
    follower.until_denied(400)
    asked = [str(request.filter).split('"')[1] for request in log.requests]
    assert asked[-1] == format_time(NOW + 398 * follow.CLOUD_INTERVAL - follow.MAX_WINDOW)


def test_follower_retries_an_unavailable_log(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    follower = Follower(log)
    assert follower.next(1) == [1]
    log.troubles += [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    log.take([attempt(2, NOW - 5)])
    assert follower.next(1) == [2]
    (message,) = follower.troubles
    assert message.endswith("; retrying")


def test_unavailable_log_at_the_first_poll_is_an_error(log: LogService) -> None:
    log.troubles.append(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        Follower(log).next(1)


def test_payload_with_infinity_does_not_end_following(log: LogService) -> None:
    log.take([attempt(1, NOW - 10)])
    log.entries[0]["jsonPayload"]["queue_delay_ms"] = float("inf")
    log.entries[0]["labels"] = {"event": "attempt.started"}
    cloud = CloudLogging(PROJECT, channel=log.channel)
    (entry,) = cloud.entries(cloud_entries.service_filter(start=NOW - 60))
    assert "a number that JSON does not have" in entry["textPayload"]


def test_endless_pages_of_a_log_stop_at_the_limit(log: LogService) -> None:
    asked = []

    def without_end(request: Any, _: grpc.ServicerContext) -> Any:
        asked.append(request)
        return ListLogEntriesResponse(next_page_token=f"{len(asked)}")

    log.answer = without_end
    assert list(CloudLogging(PROJECT, channel=log.channel).entries(cloud_entries.service_filter(start=NOW))) == []
    assert len(asked) == MAX_PAGES


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({}, [1, 2, 3, 4]),
        ({"events": ("attempt.*",)}, [1, 3, 4]),
        ({"events": ("task.enqueued", "attempt.finished")}, [2]),
        ({"events": ("nothing",)}, []),
        ({"severity": "error"}, [3]),
        ({"queue": "other"}, [2]),
        ({"task": "ab"}, [2, 4]),
        ({"queue": 'a"b\\'}, []),
    ],
)
def test_filters_become_part_of_the_log_query(log: LogService, wanted: dict[str, Any], numbers: list[int]) -> None:
    records = [
        attempt(1, NOW),
        log_record("task.enqueued", NOW + 1, queue_delay_ms=2, queue="other", task_id="ab" * 16),
        attempt(3, NOW + 2) | {"severity": "ERROR"},
        attempt(4, NOW + 3) | {"callback_of": "ab" * 16},
        {"message": "a library's line", "severity": "ERROR", "time": "2026-09-21T14:13:20Z", "logger": "x"},
    ]
    log.take(records)
    cloud = CloudLogging(PROJECT, channel=log.channel)
    found = cloud.entries(cloud_entries.service_filter(start=NOW - 1, **wanted))
    assert [entry["jsonPayload"]["queue_delay_ms"] for entry in found] == numbers
