"""Requests to Firestore through Google's client: one try each, with a timeout; its errors become Unavailable."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import grpc
from google.api_core import retry
from google.api_core.exceptions import Aborted, AlreadyExists, FailedPrecondition, GoogleAPICallError, NotFound
from google.api_core.exceptions import RetryError as OutOfTime
from google.auth.exceptions import GoogleAuthError
from google.cloud.firestore import SERVER_TIMESTAMP, Client
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports import FirestoreGrpcTransport

from traced_relay.errors import Unavailable, map_exceptions
from traced_relay.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ONE_REQUEST = 5.0
ALL_REQUESTS = 10.0

# The default backoff of a channel grows to minutes; a caller or dispatch that waits cannot use that.
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
]
_ONE_TRY = retry.Retry(retry.if_exception_type())  # with None the client raises an AttributeError
_CHANGED = (AlreadyExists, FailedPrecondition, NotFound)


class Database:
    """
    One database of a project.

    Its own clock is the current time, unless *clock* replaces it.
    """

    def __init__(self, project: str, database: str, clock: Clock | None = None) -> None:
        with _mapped_errors():
            self.client: Any = Client(project=project, database=database)
        self._clock = clock
        self._timer = SystemClock()
        self._opening = Lock()
        self._channel: grpc.Channel | None = None
        self._is_closed = False

    def stamp(self) -> Any:
        """The value to write for the current time."""
        return SERVER_TIMESTAMP if self._clock is None else datetime.fromtimestamp(self._clock.now(), UTC)

    def now(self, snapshot: Any) -> float:
        """The time at which the document was read."""
        read_at: float = snapshot.read_time.timestamp() if self._clock is None else self._clock.now()
        return read_at

    @contextmanager
    def requests(self) -> Iterator[Requests]:
        """The requests of one method of the ledger; Unavailable if one of them gets no response."""
        try:
            with _mapped_errors():
                self._open()
                yield Requests(self.client, self._timer)
        except ValueError as exc:  # raised by gRPC for a closed channel
            if not self._is_closed:
                raise
            raise Unavailable("the ledger cannot be used: it was closed") from exc

    def _open(self) -> None:
        """Connect at the first request: a channel does not survive a fork."""
        with self._opening:
            if self._is_closed:
                raise Unavailable("the ledger cannot be used: it is closed")
            if self._channel is None:
                self._channel = _channel(self.client)
                # The client would create a channel without these options.
                self.client._firestore_api_internal = FirestoreClient(
                    transport=FirestoreGrpcTransport(channel=self._channel)
                )

    def close(self) -> None:
        with self._opening:
            self._is_closed = True
            if self._channel is not None:
                self._channel.close()


def _channel(client: Any) -> grpc.Channel:
    if client._emulator_host is not None:
        return grpc.insecure_channel(client._emulator_host, _OPTIONS)
    return FirestoreGrpcTransport.create_channel(credentials=client._credentials, options=_OPTIONS)


class Requests:
    """Requests that share one time limit."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._end = clock.monotonic() + ALL_REQUESTS

    def read(self, references: Sequence[Any], fields: Sequence[str] | None = None) -> dict[str, Any]:
        """The existing documents by id, with these *fields* or all."""
        found = self._client.get_all(references, fields, retry=_ONE_TRY, timeout=self._left())
        return {snapshot.id: snapshot for snapshot in found if snapshot.exists}

    def find(self, query: Any) -> list[Any]:
        return list(query.stream(retry=_ONE_TRY, timeout=self._left()))

    def count(self, query: Any) -> int:
        [[counted]] = query.count().get(retry=_ONE_TRY, timeout=self._left())
        return int(counted.value)

    def commit(self, batch: Any, *, unless: Any = _CHANGED) -> bool:
        """Write the whole batch or nothing; False if a document is not as the batch expects it."""
        left = self._left()
        # ABORTED: nothing was written, because of a concurrent write.
        on_conflict = retry.Retry(retry.if_exception_type(Aborted), initial=0.05, maximum=1.0, timeout=left)
        try:
            batch.commit(retry=on_conflict, timeout=left)
        except unless:
            return False
        return True

    def _left(self) -> float:
        left = self._end - self._clock.monotonic()
        if left <= 0:
            raise Unavailable("the ledger cannot be used: its responses take too long")
        return min(left, ONE_REQUEST)


def _unavailable(exc: Exception) -> Unavailable:
    reason = str(exc).partition("\n")[0]
    return Unavailable(f"the ledger cannot be used: {type(exc).__name__}: {reason}")


_mapped_errors = partial(map_exceptions, ((GoogleAPICallError, OutOfTime, GoogleAuthError), _unavailable))
