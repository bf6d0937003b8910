"""Requests with one Idempotency-Key at the same time: every interleaving of two, and many at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from grpc import insecure_channel

from support.asking import Answer, post
from support.firestore_emulator import emulator_at
from support.ledgers import RETENTION
from support.schema import validate
from support.step_appliers import step_applier
from traced_relay.api.auth import ANONYMOUS
from traced_relay.errors import EnqueueFailed, InvalidCall, Unavailable
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.relay.admission import Admission
from traced_relay.relay.enqueue import KEYS_KEPT, Enqueuer
from traced_relay.relay.policy import Policy
from traced_relay.tasks import state_machine
from traced_relay.tasks.ids import derived_id
from traced_relay.tasks.status_document import Links
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from traced_relay.ledger.protocol import Ledger
    from traced_relay.tasks.api_types import Receipt
    from traced_relay.tasks.row import Row
    from traced_relay.testing import Downstream, ManualClock

EAGER, ITEMS = 10, 20
KEY = "k"
TASK_ID = derived_id(ANONYMOUS.name, KEY)
WISH = {"url": "http://127.0.0.1:9/", "delay": "1h"}
MOMENTS = [
    ("before", "get"),
    ("before", "insert"),
    ("after", "insert"),
    ("before", "create"),
    ("after", "create"),
    ("before", "note_soon"),
    ("after", "note_soon"),
]
DIRECT_MOMENTS = [
    ("before", "get"),
    ("before", "insert"),
    ("after", "insert"),
    ("before", "create_direct"),
    ("after", "create_direct"),
    ("before", "note_soon"),
    ("after", "note_soon"),
]


class Interrupted:
    """A real *part*, whose method of one name lets *other* happen once, before or after its first call."""

    def __init__(self, part: Any, moment: tuple[str, str], other: Callable[[], None]) -> None:
        self._part = part
        self._when, self._method = moment
        self._others = [other]

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self._part, name)
        if name != self._method:
            return asked

        def call(*arguments: Any, **named: Any) -> Any:
            if self._when == "before" and self._others:
                self._others.pop()()
            answer = asked(*arguments, **named)
            if self._when == "after" and self._others:
                self._others.pop()()
            return answer

        return call


class Two:
    """Enqueues on one ledger and one queue; what `interrupted` enqueues is overtaken by *other* at that moment."""

    def __init__(self, relay: RunningRelay, ledger: Ledger, clock: ManualClock) -> None:
        self.relay, self.ledger, self._clock = relay, ledger, clock
        self._cloud_tasks = relay.application._cloud_tasks
        channel = insecure_channel(relay.queue.address)
        self._queue = tasks_v2.CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))

    def enqueue(self, **fields: Any) -> Receipt:
        return self._enqueuer(self.ledger, self._cloud_tasks).enqueue(WISH | fields, ANONYMOUS, KEY)

    def interrupted(self, moment: tuple[str, str], other: Callable[[], Any], **fields: Any) -> Receipt:
        ledger, cloud_tasks = (Interrupted(part, moment, other) for part in (self.ledger, self._cloud_tasks))
        return self._enqueuer(ledger, cloud_tasks).enqueue(WISH | fields, ANONYMOUS, KEY)

    def _enqueuer(self, ledger: Any, cloud_tasks: Any) -> Enqueuer:
        rules = self.relay.settings.rules
        return Enqueuer(
            admission=Admission(Policy(["relay"], rules.downstreams, rules.retry, 3600.0), self._clock),
            ledger=ledger,
            cloud_tasks=cloud_tasks,
            task_log=self.relay.application._task_log,
            tracer=self.relay.application._tracer,
            clock=self._clock,
            step_applier=step_applier(self.relay, ledger, cloud_tasks, self._clock),
            direct_account="a@example.com",
            links=lambda: Links("http://localhost", "p"),
        )

    def row(self) -> Row:
        row = self.ledger.get(TASK_ID)
        assert row is not None
        return row

    def tasks(self) -> list[str]:
        parent = self._cloud_tasks.task_name("relay", "").removesuffix("/tasks/")
        return [task.name.rpartition("/")[2] for task in self._queue.list_tasks(parent=parent)]

    def delete(self, task_name: str) -> None:
        self._queue.delete_task(name=task_name)

    def end_and_forget(self) -> None:
        """The row ends and expires, as weeks after; its task's name stays taken."""
        step = state_machine.cancel(self.row(), actor="a", now=self._clock.now())
        assert step is not None
        assert step.row is not None
        assert self.ledger.replace(step.row)
        self._clock.advance(RETENTION + 1)
        assert self.ledger.expire(10) == 1

    def enqueued_records(self) -> list[dict[str, Any]]:
        self.ledger.abort("w", "a")  # every change writes the notes that wait, and the records that follow them
        records = [r for r in self.relay.records.records(TASK_ID) if r["event"] == "task.enqueued"]
        for record in records:
            validate(record)
        return records


