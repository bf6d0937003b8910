"""What `tail` follows or reads where nobody sits at a terminal, by what is on its stdin."""

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

# The port that `dev` usually has may be taken on this machine.
_RUN = """
import sys
from traced_relay.cli import options
options.LOCAL_RELAY = sys.argv.pop(1)
from traced_relay.cli.main import main
main(sys.argv[1:])
"""
LINE = json.dumps({"severity": "INFO", "message": "given", "event": "relay.started"}) + "\n"
FOLLOWING = "traced-relay: following the records of {}; --relay, --project and RECORDS name others\n"


@pytest.fixture(scope="module")
def dev() -> Iterator[Dev]:
    with Dev(stream=io.StringIO()) as running:
        yield running


@contextmanager
def tail(relay: str, stdin: Any, *options: str) -> Iterator[subprocess.Popen[str]]:
    told = [sys.executable, "-c", _RUN, relay, "tail", *options]
    with subprocess.Popen(
        told, env=surroundings(), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def line_of(stream: IO[str] | None) -> str:
    assert stream
    return stream.readline()


def test_tail_with_nothing_on_stdin_follows_dev_and_says_so(dev: Dev) -> None:
    with tail(dev.url, subprocess.DEVNULL, "--event", "relay.started") as process:
        assert "relay.started" in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)
        assert process.poll() is None


def test_tail_behind_an_empty_pipe_follows_dev_and_says_so(dev: Dev) -> None:
    with tail(dev.url, subprocess.PIPE, "--event", "relay.started") as process:
        assert process.stdin
        process.stdin.close()
        assert "relay.started" in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)


def test_tail_without_any_stdin_follows_dev_and_says_so(dev: Dev) -> None:
    shell = ["sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-c", _RUN, dev.url, "tail", "--event", "relay.*"]
    with subprocess.Popen(
        shell, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "relay." in line_of(process.stdout)
        assert line_of(process.stderr) == FOLLOWING.format(dev.url)
        process.kill()


def test_tail_that_finds_no_dev_to_follow_is_one_line() -> None:
    with tail("http://localhost:9", subprocess.DEVNULL) as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (1, "")
    assert stderr == "traced-relay: no `traced-relay dev` answers at http://localhost:9\n"


@pytest.mark.parametrize("options", [(), ("-",)])
def test_tail_reads_what_is_piped_to_it(dev: Dev, options: tuple[str, ...]) -> None:
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


def test_a_dash_is_stdin_even_if_it_is_empty(dev: Dev) -> None:
    with tail(dev.url, subprocess.DEVNULL, "-") as process:
        assert process.communicate(timeout=20) == ("", "traced-relay: stdin holds no record\n")
        assert process.returncode == 1


def test_tail_says_what_it_waits_for_where_nothing_comes(dev: Dev) -> None:
    with tail(dev.url, subprocess.PIPE) as process:
        assert line_of(process.stderr).startswith(
            "traced-relay: reading records from stdin, where nothing has come yet"
        )
        stdout, _ = process.communicate(LINE, timeout=20)
    assert (process.returncode, stdout.split()[-1]) == (0, "given")
