"""Sends Celery's jobs as it is told on stdin, one JSON a line, and answers with one. Runs in the peers' environment."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from bench.celery_app import app, note

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 0.5  # a worker that has started answers at once


def _send(queue: str, jobs: int) -> dict[str, Any]:
    started = time.monotonic()
    for _ in range(jobs):
        note.apply_async(queue=queue)
    return {"started": started, "took": time.monotonic() - started}


def _work_on(queue: str) -> dict[str, Any]:
    """Have the worker take jobs from this queue too, and wait until it says that it does."""
    answers = app.control.add_consumer(queue, reply=True, limit=1, timeout=_PATIENCE)
    return {"answers": len(answers)}


def _leave(queue: str) -> dict[str, Any]:
    answers = app.control.cancel_consumer(queue, reply=True, limit=1, timeout=_PATIENCE)
    return {"answers": len(answers)}


if __name__ == "__main__":
    verbs: dict[str, Callable[..., dict[str, Any]]] = {"send": _send, "work_on": _work_on, "leave": _leave}
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(verbs[asked.pop("do")](**asked)), flush=True)
