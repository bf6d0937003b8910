"""What `tail` shows of what comes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from traced_relay.cli import main

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


def test_as_json_they_are_what_came() -> None:
    assert shown("--json", "--task", "cc33") == [json.dumps(RECORDS[3])]


def test_what_is_no_record_is_shown_only_as_long_as_nothing_is_asked_for() -> None:
    odd = b'Starting\x1b[2J\n[1]\n{"a": 1}\n\xff\n' + b"[" * 100_000 + b"\n"
    assert len(shown(given=odd)) == 5
    assert "\x1b" not in "".join(shown(given=odd))
    assert shown("--severity", "DEBUG", given=odd) == []
