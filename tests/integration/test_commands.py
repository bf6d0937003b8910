"""The commands that ask a relay, against a whole one; only the process around them is left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from werkzeug.wrappers import Response

from traced_relay.cli.main import main
from traced_relay.runtime.clock import SystemClock
from traced_relay.testing import Downstream, RunningRelay

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.whole

HURRIED = ("--max-attempts", "2")


class Shell:
    """Runs commands that ask this relay."""

    def __init__(self, relay: RunningRelay) -> None:
        self._url = relay.url

    def run(self, *arguments: str, given: str | None = None) -> Result:
        ran = CliRunner().invoke(main, [*arguments, "--relay", self._url], input=given)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
        return ran

    def document(self, *arguments: str) -> dict[str, object]:
        (line,) = self.run(*arguments, "--json").stdout.splitlines()
        return dict(json.loads(line))

    def enqueued(self, url: str, *options: str) -> str:
        return str(self.document("enqueue", url, *options)["task_id"])


@pytest.fixture
def shell(relay: RunningRelay) -> Shell:
    return Shell(relay)


def test_a_call_is_enqueued_and_its_ids_are_printed(shell: Shell, downstream: Downstream) -> None:
    options = ("--data", '{"report": 7}', "--header", "X-Team: a", "--label", "team=a", "--queue", "relay")
    ran = shell.run("enqueue", f"{downstream.url}/build", *options, "--wait")
    assert (ran.exit_code, [line.split()[0] for line in ran.stdout.splitlines()]) == (
        0,
        ["task_id", "trace_id", "state"],
    )
    assert "succeeded, 1 attempt in " in ran.stdout
    (arrived,) = downstream.arrived
    assert (arrived.body, arrived.headers["x-team"]) == (b'{"report":7}', "a")


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (("--data", "plain"), b"plain"),
        (("--data", "null"), b"null"),
        (("--data", "NaN"), b"NaN"),
        (("--data", '{"a":  1}', "--header", "content-type: application/json"), b'{"a":  1}'),
        ((), b""),
    ],
)
def test_data_is_json_or_else_text(shell: Shell, downstream: Downstream, options: tuple[str, ...], sent: bytes) -> None:
    assert shell.run("enqueue", downstream.url, *options).exit_code == 0
    assert [arrived.body for arrived in downstream.wait_for(1)] == [sent]


@pytest.mark.parametrize("options", [(), ("--header", "x-a: b"), ("--header", "content-type: application/json")])
def test_data_of_null_is_sent_as_json(shell: Shell, downstream: Downstream, options: tuple[str, ...]) -> None:
    assert shell.run("enqueue", downstream.url, "--data", "null", *options).exit_code == 0
    (arrived,) = downstream.wait_for(1)
    assert (arrived.body, arrived.headers["content-type"]) == (b"null", "application/json")
    assert arrived.headers.get("x-a") == ("b" if "x-a: b" in options else None)


def test_a_direct_call_is_enqueued_and_cannot_be_waited_for(shell: Shell, downstream: Downstream) -> None:
    options = ("--route", "direct", "--data", "plain", "--label", "team=a")
    assert shell.document("enqueue", downstream.url, *options)["links"]["status"] is None  # type: ignore[index]
    (arrived,) = downstream.wait_for(1)
    assert arrived.headers["user-agent"] == "Google-Cloud-Tasks"
    ran = shell.run("enqueue", downstream.url, "--route", "direct", "--wait")
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith(
        "traced-relay: --wait requires a status, which a call with --route direct does not have"
    )
    assert ran.stderr.count("\n") == 1
    assert len(downstream.arrived) == 1
    assert shell.run("enqueue", downstream.url, "--route", "sideways").exit_code == 2


def test_waiting_for_what_fails_ends_with_1(shell: Shell) -> None:
    with Downstream(404) as failing:
        ran = shell.run("enqueue", failing.url, "--wait")
    assert ran.exit_code == 1
    assert "state     failed (http_404, caller), 1 attempt in" in ran.stdout
    assert ran.stderr.splitlines()[-1].startswith("failed, attempt 1, ")


def test_what_the_relay_refuses_is_one_line(shell: Shell) -> None:
    ran = shell.run("enqueue", "http://127.0.0.1:9", "--delay", "soon")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert (
        ran.stderr
        == 'traced-relay: delay must be a duration such as "30s", "1.5s", "5m", "24h" or "7d", got \'soon\'\n'
    )


@pytest.mark.parametrize("options", ["--label x", "--header x", "--token-file nowhere", "--max-attempts many"])
def test_what_cannot_be_understood_ends_with_2(shell: Shell, options: str) -> None:
    ran = shell.run("enqueue", "http://127.0.0.1:9", *options.split())
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        "list --relay http://example.com",
        "list --since yesterday",
        "redrive x --rate nan",
        "redrive x --rate inf",
        "tail --project a_b",
        "explain x --project a/b",
    ],
)
def test_a_mistake_here_ends_with_2_before_anybody_is_asked(arguments: str) -> None:
    ran = CliRunner().invoke(main, arguments.split())
    assert (ran.exit_code, ran.stdout, len(ran.stderr.splitlines())) == (2, "", 1)


def test_a_status_is_lines_for_people_and_json_for_programs(shell: Shell, downstream: Downstream) -> None:
    task_id = shell.enqueued(downstream.url, "--delay", "1h", "--label", "team=a", "--callback", downstream.url)
    lines = shell.run("status", task_id).stdout.splitlines()
    said = dict(line.split(maxsplit=1) for line in lines)
    assert (said["task_id"], said["state"], said["labels"]) == (task_id, "queued, 0 attempts", "team=a")
    assert said["callback"] == "pending, attempts: 0"
    assert shell.document("status", task_id)["callback"] == {
        "state": "pending",
        "attempt_count": 0,
        "next_attempt_at": None,
        "reason": None,
    }


def test_redrive_takes_a_list_and_continues_after_a_refusal() -> None:
    with RunningRelay() as relay, Downstream(404, 404) as failing:
        shell = Shell(relay)
        for _ in range(2):
            shell.run("enqueue", failing.url, "--wait")
        listed = shell.run("list", "--state", "failed", "--since", "1h", "--queue", "relay").stdout
        assert [line.split()[1] for line in listed.splitlines()] == ["failed", "failed"]
        ran = shell.run("redrive", "-", "--rate", "100", given=f"nonsense\n\n{listed}")
        assert (ran.exit_code, len(ran.stdout.splitlines())) == (1, 2)
        assert ran.stderr == "traced-relay: nonsense: task_id must be 4 to 32 hex digits, got 'nonsense'\n"
        failing.wait_for(4)
        assert len(shell.run("list", "--limit", "1").stdout.splitlines()) == 1
        assert len(shell.run("list", "--limit", "0", "--json").stdout.splitlines()) == 2


def test_no_more_a_second_are_asked_for_than_was_said(shell: Shell) -> None:
    before = SystemClock().monotonic()
    ran = shell.run("cancel", "a", "b", "c", "d", "--rate", "20")
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 4)
    assert SystemClock().monotonic() - before >= 0.15


def test_cancel_ends_a_waiting_task_and_resend_needs_a_callback(shell: Shell, downstream: Downstream) -> None:
    task_id = shell.enqueued(downstream.url, "--delay", "1h")
    cancelled = shell.run("cancel", task_id)
    assert (cancelled.exit_code, cancelled.stdout.split()[:2]) == (0, [task_id, "cancelled"])
    refused = shell.run("resend-callback", task_id)
    assert (refused.exit_code, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)


def test_explain_draws_the_callback_and_needs_no_records(relay: RunningRelay) -> None:
    shell = Shell(relay)
    with Downstream(Response(status=503, headers={"Retry-After": "0"})) as flaky, Downstream() as receiver:
        task_id = shell.enqueued(flaky.url, *HURRIED, "--callback", receiver.url)
        relay.wait_for("task.finished", task_id)
        receiver.wait_for(1)
    drawn = shell.run("explain", task_id)
    assert drawn.exit_code == 0
    assert "missing" not in drawn.stdout
    for label in ("enqueue", "queued", "attempt 1", "attempt 2", "callback 1"):
        assert f"\n{label} " in drawn.stdout
    bars = shell.document("explain", task_id)["bars"]
    assert {"enqueue", "wait", "attempt", "callback"} == {bar["kind"] for bar in bars}


def test_with_the_records_what_they_lack_is_missing(relay: RunningRelay, tmp_path: Path) -> None:
    shell = Shell(relay)
    with Downstream() as downstream:
        task_id = shell.enqueued(downstream.url)
        relay.wait_for("task.finished", task_id)
    records = relay.records.records(task_id)
    file = tmp_path / "records.jsonl"
    kept = [json.dumps(record) for record in records if record["event"] != "attempt.started"]
    file.write_text("\n".join(["no record", "[1]", *kept]))
    drawn = shell.run("explain", task_id, "--records", str(file)).stdout
    assert "missing: attempt 1: no record attempt.started" in drawn
    assert "\n  127.0.0.1 " in drawn


def test_a_token_file_holds_a_token_or_the_command_is_not_run(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"two\nlines \xff")
    ran = shell.run("list", "--token-file", str(file))
    assert (ran.exit_code, "must contain an ID token" in ran.stderr) == (2, True)
    file.write_text("a.b.c\n")
    assert shell.run("list", "--token-file", str(file)).exit_code in (0, 1)
