"""
One JSON object a line, shaped for Cloud Logging.

A record is never lost and never breaks the call it tells of, however odd its values are.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any, TextIO

import google.cloud.logging_v2
from google.cloud.logging_v2.handlers import StructuredLogHandler

from traced_relay.logs import record as records
from traced_relay.logs.line_writer import LineWriter
from traced_relay.logs.record import Identity, TraceRef, as_text, rfc3339, truncate
from traced_relay.logs.store import RecordStore
from traced_relay.logs.terminal import one_line
from traced_relay.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Identity", "Log", "RecordStore", "TraceRef", "configure"]

_LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "NOTICE": 25,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}
LAST_MOMENT = 0.3  # seconds for lines that wait for a reader when the process ends
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


class Log:
    """Says records on one *stream*, and keeps them in *store* where one is given."""

    def __init__(
        self,
        identity: Identity,
        *,
        stream: TextIO | None = None,
        text: bool = False,
        colour: bool | None = None,
        store: RecordStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self._clock = clock or SystemClock()
        self.handler = _Handler(stream or sys.stdout, text=text, colour=colour, store=store)

    def write(
        self,
        event: str,
        *,
        message: str,
        fields: Mapping[str, object],
        trace: TraceRef | None = None,
        severity: str | None = None,
        insert_id: str | None = None,
        at: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """
        Print one record of the contract.

        Cloud Logging keeps one of two records with the same *insert_id* and the same time: whoever may have to
        say a thing twice gives *at*, the moment it tells of. A caller's *labels* become log labels.
        """
        severity = severity or records.severity(event, fields)
        when = self._clock.now() if at is None else at

        def entry() -> dict[str, Any]:
            return records.record(
                event,
                fields,
                severity=severity,
                message=message,
                at=when,
                identity=self.identity,
                trace=trace,
                insert_id=insert_id,
                labels=labels,
            )

        self.handler.handle(_Event(event, _LEVELS.get(severity, logging.INFO), entry))

    def close(self) -> None:
        logging.getLogger().removeHandler(self.handler)


def configure(
    identity: Identity,
    *,
    stream: TextIO | None = None,
    text: bool = False,
    colour: bool | None = None,
    store: RecordStore | None = None,
    clock: Clock | None = None,
    level: int = logging.INFO,
) -> Log:
    """Make the process's log: what libraries write through `logging` comes out in the same form and place."""
    log = Log(identity, stream=stream, text=text, colour=colour, store=store, clock=clock)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(log.handler)
    root.setLevel(level)
    # urllib3 warns with whole URLs and headers in its text; what went wrong is in our records.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return log


class _Event(logging.LogRecord):
    """A record of ours on its way to the stream; put together there, where a failure is caught."""

    def __init__(self, event: str, level: int, entry: Callable[[], dict[str, Any]]) -> None:
        super().__init__(records.PRODUCER, level, "", 0, event, (), None)
        self.entry = entry


class _Handler(StructuredLogHandler):
    """
    Google's handler, with its own way of putting a record together.

    The original parses messages that look like JSON, loses what it cannot serialise and knows no operation, insertId
    or time. Its filter is left out too: for each record it reads the current request, URL and query included.
    """

    def __init__(self, stream: TextIO, *, text: bool, colour: bool | None, store: RecordStore | None) -> None:
        super().__init__(stream=stream)  # type: ignore[no-untyped-call]
        self.filters.clear()
        self._text = text
        self._colour = stream.isatty() if colour is None else colour
        self._store = store
        self._outlet = LineWriter(stream, notice=self._dropped)
        google.cloud.logging_v2._instrumentation_emitted = True  # else its first line is a record about itself

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit without the handler's lock: a thread that waits for the stream's reader must not delay the others."""
        if wanted := bool(self.filter(record)):
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        """Wait for the stream only with a record of a commit: what the ledger has must not be missing in the log."""
        try:
            line = self.format(record)
            if isinstance(record, _Event) and records.is_of_a_commit(str(record.msg)):
                self._outlet.write(line)
            else:
                self._outlet.leave(line)
        except Exception:  # noqa: BLE001  (as in logging: a record that cannot be written ends nothing)
            self.handleError(record)

    def flush(self) -> None:
        self._outlet.flush(LAST_MOMENT)

    def _dropped(self, count: int) -> str:
        text = f"{count} lines of the log were dropped because nothing read them"
        entry = _overheard(logging.LogRecord(__name__, logging.WARNING, "", 0, text, (), None))
        return one_line(entry, colour=self._colour) if self._text else _encode(entry)

    def format(self, record: logging.LogRecord) -> str:
        try:
            entry = record.entry() if isinstance(record, _Event) else _overheard(record)
            line = _encode(entry)
        except Exception:  # noqa: BLE001  (a record that cannot be told must not break the call it tells of)
            entry = _untold(record)
            line = _encode(entry)
        if self._store is not None:
            self._store.add(entry)
        return one_line(entry, colour=self._colour) if self._text else line

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name is logging's)
        """Stay silent: the stream is gone, and with it whoever could be told."""


def _overheard(record: logging.LogRecord) -> dict[str, Any]:
    """A library's line: whatever it carries beside its text stays out."""
    entry = {
        "severity": _severity_of(record.levelno),
        "time": rfc3339(record.created),
        "message": truncate(_message(record)),
        "logger": truncate(record.name),
    }
    if trouble := _stack_trace(record):
        entry["stack_trace"] = truncate(trouble)
    return entry


def _untold(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "severity": "ERROR",
        "time": rfc3339(record.created),
        "message": truncate(f"a record could not be written: {as_text(record.msg)}"),
        "logger": truncate(record.name),
    }


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  (arguments that do not fit the text are a library's mistake; its text still tells)
        return as_text(record.msg)


def _stack_trace(record: logging.LogRecord) -> str:
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    return "\n".join([*parts, record.stack_info] if record.stack_info else parts)


def _severity_of(level: int) -> str:
    reached = [name for name, least in _LEVELS.items() if level >= least]
    return reached[-1] if reached else "DEFAULT"
