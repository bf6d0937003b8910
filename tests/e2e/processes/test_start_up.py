"""What a command brings along before it does anything: it is typed many times a night."""

from __future__ import annotations

import subprocess
import sys

import pytest

from traced_relay.testing import Downstream, RunningRelay

pytestmark = pytest.mark.whole

HEAVY = ("grpc", "flask", "werkzeug", "pydantic", "google.protobuf", "google.cloud.tasks_v2", "opentelemetry.sdk")
_RUN = """
import sys
from traced_relay.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def brought_along(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", _RUN.format(heavy=HEAVY), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,  # nothing on stdin is a refusal of `tail -`
    )
    return ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", ["--help", "--version", "tail -", "tail --help", "explain --help", "dev --help"])
def test_what_asks_nobody_is_light(arguments: str) -> None:
    assert brought_along(*arguments.split()) == "[]"


def test_asking_a_relay_is_light() -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        where = ("--relay", relay.url)
        assert brought_along("enqueue", downstream.url, "--idempotency-key=a", *where) == "[]"
        assert brought_along("list", *where) == "[]"
        task_id = next(str(record["task_id"]) for record in relay.records.records() if "task_id" in record)
        assert brought_along("status", task_id, *where) == "[]"


def test_the_list_of_commands_says_of_the_queue_what_the_queue_says() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "traced_relay", "--help"], capture_output=True, text=True, timeout=50, check=True
    ).stdout
    own = subprocess.run(
        [sys.executable, "-m", "traced_relay", "queue", "--help"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    ).stdout
    (line,) = [line.split(maxsplit=1)[1] for line in told.splitlines() if line.startswith("  queue ")]
    assert line in own
