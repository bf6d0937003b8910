import re
from typing import Any

import pytest

from support.rig import APP_ENGINE, HTTP, LOCATION, QUEUE, START, Rig, refusal
from traced_relay.emulator import messages as m
from traced_relay.emulator.engine import TASK_NAME_WINDOW
from traced_relay.emulator.errors import ApiError

DAY = 86400
NO_QUEUE = (
    "NOT_FOUND",
    "Queue does not exist. If you just created the queue, wait at least a minute for the queue to initialize.",
)
NO_TASK = ("NOT_FOUND", "Requested entity was not found.")
ENDED = (
    "NOT_FOUND",
    (
        "The task no longer exists, though a task with this name existed recently. "
        "The task either successfully completed or was deleted."
    ),
)


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.make_queue()
    return made


def refused(rig: Rig, method: str, /, **fields: Any) -> tuple[str, str]:
    with pytest.raises(ApiError) as error:
        rig.call(method, **fields)
    assert rig.changes == before_is(rig)
    return refusal(error.value)


def before_is(rig: Rig) -> list[Any]:
    """A refused call decides nothing, so nothing was left to keep."""
    assert rig.engine.pop_changes() == []
    return rig.changes


@pytest.mark.parametrize(
    ("method", "fields", "said"),
    [
        ("GetQueue", {"name": f"{QUEUE}x"}, NO_QUEUE),
        ("PauseQueue", {"name": f"{QUEUE}x"}, NO_QUEUE),
        ("ResumeQueue", {"name": f"{QUEUE}x"}, NO_QUEUE),
        ("PurgeQueue", {"name": f"{QUEUE}x"}, NO_QUEUE),
        ("ListTasks", {"parent": f"{QUEUE}x"}, NO_QUEUE),
        ("CreateTask", {"parent": f"{QUEUE}x"}, NO_QUEUE),
        ("DeleteQueue", {"name": f"{QUEUE}x"}, NO_TASK),
        ("GetTask", {"name": f"{QUEUE}/tasks/x"}, NO_TASK),
        ("DeleteTask", {"name": f"{QUEUE}/tasks/x"}, NO_TASK),
        ("RunTask", {"name": f"{QUEUE}/tasks/x"}, NO_TASK),
        ("GetTask", {"name": f"{QUEUE}x/tasks/x"}, NO_TASK),
    ],
)
def test_missing_resources_get_productions_errors(
    rig: Rig, method: str, fields: dict[str, str], said: tuple[str, str]
) -> None:
    assert refused(rig, method, **fields) == said


def test_a_queue_is_made_once(rig: Rig) -> None:
    again = {"parent": LOCATION, "queue": m.Queue(name=QUEUE)}

    assert refused(rig, "CreateQueue", **again) == ("ALREADY_EXISTS", "Queue already exists")
    assert rig.call("GetQueue", name=QUEUE).name == QUEUE


def test_the_name_of_a_deleted_queue_is_taken_for_seven_days(rig: Rig) -> None:
    rig.create("t")
    rig.call("DeleteQueue", name=QUEUE)
    again = {"parent": LOCATION, "queue": m.Queue(name=QUEUE)}
    too_soon = (
        "FAILED_PRECONDITION",
        "The queue cannot be created because a queue with this name existed too recently.",
    )

    assert refused(rig, "GetQueue", name=QUEUE) == NO_QUEUE
    assert refused(rig, "GetTask", name=f"{QUEUE}/tasks/t") == NO_TASK
    assert refused(rig, "CreateQueue", **again) == too_soon
    assert refused(rig, "UpdateQueue", queue=m.Queue(name=QUEUE)) == too_soon
    rig.now += 7 * DAY
    rig.make_queue()
    assert rig.listed() == []


def test_the_attempts_of_a_deleted_queue_end_quietly(rig: Rig) -> None:
    rig.create()
    rig.create(delay=60)
    dispatch = rig.due_one()
    rig.call("DeleteQueue", name=QUEUE)
    assert rig.next_due() is None

    rig.finish(dispatch, 503)

    assert rig.pass_time(3600) == []
    assert rig.next_due() is None


