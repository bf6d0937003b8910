"""What `tail` shows of what comes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from traced_relay.cli import main
from traced_relay.clock import SystemClock
from traced_relay.durations import format_time

RECORDS = [
    {"event": "task.enqueued", "severity": "INFO", "message": "one", "task_id": "aa11", "queue": "relay"},
    {"event": "attempt.finished", "severity": "WARNING", "message": "two", "task_id": "aa11", "queue": "relay"},
    {"event": "task.finished", "severity": "ERROR", "message": "three", "task_id": "bb22", "queue": "other"},
    {"event": "task.finished", "severity": "INFO", "message": "four", "task_id": "cc33", "callback_of": "bb22"},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def shown(*options: str, given: str | bytes = LINES) -> list[str]:
    ran = CliRunner().invoke(main, ["tail", *options], input=given)
    assert ran.exit_code == 0, ran.output
    return ran.stdout.splitlines()


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ("", ["one", "two", "three", "four"]),
        ("--event task.finished", ["three", "four"]),
        ("--event task.* --severity notice", ["three"]),
        ("--event task.enqueued --event attempt.finished", ["one", "two"]),
        ("--severity WARNING", ["two", "three"]),
        ("--queue relay", ["one", "two"]),
        ("--task bb", ["three", "four"]),
        ("--queue nowhere", []),
    ],
)
def test_the_records_that_were_asked_for_are_shown(options: str, messages: list[str]) -> None:
    assert [line.split()[-1] for line in shown(*options.split())] == messages


def test_records_from_long_ago_are_left_out_where_that_is_asked_for() -> None:
    now = SystemClock().now()
    given = "".join(json.dumps(RECORDS[0] | {"time": format_time(now - ago)}) + "\n" for ago in (100, 10, -1))
    assert len(shown("--since", "1m", given=given)) == 2
    assert len(shown(given=given)) == 3


def test_two_places_at_once_are_not_followed() -> None:
    ran = CliRunner().invoke(main, ["tail", "-", "--project", "p"])
    assert (ran.exit_code, "RECORDS, --relay and --project" in ran.stderr) == (2, True)


def test_as_json_they_are_what_came() -> None:
    assert shown("--json", "--task", "cc33") == [json.dumps(RECORDS[3])]


def test_nothing_in_a_record_can_move_the_cursor() -> None:
    hostile = "\x1b]0;x\x07\x1b[2J"
    record = dict.fromkeys(("severity", "event", "task_id", "message"), hostile) | {"time": "2026-09-21 " + hostile}
    (line,) = shown("--event", "*", given=json.dumps(record) + "\n")
    assert line.isprintable()


def test_what_is_no_record_is_shown_only_as_long_as_nothing_is_asked_for() -> None:
    odd = b'Starting\x1b[2J\n[1]\n{"a": 1}\n\xff\n' + b"[" * 100_000 + b"\n"
    assert len(shown(given=odd)) == 5
    assert "\x1b" not in "".join(shown(given=odd))
    assert shown("--severity", "DEBUG", given=odd) == []
