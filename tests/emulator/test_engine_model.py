"""The engine under any sequence of calls, ends and passing time: what must hold always."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.rig import DEADLINE, QUEUE, Rig, id_of, retries
from traced_relay.emulator.attempts import Outcome
from traced_relay.emulator.changes import DropTask, PutTask, SaveProgress, StoredState
from traced_relay.emulator.engine import Engine
from traced_relay.emulator.state import Progress

if TYPE_CHECKING:
    from traced_relay.emulator.attempts import Dispatch

RATE, BURST, ATTEMPTS = 4.0, 10, 3


class EngineModel(RuleBasedStateMachine):
    """Keeps its own account of every task beside the engine's."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.alive: set[str] = set()
        self.in_flight: list[Dispatch] = []
        self.failures: Counter[str] = Counter()
        self.sent: list[float] = []
        self.limit = 0

    @initialize(limit=st.integers(1, 4))
    def make_queue(self, limit: int) -> None:
        self.limit = limit
        self.rig.make_queue(
            rate_limits={"max_dispatches_per_second": RATE, "max_concurrent_dispatches": limit},
            retry_config=retries(ATTEMPTS, 0, 1, 8, 2),
        )

    @rule(delay=st.sampled_from([0, 0, 0, 1, 30]), named=st.booleans())
    def create(self, delay: float, *, named: bool) -> None:
        task = self.rig.create(f"t{len(self.rig.changes)}" if named else "", delay=delay)
        self.alive.add(task.name.rpartition("/")[2])

    @rule(seconds=st.sampled_from([0, 0.1, 1, 10]))
    def pass_time(self, seconds: float) -> None:
        self.rig.now += seconds

    @rule()
    def dispatch(self) -> None:
        started = self.rig.due()
        self.in_flight += started
        self.sent += [self.rig.now] * len(started)
        assert {id_of(dispatch) for dispatch in started} <= self.alive

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), end=st.sampled_from([200, 404, 503, DEADLINE]))
    def finish(self, data: st.DataObject, end: Outcome | int) -> None:
        dispatch = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(dispatch)
        self.rig.finish(dispatch, end)
        self.failures[id_of(dispatch)] += end != 200
        has_copies = any(id_of(other) == id_of(dispatch) for other in self.in_flight)
        if end == 200 or (self.failures[id_of(dispatch)] >= ATTEMPTS and not has_copies):
            self.alive.discard(id_of(dispatch))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        self.rig.run(data.draw(st.sampled_from(sorted(self.alive))))
        started = self.rig.due()
        self.in_flight += started
        self.sent += [self.rig.now for dispatch in started if dispatch.run_at is None]

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.rig.delete(task_id)
        self.alive.remove(task_id)

    @rule()
    def pause_and_resume(self) -> None:
        self.rig.call("PauseQueue", name=QUEUE)
        assert self.rig.due() == []
        self.rig.call("ResumeQueue", name=QUEUE)

    @rule()
    def crash(self) -> None:
        """Start again from what was kept: whoever was in flight waits, nobody is lost."""
        tasks: dict[int, PutTask] = {}
        progress: dict[int, tuple[Any, ...]] = {}
        for change in self.rig.changes:
            match change:
                case PutTask(serial):
                    tasks[serial] = change
                case SaveProgress(serial, kept):
                    progress[serial] = kept
                case DropTask(serial):
                    del tasks[serial]
        queue = self.rig.engine.queues[QUEUE].message
        kept_tasks = [(put.serial, put.message, put.is_named, progress.get(put.serial)) for put in tasks.values()]
        self.rig.now += 0.001  # no process is back within the microsecond that tells two names apart
        self.rig.engine = Engine(random=lambda: 0.5)
        self.rig.engine.restore(StoredState([queue], kept_tasks, [], []), self.rig.now)
        self.in_flight, self.sent = [], []
        self.failures = Counter(
            {
                put.message.name.rpartition("/")[2]: Progress(*progress[serial]).retry_count
                for serial, put in tasks.items()
                if serial in progress
            }
        )

    @invariant()
    def no_task_is_lost(self) -> None:
        if self.limit:
            assert set(self.rig.listed()) == self.alive

    @invariant()
    def no_more_than_allowed_are_in_flight(self) -> None:
        unforced = [dispatch for dispatch in self.in_flight if dispatch.run_at is None]
        assert len(unforced) <= self.limit
        assert len(set(self.in_flight)) == len(self.in_flight)

    @invariant()
    def no_faster_than_rate_and_burst(self) -> None:
        for first, start in enumerate(self.sent):
            span = self.sent[-1] - start
            assert len(self.sent) - first <= BURST + RATE * span + 1

    def teardown(self) -> None:
        """Left alone with a worker that answers, the engine empties the queue."""
        if not self.limit:
            return
        for dispatch in self.in_flight:
            self.rig.finish(dispatch)
        for _ in range(10_000):
            for dispatch in self.rig.due():
                self.rig.finish(dispatch)
            wait = self.rig.next_due()
            if wait is None:
                break
            self.rig.now += max(wait, 0)
        assert self.rig.listed() == []
        assert self.rig.engine.is_idle(self.rig.now)


TestEngineModel = EngineModel.TestCase
TestEngineModel.settings = settings(stateful_step_count=40)
