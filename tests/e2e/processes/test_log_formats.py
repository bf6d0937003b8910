"""What the real gcloud prints of a log, and what stands on stdin, into real processes of `tail` and `explain`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import pytest

from support.command import command, surroundings
from support.example_records import EXAMPLES, TRACE
from support.google_resources import PROJECT
from support.log_entry import lift
from support.parts import require
from traced_relay.logs.record import Identity, record
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.google_stand_in import GoogleStandIn

pytestmark = pytest.mark.whole

IDENTITY = Identity(PROJECT, "v1", "i")
PRINTED = [
    record(event, fields, message="mü", at=12.512345, identity=IDENTITY, trace=TRACE)
    | {"logging.googleapis.com/insertId": str(n)}
    for n, (event, fields, _) in enumerate(EXAMPLES)
]
LOG = {"logName": f"projects/{PROJECT}/logs/stdout", "resource": {"type": "gae_app", "labels": {"module_id": "relay"}}}
TAIL = Path(__file__).parents[2] / "support" / "gcloud_tail.py"


def entries(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [lift(json.dumps(one)) | LOG for one in records]


@pytest.fixture
def read(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> Callable[..., bytes]:
    """What `gcloud logging read` prints of the stand-in's log."""
    google.resources.there[f"serviceusage/v1/projects/{PROJECT}/services/logging.googleapis.com"] = {}
    google.resources.entries = entries(PRINTED)

    def run(*options: str) -> bytes:
        environ = google.environ(tmp_path, gcloud)
        asked = ["gcloud", "logging", "read", "--project", PROJECT, *options]
        return subprocess.run(asked, env=environ, capture_output=True, check=True, timeout=50).stdout

    return run


