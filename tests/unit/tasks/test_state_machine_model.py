"""Any order of dispatches, ends, operator actions, sweeps and dying workers, against the delivery promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.example_rows import NOW, call, dispatched, policy, row
from traced_relay.tasks.call import Callback
from traced_relay.tasks.retry import AttemptResult
from traced_relay.tasks.state_machine import (
    AGAIN,
    Holder,
    Step,
    arrive,
    cancel,
    end,
    lose,
    redrive,
    remove,
)
from traced_relay.tasks.states import ENDED

if TYPE_CHECKING:
    from traced_relay.tasks.row import Attempt, Row

ENDINGS = st.sampled_from(
    [
        AttemptResult(200, None),
        AttemptResult(404, "http_404"),
        AttemptResult(500, "http_500"),
        AttemptResult(503, "http_503"),
        AttemptResult(429, "http_429", retry_after=30.0),
        AttemptResult(503, "http_503", retry_after=1e6),
        AttemptResult(None, "timeout"),
        AttemptResult(None, "connect_failed", was_sent=False),
        AttemptResult(None, "denied", was_sent=False),
        AttemptResult(None, "interrupted"),
        AttemptResult(None, "interrupted", was_sent=False),
    ]
)
POLICIES = st.builds(
    lambda attempts, seconds: policy(max_attempts=attempts, max_retry_duration=f"{seconds}s"),
    st.integers(1, 4),
    st.sampled_from([0, 0, 45, 600]),
)


class TaskLife(RuleBasedStateMachine):
    """
    *history* is every row that was ever committed.

    *tasks* are the numbers Cloud Tasks may deliver, at any time; *names* all
    that were ever made, *gone* those that were deleted and can never be made again.
    """

    @initialize(retry=POLICIES, idempotent=st.booleans())
    def enqueue(self, retry: object, idempotent: bool) -> None:
        self.now = NOW
        told = Callback(url="https://hooks.example.com/", on=("failed", "cancelled"))
        self.history: list[Row] = [row(call=call(retry=retry, idempotent=idempotent, callback=told))]
        self.tasks = {1}
        self.gone: set[int] = set()
        self.told: list[int] = []
        self.finished: list[int] = []
        self.begun: list[int] = []
        self.ends: list[int] = []
        self.holder = Holder.LOST

    @property
    def row(self) -> Row:
        return self.history[-1]

    @rule(data=st.data(), dice=st.floats(0, 1, exclude_max=True))
    def dispatch(self, data: st.DataObject, dice: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.tasks | self.gone)))
        before = self.row
        event = dispatched(number)
        step = arrive(before, event, now=self.now, holder=self.holder, random=lambda: dice)
        if before.state == "running" and number == before.attempt and self.holder is Holder.ALIVE:
            assert step.queue_status == AGAIN
        if step.start_attempt:
            self.begun.append(number)
            self.holder = Holder.ALIVE
        self._commit(step)

    @precondition(lambda self: self.row.state == "running" and self.holder is Holder.ALIVE)
    @rule(ending=ENDINGS, dice=st.floats(0, 1, exclude_max=True))
    def finish(self, ending: AttemptResult, dice: float) -> None:
        self._commit(end(self.row, ending, response=None, now=self.now, random=lambda: dice))

    @precondition(lambda self: self.row.state == "running" and self.holder is not Holder.ALIVE)
    @rule(dice=st.floats(0, 1, exclude_max=True))
    def sweep_what_was_abandoned(self, dice: float) -> None:
        self._commit(lose(self.row, self.holder, now=self.now, random=lambda: dice))

    @precondition(lambda self: self.row.state in ("queued", "waiting"))
    @rule()
    def purge_and_sweep(self) -> None:
        self._delete(self.row.awaited)
        self._commit(remove(self.row, now=self.now))

    @rule()
    def cancel(self) -> None:
        step = cancel(self.row, actor="somebody", now=self.now)
        assert (step is None) == (self.row.state in ("succeeded", "failed"))
        if step is not None:
            assert (step.row is None) == (self.row.state == "cancelled")
            self._commit(step)

    @rule()
    def redrive(self) -> None:
        step = redrive(self.row, actor="somebody", now=self.now)
        assert (step is not None) == (self.row.state in ("failed", "cancelled"))
        if step is not None:
            self._commit(step)

    @precondition(lambda self: self.holder is Holder.ALIVE)
    @rule(what_is_known=st.sampled_from([Holder.LOST, Holder.STOPPED, Holder.STOPPED_UNSENT]))
    def end_the_worker(self, what_is_known: Holder) -> None:
        self.holder = what_is_known

    @rule(seconds=st.sampled_from([0.5, 10, 60, 700, -30]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def _delete(self, number: int) -> None:
        self.tasks.discard(number)
        self.gone.add(number)

    def _commit(self, step: Step) -> None:
        before = self.row
        if step.row is not None:
            assert step.row.revision == before.revision + 1
            self.history.append(step.row)
            self.finished += [before.attempt for said in step.events if said.event == "attempt.finished"]
            self.told += [self.row.round] if step.create_callback else []
        if step.create_task:
            assert self.row.awaited not in self.gone
            self.tasks.add(self.row.awaited)
        if step.delete_task:
            self._delete(before.awaited)
        if self.row.state != "running":
            self.holder = Holder.LOST
        self.ends += [self.row.round for said in step.events if said.event == "task.finished"]

    @invariant()
    def each_round_ends_once_and_is_told_once(self) -> None:
        for number in range(1, self.row.round + 1):
            states = [committed.state for committed in self.history if committed.round == number]
            assert [state in ENDED for state in states] == sorted(state in ENDED for state in states)
            assert sum(state in ENDED for state in states) == self.ends.count(number) <= 1
        wanted = [committed.round for committed in self.history if committed.state in ("failed", "cancelled")]
        assert self.told == wanted

    @invariant()
    def each_attempt_is_judged_once(self) -> None:
        judged = self.begun[:-1] if self.row.state == "running" else self.begun
        assert self.finished == judged

    @invariant()
    def attempts_are_numbered_on_and_begin_once(self) -> None:
        assert self.begun == sorted(set(self.begun))
        assert [attempt.attempt for attempt in self.row.attempts] == self.begun
        assert self.row.attempt == max(self.begun, default=0)

    @invariant()
    def no_more_attempts_count_than_the_policy_allows(self) -> None:
        interrupted = [attempt for attempt in self._round() if attempt.reason == "interrupted"]
        assert self.row.interruptions == len(interrupted)
        assert len(self._round()) - len(interrupted) <= self.row.call.retry.max_attempts

    @invariant()
    def retries_are_the_failures_before_the_last_attempt(self) -> None:
        assert self.row.retry_count == sum(attempt.reason is not None for attempt in self._round()[:-1])
        assert self.row.started == len(self._round())

    def _round(self) -> list[Attempt]:
        return [attempt for attempt in self.row.attempts if attempt.round == self.row.round]

    @invariant()
    def a_task_that_has_not_ended_is_held_or_awaited(self) -> None:
        if self.row.state in ("queued", "waiting"):
            assert self.row.awaited in self.tasks
            assert (self.row.worker, self.row.next_attempt_at is None) == (None, False)
        else:
            assert (self.row.worker is not None) == (self.row.state == "running")
            assert self.row.next_attempt_at is None

    @invariant()
    def the_end_has_its_reason_and_its_time(self) -> None:
        assert (self.row.finished_at is not None) == self.row.has_ended
        has_reason = self.row.state in ("failed", "cancelled")
        assert (self.row.reason is not None) == (self.row.blame is not None) == has_reason

    @invariant()
    def no_attempt_starts_past_the_time_the_policy_gives(self) -> None:
        limit = self.row.call.retry.max_retry_duration
        starts = [attempt.started_at - self._round()[0].started_at for attempt in self._round()]
        assert limit == 0 or max(starts, default=0) <= limit

    @invariant()
    def no_time_is_negative(self) -> None:
        assert all((attempt.latency_ms or 0) >= 0 for attempt in self.row.attempts)


TestTaskLife = TaskLife.TestCase
TestTaskLife.settings = settings(stateful_step_count=30)
