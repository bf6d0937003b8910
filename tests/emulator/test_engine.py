from typing import Any

import pytest

from support.rig import APP_ENGINE, DEADLINE, HTTP, QUEUE, START, UNREACHABLE, Rig, answered, duration, id_of, retries
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch, Outcome

DAY = 86400
FAST = {"retry_config": retries(10, 0, 1, 1, 1)}
FAMILIES = {"http": {"http_request": HTTP}, "app engine": {"app_engine_http_request": APP_ENGINE}}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def retry_headers(dispatch: Dispatch) -> tuple[str | None, ...]:
    sent = {name.partition("-Task")[2]: value for name, value in dispatch.headers.items()}
    return tuple(sent.get(name) for name in ("RetryCount", "ExecutionCount", "PreviousResponse", "RetryReason"))


def attempts(rig: Rig, answers: list[Outcome | int]) -> list[Dispatch]:
    """The dispatches of one task that is answered like this, one after the other."""
    dispatches = []
    for answer in answers:
        (dispatch,) = rig.due()
        dispatches.append(dispatch)
        rig.finish(dispatch, answer)
        rig.now += 1
    assert rig.due() == []
    return dispatches


def test_a_task_is_due_at_once_and_gone_once_it_succeeded(rig: Rig) -> None:
    rig.make_queue()
    rig.create("t")

    dispatch = rig.due_one()
    rig.finish(dispatch, 204)

    assert rig.due() == []
    assert rig.listed() == []
    assert rig.engine.is_idle(rig.now)


def test_a_first_dispatch_has_no_retry_headers(rig: Rig) -> None:
    rig.make_queue()
    rig.now += 0.266817
    rig.create("t")

    assert rig.due_one().headers == {
        "X-CloudTasks-QueueName": "q",
        "X-CloudTasks-TaskName": "t",
        "X-CloudTasks-TaskRetryCount": "0",
        "X-CloudTasks-TaskExecutionCount": "0",
        "X-CloudTasks-TaskETA": "1790000000.266817",
    }


RECORDED: list[Outcome | int] = [503, 404, 429, 500, 302, 200]


@pytest.mark.parametrize(
    ("family", "reason", "executions"),
    [("http", "", "001223"), ("app engine", "App Error", "012345")],
)
def test_failures_have_the_headers_recorded_from_production(
    rig: Rig, family: str, reason: str, executions: str
) -> None:
    rig.make_queue(**FAST)
    rig.create("t", **FAMILIES[family])

    assert [retry_headers(dispatch) for dispatch in attempts(rig, RECORDED)] == [
        ("0", executions[0], None, None),
        ("1", executions[1], "503", reason),
        ("2", executions[2], "404", reason),
        ("3", executions[3], "429", reason),
        ("4", executions[4], "500", reason),
        ("5", executions[5], "302", reason),
    ]


@pytest.mark.parametrize(
    ("family", "end", "previous", "reason"),
    [
        ("http", DEADLINE, "504", ""),
        ("app engine", DEADLINE, "0", "Instance Unavailable"),
        ("http", UNREACHABLE, "0", ""),
        ("app engine", UNREACHABLE, "0", "Instance Unavailable"),
    ],
)
def test_a_missing_response_keeps_the_execution_count(
    rig: Rig, family: str, end: Outcome, previous: str, reason: str
) -> None:
    rig.make_queue(**FAST)
    rig.create("t", **FAMILIES[family])

    assert [retry_headers(dispatch) for dispatch in attempts(rig, [404, end, 200])] == [
        ("0", "0", None, None),
        ("1", "1", "404", "App Error" if family == "app engine" else ""),
        ("2", "1", previous, reason),
    ]


def test_the_eta_moves_to_the_time_of_the_retry(rig: Rig) -> None:
    rig.make_queue(retry_config=retries(10, 0, 10, 300, 3))
    rig.create("t")
    rig.finish(rig.due_one(), 500)

    (retry,) = rig.pass_time(12)

    assert retry.headers["X-CloudTasks-TaskETA"] == f"{START + 10:.6f}"


def test_a_task_for_now_is_due_in_spite_of_rounding(rig: Rig) -> None:
    rig.make_queue()
    for n in range(200):
        rig.now = START + n + n * 1.37e-7
        rig.create(f"t{n}")
        rig.finish(rig.due_one())


