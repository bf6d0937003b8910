"""What is left when a storm is over and has settled: rows, records, and what downstreams and receivers got."""

from __future__ import annotations

import json
from collections import Counter
from threading import Event
from typing import TYPE_CHECKING, Any

from standardwebhooks import Webhook

from support.fleet import SECRET
from traced_relay.formats.durations import parse_time
from traced_relay.ledger.protocol import Selection
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.ids import callback_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fates import Downstreams, Fate, Receiver
    from support.fleet import Fleet
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.tasks.row import Row

PATIENCE = 120.0  # seconds; a lease is 15, and a call can be lost more than once
INSERT_ID = "logging.googleapis.com/insertId"


def settle(ledger: Ledger, fleet: Fleet) -> None:
    """Wait until every row has ended, for leases and what was asked for, but for no callback's schedule."""
    clock, pause = SystemClock(), Event()
    until, hurried = clock.monotonic() + PATIENCE, set()
    while left := [row for row in _rows(ledger) if not row.has_ended]:
        assert clock.monotonic() < until, [(row.task_id, row.kind, row.state, row.attempts[-1:]) for row in left]
        fleet.raise_fallen()
        for row in left:
            task = f"{row.task_id}-{row.awaited}"
            if (row.next_attempt_at or 0) > clock.now() + 3 and task not in hurried:
                hurried.add(task)
                fleet.run_now(row.queue, task)
        pause.wait(0.5)


def _rows(ledger: Ledger) -> Iterator[Row]:
    for kind in ("call", "callback"):
        before = None
        while page := ledger.select(Selection(kind=kind, before=before), 200).rows:
            yield from page
            before = (page[-1].created_at, page[-1].task_id)


class Aftermath:
    """Its assertions are the delivery promise, for each of the tasks that were *accepted*."""

    def __init__(
        self, ledger: Ledger, fleet: Fleet, downstreams: Downstreams, receiver: Receiver, accepted: dict[str, Fate]
    ) -> None:
        self.rows = {row.task_id: row for row in _rows(ledger)}
        self.calls = {row.task_id: row for row in self.rows.values() if row.kind == "call"}
        self.rounds = [(row, number) for row in self.calls.values() for number in range(1, row.round + 1)]
        self.records = [record for record in fleet.records() if "event" in record]
        self._kills = fleet.kills.total()
        self._arrived = {key: list(came) for key, came in downstreams.calls.items()}
        self._told = {webhook_id: list(told) for webhook_id, told in receiver.told.items()}
        self._accepted = accepted

    def check_ends(self) -> None:
        """Each task has ended, in a way that its fate allows."""
        assert self._accepted.keys() <= self.calls.keys()
        assert all(row.has_ended for row in self.rows.values())
        ends = {task_id: (fate.name, self.calls[task_id].reason) for task_id, fate in self._accepted.items()}
        assert {end for task_id, end in ends.items() if end[1] not in self._accepted[task_id].reasons} == set()
        assert all((row.state == "succeeded") == (row.reason is None) for row in self.rows.values())

    def check_calls(self) -> None:
        """No call without an attempt in the ledger, one key for one task, no attempt that goes on after the end."""
        assert {key for key, came in self._arrived.items() if len(came) > len(self.calls[key].attempts)} == set()
        assert all(len(set(came)) == 1 for came in self._arrived.values())
        bodies = Counter(body for came in self._arrived.values() for body in set(came))
        assert bodies.total() == len(bodies)
        for row, number in self.rounds:
            attempts = [attempt for attempt in row.attempts if attempt.round == number]
            end = self._end_of(row, number)
            assert all(attempt.started_at <= (attempt.ended_at or 0) <= end + 0.001 for attempt in attempts), row
            assert len(attempts) == len({attempt.attempt for attempt in attempts})

    def _end_of(self, row: Row, number: int) -> float:
        return parse_time(json.loads(self._told[callback_id(row.task_id, number)][0].body)["timestamp"])

    def check_callbacks(self) -> None:
        """The end of each round was told, with one id and one body, and heard."""
        expected = {callback_id(row.task_id, number): (row, number) for row, number in self.rounds}
        assert self._told.keys() == expected.keys() == self.rows.keys() - self.calls.keys()
        for webhook_id, (row, number) in expected.items():
            told = self._told[webhook_id]
            assert (self.rows[webhook_id].state, told[-1].status) == ("succeeded", 204)
            assert len({one.body for one in told}) == 1
            assert len(told) <= len(self.rows[webhook_id].attempts)
            document = Webhook(SECRET).verify(told[0].body, told[0].headers)["data"]
            assert (document["task_id"], document["round"]) == (row.task_id, number)
            assert number < row.round or (document["state"], document["reason"]) == (row.state, row.reason)

    def missing_records(self) -> int:
        """No end of an attempt or a task is said twice; how many were never said, which only a kill may bring about."""
        events = ("attempt.finished", "task.finished")
        said = Counter(record[INSERT_ID] for record in self.records if record["event"] in events)
        assert [insert_id for insert_id, times in said.items() if times > 1] == []
        expected = set(self._insert_ids())
        assert said.keys() - expected == set()
        missing = len(expected - said.keys())
        assert missing <= self._kills
        return missing

    def _insert_ids(self) -> Iterator[str]:
        for row in self.rows.values():
            for attempt in row.attempts:
                yield f"attempt.finished-{row.task_id}-r{attempt.round}-a{attempt.attempt}"
            for number in range(1, row.round + 1):
                yield f"task.finished-{row.task_id}-r{number}"

    def figures(self) -> dict[str, Any]:
        """What happened, to be read by people."""
        attempts = [attempt for row in self.calls.values() for attempt in row.attempts]
        callbacks = [row for row in self.rows.values() if row.kind == "callback"]
        return {
            "ends": dict(Counter(row.reason or row.state for row in self.calls.values())),
            "rounds": len(self.rounds),
            "attempts": len(attempts),
            "attempts lost": sum(attempt.reason == "worker_lost" for attempt in attempts),
            "calls arrived": sum(map(len, self._arrived.values())),
            "callbacks": len(callbacks),
            "callback attempts": sum(len(row.attempts) for row in callbacks),
            "callbacks arrived": sum(map(len, self._told.values())),
            "records": len(self.records),
            "recovered": sum(record["recovered"] for record in self.records if record["event"] == "relay.swept"),
        }
