from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Self

import pytest

from support.rig import HTTP, LOCATION, QUEUE, answered, id_of, refusal, retries
from traced_relay.emulator import messages as m
from traced_relay.emulator.attempts import Dispatch
from traced_relay.emulator.errors import ApiError
from traced_relay.emulator.methods import METHODS
from traced_relay.emulator.service import LIST_PART, PACED_AT_ONCE, Service
from traced_relay.emulator.store import Store
from traced_relay.runtime.clock import ManualClock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable


class Sink:
    """Takes dispatches, as the dispatcher would."""

    def __init__(self, service: Service) -> None:
        self.dispatches: list[Dispatch] = []
        self.then: Callable[[], object] = list
        self._service = service
        self._thread = Thread(target=service.run_timer)

    def __enter__(self) -> Self:
        self._service.start_delivering(self._take)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._service.stop_delivering()
        self._thread.join()

    def _take(self, dispatch: Dispatch) -> None:
        self.dispatches.append(dispatch)
        self.then()


def make_queue(service: Service, **fields: Any) -> None:
    queue = m.Queue(name=QUEUE, **fields)
    service.call("CreateQueue", METHODS["CreateQueue"].request(parent=LOCATION, queue=queue))


def create(service: Service, task_id: str = "", *, delay: float = 0, clock: ManualClock | None = None) -> str:
    task = m.Task(http_request=HTTP)
    if task_id:
        task.name = f"{QUEUE}/tasks/{task_id}"
    if clock is not None:
        task.schedule_time.FromMicroseconds(round((clock.now() + delay) * 1e6))
    made = service.call("CreateTask", METHODS["CreateTask"].request(parent=QUEUE, task=task))
    return str(made.name)  # type: ignore[attr-defined]


def names(service: Service) -> list[str]:
    listed: Any = service.call("ListTasks", METHODS["ListTasks"].request(parent=QUEUE))
    return [task.name.rpartition("/")[2] for task in listed.tasks]


def test_every_listed_method_is_served() -> None:
    service = Service(ManualClock())
    make_queue(service)

    for name, method in METHODS.items():
        with pytest.raises(ApiError) as refused:
            service.call(name, method.request())
        assert refused.value.code.name in ("INVALID_ARGUMENT", "NOT_FOUND")


@pytest.mark.parametrize("method", ["BatchCreateTasks", "SetIamPolicy", "GetCmekConfig", "create_task", ""])
def test_an_unknown_method_is_unimplemented(method: str) -> None:
    with pytest.raises(ApiError) as refused:
        Service(ManualClock()).call(method, m.Empty())

    assert refusal(refused.value) == ("UNIMPLEMENTED", f"{method} is not implemented by the embedded queue.")


def test_nothing_is_dispatched_before_start_delivering() -> None:
    service = Service(ManualClock())
    make_queue(service)
    create(service, "t")
    assert names(service) == ["t"]

    with Sink(service) as sink:
        assert not service.wait_until_idle(0)
        assert [id_of(dispatch) for dispatch in sink.dispatches] == ["t"]
        service.finish(sink.dispatches[0], answered(200))
        assert service.wait_until_idle(5)


def test_advancing_the_clock_dispatches_due_tasks() -> None:
    clock = ManualClock()
    service = Service(clock)
    make_queue(service)
    with Sink(service) as sink:
        create(service, "tomorrow", delay=86400, clock=clock)
        assert service.wait_until_idle(5)
        assert sink.dispatches == []

        clock.advance(86400)
        assert not service.wait_until_idle(0)
        assert [id_of(dispatch) for dispatch in sink.dispatches] == ["tomorrow"]


def test_a_real_clock_wakes_the_queue_by_itself() -> None:
    service = Service(SystemClock())
    make_queue(service, retry_config=retries(2, 0, 0.05, 0.05, 1))
    with Sink(service) as sink:
        create(service)
        service.finish(sink.dispatches[0], answered(500))
        while len(sink.dispatches) < 2:
            service.wait_until_idle(0.01)
        service.finish(sink.dispatches[1], answered(500))

    assert [dispatch.headers["X-CloudTasks-TaskRetryCount"] for dispatch in sink.dispatches] == ["0", "1"]


def test_a_new_task_wakes_an_idle_timer_in_time() -> None:
    clock, arrived = SystemClock(), Event()
    service = Service(clock)
    make_queue(service)
    with Sink(service) as sink:
        sink.then = arrived.set
        soon = m.Timestamp()
        soon.FromMicroseconds(round((clock.now() + 0.05) * 1e6))
        task = m.Task(http_request=HTTP, schedule_time=soon)
        service.call("CreateTask", METHODS["CreateTask"].request(parent=QUEUE, task=task))

        assert arrived.wait(5)
        assert len(sink.dispatches) == 1