def test_a_task_waits_for_its_schedule_time(rig: Rig) -> None:
    rig.make_queue()
    rig.create("t", delay=60)

    assert rig.due() == []
    assert rig.next_due() == 60
    assert rig.pass_time(59.9) == []
    assert [id_of(dispatch) for dispatch in rig.pass_time(0.1)] == ["t"]


def test_tasks_are_dispatched_by_schedule_time(rig: Rig) -> None:
    rig.make_queue()
    rig.create("late", delay=3)
    rig.create("early", delay=1)
    rig.create("now")

    assert [id_of(dispatch) for dispatch in rig.pass_time(3)] == ["now", "early", "late"]


def waits(rig: Rig, count: int, answer: Outcome | int = 404) -> list[float]:
    """How long each of so many failures makes the task wait; stops when it is given up."""
    found: list[float] = []
    for _ in range(count):
        dispatches = rig.due()
        if not dispatches:
            break
        rig.finish(dispatches[0], answer)
        wait = rig.next_due()
        if wait is None:
            break
        found.append(round(wait, 3))
        rig.now += wait
    return found


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (retries(-1, 0, 10, 300, 3), [10, 20, 40, 80, 160, 240, 300, 300]),
        (retries(-1, 0, 2, 60, 0), [2, 4, 6, 8, 10, 12, 14, 16]),
        (retries(-1, 0, 1, 30, 2), [1, 2, 4, 8, 12, 16, 20, 24]),
        ({}, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]),
    ],
)
def test_failures_are_retried_along_the_curve(rig: Rig, config: dict[str, Any], expected: list[float]) -> None:
    rig.make_queue(retry_config=config)
    rig.create("t")

    assert waits(rig, 8) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "tries"),
    [
        (retries(3, 0, 1, 1, 1), 3),
        (retries(1, 0, 1, 1, 1), 1),
        (retries(3, 10, 1, 1, 1), 11),  # both limits must be met, the duration counts from the first attempt
        (retries(30, 10, 1, 1, 1), 30),
        (retries(-1, 10, 1, 1, 1), 11),
    ],
)
def test_a_task_is_given_up_when_both_limits_are_met(rig: Rig, config: dict[str, Any], tries: int) -> None:
    rig.make_queue(retry_config=config)
    rig.create("t", delay=1000)
    rig.now += 1000

    assert len(waits(rig, 100)) + 1 == tries
    assert rig.listed() == []


def test_without_limits_a_task_is_tried_until_it_is_31_days_old(rig: Rig) -> None:
    rig.make_queue(retry_config=retries(-1, 0, 3600, 3600, 1))
    rig.create("t")

    assert len(waits(rig, 1000)) == 31 * 24
    assert rig.listed() == []


def test_a_paused_queue_does_not_keep_tasks_for_more_than_31_days(rig: Rig) -> None:
    rig.make_queue()
    rig.call("PauseQueue", name=QUEUE)
    rig.create("old")
    rig.now += 31 * DAY
    rig.create("new")
    rig.call("ResumeQueue", name=QUEUE)

    assert [id_of(dispatch) for dispatch in rig.due()] == ["new"]
    assert rig.listed() == ["new"]


def test_a_tasks_own_retry_config_wins_over_the_queues(rig: Rig) -> None:
    rig.make_queue(retry_config=retries(5, 0, 10, 300, 3))
    rig.create("t", http_request=HTTP, retry_config={"max_attempts": 3, "min_backoff": duration(2)})

    assert waits(rig, 9) == [2, 4]


@pytest.mark.parametrize(
    ("family", "value", "wait"),
    [
        ("http", "30", 30),
        ("http", "1", 10),
        ("http", "Mon, 21 Sep 2026 14:14:00 GMT", 40),
        ("http", "later", 10),
        ("app engine", "30", 10),
    ],
)
def test_retry_after_is_a_floor_under_the_wait_of_http_tasks(rig: Rig, family: str, value: str, wait: float) -> None:
    rig.make_queue(retry_config=retries(5, 0, 10, 300, 3))
    rig.create("t", **FAMILIES[family])

    assert waits(rig, 1, answered(500, value)) == [wait]


