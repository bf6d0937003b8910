"""The first digits of a task's id, such as `tail` prints: taken wherever an id is, if they fit one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from support.asking import ask
from support.example_rows import row
from traced_relay.cli.main import main
from traced_relay.client.client import Client
from traced_relay.errors import InvalidCall, NotFound
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.runtime.clock import SystemClock
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

AUDIENCE = "https://relay.example.com"
RULES = {
    "queues": [{"name": "relay"}, {"name": "told", "for": "callbacks"}],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [
        *({"email": f"{name}@example.com", "queues": "*", "downstreams": "*"} for name in "ab"),
        {"email": "op@example.com", "role": "operator"},
    ],
}
MINE, ALIKE, TWIN, OTHERS = (start + "0" * (32 - len(start)) for start in ("abcd1", "beef1", "beef2", "abcd2"))


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRelay]:
    file: Path = tmp_path_factory.mktemp("ledger") / "ledger"
    with RunningRelay(rules=RULES, ledger=file) as running:
        ledger = SqliteLedger(SystemClock(), file)
        for number in range(60):
            ledger.insert(row(task_id=f"cccc{number:028d}", caller="b@example.com"))
        ledger.insert(row(task_id=MINE, caller="a@example.com", next_attempt_at=SystemClock().now() + 3600))
        for task_id in (ALIKE, TWIN):
            ledger.insert(row(task_id=task_id, caller="a@example.com", state="failed", next_attempt_at=None))
        ledger.insert(row(task_id=OTHERS, caller="b@example.com", state="failed", next_attempt_at=None))
        ledger.close()
        yield running


def client(relay: RunningRelay, name: str) -> Client:
    return Client(relay.url, id_token=lambda: relay.queue.token(f"{name}@example.com", AUDIENCE))


def refusal(relay: RunningRelay, name: str, task_id: str) -> str:
    with pytest.raises(InvalidCall) as refused:
        client(relay, name).status(task_id)
    assert [error.field for error in refused.value.errors] == ["task_id"]
    return str(refused.value)


@pytest.mark.parametrize("length", [4, 5, 8, 31, 32])
def test_a_short_id_that_fits_one_task_is_that_task(relay: RunningRelay, length: int) -> None:
    assert client(relay, "a").status(MINE[:length])["task_id"] == MINE


def test_only_tasks_that_the_caller_may_see_count(relay: RunningRelay) -> None:
    assert client(relay, "b").status("abcd")["task_id"] == OTHERS
    with pytest.raises(NotFound, match="there is no task 'beef' that you may see"):
        client(relay, "b").status("beef")
    assert f"matches several tasks; give more digits: {MINE}, {OTHERS}" in refusal(relay, "op", "abcd")


def test_an_ambiguous_id_is_refused_with_what_it_fits(relay: RunningRelay) -> None:
    told = f"task_id 'beef' matches several tasks; give more digits: {ALIKE}, {TWIN}"
    assert refusal(relay, "a", "beef") == told
    for verb in ("cancel", "redrive", "resend-callback"):
        headers = {"authorization": f"Bearer {relay.queue.token('a@example.com', AUDIENCE)}"}
        answer = ask("POST", f"{relay.url}/v1/tasks/beef:{verb}", headers=headers)
        assert (answer.status, answer.document["detail"]) == (422, told)


def test_of_many_matches_five_are_listed(relay: RunningRelay) -> None:
    assert refusal(relay, "op", "cccc").count("cccc0") == 5


def test_matches_that_are_hidden_from_the_caller_show_nothing(relay: RunningRelay) -> None:
    with pytest.raises(NotFound, match="there is no task 'cccc' that you may see"):
        client(relay, "a").status("cccc")


def test_an_id_in_capitals_is_the_same_id(relay: RunningRelay) -> None:
    assert client(relay, "a").status(MINE[:8].upper())["task_id"] == MINE
    headers = {"authorization": f"Bearer {relay.queue.token('a@example.com', AUDIENCE)}"}
    answer = ask("GET", f"{relay.url}/v1/tasks/{MINE.upper()}", headers=headers)
    assert (answer.status, answer.document["task_id"]) == (200, MINE)


@pytest.mark.parametrize("task_id", ["abcd1%", "abc_", "abcd*", "abcdg"])
def test_what_is_nearly_an_id_is_refused_too(relay: RunningRelay, task_id: str) -> None:
    assert refusal(relay, "a", task_id) == f"task_id must be 4 to 32 hex digits, got '{task_id}'"


@pytest.mark.parametrize("task_id", ["", "../x", "a/b", "abcd?x=1", "abcd:cancel", "x" * 99, "\n", "\ud800", "a" * 33])
def test_what_is_no_id_is_refused_by_its_rule(relay: RunningRelay, task_id: str) -> None:
    assert refusal(relay, "a", task_id) == f"task_id must be 4 to 32 hex digits, got {task_id[:40]!a}"


@pytest.mark.parametrize("task_id", ["a", "abc"])
def test_an_id_of_less_than_four_digits_is_refused(relay: RunningRelay, task_id: str) -> None:
    assert refusal(relay, "a", task_id) == f"task_id must have at least 4 digits, got '{task_id}'"


@pytest.mark.parametrize("task_id", ["abce", "ABCE", MINE[:31] + "1"])
def test_what_no_id_begins_like_is_not_found(relay: RunningRelay, task_id: str) -> None:
    with pytest.raises(NotFound):
        client(relay, "op").status(task_id)


def run(relay: RunningRelay, tmp_path: Path, *arguments: str, given: str | None = None) -> Result:
    file = tmp_path / "token"
    file.write_text(relay.queue.token("a@example.com", AUDIENCE))
    return CliRunner().invoke(main, [*arguments, "--relay", relay.url, "--token-file", str(file)], input=given)


def test_commands_take_short_ids(relay: RunningRelay, tmp_path: Path) -> None:
    assert run(relay, tmp_path, "status", MINE[:8]).stdout.startswith(f"task_id   {MINE}\n")
    assert f"task   {MINE}" in run(relay, tmp_path, "explain", MINE[:8]).stdout
    assert run(relay, tmp_path, "cancel", MINE[:8]).stdout.split()[:2] == [MINE, "cancelled"]
    ran = run(relay, tmp_path, "redrive", "-", given=f"{MINE[:8]}  failed\nbeef  failed\n")
    assert (ran.exit_code, ran.stdout.split()[:2]) == (1, [MINE, "queued"])
    assert (
        ran.stderr == f"traced-relay: beef: task_id 'beef' matches several tasks; give more digits: {ALIKE}, {TWIN}\n"
    )
    refused = run(relay, tmp_path, "resend-callback", MINE[:8])
    assert refused.stderr == f"traced-relay: {MINE[:8]}: the task has no callback that was sent\n"


def test_a_followed_task_stays_the_one_its_short_id_fitted(relay: RunningRelay) -> None:
    first, later = (row(task_id=f"dddd{n}{0:027d}", caller="a@example.com", state="running") for n in (1, 2))
    ledger = relay.application.ledger
    ledger.insert(first)
    followed = client(relay, "a").follow("dddd", patience=20)
    assert next(followed)["state"] == "running"
    ledger.insert(later)
    assert ledger.replace(first.changed(revision=first.revision + 1, state="failed"))
    assert [document["task_id"] for document in followed][-1] == first.task_id
