from __future__ import annotations

import socket
from queue import Queue
from typing import TYPE_CHECKING

import pytest

from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.runtime.watchdog import Watchdog
from traced_relay.tasks.call import DAY

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(clock: ManualClock) -> Iterator[Watchdog]:
    made = Watchdog(clock)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_connection_is_aborted_at_its_deadline(
    watch: Watchdog, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.deadline(15) as deadline:
        deadline.attach(pair[0])
        clock.advance(15)

        assert pair[1].recv(1) == b""
        assert not deadline.detach()


def test_an_exchange_that_ends_in_time_is_not_aborted(
    watch: Watchdog, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.deadline(15) as deadline:
        deadline.attach(pair[0])
        assert deadline.detach()
    clock.advance(60)

    pair[0].sendall(b"x")
    assert pair[1].recv(1) == b"x"


def test_an_earlier_deadline_that_is_added_last_is_kept(
    watch: Watchdog, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.deadline(86400), watch.deadline(15) as deadline:
        deadline.attach(pair[0])
        clock.advance(15)

        assert pair[1].recv(1) == b""


def test_a_short_deadline_wakes_a_watchdog_before_a_long_one(pair: tuple[socket.socket, socket.socket]) -> None:
    watch = Watchdog(SystemClock())
    watch.start()
    with watch.deadline(3600), watch.deadline(0.05) as deadline:
        deadline.attach(pair[0])
        pair[1].settimeout(5)

        assert pair[1].recv(1) == b""
    watch.stop()


def test_a_connection_attached_too_late_is_aborted_at_once(clock: ManualClock) -> None:
    watch = Watchdog(clock)
    with watch.deadline(15) as deadline:
        deadline.abort("deadline")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            deadline.attach(ours)
            assert theirs.recv(1) == b""


def test_stopping_aborts_current_and_later_exchanges(pair: tuple[socket.socket, socket.socket]) -> None:
    watch = Watchdog(SystemClock())
    watch.start()
    with watch.deadline(3600) as held, watch.deadline(3600) as late:
        held.attach(pair[0])
        watch.stop()
        assert watch.is_stopped
        assert pair[1].recv(1) == b""

        ours, theirs = socket.socketpair()
        with ours, theirs:
            late.attach(ours)
            assert theirs.recv(1) == b""


def test_aborting_a_closed_connection_is_harmless(watch: Watchdog) -> None:
    with watch.deadline(15) as deadline:
        ours, theirs = socket.socketpair()
        deadline.attach(ours)
        ours.close()
        theirs.close()
        deadline.abort("deadline")

    assert deadline.is_aborted


def test_a_long_call_sends_heartbeats_and_is_aborted_at_its_end(
    watch: Watchdog, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    beats: Queue[float] = Queue()
    begun = clock.now()
    with watch.deadline(DAY, every=60, beat=lambda: beats.put(clock.now() - begun)) as deadline:
        deadline.attach(pair[0])
        for minute in range(1, 1440):
            clock.advance(60)
            assert beats.get(timeout=5) == 60 * minute
        clock.advance(59)
        assert not deadline.is_aborted
        clock.advance(1)
        pair[1].settimeout(5)
        assert pair[1].recv(1) == b""
        assert deadline.aborted_by == "deadline"
    assert beats.empty()


def test_a_clock_jump_over_several_heartbeats_sends_one(watch: Watchdog, clock: ManualClock) -> None:
    beats: Queue[float] = Queue()
    with watch.deadline(DAY, every=60, beat=lambda: beats.put(clock.now())):
        clock.advance(3600)
        beats.get(timeout=5)
        clock.advance(60)
        beats.get(timeout=5)
        assert beats.empty()


def test_a_failed_heartbeat_stops_no_other_and_no_deadline(
    watch: Watchdog, clock: ManualClock, pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    beats: Queue[None] = Queue()

    def fail() -> None:
        raise ValueError("no record")

    with (
        watch.deadline(120, every=60, beat=fail) as deadline,
        watch.deadline(DAY, every=60, beat=lambda: beats.put(None)),
    ):
        deadline.attach(pair[0])
        clock.advance(60)
        beats.get(timeout=5)
        clock.advance(60)
        beats.get(timeout=5)
        pair[1].settimeout(5)
        assert pair[1].recv(1) == b""
    assert [record.message for record in caplog.records] == ["a heartbeat failed"]


def test_the_first_reason_of_an_abort_stays(clock: ManualClock) -> None:
    with Watchdog(clock).deadline(15) as deadline:
        deadline.abort("interrupted")
        deadline.abort("deadline")
    assert deadline.aborted_by == "interrupted"


def test_an_aborted_exchange_sends_nothing_more(clock: ManualClock) -> None:
    watch = Watchdog(clock)
    with watch.deadline(15) as sent, watch.deadline(15) as unsent:
        sent.start_sending()
        for deadline in (sent, unsent):
            deadline.abort("deadline")
            with pytest.raises(ConnectionAbortedError):
                deadline.start_sending()
    assert (sent.was_sent, unsent.was_sent) == (True, False)
