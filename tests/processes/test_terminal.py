"""What the commands that ask a relay look like on a real terminal, and without one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from traced_relay.testing import Downstream, RunningRelay

pytestmark = pytest.mark.whole


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """How the command ended and all that it wrote."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "traced_relay", *arguments]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        written = b""
        try:
            while more := os.read(ours, 4096):
                written += more
        except OSError:
            pass  # Linux says so when the other end of a terminal is closed
        status = process.wait(20)
    os.close(ours)
    return status, written.decode()


def test_waiting_draws_one_line_that_moves() -> None:
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


def test_without_a_terminal_progress_is_lines_on_stderr_and_ids_are_alone_on_stdout() -> None:
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
