"""What `dev` shows of a task in a browser or to curl: its waterfall and its records, as plain text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flask import Flask, Response, request

from traced_relay import documents, timeline, waterfall
from traced_relay.console.nearby import Nearby, told_as_json
from traced_relay.documents import Links
from traced_relay.gate import is_local_host
from traced_relay.ledger import Selection

if TYPE_CHECKING:
    from traced_relay.clock import Clock
    from traced_relay.ledger import Ledger


def console_app(ledger: Ledger, clock: Clock, nearby: Nearby) -> Flask:
    app = Flask("console")
    app.register_blueprint(told_as_json(nearby))

    @app.before_request
    def on_this_machine_only() -> Response | None:
        if is_local_host(request.headers.get("Host", "")):
            return None
        return _text("the console answers on localhost only", 403)

    @app.get("/")
    def newest() -> Response:
        rows = ledger.select(Selection(), 50)
        lines = [f"{row.task_id}  {row.state:9}  {row.call.method} {row.call.url}" for row in rows]
        return _text("\n".join(lines or ["no tasks yet"]))

    @app.get("/tasks/<task_id>")
    def task(task_id: str) -> Response:
        row = ledger.get(task_id)
        if row is None:
            return _text("there is no such task", 404)
        links = Links(request.host_url.rstrip("/"), "local")
        document = documents.status(row, links, now=clock.now(), retention=0.0)
        return _text(story(document, nearby))

    return app


def story(document: dict[str, object], nearby: Nearby) -> str:
    """One task's waterfall, and under it its records a line each."""
    said = nearby.records_of(str(document["task_id"]))
    built = timeline.build(document, said, nearby.spans_of(str(document["task_id"])))
    lines = "\n".join(json.dumps(record) for record in said)
    return f"{waterfall.render(built, width=100, colour=False)}\n\n{lines}"


def _text(text: str, status: int = 200) -> Response:
    response = Response(text + "\n", status, content_type="text/plain; charset=utf-8")
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