def test_a_paused_queue_accepts_but_does_not_dispatch(rig: Rig) -> None:
    rig.make_queue()

    assert rig.call("PauseQueue", name=QUEUE).state == m.PAUSED
    rig.create("t")
    assert rig.pass_time(3600) == []
    assert rig.next_due() is None
    assert rig.engine.is_idle(rig.now)

    assert rig.call("ResumeQueue", name=QUEUE).state == m.RUNNING
    assert not rig.engine.is_idle(rig.now)
    assert [id_of(dispatch) for dispatch in rig.due()] == ["t"]


def test_no_more_than_the_allowed_number_are_in_flight(rig: Rig) -> None:
    rig.make_queue(rate_limits={"max_concurrent_dispatches": 2})
    for _ in range(5):
        rig.create()

    first, second = rig.due()
    assert rig.pass_time(60) == []
    assert rig.next_due() is None
    rig.finish(first)
    assert len(rig.due()) == 1
    rig.finish(second, 500)
    assert len(rig.due()) == 1


def test_a_burst_goes_at_once_and_the_rest_at_the_rate(rig: Rig) -> None:
    rig.make_queue(rate_limits={"max_dispatches_per_second": 2})
    for _ in range(15):
        rig.create()

    assert len(rig.due()) == 10
    assert rig.next_due() == pytest.approx(0.5)
    assert [len(rig.pass_time(0.5001)) for _ in range(6)] == [1, 1, 1, 1, 1, 0]


def test_a_queue_can_be_made_faster_while_tasks_wait(rig: Rig) -> None:
    rig.make_queue(rate_limits={"max_dispatches_per_second": 1})
    for _ in range(40):
        rig.create()
    rig.due()

    faster = m.Queue(name=QUEUE, rate_limits={"max_dispatches_per_second": 500})
    rig.call("UpdateQueue", queue=faster, update_mask={"paths": ["rate_limits"]})

    assert len(rig.pass_time(0.1)) == 30


@pytest.mark.parametrize(
    ("family", "status", "slows"),
    [
        ("app engine", 503, True),
        ("app engine", 429, False),
        ("app engine", 500, False),
        ("http", 503, True),
        ("http", 429, True),
        ("http", 500, False),
    ],
)
def test_an_overloaded_worker_slows_the_whole_queue_down(rig: Rig, family: str, status: int, *, slows: bool) -> None:
    rig.make_queue(rate_limits={"max_dispatches_per_second": 10}, retry_config=retries(1, 0, 1, 1, 1))
    rig.create(**FAMILIES[family])
    rig.finish(rig.due_one(), status)
    for _ in range(9):
        rig.create(**FAMILIES[family])

    assert len(rig.due()) == (0 if slows else 9)
    if slows:
        assert rig.next_due() == pytest.approx(0.2)
        assert len(rig.pass_time(60)) == 9


def test_run_task_ignores_pause_and_limits(rig: Rig) -> None:
    rig.make_queue(rate_limits={"max_concurrent_dispatches": 1, "max_dispatches_per_second": 0.1})
    rig.call("PauseQueue", name=QUEUE)
    for name in "abcdefghijkl":
        rig.create(name, delay=3600)

    shown = [rig.run(name) for name in "abcdefghijkl"]

    assert [id_of(dispatch) for dispatch in rig.due()] == list("abcdefghijkl")
    assert {task.dispatch_count for task in shown} == {1}
    assert rig.pass_time(7200) == []


def test_a_forced_dispatch_is_never_ahead_of_its_own_time(rig: Rig) -> None:
    rig.make_queue()
    rig.create("t", delay=3600)
    rig.run("t")

    assert rig.due_one().headers["X-CloudTasks-TaskETA"] == f"{START:.6f}"


def test_a_running_forced_task_is_not_sent_again_when_due(rig: Rig) -> None:
    rig.make_queue()
    rig.create("t", delay=10)
    rig.run("t")
    rig.due_one()

    assert rig.pass_time(60) == []


def test_a_forced_task_that_fails_waits_from_the_time_it_was_forced(rig: Rig) -> None:
    rig.make_queue(retry_config=retries(5, 0, 10, 300, 3))
    rig.create("t", delay=3600)
    rig.run("t")
    dispatch = rig.due_one()
    rig.now += 4
    rig.finish(dispatch, 500)

    assert rig.next_due() == 6


