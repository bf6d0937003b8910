from __future__ import annotations

import io
import os
import signal
import time
from threading import Event, Thread
from threading import enumerate as enumerate_threads
from typing import TYPE_CHECKING, TextIO

import pytest

from traced_relay.logs.line_writer import PATIENCE, LineWriter

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pipe:
    """A pipe whose reader reads when the test does."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reader = os.fdopen(reading, "rb", buffering=0)
        self.stream: TextIO = os.fdopen(writing, "w", encoding="ascii")

    def fill(self) -> int:
        os.set_blocking(self.stream.fileno(), False)
        filled = 0
        try:
            while True:
                filled += os.write(self.stream.fileno(), b"." * 4096)
        except BlockingIOError:
            os.set_blocking(self.stream.fileno(), True)
        return filled

    def read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += self.reader.read(size - len(got))
        return got


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    with made.reader, made.stream:
        yield made


def notice(commits: int, others: int) -> str:
    return f"({commits} and {others} dropped)"


def test_a_line_that_is_left_is_written_though_nothing_follows(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice)
    outlet.leave("one")
    assert pipe.read(4) == b"one\n"
    assert outlet.flush(10)


def test_a_line_that_a_pipe_takes_at_once_needs_no_thread(pipe: Pipe) -> None:
    outlet, before = LineWriter(pipe.stream, notice=notice), set(enumerate_threads())
    outlet.leave("one")
    outlet.write("two")
    assert "log-writer" not in {thread.name for thread in set(enumerate_threads()) - before}
    assert os.read(pipe.reader.fileno(), 100) == b"one\ntwo\n"


def test_what_is_written_outlives_a_killed_process(pipe: Pipe) -> None:
    child = os.fork()
    if child == 0:
        LineWriter(pipe.stream, notice=notice).write("committed")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert pipe.read(10) == b"committed\n"


def test_nobody_waits_who_leaves_a_line_and_drops_are_counted_once(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice, most=330)
    filled = pipe.fill()
    for number in range(10):
        outlet.leave(f"line {number}")
    assert not outlet.flush(0)
    pipe.read(filled)
    assert outlet.flush(10)
    outlet.leave("later")
    expected = b"line 0\nline 1\nline 2\n(0 and 7 dropped)\nlater\n"
    assert pipe.read(len(expected)) == expected


def test_who_writes_waits_for_the_reader_and_keeps_the_order(pipe: Pipe) -> None:
    outlet, written = LineWriter(pipe.stream, notice=notice), Event()
    filled = pipe.fill()
    outlet.leave("first")
    Thread(target=lambda: (outlet.write("second"), written.set()), daemon=True).start()
    assert not written.wait(0.1)
    outlet.leave("third")
    pipe.read(filled)
    assert written.wait(10)
    assert outlet.flush(10)
    assert pipe.read(19).split() == [b"first", b"second", b"third"]


def test_a_stalled_reader_delays_all_that_write_together_once(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice)
    filled = pipe.fill()
    begun = time.monotonic()
    together = [Thread(target=outlet.write, args=(f"{number}",), daemon=True) for number in range(4)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(10)
    for number in range(4, 9):
        outlet.write(f"{number}")
    assert PATIENCE <= time.monotonic() - begun < 2 * PATIENCE
    pipe.read(filled)
    assert sorted(pipe.read(18).split()) == [b"%d" % number for number in range(9)]


def test_a_writer_waits_again_once_the_reader_caught_up(pipe: Pipe) -> None:
    outlet, written = LineWriter(pipe.stream, notice=notice), Event()
    filled = pipe.fill()
    outlet.write("one")
    pipe.read(filled + 4)
    assert outlet.flush(10)
    filled = pipe.fill()
    Thread(target=lambda: (outlet.write("two"), written.set()), daemon=True).start()
    assert not written.wait(0.1)
    pipe.read(filled)
    assert written.wait(10)


def test_records_of_commits_have_room_of_their_own(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice, most=210, most_commits=430)
    filled = pipe.fill()
    outlet.stop_waiting()
    for number in range(5):
        outlet.leave(f"l{number}")
    for number in range(5):
        outlet.write(f"c{number}")
    pipe.read(filled)
    expected = b"l0\nl1\nc0\nc1\nc2\nc3\n(1 and 3 dropped)\n"
    assert pipe.read(len(expected)) == expected


def test_long_lines_take_room_by_their_bytes(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice, most=150_000)
    filled = pipe.fill()
    for _ in range(9):
        outlet.leave("x" * 65_000)
    pipe.read(filled)
    expected = (b"x" * 65_000 + b"\n") * 2 + b"(0 and 7 dropped)\n"
    assert pipe.read(len(expected)) == expected


def test_who_waits_is_let_go_when_the_process_ends(pipe: Pipe) -> None:
    outlet, written = LineWriter(pipe.stream, notice=notice), Event()
    filled = pipe.fill()
    Thread(target=lambda: (outlet.write("one"), written.set()), daemon=True).start()
    assert not written.wait(0.1)
    begun = time.monotonic()
    outlet.stop_waiting()
    assert written.wait(10)
    outlet.write("two")
    assert time.monotonic() - begun < PATIENCE / 2
    pipe.read(filled)
    assert outlet.flush(10)


def test_a_line_longer_than_the_pipe_arrives_whole(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    outlet = LineWriter(pipe.stream, notice=notice)
    outlet.leave("x" * 300_000 + "\u2026")
    assert pipe.read(300_007) == b"x" * 300_000 + b"\\u2026\n"


def test_a_reader_that_is_gone_holds_nobody_up(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice)
    pipe.reader.close()
    outlet.leave("lost")
    assert outlet.flush(10)
    outlet.write("lost")


def test_in_memory_a_line_is_there_at_once() -> None:
    stream = io.StringIO()
    outlet = LineWriter(stream, notice=notice)
    outlet.leave("one")
    outlet.write("two")
    assert stream.getvalue() == "one\ntwo\n"


def test_a_forked_process_writes_its_own_lines_alone(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice)
    filled = pipe.fill()
    outlet.leave("parent")  # whose thread holds a lock when the process forks
    child = os.fork()
    if child == 0:
        outlet.leave("child")
        os._exit(0 if outlet.flush(20) else 1)
    pipe.read(filled)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(pipe.read(13).split()) == [b"child", b"parent"]


def test_long_lines_of_two_processes_do_not_mix(pipe: Pipe) -> None:
    child = os.fork()
    outlet = LineWriter(pipe.stream, notice=notice)
    for _ in range(40):
        outlet.leave(("p" if child else "c") * 100_000)
        outlet.leave("P" if child else "C")
    if child == 0:
        os._exit(0 if outlet.flush(20) else 1)
    lines = pipe.read(2 * 40 * 100_003).split()
    assert os.waitpid(child, 0)[1] == 0
    assert {(line[:1], len(line), len(set(line))) for line in lines} == {
        (b"p", 100_000, 1),
        (b"c", 100_000, 1),
        (b"P", 1, 1),
        (b"C", 1, 1),
    }
