"""Commands with and without a real terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import closing
from typing import Self

import pytest

from support.asking import post
from support.relay_stand_in import RelayStandIn, answer, document
from traced_relay.dev.environment import Dev
from traced_relay.testing import Downstream, RunningRelay

pytestmark = pytest.mark.whole


class Terminal:
    """A command in a terminal of its own, *columns* wide."""

    def __init__(self, *arguments: str, columns: int = 80) -> None:
        self._ours, its = pty.openpty()
        self.resize(columns)
        command = [sys.executable, "-m", "traced_relay", *arguments]
        self._process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
        os.close(its)
        self.written = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read_until(self, sign: str, times: int = 1) -> str:
        """The output so far, once it has *sign* so many *times*."""
        while self.written.count(sign) < times:
            ready, _, _ = select.select([self._ours], [], [], 20)
            assert ready, self.written
            assert self._read(), self.written
        return self.written

    def press_ctrl_c(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Exit status and output."""
        while self._read():
            pass
        return self._process.wait(20), self.written

    def _read(self) -> bool:
        try:
            more = os.read(self._ours, 4096)
        except OSError:  # raised by Linux when the other end of a terminal is closed
            return False
        self.written += more.decode()
        return bool(more)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(20)
        os.close(self._ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def on_a_terminal(*arguments: str, columns: int = 80) -> tuple[int, str]:
    """Exit status and output of the command."""
    with Terminal(*arguments, columns=columns) as terminal:
        return terminal.end()


def test_wait_redraws_one_line() -> None:
    with RunningRelay() as relay, Downstream(503) as downstream:
        status, written = on_a_terminal("enqueue", downstream.url, "--wait", "--relay", relay.url)
    assert status == 0
    *before, end = written.split("\r\x1b[2K")
    assert re.fullmatch(r"task_id   [0-9a-f]{32}\r\ntrace_id  [0-9a-f]{32}\r\n", before[0])
    assert [
        line for line in before[1:] if not re.match(r"(queued|running|waiting|succeeded), attempt \d, ", line)
    ] == []
    assert before[-1].startswith("succeeded, attempt 2, ")
    assert re.fullmatch(r"state     succeeded, 2 attempts in \S+ m?s\r\n", end)


def test_wait_line_fits_a_resized_terminal() -> None:
    with RunningRelay() as relay, Downstream(503, 503) as downstream:
        asked = ("enqueue", downstream.url, "--wait", "--relay", relay.url)
        with Terminal(*asked, columns=40) as terminal:
            terminal.read_until("waiting, attempt ")
            terminal.resize(20)
            before = len(terminal.written)
            _, written = terminal.end()
    moved = written.split("\r\x1b[2K")[1:-1]
    assert max(map(len, moved)) <= 39
    after = written[before:].split("\r\x1b[2K")[2:-1]
    assert [len(line) for line in after] == [19] * len(after)


def test_ctrl_c_ends_the_wait_but_not_the_call() -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        asked = ("enqueue", downstream.url, "--delay", "1h", "--wait", "--relay", relay.url)
        with Terminal(*asked) as terminal:
            terminal.read_until("queued, attempt 0")
            terminal.press_ctrl_c()
            status, written = terminal.end()
        task_id = written.split()[1]
        assert relay.application.ledger.get(task_id).state == "queued"  # type: ignore[union-attr]
    assert status == 130
    assert "Traceback" not in written


def test_progress_without_a_terminal_is_lines_on_stderr() -> None:
    with RunningRelay() as relay, Downstream(404) as downstream:
        ran = subprocess.run(
            [sys.executable, "-m", "traced_relay", "enqueue", downstream.url, "--wait", "--relay", relay.url],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert ran.returncode == 1
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["task_id", "trace_id", "state"]
    assert "\x1b" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("failed, attempt 1, ")


@pytest.mark.parametrize("command", ["status", "explain", "list"])
def test_unencodable_characters_are_escaped(command: str) -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        call = {"url": f"{downstream.url}/", "labels": {"wo": "Łódź ✓"}, "delay": "1h", "queue": "relay"}
        task_id = post(f"{relay.url}/v1/tasks", call).document["task_id"]
        ran = subprocess.run(
            [sys.executable, "-m", "traced_relay", command, *[task_id] * (command != "list"), "--relay", relay.url],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert task_id in ran.stdout


def test_ctrl_c_ends_a_wait_for_an_unreachable_relay() -> None:
    waiting = document(state="running")
    receipt = {name: waiting[name] for name in ("task_id", "queue", "state", "trace_id", "schedule_time", "links")}
    answers = iter([answer(receipt | {"task_name": "x"})])
    with RelayStandIn([waiting]) as relay:
        relay.instead = lambda: next(answers, answer(waiting))
        terminal = Terminal("enqueue", "http://x.example", "--wait", "--relay", relay.url)
        terminal.read_until("running, attempt 1")
    with terminal:
        terminal.read_until("the relay cannot be reached; retrying")
        terminal.press_ctrl_c()
        status, written = terminal.end()
    assert (status, "Traceback" in written) == (130, False)


def test_tail_follows_dev_in_colour_until_ctrl_c() -> None:
    with Dev(stream=io.StringIO()) as dev:
        told = ("tail", "--relay", dev.url, "--event", "task.*")
        first = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok"}).document["task_id"]
        with Terminal(*told, columns=40) as terminal:
            terminal.read_until(f"task {first} succeeded")
            second = post(
                f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/broken", "retry": {"max_attempts": 1}}
            ).document["task_id"]
            terminal.read_until(f"task {second} failed")
            terminal.press_ctrl_c()
            status, written = terminal.end()
    assert status == 130
    assert "Traceback" not in written
    assert "\x1b[31mERROR   \x1b[0m" in written
    assert re.findall(r"  (task\.\w+) ", written) == ["task.enqueued", "task.finished"] * 2


def test_tail_in_a_closed_pipe_ends_quietly() -> None:
    with Dev(stream=io.StringIO()) as dev:
        post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok"})
        command = [sys.executable, "-m", "traced_relay", "tail", "--relay", dev.url, "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            with closing(process.stdout) as lines:  # type: ignore[type-var]
                assert lines
                assert "\x1b" not in lines.readline()
            post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok"})
            assert process.wait(20) == 1
            assert process.stderr
            assert process.stderr.read() == ""


def test_tail_survives_a_restart_of_dev() -> None:
    with Dev(stream=io.StringIO()) as dev:
        port = int(dev.url.rpartition(":")[2])
        terminal = Terminal("tail", "--relay", dev.url, "--event", "relay.started")
        terminal.read_until("relay.started")
    with terminal:
        terminal.read_until("; retrying")
        with Dev(port=port, stream=io.StringIO()):
            terminal.read_until("relay.started", 2)
            terminal.press_ctrl_c()
            assert terminal.end()[0] == 130


@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        ("tail --relay http://localhost:1", 1),
        ("tail --relay https://relay.example.com", 2),
        ("tail --relay http://[", 2),
    ],
)
def test_tail_without_a_source_is_one_line(arguments: str, ending: int) -> None:
    status, written = on_a_terminal(*arguments.split())
    (line,) = written.splitlines()
    assert status == ending
    assert line.startswith(
        (
            "traced-relay: no `traced-relay dev` answers at ",
            "traced-relay: https://relay.example.com is not on",
            "traced-relay: http://[ is not on",
        )
    )
