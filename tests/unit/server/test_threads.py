from __future__ import annotations

from queue import SimpleQueue
from threading import Event, get_ident

from support.no_threads import no_new_threads
from traced_relay.server.threads import Threads


class Loops:
    """Threads that take events from a queue, and hold each until it is set."""

    def __init__(self, most: int) -> None:
        self.work: SimpleQueue[Event | None] = SimpleQueue()
        self.taken: SimpleQueue[int] = SimpleQueue()
        self.threads = Threads(most, self._loop)
        self.threads.start()

    def _loop(self) -> None:
        while (work := self.work.get()) is not None:
            self.threads.leave()
            self.taken.put(get_ident())
            work.wait()
            self.threads.enter()
        self.work.put(None)

    def stop(self) -> None:
        self.threads.stop()
        self.work.put(None)


def test_a_thread_is_started_only_when_none_waits() -> None:
    loops = Loops(10)
    done = Event()
    done.set()
    for _ in range(50):
        loops.work.put(done)
    assert len({loops.taken.get(timeout=10) for _ in range(50)}) <= 5
    loops.stop()


def test_no_more_threads_are_started_than_allowed() -> None:
    loops = Loops(3)
    held = [Event() for _ in range(5)]
    for event in held:
        loops.work.put(event)
    first = {loops.taken.get(timeout=10) for _ in range(3)}
    assert (len(first), loops.taken.empty()) == (3, True)
    for event in held:
        event.set()
    assert {loops.taken.get(timeout=10) for _ in range(2)} <= first
    loops.stop()


def test_a_thread_that_cannot_start_ends_no_other() -> None:
    loops = Loops(10)
    held, done = Event(), Event()
    done.set()
    with no_new_threads():
        loops.work.put(held)
        first = loops.taken.get(timeout=10)  # nobody waits now
        held.set()
        loops.work.put(done)
        assert loops.taken.get(timeout=10) == first
    loops.work.put(done)
    loops.taken.get(timeout=10)
    loops.stop()
