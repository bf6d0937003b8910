"""Filters and output of `tail`."""

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


def run_tail(*options: str, given: str | bytes = LINES) -> Result:
    return CliRunner().invoke(main, ["tail", *options], input=given)


def output(*options: str, given: str | bytes = LINES) -> list[str]:
    result = run_tail(*options, given=given)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


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
def test_filters_select_records(options: str, messages: list[str]) -> None:
    assert [line.split()[-1] for line in output(*options.split())] == messages


def test_since_hides_older_records() -> None:
    now = SystemClock().now()
    given = "".join(json.dumps(RECORDS[0] | {"time": format_time(now - ago)}) + "\n" for ago in (100, 10, -1))
    assert len(output("--since", "1m", given=given)) == 2
    assert len(output(given=given)) == 3


def test_two_sources_are_a_usage_error() -> None:
    result = run_tail("-", "--project", "p")
    assert (result.exit_code, "RECORDS, --relay and --project" in result.stderr) == (2, True)


def test_json_output_equals_the_input() -> None:
    assert output("--json", "--task", "cc33") == [json.dumps(RECORDS[3])]


def test_too_long_line_is_skipped_with_a_warning() -> None:
    result = run_tail(given="x" * 2_500_000 + "\n" + LINES)
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["one", "two", "three", "four"]
    assert result.stderr == "traced-relay: a line of more than 1000000 characters is skipped\n"


def test_no_field_of_a_record_moves_the_cursor() -> None:
    fields = ("time", "severity", "event", "task_id", "message", "queue")
    given = json.dumps(dict.fromkeys(fields, "\x1b[2J\x9b\r" * 5), ensure_ascii=False) + "\n\x9b2J\n"
    for options in ((), ("--json",)):
        assert [line for line in output(*options, given=given) if not line.isprintable()] == []


def test_other_lines_are_shown_only_without_filters() -> None:
    odd = b'Starting\x1b[2J\n[1]\n{"a": 1}\n\xff\n' + b"[" * 100_000 + b"\n"
    given = odd + LINES.encode()
    assert len(output(given=given)) == 5 + 4
    assert "\x1b" not in "".join(output(given=given))
    assert len(output("--severity", "DEBUG", given=given)) == 4


@pytest.mark.parametrize("options", [(), ("--severity", "DEBUG"), ("--json",)])
def test_input_without_a_record_is_an_error(options: tuple[str, ...]) -> None:
    result = run_tail("-", *options, given="Starting\nThe end\n")
    wanted = "records are JSON, as the relay prints them or as gcloud logging does with --format=json"
    message = f"stdin contains no record; {wanted}"
    assert (result.exit_code, result.stderr) == (1, f"traced-relay: {message}\n")
    assert len(result.stdout.splitlines()) == (0 if "--severity" in options else 2)


def test_stream_without_a_record_warns_before_its_end() -> None:
    result = run_tail("-", "--severity", "DEBUG", given="odd\n" * 25)
    first, last = result.stderr.splitlines()
    assert first.startswith("traced-relay: no record in the first 20 lines of stdin; records are JSON")
    assert last.startswith("traced-relay: stdin contains no record")


def test_yaml_is_refused_with_the_missing_option() -> None:
    result = run_tail("-", given="---\ninsertId: a\njsonPayload:\n  message: b\n")
    message = (
        "traced-relay: stdin holds entries as YAML, which gcloud prints by itself; add --format=json to its command\n"
    )
    assert (result.exit_code, result.stderr) == (1, message)


@pytest.mark.parametrize("given", ["", "\n", "[]\n", "[\n]\n"])
def test_input_without_entries_is_said(given: str) -> None:
    ended = run_tail("-", given=given)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (1, "", "traced-relay: stdin contains no record\n")


def test_an_array_that_is_cut_off_in_an_entry_is_said_once() -> None:
    given = json.dumps(RECORDS, indent=2)
    for end in range(given.index("four"), given.index("four") + 40, 7):
        ended = run_tail("-", given=given[:end])
        assert [line.split()[-1] for line in ended.stdout.splitlines()] == ["one", "two", "three"]
        assert ended.stderr == "traced-relay: the last entry is cut off and is skipped\n"


def test_relay_url_is_a_default_that_a_place_replaces() -> None:
    with surroundings(RELAY_URL="https://relay.example.com"):
        assert len(output("-")) == 4
        assert len(output()) == 4
        assert "https://other.example.com is not on loopback" in run_tail("--relay", "https://other.example.com").stderr


def test_entries_are_printed_as_their_original_records() -> None:
    record = RECORDS[0] | {"time": "2026-11-21T18:00:00Z"}
    payload = {name: value for name, value in RECORDS[0].items() if name != "severity"}
    entry = {"insert_id": "a", "json_payload": payload, "severity": 200, "timestamp": record["time"], "trace": ""}
    given = json.dumps([entry], indent=2)
    (line,) = output("-", "--json", given=given)
    assert json.loads(line) == record | {"logging.googleapis.com/insertId": "a"}
    assert output("-", "--severity", "NOTICE", given=given) == []


def test_filter_that_payloads_cannot_pass_warns() -> None:
    given = json.dumps([{"jsonPayload": {"event": "task.finished", "message": "m"}}] * 2, indent=2)
    result = run_tail("-", "--severity", "INFO", given=given)
    message = "stdin contains payloads without time and severity; use --format=json"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"traced-relay: {message}\n")
    assert len(output("-", "--event", "task.*", given=given)) == 2


def test_id_in_place_of_a_file_suggests_task_option() -> None:
    result = run_tail("4f0c1a2b")
    assert result.exit_code == 2
    assert "No such file or directory; --task 4f0c1a2b shows the records of that task" in result.stderr
