"""Plain HTTP without any instrumentation, as a stranger speaks it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import urllib3

_http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(20))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    document: Any


def ask(method: str, url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    answer = _http.request(method, url, body=body, headers=headers or {})
    names = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status, names, json.loads(answer.data) if answer.data else None)


def get(url: str, **headers: str) -> Answer:
    return ask("GET", url, headers=_named(headers))


def post(url: str, document: Any, **headers: str) -> Answer:
    return ask(
        "POST", url, body=json.dumps(document).encode(), headers={"content-type": "application/json"} | _named(headers)
    )


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
