"""
HTTP responses bounded in size and in total time, however slowly their bytes arrive.

A socket's timeout restarts with every byte, so a thread makes the request, and the caller stops waiting for it.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

import requests
from urllib3.exceptions import HTTPError

from traced_relay.errors import UnexpectedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 16 * 1024 * 1024  # bytes; a page of 200 tasks with the longest URLs and labels is smaller
IDENTITY = {"Accept-Encoding": "identity"}  # sent with each request: no small response can expand into a large one
_CHUNK = 64 * 1024  # bytes


@dataclass(frozen=True)
class FetchedResponse:
    url: str  # without its query
    status: int
    content: bytes


def fetch(send: Callable[[], requests.Response], seconds: float, largest: int = LARGEST) -> FetchedResponse:
    """The response that *send* gets with `stream=True`; `requests.Timeout` after *seconds*."""
    until, fetched = monotonic() + seconds, Future[FetchedResponse]()
    arguments = (_fetch, send, until, largest, fetched)
    Thread(target=copy_context().run, args=arguments, name="fetch", daemon=True).start()
    try:
        return fetched.result(seconds)
    except TimeoutError:
        raise requests.Timeout(f"no complete response within {seconds:g} s") from None


def _fetch(send: Callable[[], requests.Response], until: float, largest: int, fetched: Future[FetchedResponse]) -> None:
    try:
        with send() as response:
            url = response.url.partition("?")[0]
            fetched.set_result(FetchedResponse(url, response.status_code, _content(response, url, until, largest)))
    except HTTPError as exc:
        fetched.set_exception(requests.ConnectionError(exc))
    except BaseException as exc:  # noqa: BLE001  (raised again in the thread that waits)
        fetched.set_exception(exc)


def _content(response: requests.Response, url: str, until: float, largest: int) -> bytes:
    unexpected = f"{url} answered {response.status_code}, not as a relay does"
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UnexpectedResponse(f"{unexpected}: with an unrequested content encoding")
    content = bytearray()
    while chunk := response.raw.read1(_CHUNK, decode_content=False):
        content += chunk
        if len(content) > largest:
            raise UnexpectedResponse(f"{unexpected}: over {largest} bytes")
        if monotonic() > until:
            raise requests.Timeout
    return bytes(content)
