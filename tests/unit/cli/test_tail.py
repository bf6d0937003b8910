"""What `tail` shows of what comes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from support.surroundings import surroundings
from traced_relay.cli.main import main
from traced_relay.formats.durations import format_time
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from click.testing import Result

RECORDS = [
    {"event": "task.enqueued", "severity": "INFO", "message": "one", "task_id": "aa11", "queue": "relay"},
    {"event": "attempt.finished", "severity": "WARNING", "message": "two", "task_id": "aa11", "queue": "relay"},
    {"event": "task.finished", "severity": "ERROR", "message": "three", "task_id": "bb22", "queue": "other"},
    {"event": "task.finished", "severity": "INFO", "message": "four", "task_id": "cc33", "callback_of": "bb22"},
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def ran(*options: str, given: str | bytes = LINES) -> Result:
    return CliRunner().invoke(main, ["tail", *options], input=given)


def shown(*options: str, given: str | bytes = LINES) -> list[str]:
    ended = ran(*options, given=given)
    assert (ended.exit_code, ended.stderr) == (0, ""), ended.output
    return ended.stdout.splitlines()


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
    ended = ran("-", "--project", "p")
    assert (ended.exit_code, "RECORDS, --relay and --project" in ended.stderr) == (2, True)


def test_as_json_they_are_what_came() -> None:
    assert shown("--json", "--task", "cc33") == [json.dumps(RECORDS[3])]


def test_a_line_that_never_ends_is_passed_over_and_said() -> None:
    ended = ran(given="x" * 2_500_000 + "\n" + LINES)
    assert [line.split()[-1] for line in ended.stdout.splitlines()] == ["one", "two", "three", "four"]
    assert ended.stderr == "traced-relay: a line of more than 1000000 characters is passed over\n"


def test_no_field_of_a_record_moves_the_cursor() -> None:
    fields = ("time", "severity", "event", "task_id", "message", "queue")
    given = json.dumps(dict.fromkeys(fields, "\x1b[2J\x9b\r" * 5), ensure_ascii=False) + "\n\x9b2J\n"
    for options in ((), ("--json",)):
        assert [line for line in shown(*options, given=given) if not line.isprintable()] == []


def test_what_is_no_record_is_shown_only_as_long_as_nothing_is_asked_for() -> None:
    odd = b'Starting\x1b[2J\n[1]\n{"a": 1}\n\xff\n' + b"[" * 100_000 + b"\n"
    given = odd + LINES.encode()
    assert len(shown(given=given)) == 5 + 4
    assert "\x1b" not in "".join(shown(given=given))
    assert len(shown("--severity", "DEBUG", given=given)) == 4


@pytest.mark.parametrize("options", [(), ("--severity", "DEBUG"), ("--json",)])
def test_input_without_any_record_is_said(options: tuple[str, ...]) -> None:
    ended = ran("-", *options, given="Starting\nThe end\n")
    told = (
        "stdin holds no record; records are JSON, as the relay prints them or as gcloud logging does with --format=json"
    )
    assert (ended.exit_code, ended.stderr) == (1, f"traced-relay: {told}\n")
    assert len(ended.stdout.splitlines()) == (0 if "--severity" in options else 2)


def test_a_stream_without_any_record_is_said_before_it_ends() -> None:
    ended = ran("-", "--severity", "DEBUG", given="odd\n" * 25)
    first, last = ended.stderr.splitlines()
    assert first.startswith("traced-relay: no record among the first 20 lines of stdin; records are JSON")
    assert last.startswith("traced-relay: stdin holds no record")


def test_yaml_is_refused_with_what_to_add() -> None:
    ended = ran("-", given="---\ninsertId: a\njsonPayload:\n  message: b\n")
    told = (
        "traced-relay: stdin holds entries as YAML, which gcloud prints by itself; add --format=json to its command\n"
    )
    assert (ended.exit_code, ended.stderr) == (1, told)


@pytest.mark.parametrize("given", ["", "\n", "[]\n", "[\n]\n"])
def test_input_without_entries_is_said(given: str) -> None:
    ended = ran("-", given=given)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (1, "", "traced-relay: stdin holds no record\n")


def test_an_array_that_is_cut_off_in_an_entry_is_said_once() -> None:
    given = json.dumps(RECORDS, indent=2)
    for end in range(given.index("four"), given.index("four") + 40, 7):
        ended = ran("-", given=given[:end])
        assert [line.split()[-1] for line in ended.stdout.splitlines()] == ["one", "two", "three"]
        assert ended.stderr == "traced-relay: the last entry is cut off and is passed over\n"


def test_relay_url_is_a_default_that_a_place_replaces() -> None:
    with surroundings(RELAY_URL="https://relay.example.com"):
        assert len(shown("-")) == 4
        assert len(shown()) == 4
        assert "https://other.example.com is not on this machine" in ran("--relay", "https://other.example.com").stderr


def test_entries_are_printed_as_the_records_that_they_were_made_of() -> None:
    record = RECORDS[0] | {"time": "2026-11-21T18:00:00Z"}
    payload = {name: value for name, value in RECORDS[0].items() if name != "severity"}
    entry = {"insert_id": "a", "json_payload": payload, "severity": 200, "timestamp": record["time"], "trace": ""}
    given = json.dumps([entry], indent=2)
    (line,) = shown("-", "--json", given=given)
    assert json.loads(line) == record | {"logging.googleapis.com/insertId": "a"}
    assert shown("-", "--severity", "NOTICE", given=given) == []


def test_a_filter_that_payloads_alone_cannot_pass_is_said() -> None:
    given = json.dumps([{"jsonPayload": {"event": "task.finished", "message": "m"}}] * 2, indent=2)
    ended = ran("-", "--severity", "INFO", given=given)
    told = "stdin holds payloads without time and severity; --format=json prints whole entries"
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", f"traced-relay: {told}\n")
    assert len(shown("-", "--event", "task.*", given=given)) == 2


def test_an_id_that_is_given_for_a_file_is_said() -> None:
    ended = ran("4f0c1a2b")
    assert ended.exit_code == 2
    assert "No such file or directory; --task 4f0c1a2b shows the records of that task" in ended.stderr