@pytest.fixture
def two(timeless: RunningRelay, ledger: Ledger, clock: ManualClock) -> Two:
    with suppress(Unavailable):  # an emulator that has just started may be slow to answer
        ledger.get(TASK_ID)
    return Two(timeless, ledger, clock)


@pytest.fixture
def two_in_memory(timeless: RunningRelay, clock: ManualClock) -> Iterator[Two]:
    opened = SqliteLedger(clock, retention=RETENTION)
    yield Two(timeless, opened, clock)
    opened.close()


@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
def test_two_with_one_key_get_one_task_and_one_receipt(two: Two, moment: tuple[str, str]) -> None:
    others: list[Receipt] = []
    receipt = two.interrupted(moment, lambda: others.append(two.enqueue()))
    assert others == [receipt]
    assert receipt["task_id"] == TASK_ID
    assert two.tasks() == [f"{TASK_ID}-1"]
    assert two.row().noted_attempt == 1
    assert len(two.enqueued_records()) == 1


@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
def test_of_two_bodies_with_one_key_the_first_row_wins(two: Two, moment: tuple[str, str]) -> None:
    won: list[str] = []

    def other() -> None:
        try:
            two.enqueue(body="other")
            won.append("other")
        except InvalidCall as exc:
            assert exc.errors[0].field == "Idempotency-Key"  # noqa: PT017  (the winner depends on the moment)

    try:
        two.interrupted(moment, other, body="first")
        won.append("first")
    except InvalidCall as exc:
        assert exc.errors[0].field == "Idempotency-Key"  # noqa: PT017
    assert won == ["other" if moment in MOMENTS[:2] else "first"]
    assert two.row().call.body == won[0].encode()
    assert two.tasks() == [f"{TASK_ID}-1"]


@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
def test_a_task_worked_off_in_between_is_in_the_receipt(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream, moment: tuple[str, str]
) -> None:
    key = f"worked off {' '.join(moment)}"
    two, wish = Two(relay, relay.application.ledger, clock), {"url": downstream.url}
    task_id = derived_id(ANONYMOUS.name, key)

    def other() -> None:
        assert post(f"{relay.url}/v1/tasks", wish, Idempotency_Key=key).status == 202
        relay.wait_for("task.finished", task_id)

    ledger, cloud_tasks = (Interrupted(part, moment, other) for part in (two.ledger, relay.application._cloud_tasks))
    receipt = two._enqueuer(ledger, cloud_tasks).enqueue(wish, ANONYMOUS, key)
    seen_before = ("after", "note_soon"), ("before", "note_soon"), ("after", "create")
    assert (receipt["task_id"], receipt["state"]) == (task_id, "queued" if moment in seen_before else "succeeded")
    assert receipt["task_name"].endswith(f"{task_id}-1")
    assert relay.queue.wait_until_idle(10)
    assert len(downstream.arrived) == 1


@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
def test_a_name_that_is_reserved_still_is_passed_over_once(two_in_memory: Two, moment: tuple[str, str]) -> None:
    two = two_in_memory
    two.delete(two.enqueue()["task_name"])
    two.end_and_forget()
    others: list[Receipt] = []
    receipt = two.interrupted(moment, lambda: others.append(two.enqueue()))
    assert others == [receipt]
    assert receipt["task_name"].endswith(f"{TASK_ID}-2")
    assert two.tasks() == [f"{TASK_ID}-2"]


def test_a_row_that_expires_in_between_is_written_again(two: Two) -> None:
    def other() -> None:
        two.delete(two.enqueue()["task_name"])

    class Expiring(Interrupted):
        def insert(self, row: Any) -> bool:
            other()
            assert not two.ledger.insert(row)
            two.end_and_forget()
            self.insert = two.ledger.insert  # type: ignore[method-assign]
            return False

    ledger = Expiring(two.ledger, ("", ""), lambda: None)
    receipt = two._enqueuer(ledger, two._cloud_tasks).enqueue(WISH, ANONYMOUS, KEY)
    assert (receipt["state"], two.tasks()) == ("queued", [f"{TASK_ID}-2"])


@pytest.mark.parametrize("error", [Unavailable, EnqueueFailed])
def test_a_winner_that_fails_leaves_the_call_to_the_other(two: Two, error: type[Exception]) -> None:
    others: list[Receipt] = []

    def away() -> None:
        others.append(two.enqueue())
        raise error("away")

    with pytest.raises(error):
        two.interrupted(("before", "create"), away)
    assert others == [two.enqueue()]
    assert two.tasks() == [f"{TASK_ID}-1"]


def test_a_sweep_in_between_makes_no_second_task(timeless: RunningRelay, clock: ManualClock) -> None:
    two = Two(timeless, timeless.application.ledger, clock)

    def sweep() -> None:
        clock.advance(3700)
        timeless.application._sweeper.sweep()

    receipt = two.interrupted(("before", "create"), sweep)
    assert receipt["task_id"] == TASK_ID
    assert len(two.enqueued_records()) == 1


