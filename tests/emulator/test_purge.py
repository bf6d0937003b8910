"""Queues with more tasks than one step of a purge removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.rig import QUEUE, Rig, refusal
from traced_relay.emulator.changes import AddTombstone, DropPurge, DropQueue, DropTask, PutPurge
from traced_relay.emulator.engine import PURGE_EVERY, PURGE_STEP, QUEUE_NAME_WINDOW, TASK_NAME_WINDOW, Engine
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.store import Store

if TYPE_CHECKING:
    from pathlib import Path

MANY = 5 * PURGE_STEP


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.make_queue()
    rig.call("PauseQueue", name=QUEUE)
    for number in range(MANY):
        rig.create(f"t{number}")
    rig.changes.clear()
    return rig


def dropped(rig: Rig) -> list[int]:
    return [change.serial for change in rig.changes if isinstance(change, DropTask)]


def finish_purges(rig: Rig) -> None:
    while (wait := rig.next_due()) is not None:
        rig.pass_time(wait)


def test_one_call_removes_only_a_step_of_the_tasks(rig: Rig) -> None:
    rig.call("PurgeQueue", name=QUEUE)

    assert len(dropped(rig)) == PURGE_STEP
    assert rig.next_due() is not None
    rig.due()
    assert len(dropped(rig)) == 2 * PURGE_STEP
    rig.pass_time(PURGE_EVERY / 2)
    assert len(dropped(rig)) == 2 * PURGE_STEP


def test_purged_tasks_are_gone_before_they_are_removed(rig: Rig) -> None:
    rig.call("PurgeQueue", name=QUEUE)
    rig.call("ResumeQueue", name=QUEUE)

    assert rig.listed() == []
    assert rig.due() == []
    with pytest.raises(ApiError) as refused:
        rig.get("t0")
    assert refusal(refused.value)[0] == "NOT_FOUND"
    with pytest.raises(ApiError, match="Requested entity already exists"):
        rig.create("t0")


def test_tasks_created_after_a_purge_stay(rig: Rig) -> None:
    rig.call("PurgeQueue", name=QUEUE)
    rig.create("new")
    finish_purges(rig)

    assert rig.listed() == ["new"]
    assert sorted(dropped(rig)) == list(range(1, MANY + 1))
    assert isinstance(rig.changes[-1], DropPurge)


def test_names_of_purged_tasks_are_free_after_an_hour(rig: Rig) -> None:
    purged_at = rig.now
    rig.call("PurgeQueue", name=QUEUE)
    finish_purges(rig)

    assert {change.until for change in rig.changes if isinstance(change, AddTombstone)} == {
        purged_at + TASK_NAME_WINDOW
    }
    rig.now = purged_at + TASK_NAME_WINDOW
    assert rig.create("t0").name == f"{QUEUE}/tasks/t0"


def test_a_deleted_queue_is_removed_in_steps_without_tombstones(rig: Rig) -> None:
    rig.call("DeleteQueue", name=QUEUE)
    mark, drop = (change for change in rig.changes if isinstance(change, PutPurge | DropQueue))
    assert mark == PutPurge(QUEUE, MANY, None)
    assert isinstance(drop, DropQueue)

    rig.now += QUEUE_NAME_WINDOW
    rig.make_queue()
    rig.create("t0", delay=60)
    started = [rig.pass_time(PURGE_EVERY) for _ in range(MANY // PURGE_STEP)]

    assert not any(started)
    assert rig.listed() == ["t0"]
    assert len(dropped(rig)) == MANY
    assert not any(isinstance(change, AddTombstone) for change in rig.changes)


def test_two_purges_in_progress_remove_all_of_both(rig: Rig) -> None:
    rig.call("PurgeQueue", name=QUEUE)
    for number in range(MANY):
        rig.create(f"u{number}")
    rig.call("PurgeQueue", name=QUEUE)
    finish_purges(rig)

    assert sorted(dropped(rig)) == list(range(1, 2 * MANY + 1))
    assert rig.listed() == []


@pytest.mark.parametrize("method", ["PurgeQueue", "DeleteQueue"])
def test_a_purge_continues_after_a_kill(method: str, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    before = Rig()
    before.make_queue()
    for number in range(MANY):
        before.create(f"t{number}", delay=60)
    before.call(method, name=QUEUE)
    if method == "PurgeQueue":
        before.create("new", delay=60)
    store = Store(path)
    store.write(before.changes)
    store.close()

    store = Store(path)
    after = Rig(Engine(lambda: 0.5), now=before.now + 1)
    after.engine.restore(store.load(), after.now)
    if method == "PurgeQueue":
        assert after.listed() == ["new"]
        with pytest.raises(ApiError, match="Requested entity already exists"):
            after.create("t0")
    for _ in range(MANY // PURGE_STEP):
        assert after.pass_time(PURGE_EVERY) == []
    store.write(after.changes)
    store.close()

    store = Store(path)
    kept = store.load()
    store.close()
    assert [message.name for _, message, *_ in kept.tasks] == ([f"{QUEUE}/tasks/new"] if method == "PurgeQueue" else [])
    assert kept.purges == ()
