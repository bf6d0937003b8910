from __future__ import annotations

import io
import json
import logging
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.example_records import DISPATCH, FINISHED, RETRY, TASK, TASK_ID, TRACE
from support.schema import validated
from traced_relay.logs.record import as_json
from traced_relay.logs.store import RecordStore
from traced_relay.logs.writer import Identity, Log, configure
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

IDENTITY = Identity("demo-project", "v7", "i-1")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[Log]:
    level = logging.getLogger().level
    log = configure(Log(IDENTITY, stream=stream, clock=ManualClock(0.25)))
    yield log
    log.close()
    logging.getLogger().setLevel(level)


def test_a_record_is_one_line_of_json_with_the_clocks_time(log: Log, stream: io.StringIO) -> None:
    log.write("attempt.finished", message="two\nlines", fields=FINISHED | RETRY | {"verdict": "gave_up"}, trace=TRACE)
    [record] = validated(stream.getvalue())
    assert record["time"] == "1970-01-01T00:00:00.250000Z"
    assert (record["severity"], record["message"], record["attempt"]) == ("ERROR", "two\nlines", 2)


def test_the_time_may_be_given(log: Log, stream: io.StringIO) -> None:
    log.write("relay.started", message="up", fields={}, at=60.0)
    assert json.loads(stream.getvalue())["time"] == "1970-01-01T00:01:00.000000Z"


def test_an_invalid_value_loses_no_record(log: Log, stream: io.StringIO) -> None:
    log.write("relay.started", message="up", fields={"address": object, "mode": float("nan"), "threads": {1: {2}}})
    record = json.loads(stream.getvalue())
    assert (record["address"], record["mode"], record["threads"]) == ("<class 'object'>", "nan", {"1": "{2}"})


def test_a_record_that_fails_is_reported_and_raises_nothing(log: Log, stream: io.StringIO) -> None:
    log.write("relay.started", message="up", fields={}, at=float("inf"))
    [record] = validated(stream.getvalue())
    assert (record["severity"], record["message"]) == ("ERROR", "a record could not be written: relay.started")


def test_a_closed_stream_raises_nothing(log: Log, stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    stream.close()
    log.write("relay.started", message="up", fields={})
    assert capsys.readouterr() == ("", "")


def test_a_library_record_has_its_text_only(log: Log, stream: io.StringIO) -> None:
    extra = {"json_fields": {"event": "forged"}, "labels": 7, "trace": "x", "httpRequest": {"requestUrl": "x?secret"}}
    logging.getLogger("some.library").warning("it is %d degrees", 30, extra=extra)
    [record] = validated(stream.getvalue())
    assert {name: record[name] for name in record if name != "time"} == {
        "severity": "WARNING",
        "message": "it is 30 degrees",
        "logger": "some.library",
    }


def test_a_librarys_text_that_looks_like_json_stays_text(log: Log, stream: io.StringIO) -> None:
    logging.getLogger("some.library").error('{"event": "task.finished", "state": "failed"}')
    [record] = validated(stream.getvalue())
    assert record["message"] == '{"event": "task.finished", "state": "failed"}'
    assert "event" not in record


def test_a_librarys_traceback_is_a_field_of_its_own(log: Log, stream: io.StringIO) -> None:
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("some.library").exception("it broke", stack_info=True)
    [record] = validated(stream.getvalue())
    assert (record["severity"], record["message"]) == ("ERROR", "it broke")
    assert record["stack_trace"].startswith("Traceback (most recent call last):")
    assert "ValueError: wrong\nStack (most recent call last):" in record["stack_trace"]


def test_a_library_record_without_exception_has_no_traceback(log: Log, stream: io.StringIO) -> None:
    logging.getLogger("some.library").error("it broke", exc_info=(None, None, None))
    assert "stack_trace" not in json.loads(stream.getvalue())


def test_a_library_record_with_wrong_arguments_is_written(log: Log, stream: io.StringIO) -> None:
    log.handler.handle(logging.LogRecord("some.library", logging.WARNING, "", 0, "%d of %d", ("x",), None))
    [record] = validated(stream.getvalue())
    assert record["message"] == "%d of %d"


def test_a_library_record_that_fails_is_reported(log: Log, stream: io.StringIO) -> None:
    record = logging.LogRecord("some.library", logging.WARNING, "", 0, "so it is", (), None)
    record.created = float("inf")
    log.handler.handle(record)
    [written] = validated(stream.getvalue())
    expected = ("ERROR", "some.library", "a record could not be written: so it is")
    assert (written["severity"], written["logger"], written["message"]) == expected


def test_a_line_needs_no_lock_of_the_handler(log: Log, stream: io.StringIO) -> None:
    assert log.handler.lock is not None
    with log.handler.lock:
        writing = Thread(target=logging.getLogger("some.library").warning, args=("hm",), daemon=True)
        writing.start()
        writing.join(10)
        assert json.loads(stream.getvalue())["message"] == "hm"


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\x7f\x9b\u2028\u202e\u0085\n")
def test_a_line_is_printable_ascii_whatever_is_in_it(text: str) -> None:
    stream = io.StringIO()
    Log(IDENTITY, stream=stream, clock=ManualClock(0)).write("relay.started", message=text, fields={"note": [text]})
    line = stream.getvalue()
    assert (line[-1], line[:-1].isascii(), line[:-1].isprintable()) == ("\n", True, True)
    assert (json.loads(line)["message"], json.loads(line)["note"]) == (text, [text])


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**66), 2**66) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner),
)


