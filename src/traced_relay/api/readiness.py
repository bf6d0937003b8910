"""Readiness: the ledger can be read and written, and the queue answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.errors import EnqueueFailed, Unavailable
from traced_relay.runtime.refreshing import Refreshing

if TYPE_CHECKING:
    from collections.abc import Callable

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.runtime.clock import Clock

READY_FOR, NOT_READY_FOR = 10.0, 1.0  # seconds


class Readiness:
    """
    Caches a positive result for 10 s and a negative one for 1 s; one thread checks, the others get the cached result.

    *refusal* is why this process accepts no call. Being at capacity does not count: the router must not take it out.
    """

    def __init__(
        self, clock: Clock, ledger: Ledger, check_queue: Callable[[], None], refusal: Callable[[], str | None]
    ) -> None:
        self._ledger = ledger
        self._check_queue = check_queue
        self._refusal = refusal
        self._result = Refreshing(
            self._check,
            clock,
            fresh_for=lambda ready: READY_FOR if ready else NOT_READY_FOR,
            value=False,
            retry_after=0.0,
        )

    def is_ready(self) -> bool:
        return self._refusal() in (None, "capacity") and self._result.get()

    def _check(self) -> bool:
        try:
            self._ledger.get("")
            self._check_queue()
        except (Unavailable, EnqueueFailed):
            return False
        return True
