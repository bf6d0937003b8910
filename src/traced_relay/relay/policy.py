"""What the operator's rules decide about a call: where it may go, how often it is tried, how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from traced_relay.downstream.rules import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.config.relay_yaml import Caller
    from traced_relay.downstream.rules import Downstream
    from traced_relay.tasks.call import RetryPolicy
    from traced_relay.tasks.row import Row


@dataclass(frozen=True)
class Receiver:
    """Where callbacks may go, and what they are signed with: secrets, or the name that Secret Manager has for them."""

    rule: Downstream
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class Policy:
    """
    *retry* is for calls without a policy of their own, *max_timeout* in seconds; the first of *queues* is meant.

    *own_hosts* are those at which the relay itself listens, `*` for any text.
    """

    queues: Sequence[str]
    downstreams: Sequence[Downstream]
    retry: RetryPolicy
    max_timeout: float
    own_hosts: Sequence[str] = ()
    receivers: Sequence[Receiver] = ()

    def rule_of(self, row: Row) -> Downstream | None:
        """The rule that a stored task is called by now."""
        if row.kind == "call":
            return self.rule_for(row.call.url)
        receiver = self.receiver_for(row.call.url)
        return receiver.rule if receiver is not None else None

    def receiver_for(self, url: str) -> Receiver | None:
        """Who may get a callback at *url*; None if nobody, or nobody whose secret is known."""
        found = None if self._is_own(url) else find((receiver.rule for receiver in self.receivers), url)
        return next((receiver for receiver in self.receivers if receiver.rule is found and receiver.secret), None)

    def rule_for(self, url: str) -> Downstream | None:
        """The first rule that matches; None means that the URL may not be called, which holds for the relay's own."""
        return None if self._is_own(url) else find(self.downstreams, url)

    def _is_own(self, url: str) -> bool:
        host = (urlsplit(url).hostname or "").rstrip(".")
        return any(fnmatchcase(host, own) for own in self.own_hosts)


@dataclass(frozen=True)
class Principal:
    """Somebody who may enqueue. *queues* and *downstreams* are names, or `"*"` for all."""

    name: str
    queues: Literal["*"] | tuple[str, ...]
    downstreams: Literal["*"] | tuple[str, ...]
    is_operator: bool = False

    def may_use_queue(self, queue: str) -> bool:
        return self.queues == "*" or queue in self.queues

    def may_call(self, rule: str) -> bool:
        return self.downstreams == "*" or rule in self.downstreams

    @classmethod
    def of(cls, caller: Caller) -> Principal:
        def names(listed: Literal["*"] | list[str]) -> Literal["*"] | tuple[str, ...]:
            return "*" if listed == "*" else tuple(listed)

        return cls(caller.email, names(caller.queues), names(caller.downstreams), caller.role == "operator")