def test_an_update_creates_a_missing_queue(rig: Rig) -> None:
    wanted = m.Queue(name=f"{QUEUE}-2", rate_limits={"max_dispatches_per_second": 5})

    made = rig.call("UpdateQueue", queue=wanted)

    assert made.rate_limits.max_dispatches_per_second == 5
    assert rig.call("GetQueue", name=f"{QUEUE}-2") == made


def test_an_update_keeps_a_queue_paused(rig: Rig) -> None:
    rig.call("PauseQueue", name=QUEUE)

    assert rig.call("UpdateQueue", queue=m.Queue(name=QUEUE)).state == m.PAUSED


def test_queues_are_listed_by_name_in_pages_and_by_location() -> None:
    rig = Rig()
    for name in ("b", "a", "c"):
        rig.make_queue(f"{LOCATION}/queues/{name}")
    rig.make_queue("projects/p/locations/l2/queues/elsewhere")

    first = rig.call("ListQueues", parent=LOCATION, page_size=2)
    second = rig.call("ListQueues", parent=LOCATION, page_size=2, page_token=first.next_page_token)

    assert [queue.name[-1] for queue in first.queues] == ["a", "b"]
    assert [queue.name[-1] for queue in second.queues] == ["c"]
    assert second.next_page_token == ""


def test_a_filter_of_queues_is_not_implemented(rig: Rig) -> None:
    code, _ = refused(rig, "ListQueues", parent=LOCATION, filter="state: PAUSED")

    assert code == "UNIMPLEMENTED"


def test_purging_removes_every_task_and_keeps_their_names_taken(rig: Rig) -> None:
    rig.create("waiting", delay=60)
    rig.create("running")
    dispatch = rig.due_one()
    rig.now += 1.5

    purged = rig.call("PurgeQueue", name=QUEUE)

    assert purged.purge_time.ToMicroseconds() == round((START + 1.5) * 1e6)
    assert rig.listed() == []
    assert refused(rig, "GetTask", name=f"{QUEUE}/tasks/waiting") == ENDED
    rig.finish(dispatch, 500)
    assert rig.pass_time(3500) == []
    with pytest.raises(ApiError, match="Requested entity already exists"):
        rig.create("running")


def test_a_task_name_is_taken_while_it_lives_and_for_an_hour_after(rig: Rig) -> None:
    rig.create("t", delay=60)
    taken = ("ALREADY_EXISTS", "Requested entity already exists")
    again = {"parent": QUEUE, "task": m.Task(name=f"{QUEUE}/tasks/t", http_request=HTTP)}

    assert refused(rig, "CreateTask", **again) == taken
    rig.finish(rig.pass_time(60)[0])
    assert refused(rig, "CreateTask", **again) == taken
    assert refused(rig, "GetTask", name=f"{QUEUE}/tasks/t") == ENDED
    assert refused(rig, "RunTask", name=f"{QUEUE}/tasks/t") == ENDED
    rig.now += TASK_NAME_WINDOW
    assert refused(rig, "GetTask", name=f"{QUEUE}/tasks/t") == NO_TASK
    rig.create("t")


def test_the_same_task_id_in_two_queues_is_two_names(rig: Rig) -> None:
    rig.make_queue(f"{QUEUE}-2")
    rig.create("t")
    rig.create("t", f"{QUEUE}-2")

    assert len(rig.due()) == 2


def test_expired_names_are_dropped(rig: Rig) -> None:
    for n in range(100):
        rig.create(f"t{n}")
        rig.delete(f"t{n}")
    rig.now += TASK_NAME_WINDOW
    rig.create("last")
    rig.delete("last")

    assert len(rig.engine._task_names) == 1


def test_generated_ids_are_digits_and_unique(rig: Rig) -> None:
    ids = [rig.create().name.rpartition("/")[2] for _ in range(500)]

    assert len(set(ids)) == 500
    assert all(re.fullmatch(r"\d{19}", task_id) for task_id in ids)