def tail(given: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    told = command("tail", "-", *options)
    return subprocess.run(told, input=given, env=surroundings(), capture_output=True, timeout=50, check=False)


def records(ran: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert (ran.returncode, ran.stderr) == (0, b"")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_what_gcloud_logging_read_prints_as_json_is_read(read: Callable[..., bytes]) -> None:
    printed = read("--format=json")
    assert printed.startswith(b"[\n  {\n")
    assert records(tail(printed, "--json")) == PRINTED
    severe = records(tail(printed, "--json", "--severity", "ERROR"))
    assert severe == [one for one in PRINTED if one["severity"] == "ERROR"]


@pytest.mark.parametrize("options", [(), ("--format=yaml",), ("--format=yaml(timestamp,jsonPayload)",)])
def test_what_gcloud_logging_read_prints_as_yaml_is_refused(
    read: Callable[..., bytes], options: tuple[str, ...]
) -> None:
    ran = tail(read(*options), "--severity", "DEBUG")
    told = b"stdin holds entries as YAML, which gcloud prints by itself; add --format=json to its command"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, b"", b"traced-relay: " + told + b"\n")


@pytest.mark.parametrize(
    "form", ["value(jsonPayload.message)", "table(severity,jsonPayload.event)", "csv(timestamp)", "flattened", "none"]
)
def test_other_formats_of_gcloud_are_never_silent(read: Callable[..., bytes], form: str) -> None:
    printed = read(f"--format={form}")
    ran = tail(printed, "--severity", "DEBUG")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert (b"--format=json" if printed.strip() else b"stdin contains no record") in ran.stderr


@pytest.mark.parametrize("form", ["json(jsonPayload)", "json(jsonPayload,timestamp,severity)"])
def test_a_projection_by_gcloud_is_read_as_far_as_it_goes(read: Callable[..., bytes], form: str) -> None:
    found = records(tail(read(f"--format={form}"), "--json"))
    assert [one["event"] for one in found] == [one["event"] for one in PRINTED]


class Pipe:
    """`tail -` behind a pipe; what it has printed is read as it comes."""

    def __init__(self, source: IO[bytes] | int | None, *options: str) -> None:
        told = command("tail", "-", "--json", *options)
        self.process = subprocess.Popen(told, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)

    def next(self) -> dict[str, Any]:
        assert self.process.stdout
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> tuple[int, bytes]:
        assert self.process.stderr
        return self.process.wait(20), self.process.stderr.read()


@contextmanager
def gcloud_tail(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The real `gcloud beta logging tail`, to which entries are written instead of Google's stream."""
    gcloud = Path(require("gcloud")).resolve()
    environ = surroundings(
        HOME=str(directory),
        CLOUDSDK_CONFIG=str(directory / ".config"),
        CLOUDSDK_CORE_DISABLE_USAGE_REPORTING="true",
        CLOUDSDK_PYTHON_SITEPACKAGES="1",
        PYTHONUNBUFFERED="1",  # or 8 KiB of entries wait in gcloud
    )
    told = [sys.executable, TAIL, gcloud.parents[1], "--project", PROJECT, *options]
    with subprocess.Popen(
        told, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()


def test_entries_of_gcloud_logging_tail_are_shown_as_they_come(tmp_path: Path) -> None:
    with gcloud_tail(tmp_path, "--format=json") as gcloud, Pipe(gcloud.stdout) as pipe:
        assert gcloud.stdin
        for entry, printed in zip(entries(PRINTED), PRINTED, strict=True):
            gcloud.stdin.write(json.dumps(entry).encode() + b"\n")
            gcloud.stdin.flush()
            assert pipe.next() == printed
        gcloud.stdin.close()
        assert pipe.end() == (0, b"")


def test_yaml_of_gcloud_logging_tail_is_refused_at_once(tmp_path: Path) -> None:
    with gcloud_tail(tmp_path) as gcloud, Pipe(gcloud.stdout, "--severity", "DEBUG") as pipe:
        assert gcloud.stdin
        gcloud.stdin.write(json.dumps(entries(PRINTED)[0]).encode() + b"\n")
        gcloud.stdin.flush()
        status, told = pipe.end()
    assert (status, told.count(b"\n"), b"--format=json" in told) == (1, 1, True)


def test_an_entry_is_shown_before_its_array_closes_or_its_line_ends() -> None:
    text = json.dumps(entries(PRINTED[:2]), indent=2, ensure_ascii=False).encode()
    first = text.index(b"\n  },") + 4
    cut = text.index("ü".encode()) + 1
    with Pipe(subprocess.PIPE) as pipe:
        assert pipe.process.stdin
        source = pipe.process.stdin.fileno()
        os.write(source, text[:cut])
        os.write(source, text[cut:first])
        assert pipe.next() == PRINTED[0]
        os.write(source, text[first:-2])
        assert pipe.next() == PRINTED[1]
        pipe.process.send_signal(signal.SIGINT)
        assert pipe.end() == (130, b"\n")


@pytest.mark.parametrize("form", ["--format=json", "--format=yaml", "--format=value(jsonPayload.message)"])
def test_explain_reads_what_gcloud_prints_or_says_what_to_add(
    google: GoogleStandIn, read: Callable[..., bytes], form: str
) -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        task_id = enqueued(relay, downstream)
        google.resources.entries = entries(relay.records.records())
        told = command("explain", task_id[:8], "--relay", relay.url, "--records", "-")
        ran = subprocess.run(told, input=read(form), env=surroundings(), capture_output=True, timeout=50, check=False)
    if form == "--format=json":
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert b"missing: no record" not in ran.stdout
        assert b"records: 4 of this task among " in ran.stdout
    else:
        assert (ran.returncode, ran.stdout, b"--format=json" in ran.stderr) == (1, b"", True)


def enqueued(relay: RunningRelay, downstream: Downstream) -> str:
    told = command("enqueue", downstream.url, "--relay", relay.url, "--wait", "--json")
    ran = subprocess.run(told, env=surroundings(), capture_output=True, timeout=50, check=True)
    task_id = str(json.loads(ran.stdout.splitlines()[0])["task_id"])
    relay.wait_for("task.finished", task_id)
    return task_id
