from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from traced_relay.clock import ManualClock, SystemClock
from traced_relay.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(clock: ManualClock) -> Iterator[Watch]:
    made = Watch(clock)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_connection_is_cut_when_its_time_is_up(
    watch: Watch, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.over(15) as guard:
        guard.hold(pair[0])
        clock.advance(15)

        assert pair[1].recv(1) == b""
        assert not guard.release()


def test_what_ended_in_time_is_left_alone(
    watch: Watch, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.over(15) as guard:
        guard.hold(pair[0])
        assert guard.release()
    clock.advance(60)

    pair[0].sendall(b"x")
    assert pair[1].recv(1) == b"x"


def test_the_earliest_deadline_is_kept_though_it_came_last(
    watch: Watch, clock: ManualClock, pair: tuple[socket.socket, socket.socket]
) -> None:
    with watch.over(86400), watch.over(15) as guard:
        guard.hold(pair[0])
        clock.advance(15)

        assert pair[1].recv(1) == b""


def test_a_short_deadline_wakes_a_watch_that_naps_for_a_long_one(pair: tuple[socket.socket, socket.socket]) -> None:
    watch = Watch(SystemClock())
    watch.start()
    with watch.over(3600), watch.over(0.05) as guard:
        guard.hold(pair[0])
        pair[1].settimeout(5)

        assert pair[1].recv(1) == b""
    watch.stop()


def test_a_connection_that_comes_after_its_time_is_cut_at_once(clock: ManualClock) -> None:
    watch = Watch(clock)
    with watch.over(15) as guard:
        guard.cut("deadline")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            guard.hold(ours)
            assert theirs.recv(1) == b""


def test_stopping_cuts_everything_and_what_comes_later_too(pair: tuple[socket.socket, socket.socket]) -> None:
    watch = Watch(SystemClock())
    watch.start()
    with watch.over(3600) as held, watch.over(3600) as late:
        held.hold(pair[0])
        watch.stop()
        assert watch.is_over
        assert pair[1].recv(1) == b""

        ours, theirs = socket.socketpair()
        with ours, theirs:
            late.hold(ours)
            assert theirs.recv(1) == b""


def test_cutting_what_is_closed_already_is_no_fault(watch: Watch) -> None:
    with watch.over(15) as guard:
        ours, theirs = socket.socketpair()
        guard.hold(ours)
        ours.close()
        theirs.close()
        guard.cut("deadline")

    assert guard.is_cut
