"""
Writes log records as one JSON object a line, in the form that Cloud Logging reads.

Invalid values in a record raise no error in the caller, and the record is still written.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from traced_relay.logs.early_lines import EarlyLines, library_entry
from traced_relay.logs.line_writer import LineWriter
from traced_relay.logs.record import PRODUCER, Identity, TraceRef, as_text, is_commit_event, record
from traced_relay.logs.store import RecordStore
from traced_relay.logs.terminal import one_line
from traced_relay.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Identity", "Log", "RecordStore", "TraceRef", "configure"]

FLUSH_TIMEOUT = 0.3  # seconds
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode
_encode = msgspec.json.Encoder().encode


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
        try:
            entry = record(event, fields, message=message, at=when, identity=self.identity, trace=trace, labels=labels)
        except Exception:  # noqa: BLE001  (an invalid value must not fail the call)
            entry = _failed(event)
        self.handler.put(entry, is_commit=is_commit_event(event))

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


class _Handler(logging.Handler):
    """
    Writes entries as lines, those of libraries and those of the relay.

    *stream* is public, as that of `logging.StreamHandler`.
    """

    def __init__(self, stream: TextIO, *, text: bool, store: RecordStore | None) -> None:
        super().__init__()
        self.stream = stream
        self._text = text
        self._colour = stream.isatty()
        self._store = store
        self.lines = LineWriter(stream, notice=self._dropped_notice)

    def handle(self, record: logging.LogRecord) -> bool:
        """Emits without the handler's lock: a thread that waits for the stream must not delay the others."""
        if wanted := bool(self.filter(record)):
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = library_entry(record)
        except Exception:  # noqa: BLE001  (as in logging: an error here must not reach the caller)
            entry = _failed(record.msg, logger=record.name)
        self.put(entry, is_commit=False)

    def put(self, entry: dict[str, Any], *, is_commit: bool) -> None:
        """Waits for the stream only if the ledger has committed the event, which the log must not lack."""
        try:
            try:
                line = self._line(entry)
            except Exception:  # noqa: BLE001  (a value that is no JSON)
                entry = _failed(entry.get("event"))
                line = self._line(entry)
            if self._store is not None:
                self._store.add(entry)
            (self.lines.write if is_commit else self.lines.leave)(line)
        except Exception:  # noqa: BLE001, S110  (the stream is closed; as in logging, the caller does not learn it)
            pass

    def flush(self) -> None:
        self.lines.flush(FLUSH_TIMEOUT)

    def _dropped_notice(self, commits: int, others: int) -> str:
        text = f"{commits} records of tasks and {others} other lines were dropped because nothing read the log"
        entry = library_entry(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None))
        return self._line(entry)

    def _line(self, entry: dict[str, Any]) -> str:
        if self._text:
            return one_line(entry, colour=self._colour)
        encoded = _encode(entry)
        # Printable ASCII alone: some readers take other characters for the end of a line, a terminal obeys them.
        is_printable = encoded.isascii() and b"\x7f" not in encoded
        return encoded.decode() if is_printable else _encode_ascii(entry)


def _failed(what: object, *, logger: str = PRODUCER) -> dict[str, Any]:
    text = f"a record could not be written: {as_text(what)}"
    return library_entry(logging.LogRecord(logger, logging.ERROR, "", 0, text, (), None))
