"""`tail` without a terminal, by the kind of its stdin."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pytest

from support.command import surroundings
from traced_relay.dev.environment import Dev

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.whole

# The default port of `dev` may be taken on this machine.
_RUN = """
import sys
from traced_relay.cli import options
options.LOCAL_RELAY = sys.argv.pop(1)
from traced_relay.cli.main import main
main(sys.argv[1:])
"""
LINE = json.dumps({"severity": "INFO", "message": "given", "event": "relay.started"}) + "\n"
SILENT = "traced-relay: nothing came on stdin within 1 s; `tail -` reads it, however late records come\n"
FOLLOWING = "traced-relay: following {}; use --relay, --project or RECORDS for other records\n"


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with Dev(stream=io.StringIO()) as running:
        yield running


@contextmanager
def tail(relay: str, stdin: Any, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _RUN, relay, "tail", *options]
    with subprocess.Popen(
        command, env=surroundings(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def line_of(stream: IO[str] | None) -> str:
    assert stream
    return stream.readline()


def test_tail_with_null_stdin_follows_dev(dev: Dev) -> None:
    with tail(dev.url, subprocess.DEVNULL, "--event", "relay.started") as process:
        assert "relay.started" in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)
        assert process.poll() is None


def test_tail_behind_an_empty_pipe_follows_dev(dev: Dev) -> None:
    with tail(dev.url, subprocess.PIPE, "--event", "relay.started") as process:
        assert process.stdin
        process.stdin.close()
        assert "relay.started" in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)


def test_tail_without_stdin_follows_dev(dev: Dev) -> None:
    shell = ["sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", _RUN, dev.url, "tail", "--event", "relay.*"]
    with subprocess.Popen(
        shell, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "relay." in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)
        process.kill()


def test_tail_without_a_running_dev_is_one_line() -> None:
    with tail("http://localhost:9", subprocess.DEVNULL) as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (1, "")
    assert stderr == "traced-relay: no `traced-relay dev` answers at http://localhost:9\n"


@pytest.mark.parametrize("options", [(), ("-",)])
def test_tail_reads_piped_records(dev: Dev, options: tuple[str, ...]) -> None:
    with tail(dev.url, subprocess.PIPE, *options) as process:
        stdout, stderr = process.communicate(LINE, timeout=20)
    assert (process.returncode, stdout.split()[-1], stderr) == (0, "given", "")


def test_tail_follows_the_relay_that_the_environment_names() -> None:
    command = [sys.executable, "-m", "traced_relay", "tail"]
    environ = os.environ | {"RELAY_URL": "http://localhost:9"}
    ran = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False
    )
    told = "traced-relay: no `traced-relay dev` answers at http://localhost:9\n"
    assert (ran.returncode, ran.stderr) == (1, told)


def test_dash_reads_stdin_even_if_empty(dev: Dev) -> None:
    with tail(dev.url, subprocess.DEVNULL, "-") as process:
        assert process.communicate(timeout=20) == ("", "traced-relay: stdin contains no record\n")
        assert process.returncode == 1


def test_tail_behind_a_silent_pipe_follows_dev_and_says_so(dev: Dev) -> None:
    with tail(dev.url, subprocess.PIPE, "--event", "relay.started") as process:
        assert "relay.started" in line_of(process.stdout)
        assert line_of(process.stderr) == SILENT
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)
        assert process.poll() is None


def test_a_dash_waits_for_a_silent_pipe(dev: Dev) -> None:
    with tail(dev.url, subprocess.PIPE, "-") as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        stdout, stderr = process.communicate(LINE, timeout=20)
    assert (process.returncode, stdout.split()[-1], stderr) == (0, "given", "")
