"""Any order of dispatches and ends, with workers that die, against what a task promises."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from example_rows import NOW, TASK_ID, call, policy, row
from traced_relay.machine import AGAIN, Dispatched, Holder, Step, arrive, end
from traced_relay.retry import Ending
from traced_relay.rows import ENDED, Row

ENDINGS = st.sampled_from(
    [
        Ending(200, None),
        Ending(404, "http_404"),
        Ending(500, "http_500"),
        Ending(503, "http_503"),
        Ending(429, "http_429", retry_after=30.0),
        Ending(503, "http_503", retry_after=1e6),
        Ending(None, "timeout"),
        Ending(None, "connect_failed", was_sent=False),
        Ending(None, "denied", was_sent=False),
        Ending(None, "interrupted"),
        Ending(None, "interrupted", was_sent=False),
    ]
)
POLICIES = st.builds(
    lambda attempts, seconds: policy(max_attempts=attempts, max_retry_duration=f"{seconds}s"),
    st.integers(1, 4),
    st.sampled_from([0, 0, 45, 600]),
)


class TaskLife(RuleBasedStateMachine):
    """*history* is every row that was ever committed; *tasks* are the numbers Cloud Tasks may deliver, at any time."""

    @initialize(retry=POLICIES, idempotent=st.booleans())
    def enqueue(self, retry: object, idempotent: bool) -> None:
        self.now = NOW
        self.history: list[Row] = [row(call=call(retry=retry, idempotent=idempotent))]
        self.tasks = {1}
        self.begun: list[int] = []
        self.ends: list[str] = []
        self.holder = Holder.LOST

    @property
    def row(self) -> Row:
        return self.history[-1]

    @rule(data=st.data(), dice=st.floats(0, 1, exclude_max=True))
    def dispatch(self, data: st.DataObject, dice: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.tasks)))
        before = self.row
        event = Dispatched(number, "w", f"{TASK_ID}-{number}", "v", "i", None)
        step = arrive(before, event, now=self.now, holder=self.holder, random=lambda: dice)
        if before.state == "running" and number == before.attempt and self.holder is Holder.ALIVE:
            assert step.answer == AGAIN
        if step.begins:
            self.begun.append(number)
            self.holder = Holder.ALIVE
        self._commit(step)

    @precondition(lambda self: self.row.state == "running" and self.holder is Holder.ALIVE)
    @rule(ending=ENDINGS, dice=st.floats(0, 1, exclude_max=True))
    def finish(self, ending: Ending, dice: float) -> None:
        self._commit(end(self.row, ending, response=None, now=self.now, random=lambda: dice))

    @precondition(lambda self: self.holder is Holder.ALIVE)
    @rule(what_is_known=st.sampled_from([Holder.LOST, Holder.STOPPED, Holder.STOPPED_UNSENT]))
    def end_the_worker(self, what_is_known: Holder) -> None:
        self.holder = what_is_known

    @rule(seconds=st.sampled_from([0.5, 10, 60, 700, -30]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def _commit(self, step: Step) -> None:
        if step.row is not None:
            assert step.row.revision == self.row.revision + 1
            self.history.append(step.row)
        if step.creates:
            self.tasks.add(self.row.awaited)
        if self.row.state != "running":
            self.holder = Holder.LOST
        self.ends += [said.event for said in step.says if said.event == "task.finished"]

    @invariant()
    def it_ends_once_and_for_all(self) -> None:
        states = [committed.state for committed in self.history]
        assert [state in ENDED for state in states] == sorted(state in ENDED for state in states)
        assert sum(state in ENDED for state in states) == len(self.ends) <= 1

    @invariant()
    def attempts_are_numbered_on_without_gaps_and_begin_once(self) -> None:
        assert self.begun == list(range(1, len(self.begun) + 1))
        assert [attempt.attempt for attempt in self.row.attempts] == self.begun
        assert self.row.attempt == len(self.begun)

    @invariant()
    def no_more_attempts_count_than_the_policy_allows(self) -> None:
        interrupted = [attempt for attempt in self.row.attempts if attempt.reason == "interrupted"]
        assert self.row.interruptions == len(interrupted)
        assert len(self.begun) - len(interrupted) <= self.row.call.retry.max_attempts

    @invariant()
    def retries_are_the_failures_before_the_last_attempt(self) -> None:
        assert self.row.retry_count == sum(attempt.reason is not None for attempt in self.row.attempts[:-1])
        assert self.row.started == len(self.row.attempts)

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
        assert (self.row.reason is not None) == (self.row.blame is not None) == (self.row.state == "failed")

    @invariant()
    def no_attempt_starts_past_the_time_the_policy_gives(self) -> None:
        limit = self.row.call.retry.max_retry_duration
        starts = [attempt.started_at - self.row.attempts[0].started_at for attempt in self.row.attempts]
        assert limit == 0 or max(starts, default=0) <= limit

    @invariant()
    def no_time_is_negative(self) -> None:
        assert all((attempt.latency_ms or 0) >= 0 for attempt in self.row.attempts)


TestTaskLife = TaskLife.TestCase
TestTaskLife.settings = settings(stateful_step_count=30)