@pytest.mark.parametrize("moment", DIRECT_MOMENTS, ids=" ".join)
def test_two_direct_calls_with_one_key_are_one_task(two: Two, moment: tuple[str, str]) -> None:
    others: list[Receipt] = []
    receipt = two.interrupted(moment, lambda: others.append(two.enqueue(route="direct")), route="direct")
    assert others == [receipt]
    assert two.tasks() == [f"{receipt['task_id']}-1"]
    assert [record["route"] for record in two.enqueued_records()] == ["direct"]
    with pytest.raises(InvalidCall, match="Idempotency-Key"):
        two.enqueue(route="direct", body="other")


@pytest.mark.parametrize(("first", "second"), [("direct", "relay"), ("relay", "direct")])
@pytest.mark.parametrize("moment", MOMENTS[:2], ids=" ".join)
def test_a_key_is_one_over_both_routes(two: Two, moment: tuple[str, str], first: str, second: str) -> None:
    with pytest.raises(InvalidCall, match="Idempotency-Key"):
        two.interrupted(moment, lambda: two.enqueue(route=first), route=second)
    assert two.tasks() == [f"{TASK_ID}-1"]
    with pytest.raises(InvalidCall, match="Idempotency-Key"):
        two.enqueue(route=second)


def test_a_direct_calls_key_is_kept_as_long_as_its_task(two: Two, clock: ManualClock) -> None:
    receipt = two.enqueue(route="direct")
    two.delete(receipt["task_name"])
    clock.advance(KEYS_KEPT)  # Cloud Tasks has long forgotten the name
    two.ledger.expire(10)
    assert two.enqueue(route="direct") == receipt
    assert two.tasks() == []


class Overtaken:
    """Cloud Tasks whose task has run before its creation is answered, with False or with *failure*."""

    def __init__(self, relay: RunningRelay, failure: Exception | None = None) -> None:
        self._relay = relay
        self._part: Any = relay.application._cloud_tasks
        self._failure = failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def create(self, row: Any, **named: Any) -> bool:
        assert self._part.create(row, **named)
        self._relay.wait_for("task.finished", row.task_id)
        if self._failure is not None:
            raise self._failure
        return False  # the client's own retry of a creation that succeeded meets a name that is taken


@pytest.mark.parametrize("key", [KEY, None])
def test_a_task_that_runs_before_its_creation_is_answered_is_recorded(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream, key: str | None
) -> None:
    two, wish = Two(relay, relay.application.ledger, clock), {"url": downstream.url, "body": str(key)}
    enqueuer = two._enqueuer(two.ledger, Overtaken(relay))
    receipt = enqueuer.enqueue(wish, ANONYMOUS, key and f"late {key}")
    events = [record["event"] for record in relay.records.records(receipt["task_id"])]
    assert events.count("task.enqueued") == 1


def test_a_task_that_runs_though_its_creation_failed_is_recorded(
    relay: RunningRelay, clock: ManualClock, downstream: Downstream
) -> None:
    two = Two(relay, relay.application.ledger, clock)
    enqueuer = two._enqueuer(two.ledger, Overtaken(relay, Unavailable("the response was lost")))
    receipt = enqueuer.enqueue({"url": downstream.url}, ANONYMOUS)
    events = [record["event"] for record in relay.records.records(receipt["task_id"])]
    assert events.count("task.enqueued") == 1


def test_a_repeated_key_gets_its_receipt_after_a_redrive(two: Two, clock: ManualClock) -> None:
    receipt = two.enqueue()
    for verb in (state_machine.cancel, state_machine.redrive):
        clock.advance(60)
        step = verb(two.row(), actor="a", now=clock.now())
        assert step is not None
        assert step.row is not None
        assert two.ledger.replace(step.row)
    assert two.enqueue() == receipt


@contextmanager
def relay_over(kind: str, path: Path, request: pytest.FixtureRequest) -> Iterator[RunningRelay]:
    if kind != "firestore":
        with RunningRelay(ledger=path / "ledger" if kind == "file" else None) as relay:
            yield relay
        return
    with emulator_at(request.getfixturevalue("firestore").host), RunningRelay(ledger=f"firestore:{path.name}") as relay:
        yield relay


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["memory", "file", "firestore"])
def test_equal_batches_at_once_all_get_the_same_receipts(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    everybody_is_here = Barrier(EAGER)
    wish = {"tasks": [WISH | {"body": number} for number in range(ITEMS)]}
    with relay_over(kind, tmp_path, request) as relay:

        def enqueue(_: int) -> Answer:
            everybody_is_here.wait(20)
            return post(f"{relay.url}/v1/tasks:batch", wish, Idempotency_Key="batch")

        with ThreadPoolExecutor(EAGER) as pool:
            answers = [answer.document["tasks"] for answer in pool.map(enqueue, range(EAGER))]
        assert all(answer == answers[0] for answer in answers)
        assert len({receipt["task_id"] for receipt in answers[0]}) == ITEMS
        refused = [record for record in relay.records.records() if record["event"] == "enqueue.rejected"]
        assert refused == []
