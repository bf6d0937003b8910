"""`explain` for tasks of interrupted and killed processes; `-s` prints the waterfalls."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from support.fleet import LOCATION, Fleet
from support.hanging import Hanging
from support.log_service import PROJECT, LogService, queue_entry
from traced_relay.cli.main import main
from traced_relay.formats.durations import parse_time
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.whole

HURRIED = {"min_backoff": "0.3s", "jitter": "none"}


@pytest.fixture
def hanging() -> Iterator[Downstream]:
    """Responds with 503, then not at all, then with 200."""
    hang = Hanging(60)
    with Downstream(503, hang) as running:
        yield running
        hang.release()


class Scene:
    """One call on two relays in turn with the same ledger, and its waterfall."""

    def __init__(self, directory: Path, downstream: Downstream) -> None:
        self.fleet = Fleet(directory, 1, f"sqlite:{directory / 'ledger.db'}")
        self._directory = directory
        self._downstream = downstream
        self.task_id = ""

    def enqueue(self) -> None:
        """Returns once the second attempt is running."""
        fields = {"idempotent": True, "retry": HURRIED, "callback": {"url": f"{self._downstream.url}/told"}}
        self.task_id = self.fleet.enqueue(self._downstream.url, **fields)
        self._downstream.wait_for(2, 30)

    def end_leases(self) -> None:
        """Expires the lease of the killed relay."""
        with closing(sqlite3.connect(self._directory / "ledger.db", isolation_level=None, timeout=10)) as database:
            database.execute("UPDATE workers SET alive_until = 0")

    def go_on(self) -> None:
        """Replaces the ended relay and waits for the end of the call and its callback."""
        self.fleet.replace(0)
        for task_id in (self.task_id, callback_id(self.task_id, 1)):
            self.fleet.relays[0].wait_for("task.finished", 40, task_id=task_id)

    def drawn(self, log: LogService, *options: str) -> str:
        token = self._directory / "token"
        token.write_text(self.fleet.token["Authorization"].removeprefix("Bearer "))
        asked = ["explain", self.task_id, "--relay", self.fleet.url, "--token-file", str(token), *options]
        ran = CliRunner(env={"COLUMNS": "140"}).invoke(main, asked, obj=log.channel)
        assert ran.exit_code == 0, ran.output
        print(f"\n{ran.stdout}")  # noqa: T201  (with -s this is what the file is for)
        return ran.stdout


@pytest.fixture
def scene(tmp_path: Path, hanging: Downstream) -> Iterator[Scene]:
    made = Scene(tmp_path, hanging)
    with made.fleet:
        yield made


@pytest.fixture
def log() -> Iterator[LogService]:
    with LogService() as running:
        yield running


def bars(drawn: str) -> list[tuple[str, str]]:
    """Label and note of each bar."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in drawn.split("\n\n")[1].splitlines()[2:]]
    return [(parts[0], parts[-1]) for parts in lines]


def test_explain_draws_an_interrupted_attempt(scene: Scene, log: LogService) -> None:
    scene.enqueue()
    assert scene.fleet.relays[0].end(signal.SIGTERM) == 0
    scene.go_on()
    log.take(scene.fleet.records())
    log_of_the_queue(log, scene.fleet.document(scene.task_id))
    drawn = scene.drawn(log, "--project", PROJECT)
    told = bars(drawn)
    assert {pair for pair in told if pair[0].startswith(("attempt", "interrupted"))} == {
        ("attempt 1", "503 retry, downstream"),
        ("attempt 2", "interrupted retry, platform"),
        ("interrupted", "attempt 2, the request had been sent"),
        ("attempt 3", "200 succeeded"),
    }
    assert [label for label, _ in told if label.startswith("dispatch")] == ["dispatch 1", "dispatch 2", "dispatch 3"]
    assert "missing" not in drawn


def test_explain_draws_a_killed_worker(scene: Scene, log: LogService) -> None:
    scene.enqueue()
    scene.fleet.relays[0].kill()
    scene.end_leases()
    scene.go_on()
    log.take(scene.fleet.records())
    drawn = scene.drawn(log, "--project", PROJECT)
    assert ("attempt 2", "worker_lost retry, platform") in bars(drawn)
    assert "missing" not in drawn


def test_explain_reports_lost_records(scene: Scene, log: LogService, tmp_path: Path) -> None:
    scene.enqueue()
    scene.fleet.relays[0].kill()
    lost = scene.fleet.relays[0].records
    scene.end_leases()
    scene.go_on()
    file = tmp_path / "records.jsonl"
    kept = [record for record in scene.fleet.records() if record not in lost]
    file.write_text("".join(json.dumps(record) + "\n" for record in kept))
    drawn = scene.drawn(log, "--records", str(file))
    assert [line.partition(": ")[2] for line in drawn.splitlines() if line.startswith("missing")] == [
        "attempt 1: no record attempt.started",
        "attempt 1: no record attempt.finished",
        "attempt 2: no record attempt.started",
    ]


def log_of_the_queue(log: LogService, document: dict[str, Any]) -> None:
    """Adds the entries that Cloud Tasks would log; the embedded queue has no log."""
    for attempt in document["attempts"]:
        name = f"{LOCATION}/queues/relay/tasks/{attempt['task_name'].rpartition('/')[2]}"
        start, end = (parse_time(attempt[moment]) for moment in ("started_at", "ended_at"))
        interrupted = attempt["reason"] == "interrupted"
        status = {"status": "INTERNAL" if interrupted else "OK", "attemptDuration": f"{end - start:.6f}s"}
        log.add(queue_entry(name, start - 0.02, "taskCreationLog", status="OK"))
        log.add(queue_entry(name, start - 0.004, "attemptDispatchLog", dispatchReason="SCHEDULED"))
        log.add(queue_entry(name, end + 0.003, "attemptResponseLog", dispatchCount="1", **status))