def test_acknowledged_tasks_survive_a_crash(tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store(tmp_path / "queue.db")
    service = Service(clock, store)
    make_queue(service, retry_config=retries(5, 0, 10, 300, 3))
    for task_id in ("done", "failed", "waiting", "running", "deleted"):
        create(service, task_id, delay=60 if task_id == "waiting" else 0, clock=clock)
    service.call("DeleteTask", METHODS["DeleteTask"].request(name=f"{QUEUE}/tasks/deleted"))
    with Sink(service) as sink:
        done, failed, _ = sink.dispatches
        service.finish(done, answered(200))
        service.finish(failed, answered(503))
    service.call("PauseQueue", METHODS["PauseQueue"].request(name=QUEUE))
    before: Any = service.call("GetTask", METHODS["GetTask"].request(name=f"{QUEUE}/tasks/failed"))
    store.close()

    again = Store(tmp_path / "queue.db")
    restarted = Service(clock, again)
    queue: Any = restarted.call("GetQueue", METHODS["GetQueue"].request(name=QUEUE))
    assert queue.state == m.PAUSED
    assert queue.retry_config == m.RetryConfig(**retries(5, 0, 10, 300, 3))
    assert names(restarted) == ["failed", "waiting", "running"]
    assert restarted.call("GetTask", METHODS["GetTask"].request(name=f"{QUEUE}/tasks/failed")) == before
    for task_id in ("done", "deleted", "failed"):
        with pytest.raises(ApiError, match="Requested entity already exists"):
            create(restarted, task_id)

    restarted.call("ResumeQueue", METHODS["ResumeQueue"].request(name=QUEUE))
    with Sink(restarted) as sink:
        assert [id_of(dispatch) for dispatch in sink.dispatches] == ["running"]
        clock.advance(10)
        restarted.wait_until_idle(0)
        retried = sink.dispatches[1]
        assert retried.headers["X-CloudTasks-TaskName"] == "failed"
        assert retried.headers["X-CloudTasks-TaskRetryCount"] == "1"
        assert retried.headers["X-CloudTasks-TaskPreviousResponse"] == "503"
    again.close()


def test_a_deleted_queue_stays_deleted_after_a_crash(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    service = Service(ManualClock(), store)
    make_queue(service)
    create(service)
    service.call("DeleteQueue", METHODS["DeleteQueue"].request(name=QUEUE))
    store.close()

    again = Store(tmp_path / "queue.db")
    with pytest.raises(ApiError, match="existed too recently"):
        make_queue(Service(ManualClock(), again))
    again.close()


def test_generated_ids_continue_after_a_crash(tmp_path: Path) -> None:
    clock = ManualClock()
    made = []
    for _ in range(2):
        store = Store(tmp_path / "queue.db")
        service = Service(clock, store, random=lambda: 0.25)
        if not made:
            make_queue(service)
        made += [create(service) for _ in range(10)]
        store.close()

    assert len(set(made)) == 20


def test_many_callers_at_once_lose_nothing_and_share_commits(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    service = Service(ManualClock(), store)
    make_queue(service)
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: create(service), range(400)))
    store.close()

    again = Store(tmp_path / "queue.db")
    assert {message.name for _, message, *_ in again.load().tasks} == made
    again.close()


def test_a_call_that_cannot_be_stored_is_not_acknowledged(tmp_path: Path) -> None:
    store = Store(tmp_path / "queue.db")
    service = Service(ManualClock(), store)
    make_queue(service)
    store.close()

    with pytest.raises(ApiError) as refused:
        create(service, "t")

    assert refusal(refused.value) == ("UNAVAILABLE", "The queue's data could not be written: the store is closed.")


def test_an_error_also_waits_for_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = Store(path)
    service = Service(ManualClock(), store)
    make_queue(service)
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(create, service, "same") for _ in range(4)]
        errors = [outcome.exception() for outcome in outcomes]
    rows = store._connection.execute("SELECT count(*) FROM tasks").fetchone()
    store.close()

    assert rows == (1,)
    assert [type(error) for error in errors].count(ApiError) == 3


def test_a_long_page_is_complete_and_has_its_token() -> None:
    service = Service(ManualClock())
    make_queue(service)
    made = [create(service).rpartition("/")[2] for _ in range(2 * LIST_PART + 20)]

    pages, token = [], ""
    while token or not pages:
        request = METHODS["ListTasks"].request(parent=QUEUE, page_size=LIST_PART + 10, page_token=token)
        found: Any = service.call("ListTasks", request)
        pages.append([task.name.rpartition("/")[2] for task in found.tasks])
        token = found.next_page_token

    assert pages == [made[: LIST_PART + 10], made[LIST_PART + 10 :]]
    assert names(service) == made


def test_more_lists_at_once_than_allowed_are_refused() -> None:
    service = Service(ManualClock())
    make_queue(service)
    go_on, is_held = Event(), Event()

    def hold() -> None:
        """Keep the service busy, since a sink is called under its lock."""
        is_held.set()
        assert go_on.wait(10)

    with Sink(service) as sink, ThreadPoolExecutor(3 * PACED_AT_ONCE + 1) as pool:
        sink.then = hold
        pool.submit(create, service)
        assert is_held.wait(10)
        lists = [pool.submit(names, service) for _ in range(3 * PACED_AT_ONCE)]
        refused = list(islice(as_completed(lists, 10), 2 * PACED_AT_ONCE))
        go_on.set()
        served = [listing.result() for listing in lists if listing not in refused]

    text = f"{PACED_AT_ONCE} lists and purges are in progress; try again."
    errors = [listing.exception() for listing in refused]
    assert {refusal(error) for error in errors if isinstance(error, ApiError)} == {("UNAVAILABLE", text)}
    assert len(served) == PACED_AT_ONCE
    assert len(names(service)) == 1
