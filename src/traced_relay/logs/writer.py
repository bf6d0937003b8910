"""
Writes log records as one JSON object a line, in the form that Cloud Logging reads.

Invalid values in a record raise no error in the caller, and the record is still written.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import google.cloud.logging_v2
from google.cloud.logging_v2.handlers import StructuredLogHandler

from traced_relay.logs.early_lines import EarlyLines, library_entry
from traced_relay.logs.line_writer import LineWriter
from traced_relay.logs.record import PRODUCER, Identity, TraceRef, as_text, is_commit_event, record
from traced_relay.logs.store import RecordStore
from traced_relay.logs.terminal import one_line
from traced_relay.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Identity", "Log", "RecordStore", "TraceRef", "configure"]

FLUSH_TIMEOUT = 0.3  # seconds
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


class Log:
    """Writes records to *stream*, and to *store* if given."""

    def __init__(
        self,
        identity: Identity,
        *,
        stream: TextIO | None = None,
        text: bool = False,
        store: RecordStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self._clock = clock or SystemClock()
        self.handler = _Handler(stream or sys.stdout, text=text, store=store)

    def write(
        self,
        event: str,
        *,
        message: str,
        fields: Mapping[str, object],
        trace: TraceRef | None = None,
        at: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """
        Write one record of the contract.

        Cloud Logging keeps one of two records with equal insertId and time, so a record that may be written twice
        needs *at*, the time of its event. The caller's *labels* become log labels.
        """
        when = self._clock.now() if at is None else at
        entry = partial(
            record, event, fields, message=message, at=when, identity=self.identity, trace=trace, labels=labels
        )
        self.handler.handle(_Event(event, entry))

    def stop_waiting(self) -> None:
        """Let no record of a commit wait for the stream's reader any more: the process ends."""
        self.handler.lines.stop_waiting()

    def close(self) -> None:
        logging.getLogger().removeHandler(self.handler)


def configure(log: Log) -> Log:
    """Make *log* the process's: records that libraries write through `logging` get the same form and stream."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, (_Handler, EarlyLines))]:
        root.removeHandler(handler)
    root.addHandler(log.handler)
    root.setLevel(logging.INFO)
    # urllib3's warnings contain URLs and headers; the relay's records have the error.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return log


class _Event(logging.LogRecord):
    """A record of the contract; *entry* builds it in the handler, which catches its errors."""

    def __init__(self, event: str, entry: Callable[[], dict[str, Any]]) -> None:
        super().__init__(PRODUCER, logging.INFO, "", 0, event, (), None)
        self.entry = entry


class _Handler(StructuredLogHandler):
    """
    Google's handler with another format.

    The original parses messages that look like JSON, drops records that it cannot serialise, and has no operation,
    insertId or time. Its filter is removed, since it adds the current request's URL and query to each record.
    """

    def __init__(self, stream: TextIO, *, text: bool, store: RecordStore | None) -> None:
        super().__init__(stream=stream)  # type: ignore[no-untyped-call]
        self.filters.clear()
        self._text = text
        self._colour = stream.isatty()
        self._store = store
        self.lines = LineWriter(stream, notice=self._dropped_notice)
        google.cloud.logging_v2._instrumentation_emitted = True  # else its first line describes the library

    def handle(self, record: logging.LogRecord) -> bool:
        """Emits without the handler's lock: a thread that waits for the stream must not delay the others."""
        if wanted := bool(self.filter(record)):
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Waits for the stream only if the ledger has committed the event, which the log must not lack."""
        try:
            line = self.format(record)
            if isinstance(record, _Event) and is_commit_event(str(record.msg)):
                self.lines.write(line)
            else:
                self.lines.leave(line)
        except Exception:  # noqa: BLE001  (as in logging: an error here must not reach the caller)
            self.handleError(record)

    def flush(self) -> None:
        self.lines.flush(FLUSH_TIMEOUT)

    def _dropped_notice(self, commits: int, others: int) -> str:
        text = f"{commits} records of tasks and {others} other lines were dropped because nothing read the log"
        entry = library_entry(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None))
        return self._line(entry)

    def format(self, record: logging.LogRecord) -> str:
        try:
            entry = record.entry() if isinstance(record, _Event) else library_entry(record)
            line = self._line(entry)
        except Exception:  # noqa: BLE001  (an invalid value must not fail the call)
            text = f"a record could not be written: {as_text(record.msg)}"
            entry = library_entry(logging.LogRecord(record.name, logging.ERROR, "", 0, text, (), None))
            line = self._line(entry)
        if self._store is not None:
            self._store.add(entry)
        return line

    def _line(self, entry: dict[str, Any]) -> str:
        return one_line(entry, colour=self._colour) if self._text else _encode(entry)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is logging's)
        """Does nothing: the stream is closed."""
