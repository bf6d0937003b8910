"""Sends Celery jobs on commands from stdin, one JSON object a line. Runs in the peers' environment."""

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
    """Add this queue to the worker, and wait for its confirmation."""
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