def test_run_of_a_running_task_starts_a_second_attempt(rig: Rig) -> None:
    rig.make_queue()
    rig.create("t")
    original = rig.due_one()
    rig.run("t")
    copy = rig.due_one()

    rig.finish(copy, 200)
    assert rig.listed() == []
    rig.finish(original, 500)
    assert rig.pass_time(3600) == []
    assert rig.engine.is_idle(rig.now)


def test_of_two_attempts_the_last_decides_about_the_retry(rig: Rig) -> None:
    rig.make_queue(**FAST)
    rig.create("t")
    original = rig.due_one()
    rig.run("t")
    copy = rig.due_one()

    rig.finish(original, 500)
    assert rig.next_due() is None
    rig.finish(copy, 404)
    (retry,) = rig.pass_time(1)

    assert retry_headers(retry) == ("2", "1", "404", "")


def test_a_deleted_task_is_not_retried(rig: Rig) -> None:
    rig.make_queue()
    rig.create("waiting", delay=10)
    rig.create("running")
    dispatch = rig.due_one()

    rig.delete("waiting")
    rig.delete("running")
    rig.finish(dispatch, 500)

    assert rig.listed() == []
    assert rig.pass_time(3600) == []


def test_the_newest_attempt_is_shown_with_its_times_and_its_status(rig: Rig) -> None:
    rig.make_queue(**FAST)
    rig.create("t")
    first = rig.due_one()
    rig.now += 0.25
    rig.finish(first, 500)
    rig.pass_time(1)

    shown = rig.get("t")
    assert (shown.dispatch_count, shown.response_count) == (2, 1)
    assert shown.first_attempt == m.Attempt(dispatch_time=m.Timestamp(seconds=int(START)))
    assert shown.last_attempt.schedule_time.ToMicroseconds() == round((START + 1.25) * 1e6)
    assert shown.last_attempt.dispatch_time.ToMicroseconds() == round((START + 1.25) * 1e6)
    assert not shown.last_attempt.HasField("response_time")
    assert not shown.last_attempt.HasField("response_status")


@pytest.mark.parametrize(
    ("answer", "code", "text", "responses"),
    [
        (500, 13, "INTERNAL(13): HTTP status code 500", 1),
        (404, 5, "NOT_FOUND(5): HTTP status code 404", 1),
        (302, 2, "UNKNOWN(2): HTTP status code 302", 1),
        (DEADLINE, 4, "DEADLINE_EXCEEDED(4): HTTP status code 504", 0),
        (UNREACHABLE, 2, "UNKNOWN(2): HTTP status code 0", 0),
    ],
)
def test_a_failed_attempt_shows_how_it_ended(
    rig: Rig, answer: Outcome | int, code: int, text: str, responses: int
) -> None:
    rig.make_queue(**FAST)
    rig.create("t")
    rig.finish(rig.due_one(), answer)

    shown = rig.get("t")
    assert (shown.last_attempt.response_status.code, shown.last_attempt.response_status.message) == (code, text)
    assert shown.last_attempt.response_time.ToMicroseconds() == round(START * 1e6)
    assert shown.schedule_time.ToMicroseconds() == round((START + 1) * 1e6)
    assert (shown.dispatch_count, shown.response_count) == (1, responses)


def test_a_queues_routing_wins_over_the_tasks(rig: Rig) -> None:
    rig.make_queue(app_engine_routing_override={"service": "forced"})
    rig.create("t", app_engine_http_request={"app_engine_routing": {"service": "own"}})

    dispatch = rig.due_one()

    assert dispatch.routing is not None
    assert dispatch.routing.service == "forced"


def test_queues_do_not_wait_for_each_other(rig: Rig) -> None:
    other = f"{QUEUE}-other"
    rig.make_queue(rate_limits={"max_concurrent_dispatches": 1})
    rig.make_queue(other)
    for queue in (QUEUE, other):
        for _ in range(3):
            rig.create(queue=queue)

    assert [dispatch.headers["X-CloudTasks-QueueName"] for dispatch in rig.due()] == [
        "q",
        "q-other",
        "q-other",
        "q-other",
    ]