@given(VALUES)
@example([2**63, 2**64 - 1, -(2**63), float("nan"), "\ud800", {1: "a", "1": "b"}, -0.0, 1e16])
def test_a_line_has_the_values_of_as_json(value: object) -> None:
    stream = io.StringIO()
    Log(IDENTITY, stream=stream, clock=ManualClock(0)).write("relay.started", message="up", fields={"note": value})
    assert repr(json.loads(stream.getvalue())["note"]) == repr(as_json(value))


@pytest.mark.parametrize(
    ("level", "severity"),
    [(5, "DEFAULT"), (10, "DEBUG"), (21, "INFO"), (25, "NOTICE"), (30, "WARNING"), (99, "CRITICAL")],
)
def test_a_librarys_level_becomes_a_severity(log: Log, stream: io.StringIO, level: int, severity: str) -> None:
    logger = logging.getLogger("some.library")
    logger.setLevel(1)
    logger.log(level, "hm")
    logger.setLevel(logging.NOTSET)
    assert json.loads(stream.getvalue())["severity"] == severity


def test_debug_lines_of_libraries_are_off(log: Log, stream: io.StringIO) -> None:
    logging.getLogger("some.library").debug("chatter")
    assert stream.getvalue() == ""


def test_a_second_configure_replaces_the_first(log: Log, stream: io.StringIO) -> None:
    second = io.StringIO()
    configure(Log(IDENTITY, stream=second)).close()
    logging.getLogger("some.library").warning("where am I")
    assert (stream.getvalue(), second.getvalue()) == ("", "")
    log.write("relay.started", message="up", fields={})
    assert len(validated(stream.getvalue())) == 1


def test_lines_of_many_threads_do_not_mix(log: Log, stream: io.StringIO) -> None:
    def write() -> None:
        for _ in range(50):
            log.write("task.enqueued", message="x" * 500, fields=TASK, trace=TRACE)

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(validated(stream.getvalue())) == 200


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stored(limit: int = 10, stream: io.StringIO | None = None, **more: Any) -> tuple[Log, RecordStore, io.StringIO]:
    store, stream = RecordStore(limit), stream or io.StringIO()
    return Log(IDENTITY, stream=stream, store=store, clock=ManualClock(0), **more), store, stream


def test_the_store_keeps_what_was_printed() -> None:
    log, store, stream = stored()
    log.write("attempt.started", message="go", fields=DISPATCH | {"rule": object()}, trace=TRACE)
    assert store.records() == [json.loads(stream.getvalue())]


def test_the_store_finds_the_records_of_one_task() -> None:
    log, store, _ = stored()
    log.write("relay.started", message="up", fields={})
    log.write("task.enqueued", message="in", fields=TASK, trace=TRACE)
    log.write("task.enqueued", message="in", fields=TASK | {"task_id": "ab" * 16}, trace=TRACE)
    assert [record["task_id"] for record in store.records(TASK_ID)] == [TASK_ID]


def test_the_store_waits_for_a_record() -> None:
    log, store, _ = stored()
    writing = Thread(
        target=log.write, args=("task.enqueued",), kwargs={"message": "in", "fields": TASK, "trace": TRACE}
    )
    writing.start()
    found = store.wait_for("task.enqueued", TASK_ID, seconds=10)
    writing.join()
    assert found is not None
    assert found["message"] == "in"
    assert store.wait_for("task.finished", TASK_ID, seconds=0) is None


def test_a_cursor_gets_each_record_once() -> None:
    log, store, _ = stored(limit=3)
    seen: list[list[int]] = []
    cursor = 0
    for running in ([1, 2], [], [3, 4, 5, 6]):
        for number in running:
            log.write("relay.stopping", message="down", fields={"signal": "SIGTERM", "running": number})
        cursor, new = store.since(cursor)
        seen.append([record["running"] for record in new])
    assert seen == [[1, 2], [], [4, 5, 6]]


def test_the_store_reports_since_when_it_is_complete() -> None:
    store = RecordStore(2, whole_since="2026-09-21T14:00:00.000000Z")
    times = [store.whole_since]
    for second in (1, 3, 2, 4, 5):
        store.add({"time": f"2026-09-21T14:00:0{second}.000000Z"})
        times.append(store.whole_since)
    assert [text[17:19] for text in times] == ["00", "00", "00", "01", "03", "03"]


def test_a_cursor_of_another_store_gets_nothing() -> None:
    assert RecordStore().since(99) == (0, [])


def test_text_is_one_line_a_record() -> None:
    log, store, stream = stored(text=True)
    log.write("attempt.finished", message="503, again in 0.9 s\x1b[2J", fields=FINISHED | RETRY, trace=TRACE)
    assert stream.getvalue() == ("00:00:00.000  WARNING   attempt.finished    4f0c4f0c  503, again in 0.9 s\\x1b[2J\n")
    assert store.records()[0]["event"] == "attempt.finished"


def test_text_has_colour_on_a_terminal() -> None:
    log, _, stream = stored(text=True, stream=Terminal())
    log.write("relay.started", message="up", fields={})
    log.write("telemetry.dropped", message="12 spans lost", fields={"dropped_spans": 12})
    first, second = stream.getvalue().splitlines()
    assert "\x1b[2m00:00:00.000\x1b[0m  INFO      relay.started" in first
    assert "\x1b[33mWARNING \x1b[0m" in second


def test_a_traceback_in_text_keeps_its_lines_indented() -> None:
    log, _, stream = stored(text=True)
    failure = ValueError("wrong")
    record = logging.LogRecord("some.library", logging.ERROR, "", 0, "it broke", (), (ValueError, failure, None))
    log.handler.handle(record)
    assert stream.getvalue().endswith("it broke\n    ValueError: wrong\n")
