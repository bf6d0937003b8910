"""`explain` and `tail` with records from Cloud Logging: a real relay's, over gRPC, found by the filters sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from click.testing import CliRunner

from support.asking import get, post
from support.log_service import PROJECT, LogService, queue_entry
from traced_relay.cli.main import main
from traced_relay.formats.durations import parse_time
from traced_relay.tasks.ids import callback_id
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.whole

QUEUES = f"projects/{PROJECT}/locations/us-central1/queues"


@pytest.fixture
def log() -> Iterator[LogService]:
    with LogService(page=3) as running:
        yield running


def run(log: LogService, *arguments: str) -> Result:
    ran = CliRunner().invoke(main, arguments, obj=log.channel)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


def finished(relay: RunningRelay, url: str, **fields: Any) -> dict[str, Any]:
    """A call that has ended, and whose callback has been told."""
    fields = {"url": url, "callback": {"url": f"{url}/told"}} | fields
    task_id = post(f"{relay.url}/v1/tasks", fields).document["task_id"]
    relay.wait_for("task.finished", task_id)
    document: dict[str, Any] = get(f"{relay.url}/v1/tasks/{task_id}").document
    relay.wait_for("task.finished", callback_id(task_id, 1))
    return document


def explained(log: LogService, relay: RunningRelay, document: dict[str, Any], *options: str) -> str:
    ran = run(log, "explain", document["task_id"], "--relay", relay.url, "--project", PROJECT, *options)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


HURRIED = {"min_backoff": "0.1s", "jitter": "none"}


def test_a_whole_life_is_drawn_from_the_log_of_the_project(log: LogService) -> None:
    with RunningRelay() as relay, Downstream(503) as downstream:
        document = finished(relay, downstream.url, retry=HURRIED)
        finished(relay, downstream.url)
        log.take(relay.records.records())
        drawn = explained(log, relay, document)
    assert "missing" not in drawn
    words = [line.split("  ")[0].strip() for line in drawn.splitlines()]
    assert [word.rpartition(" ")[0] for word in words if word.startswith(("attempt", "callback"))] == [
        *["attempt"] * 2,
        "callback",
    ]
    assert "answer " in drawn  # what an attempt's time was spent on: only its record knows
    assert f"in the log of project {PROJECT}, known from --project" in drawn
    assert "--log-sampling-ratio" in drawn
    assert f"trace: https://console.cloud.google.com/traces/explorer;traceId={document['trace_id']}" in drawn
    assert len(log.requests) > 2  # pages of three


def test_what_was_read_before_the_log_failed_is_kept(log: LogService) -> None:
    with RunningRelay() as relay, Downstream(503) as downstream:
        document = finished(relay, downstream.url, retry=HURRIED)
        log.take(relay.records.records())
        log.troubles = [None, grpc.StatusCode.RESOURCE_EXHAUSTED]
        drawn = explained(log, relay, document)
    assert "records: not all; " in drawn
    assert "quota" in drawn
    assert "missing: attempt 2: no record attempt.finished" in drawn


def test_what_the_queue_did_is_drawn_beside_it(log: LogService) -> None:
    with RunningRelay() as relay, Downstream(503) as downstream:
        document = finished(relay, downstream.url, retry=HURRIED)
        log.take(relay.records.records())
        for attempt in document["attempts"]:
            name, start, end = (attempt["task_name"], *(parse_time(attempt[n]) for n in ("started_at", "ended_at")))
            log.add(queue_entry(name, start - 0.01, "taskCreationLog", status="OK"))
            log.add(queue_entry(name, start - 0.002, "attemptDispatchLog", dispatchReason="SCHEDULED"))
            log.add(queue_entry(name, end + 0.002, "attemptResponseLog", status="OK", attemptDuration="0.1s"))
        lost = document["attempts"][0]["task_name"].rpartition("-")[0] + "-3"
        at = parse_time(document["finished_at"])
        log.add(queue_entry(lost, at + 1, "attemptDispatchLog"))
        log.add(queue_entry(f"{QUEUES}/relay/tasks/{'0' * 32}-1", at, "attemptDispatchLog"))
        built = json.loads(explained(log, relay, document, "--json"))
    bars = [(bar["label"], bar["note"]) for bar in built["bars"] if bar["kind"] in ("queue", "moment")]
    assert bars == [
        ("task 1", "created in the queue"),
        ("dispatch 1", "queue got OK"),
        ("task 2", "created in the queue"),
        ("dispatch 2", "queue got OK"),
        ("dispatch 3", "no response in the queue's log"),
    ]
    assert built["missing"] == ["dispatch 3: in the queue's log, not in the records"]
    assert built["notes"][1] == "queue: 7 entries in its own log"


def test_a_refused_delivery_a_dropped_span_and_lost_records_are_told(log: LogService) -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        document = finished(relay, downstream.url)
        kept = [r for r in relay.records.records() if r["event"] not in ("attempt.finished", "task.finished")]
        (attempt,) = document["attempts"]
        about = {"severity": "WARNING", "message": "m", "instance": "i-1", "time": attempt["started_at"]}
        refused = {"event": "dispatch.rejected", "reason": "no_token", "task_name": attempt["task_name"]}
        dropped = {"event": "telemetry.dropped", "dropped_spans": 12}
        labelled = [said | about | labels(said["event"]) for said in (refused, dropped)]
        log.take([*kept, *labelled])
        drawn = explained(log, relay, document)
    (line,) = [line for line in drawn.splitlines() if line.startswith("rejected")]
    assert line.endswith("no_token")
    assert [line.partition(": ")[2] for line in drawn.splitlines() if line.startswith("missing")] == [
        "no record task.finished of round 1",
        "attempt 1: no record attempt.finished",
        f"12 spans dropped by i-1 until {attempt['started_at'][11:19]}, possibly of this task",
    ]


def labels(event: str) -> dict[str, Any]:
    return {"logging.googleapis.com/labels": {"event": event}}


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "roles/logging.viewer is needed"),
        (grpc.StatusCode.UNAUTHENTICATED, "roles/logging.viewer is needed"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "its quota of reads is used up for this minute"),
        (grpc.StatusCode.UNAVAILABLE, "Cloud Logging does not answer"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Cloud Logging does not answer"),
        (grpc.StatusCode.INVALID_ARGUMENT, "as the test wants it"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_log_that_cannot_be_read_is_one_line_and_the_rest_is_drawn(
    log: LogService, trouble: grpc.StatusCode, told: str
) -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        document = finished(relay, downstream.url)
        log.troubles.append(trouble)
        drawn = explained(log, relay, document)
        (line,) = [line for line in drawn.splitlines() if line.startswith("records: none; ")]
        assert f"the log of project {PROJECT} cannot be read: " in line
        assert told in line
        assert "attempt 1" in drawn
        log.troubles.append(trouble)
        ran = run(log, "tail", "--project", PROJECT)
    assert (ran.exit_code, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert told in ran.stderr


def test_tail_follows_the_log_of_a_project_until_it_may_not(log: LogService) -> None:
    with RunningRelay() as relay, Downstream() as downstream:
        document = finished(relay, downstream.url)
        log.take(relay.records.records())
    log.troubles += [None, grpc.StatusCode.PERMISSION_DENIED]
    ran = run(log, "tail", "--project", PROJECT, "--event", "task.finished", "--task", document["task_id"][:9])
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (1, 1)
    assert [line.split()[2:4] for line in ran.stdout.splitlines()] == [
        ["task.finished", document["task_id"][:8]],
        ["task.finished", callback_id(document["task_id"], 1)[:8]],
    ]
    assert 'labels.event="task.finished"' in log.requests[0].filter


def test_entries_as_gcloud_prints_them_are_read_from_a_file(log: LogService, tmp_path: Path) -> None:
    with RunningRelay() as relay, Downstream(503) as downstream:
        document = finished(relay, downstream.url, retry=HURRIED)
        log.take(relay.records.records())
        file = tmp_path / "entries.json"
        file.write_text(json.dumps(log.entries, indent=2))
        from_entries = run(log, "explain", document["task_id"], "--relay", relay.url, "--records", str(file))
        file.write_text("".join(json.dumps(record) + "\n" for record in relay.records.records()))
        from_lines = run(log, "explain", document["task_id"], "--relay", relay.url, "--records", str(file))
    assert from_entries.stdout == from_lines.stdout
    assert "missing" not in from_lines.stdout
    assert log.requests == []
