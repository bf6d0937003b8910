from __future__ import annotations

import io
import os
from threading import Event, Thread
from typing import TYPE_CHECKING, TextIO

import pytest

from traced_relay.logs.line_writer import LineWriter

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


def notice(count: int) -> str:
    return f"({count} dropped)"


def test_a_line_that_is_left_is_written_though_nothing_follows(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice)
    outlet.leave("one")
    assert pipe.read(4) == b"one\n"
    assert outlet.flush(10)


def test_nobody_waits_who_leaves_a_line_and_drops_are_counted_once(pipe: Pipe) -> None:
    outlet = LineWriter(pipe.stream, notice=notice, most=3)
    filled = pipe.fill()
    for number in range(10):
        outlet.leave(f"line {number}")
    assert not outlet.flush(0)
    pipe.read(filled)
    assert outlet.flush(10)
    outlet.leave("later")
    expected = b"line 0\nline 1\nline 2\n(7 dropped)\nlater\n"
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
    assert sorted(pipe.read(19).split()) == [b"first", b"second", b"third"]


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
    with pytest.raises(BrokenPipeError):
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
