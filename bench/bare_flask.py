"""Plain Flask with the relay's server settings: the cost of a simple first version."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.processes import Server, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flask import Flask
    from flask.typing import ResponseReturnValue

THREADS = 100
KEEP_ALIVE = 620


class BareFlask(Server):
    """gunicorn with one of the applications of this file."""

    def __init__(self, application: str, directory: Path, environ: Mapping[str, str] | None = None) -> None:
        port = free_port()
        settings = [f"--bind=127.0.0.1:{port}", "--workers=1", "--worker-class=gthread", f"--threads={THREADS}"]
        settings += [f"--keep-alive={KEEP_ALIVE}", "--timeout=0", "--graceful-timeout=1", "--no-control-socket"]
        command = [sys.executable, "-m", "gunicorn", *settings, f"bench.bare_flask:{application}"]
        super().__init__(command, port=port, directory=directory, environ=environ)


def creates_tasks(address: str, queue: str) -> Flask:
    """Each POST creates a task with its body, through Google's client."""
    from flask import Flask, request
    from google.cloud import tasks_v2

    from bench.tasks_load import client_of

    app = Flask("bare")
    client = client_of(address)

    @app.post("/v1/tasks")
    def create() -> ResponseReturnValue:
        target = {"relative_uri": "/dispatch", "body": request.get_data()}
        task = client.create_task(parent=queue, task=tasks_v2.Task({"app_engine_http_request": target}))
        return {"task": task.name}, 202

    return app


def passes_on(url: str) -> Flask:
    """Each POST is forwarded to *url* with `requests`, and the response returned."""
    import requests
    from flask import Flask, request

    app = Flask("bare")
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))

    @app.post("/dispatch")
    def pass_on() -> ResponseReturnValue:
        headers = {"content-type": request.headers.get("content-type", "")}
        answer = session.post(url, data=request.get_data(), headers=headers, timeout=60)
        return answer.content, answer.status_code

    return app


def starts(address: str) -> Flask:
    """Has the clients of both, and a route for App Engine's start request."""
    import requests

    app = creates_tasks(address, "")
    app.extensions["session"] = requests.Session()
    app.get("/_ah/start")(lambda: "ok")
    return app
