"""A response of a downstream that does not come until it is released."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING

from werkzeug.wrappers import Response

if TYPE_CHECKING:
    from traced_relay.testing import Arrived


class Hanging:
    """Responds with 200 and *body* once released, or after *seconds*, so that no test hangs for ever."""

    def __init__(self, seconds: float = 20.0, body: str = "late") -> None:
        self._seconds = seconds
        self._body = body
        self._is_released = Event()

    def release(self) -> None:
        self._is_released.set()

    def __call__(self, _: Arrived) -> Response:
        self._is_released.wait(self._seconds)
        return Response(self._body)
