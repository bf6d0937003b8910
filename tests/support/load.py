"""Who keeps relays busy in a storm: callers, operators with second thoughts, and a queue that delivers twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Self

import urllib3.exceptions

from support.asking import ask, get, post
from support.fates import FATES

if TYPE_CHECKING:
    from support.asking import Answer
    from support.fates import Fate
    from support.fleet import Fleet

CALLERS = 4
_NO_ANSWER = (urllib3.exceptions.HTTPError, ValueError)


@dataclass
class Load:
    """
    Enqueues *count* tasks in so many *seconds*, each until it is accepted.

    *accepted* has their fates by task_id.
    """

    fleet: Fleet
    seed: int
    count: int
    seconds: float
    downstreams: str
    receiver: str
    accepted: dict[str, Fate] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _over: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _is_left: bool = False

    def __enter__(self) -> Self:
        shares = [fate.share for fate in FATES]
        fates = Random(self.seed).choices(FATES, shares, k=self.count)
        parts = [list(enumerate(fates))[part::CALLERS] for part in range(CALLERS)]
        self._callers = [Thread(target=self._call, args=(part,), daemon=True) for part in parts]
        self._others = [Thread(target=act, daemon=True) for act in (self._steer, self._deliver_again)]
        for thread in (*self._callers, *self._others):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ask nobody any more, whatever is left to be done."""
        self._is_left = True
        self.finish()

    def finish(self) -> None:
        """Every task accepted, and whatever was to be done to one done."""
        for thread in self._callers:
            thread.join()
        self._over.set()
        for thread in self._others:
            thread.join()

    def _call(self, part: list[tuple[int, Fate]]) -> None:
        pause = self.seconds / (len(part) + 1)
        for number, fate in part:
            self._over.wait(pause)
            callback = {"url": f"{self.receiver}/told"}
            wish = {"url": f"{self.downstreams}/{fate.path}", "callback": callback, "body": {"n": number}}
            key = {"Idempotency_Key": f"{self.seed}-{number}"}
            accepted = self._until_answered(
                lambda wish=wish | fate.asked, key=key: post(
                    f"{self.fleet.url}/v1/tasks", wish, **key, **self.fleet.token
                )
            )
            assert accepted.status == 202, accepted.document
            with self._lock:
                self.accepted[accepted.document["task_id"]] = fate

    def _until_answered(self, asked: Any) -> Answer:
        """Asked again while there is no answer, or the relay can do nothing now."""
        for _ in range(600):
            if self._is_left:
                raise SystemExit  # which ends the thread, and no more
            try:
                answer: Answer = asked()
            except _NO_ANSWER:
                self.counts["no answer"] += 1
            else:
                if answer.status < 500:
                    return answer
                self.counts[f"answer {answer.status}"] += 1
            self._over.wait(0.1)
        raise AssertionError("no answer in a minute")

    def _steer(self) -> None:
        """Cancel and redrive what is to be, once each, if it can be; what was accepted last, too."""
        seen: set[str] = set()
        is_last = False
        while not is_last:
            is_last = self._over.wait(0.2)
            with self._lock:
                left = [(task_id, fate) for task_id, fate in self.accepted.items() if fate.verb and task_id not in seen]
            for task_id, fate in left:
                if fate.verb == "cancel" or is_last or self._has_failed(task_id):
                    self._do(task_id, str(fate.verb))
                    seen.add(task_id)

    def _has_failed(self, task_id: str) -> bool:
        answer = self._until_answered(lambda: get(f"{self.fleet.url}/v1/tasks/{task_id}", **self.fleet.token))
        return bool(answer.document["state"] == "failed")

    def _do(self, task_id: str, verb: str) -> None:
        url = f"{self.fleet.url}/v1/tasks/{task_id}:{verb}"
        answer = self._until_answered(lambda: ask("POST", url, headers=self.fleet.token))
        assert answer.status in (200, 202, 409), answer.document
        self.counts[f"{verb} {answer.status}"] += 1

    def _deliver_again(self) -> None:
        """Some of the dispatches that led to an attempt arrive once more: at once, or long after."""
        random = Random(self.seed + 1)
        while not self._over.wait(random.uniform(0.05, 0.3)):
            started = self._started()
            if started:
                self._deliver(random.choice(started[-20:] if random.random() < 0.5 else started))

    def deliver_all_again(self) -> None:
        """One dispatch of each task that began; the last that is known of."""
        for record in {record["task_id"]: record for record in self._started()}.values():
            self._deliver(record)

    def _started(self) -> list[dict[str, Any]]:
        return [record for record in self.fleet.records() if record.get("event") == "attempt.started"]

    def _deliver(self, started: dict[str, Any]) -> None:
        task_id, attempt = started["task_id"], started["attempt"]
        body = f'{{"task_id":"{task_id}","attempt":{attempt}}}'.encode()
        headers = {"X-AppEngine-QueueName": started["queue"], "X-AppEngine-TaskName": f"{task_id}-{attempt}"}
        try:
            answer = ask("POST", f"{self.fleet.url}/dispatch", body=body, headers=headers)
        except _NO_ANSWER:
            self.counts["delivered again: no answer"] += 1
        else:
            self.counts[f"delivered again: {answer.status}"] += 1
