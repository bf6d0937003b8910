"""`traced-relay demo`: three calls; one succeeds, one fails twice and then succeeds, one always fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.utils import suppress_http_instrumentation

from traced_relay.client.client import Client
from traced_relay.dev.environment import Dev
from traced_relay.timeline import build, waterfall

if TYPE_CHECKING:
    from traced_relay.timeline.build import Timeline

TIMEOUT = 20.0


@dataclass(frozen=True)
class _Scenario:
    title: str
    path: str
    retry: dict[str, Any]
    state: str
    attempts: int


@dataclass(frozen=True)
class _Result:
    scenario: _Scenario
    timeline: Timeline
    records: list[dict[str, Any]]
    is_expected: bool


_FAST_RETRY = {"min_backoff": "0.4s", "jitter": "none"}
_SCENARIOS = (
    _Scenario("a slow call that succeeds", "/slow?seconds=1.5", {}, "succeeded", 1),
    _Scenario("a call that fails twice and then succeeds", "/flaky?failures=2", _FAST_RETRY, "succeeded", 3),
    _Scenario("a call that never succeeds", "/broken", _FAST_RETRY | {"max_attempts": 3}, "failed", 3),
)


def run(*, colour: bool, records: bool = False) -> bool:
    """Run the scenarios and print their waterfalls, and their *records*; returns whether all ended as expected."""
    with Path(os.devnull).open("w") as nowhere, Dev(stream=nowhere) as dev:
        _print(f"relay on {dev.url}, embedded queue on {dev.queue.address}, sample downstream on {dev.sample_url}")
        with suppress_http_instrumentation():  # these requests are no part of the traces
            client = Client(dev.url, timeout=TIMEOUT, tries=1)
            task_ids = [_enqueue(client, dev, scenario) for scenario in _SCENARIOS]
            results = [_result(client, dev, *each) for each in zip(_SCENARIOS, task_ids, strict=True)]
        for result in results if records else ():
            sys.stdout.writelines(json.dumps(record) + "\n" for record in result.records)
        width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
        for result in results:
            # After the records, so that the waterfalls end on the screen.
            drawn = waterfall.render(result.timeline, width=width, colour=colour)
            sys.stdout.write(f"\n{result.scenario.title}\n\n{drawn}\n\n")
        sys.stdout.flush()
        succeeded = all(result.is_expected for result in results)
    _print("all three calls ended as expected" if succeeded else "not every call ended as expected")
    return succeeded


def _enqueue(client: Client, dev: Dev, scenario: _Scenario) -> str:
    url, body = dev.sample_url + scenario.path, {"demo": scenario.title}
    task_id = client.enqueue(url, body=body, retry=scenario.retry, timeout="10s")["task_id"]
    _print(f"enqueued {task_id}: {scenario.title}")
    return task_id


def _result(client: Client, dev: Dev, scenario: _Scenario, task_id: str) -> _Result:
    finished = dev.records.wait_for("task.finished", task_id, TIMEOUT)
    document = client.status(task_id)
    records = sorted(dev.records.records(task_id), key=itemgetter("time"))
    timeline = build.build(document, records, dev.spans.spans(document["trace_id"]))
    expected = (scenario.state, scenario.attempts)
    is_expected = finished is not None and (timeline.state, timeline.attempt_count) == expected
    return _Result(scenario, timeline, records, is_expected)


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