def test_a_taken_id_is_not_generated(rig: Rig) -> None:
    first = rig.create().name.rpartition("/")[2]
    following = f"{int(first) + 1000:019d}"
    rig.create(following)

    assert rig.create().name.rpartition("/")[2] not in (first, following)


@pytest.mark.parametrize(
    ("task_id", "said"),
    [
        ("1790000000000000500", ENDED),
        ("1790000000000999500", NO_TASK),  # not made yet
        ("1780000000000000500", NO_TASK),  # older than any task may be
        ("17900000000000005000", NO_TASK),
        ("17900000000000005-0", NO_TASK),
    ],
)
def test_a_generated_id_is_known_to_have_existed(rig: Rig, task_id: str, said: tuple[str, str]) -> None:
    rig.create()
    rig.finish(rig.due_one())

    assert refused(rig, "GetTask", name=f"{QUEUE}/tasks/{task_id}") == said


@pytest.mark.parametrize("view", [0, m.BASIC])
@pytest.mark.parametrize("family", ["http_request", "app_engine_http_request"])
def test_the_basic_view_omits_only_the_body(rig: Rig, view: int, family: str) -> None:
    target = {"http_request": HTTP, "app_engine_http_request": APP_ENGINE}[family]
    rig.create("t", **{family: {**target, "body": b"secret", "headers": {"A": "b"}}})

    basic, full = rig.get("t", view), rig.get("t", m.FULL)

    assert (basic.view, full.view) == (m.BASIC, m.FULL)
    assert (getattr(basic, family).body, getattr(full, family).body) == (b"", b"secret")
    getattr(basic, family).body = b"secret"
    basic.view = m.FULL
    assert basic == full
    assert full.create_time == m.Timestamp(seconds=int(START))


def test_create_responds_in_the_requested_view(rig: Rig) -> None:
    task = m.Task(http_request={**HTTP, "body": b"secret"})

    shown = [rig.call("CreateTask", parent=QUEUE, task=task, response_view=view) for view in (m.BASIC, m.FULL)]

    assert [found.http_request.body for found in shown] == [b"", b"secret"]


def test_tasks_are_listed_in_pages_that_do_not_skip_when_tasks_end(rig: Rig) -> None:
    for n in range(5):
        rig.create(f"t{n}")

    first = rig.call("ListTasks", parent=QUEUE, page_size=2, response_view=m.FULL)
    rig.delete("t1")
    rig.delete("t2")
    second = rig.call("ListTasks", parent=QUEUE, page_size=2, page_token=first.next_page_token)

    assert [task.name[-2:] for task in first.tasks] == ["t0", "t1"]
    assert first.tasks[0].view == m.FULL
    assert [task.name[-2:] for task in second.tasks] == ["t3", "t4"]
    assert second.next_page_token == ""


def test_a_page_holds_no_more_than_a_thousand_tasks(rig: Rig) -> None:
    for _ in range(1001):
        rig.create()

    page = rig.call("ListTasks", parent=QUEUE, page_size=5000)

    assert len(page.tasks) == 1000
    assert page.next_page_token


@pytest.mark.parametrize("token", ["not base64!", "YQ", "_w==", "YQ=="])
def test_an_invalid_page_token_is_refused(rig: Rig, token: str) -> None:
    said = refused(rig, "ListTasks", parent=QUEUE, page_token=token)

    assert said == ("INVALID_ARGUMENT", "The page token is invalid.")


def test_a_negative_page_size_is_refused(rig: Rig) -> None:
    said = refused(rig, "ListTasks", parent=QUEUE, page_size=-1)

    assert said == ("INVALID_ARGUMENT", "The page size must be non-negative.")


def test_a_later_page_follows_its_token_among_many_tasks(rig: Rig) -> None:
    names = [f"t{n}" for n in range(1500)]
    for name in names:
        rig.create(name)
    for name in names[:1400:2]:
        rig.delete(name)

    listed, token = [], ""
    while token or not listed:
        page = rig.call("ListTasks", parent=QUEUE, page_size=70, page_token=token)
        listed += [task.name.rpartition("/")[2] for task in page.tasks]
        token = page.next_page_token

    assert listed == names[1:1400:2] + names[1400:]
