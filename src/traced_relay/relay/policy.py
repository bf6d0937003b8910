"""What the operator's rules decide about a call: where it may go, how it is retried, how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from traced_relay.downstream.rules import find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from traced_relay.config.relay_yaml import Caller
    from traced_relay.downstream.rules import Downstream
    from traced_relay.tasks.call import RetryPolicy
    from traced_relay.tasks.row import Row

OWN_URL = "its URL is the relay's own"
NO_RULE = "no rule of relay.yaml allows its URL"
AMBIGUOUS_PATH = "servers may read the path of its URL in more than one way"
UNSIGNED = "its receiver has no secret to sign with"
MAX_DECISIONS = 1024  # cached of calls, and as many of callbacks


@dataclass(frozen=True)
class Decision:
    """The *rule* that allows a URL, or the *reason* that none does. *secret* signs a callback."""

    rule: Downstream | None
    reason: str | None = None
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Receiver:
    """Where callbacks may go, and the secrets that sign them, or their name in Secret Manager."""

    rule: Downstream
    secret: str | None = field(repr=False)


@dataclass(frozen=True)
class Policy:
    """
    The rules of relay.yaml for calls and callbacks.

    *retry* is for calls without a policy of their own, *max_timeout* in seconds; the first of *queues* is the default.
    *own_hosts* are the relay's own, `*` for any text. Nothing here changes, so a decision is made once for each URL.
    """

    queues: Sequence[str]
    downstreams: Sequence[Downstream]
    retry: RetryPolicy
    max_timeout: float
    own_hosts: Sequence[str] = ()
    receivers: Sequence[Receiver] = ()

    def decide(self, row: Row) -> Decision:
        """Whether a stored task may be sent today."""
        return self.decide_call(row.call.url) if row.kind == "call" else self.decide_callback(row.call.url)

    def decide_call(self, url: str) -> Decision:
        """Whether a call may go to *url*, by the first downstream that matches; never to the relay itself."""
        return self._decisions_on_calls(url)

    def decide_callback(self, url: str) -> Decision:
        """Whether a callback may go to *url*, by the first receiver that matches; only if it can be signed."""
        return self._decisions_on_callbacks(url)

    @cached_property
    def _decisions_on_calls(self) -> Callable[[str], Decision]:
        return lru_cache(MAX_DECISIONS)(lambda url: self._decide(self.downstreams, url))

    @cached_property
    def _decisions_on_callbacks(self) -> Callable[[str], Decision]:
        return lru_cache(MAX_DECISIONS)(self._decide_callback)

    def _decide_callback(self, url: str) -> Decision:
        found = self._decide([receiver.rule for receiver in self.receivers], url)
        if found.rule is None:
            return found
        secret = next(receiver.secret for receiver in self.receivers if receiver.rule is found.rule)
        return Decision(found.rule, secret=secret) if secret else Decision(None, UNSIGNED)

    def _decide(self, rules: Sequence[Downstream], url: str) -> Decision:
        host = (urlsplit(url).hostname or "").rstrip(".")
        if any(fnmatchcase(host, own) for own in self.own_hosts):
            return Decision(None, OWN_URL)
        rule = find(rules, url)
        if rule is None:
            return Decision(None, AMBIGUOUS_PATH if any(rule.may_match(url) for rule in rules) else NO_RULE)
        return Decision(rule)


@dataclass(frozen=True)
class Principal:
    """An authenticated caller. *queues* and *downstreams* are names, or `"*"` for all."""

    name: str
    queues: Literal["*"] | Sequence[str]
    downstreams: Literal["*"] | Sequence[str]
    is_operator: bool = False

    def may_use_queue(self, queue: str) -> bool:
        return self.queues == "*" or queue in self.queues

    def may_call(self, rule: str) -> bool:
        return self.downstreams == "*" or rule in self.downstreams

    @classmethod
    def of(cls, caller: Caller) -> Principal:
        return cls(caller.email, caller.queues, caller.downstreams, caller.role == "operator")
