"""Celery's no-op job, which only records when it ran. Runs in the peers' environment."""

from __future__ import annotations

import os

from celery import Celery

from bench.moments import Pen

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True

_pen = Pen(os.environ["BENCH_MOMENTS"])


@app.task(name="note")
def note() -> None:
    _pen.note()
