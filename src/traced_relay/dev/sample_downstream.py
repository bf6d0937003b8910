"""A downstream for trying the relay: paths that succeed, are slow, fail at first, and always fail."""

from __future__ import annotations

import re
from collections import Counter
from threading import Lock

from flask import Flask, Response, request

from traced_relay.runtime.clock import SystemClock, pause

MAX_NUMBER = 3600.0


def sample_downstream() -> Flask:
    """`/ok`, `/slow?seconds=2`, `/flaky?failures=2` (counted for each Idempotency-Key) and `/broken`."""
    app = Flask("sample")
    clock, lock, attempts = SystemClock(), Lock(), Counter[str]()

    @app.route("/ok", methods=["GET", "POST"])
    def ok() -> Response:
        return Response(request.get_data() or b"ok", content_type=request.content_type or "text/plain")

    @app.route("/slow", methods=["GET", "POST"])
    def slow() -> Response:
        pause(clock, clock.monotonic() + _number("seconds", 2.0))
        return Response("done", content_type="text/plain")

    @app.route("/flaky", methods=["GET", "POST"])
    def flaky() -> Response:
        with lock:
            key = request.headers.get("Idempotency-Key", "")
            attempts[key] += 1
            attempt = attempts[key]
        if attempt <= _number("failures", 2.0):
            return Response("not yet", 503, content_type="text/plain")
        return Response(f"done at attempt {attempt}", content_type="text/plain")

    @app.route("/broken", methods=["GET", "POST"])
    def broken() -> Response:
        return Response("out of order", 503, content_type="text/plain")

    return app


def _number(name: str, default: float) -> float:
    text = request.args.get(name, "")
    return min(float(text), MAX_NUMBER) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) else default
