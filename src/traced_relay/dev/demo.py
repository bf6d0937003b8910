"""Three calls through everything: one that succeeds, one that fails twice first, one that never does."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traced_relay.dev.environment import Dev
from traced_relay.timeline import build, waterfall

if TYPE_CHECKING:
    from traced_relay.tracing.span_tree import FinishedSpan

PATIENCE = 20.0


@dataclass(frozen=True)
class _Play:
    title: str
    path: str
    retry: dict[str, Any]
    state: str
    attempts: int


@dataclass(frozen=True)
class _End:
    play: _Play
    document: dict[str, Any]
    records: list[dict[str, Any]]
    spans: list[FinishedSpan]
    is_as_it_should_be: bool

    def waterfall(self, width: int, *, colour: bool) -> str:
        built = build.build(self.document, self.records, self.spans)
        return waterfall.render(built, width=width, colour=colour)


_HURRIED = {"min_backoff": "0.4s", "jitter": "none"}
_PLAYS = (
    _Play("a slow call that succeeds", "/slow?seconds=1.5", {}, "succeeded", 1),
    _Play("a call that fails twice and then succeeds", "/flaky?failures=2", _HURRIED, "succeeded", 3),
    _Play("a call that never succeeds", "/broken", _HURRIED | {"max_attempts": 3}, "failed", 3),
)


def run(*, colour: bool, records: bool = False) -> bool:
    """Play all three and print each one's waterfall, with *records* those too; whether all ended as they should."""
    with Path(os.devnull).open("w") as nowhere, Dev(stream=nowhere) as dev:
        _say(f"relay on {dev.url}, embedded queue on {dev.queue.address}, sample downstream on {dev.sample_url}")
        receipts = [_enqueue(dev, play) for play in _PLAYS]
        ends = [_see(dev, play, receipt) for play, receipt in zip(_PLAYS, receipts, strict=True)]
        for end in ends if records else ():
            sys.stdout.writelines(json.dumps(record) + "\n" for record in end.records)
        width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
        for end in ends:
            # The records first: what people look at is the last thing on their screen.
            sys.stdout.write(f"\n{end.play.title}\n\n{end.waterfall(width, colour=colour)}\n\n")
        sys.stdout.flush()
        endings = [end.is_as_it_should_be for end in ends]
    _say("all three ended as they should" if all(endings) else "not all ended as they should")
    return all(endings)


def _enqueue(dev: Dev, play: _Play) -> dict[str, Any]:
    call = {"url": dev.sample_url + play.path, "body": {"demo": play.title}, "retry": play.retry, "timeout": "10s"}
    request = urllib.request.Request(  # noqa: S310  (our own relay, on loopback)
        f"{dev.url}/v1/tasks", json.dumps(call).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        receipt: dict[str, Any] = json.load(answer)
    _say(f"enqueued {receipt['task_id']}: {play.title}")
    return receipt


def _see(dev: Dev, play: _Play, receipt: dict[str, Any]) -> _End:
    finished = dev.records.wait_for("task.finished", receipt["task_id"], PATIENCE)
    with urllib.request.urlopen(receipt["links"]["status"], timeout=PATIENCE) as answer:  # noqa: S310
        document = json.load(answer)
    records = sorted(dev.records.records(receipt["task_id"]), key=itemgetter("time"))
    is_right = finished is not None and (document["state"], document["attempt"]) == (play.state, play.attempts)
    return _End(play, document, records, dev.spans.spans(receipt["trace_id"]), is_right)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
