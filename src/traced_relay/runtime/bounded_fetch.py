"""
An answer taken whole or not at all: of so many bytes at most, and within so many seconds, however slowly it trickles.

A timeout of a socket counts from byte to byte, so what asks is a thread, and whoever waits for it goes on without it.
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

from traced_relay.errors import UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 16 * 1024 * 1024  # bytes; a page of 200 tasks with the longest URLs and labels there may be takes less
AS_IT_IS = {"Accept-Encoding": "identity"}  # what asks sends this: a small answer cannot be unpacked into a large one
_PIECE = 64 * 1024  # bytes


@dataclass(frozen=True)
class FetchedResponse:
    url: str  # without its query
    status: int
    content: bytes


def fetch(send: Callable[[], requests.Response], seconds: float, largest: int = LARGEST) -> FetchedResponse:
    """What *send*, which asks with `stream=True`, is answered; `requests.Timeout` after so many *seconds*."""
    until, taken = monotonic() + seconds, Future[FetchedResponse]()
    asking = Thread(target=copy_context().run, args=(_take, send, until, largest, taken), name="asking", daemon=True)
    asking.start()
    try:
        return taken.result(seconds)
    except TimeoutError:
        raise requests.Timeout(f"no whole answer within {seconds:g} s") from None


def _take(send: Callable[[], requests.Response], until: float, largest: int, taken: Future[FetchedResponse]) -> None:
    try:
        with send() as answer:
            url = answer.url.partition("?")[0]
            taken.set_result(FetchedResponse(url, answer.status_code, _content(answer, url, until, largest)))
    except HTTPError as exc:
        taken.set_exception(requests.ConnectionError(exc))
    except BaseException as exc:  # noqa: BLE001  (raised again where the answer is waited for)
        taken.set_exception(exc)


def _content(answer: requests.Response, url: str, until: float, largest: int) -> bytes:
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise UnexpectedAnswer(f"{url} answered {answer.status_code}, not as a relay does: encoded, unasked")
    content = bytearray()
    while piece := answer.raw.read1(_PIECE, decode_content=False):
        content += piece
        if len(content) > largest:
            raise UnexpectedAnswer(f"{url} answered {answer.status_code}, not as a relay does: over {largest} bytes")
        if monotonic() > until:
            raise requests.Timeout
    return bytes(content)
