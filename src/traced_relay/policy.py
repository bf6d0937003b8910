"""What the operator's rules decide about a call: where it may go, how often it is tried, how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from traced_relay.downstreams import find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traced_relay.calls import RetryPolicy
    from traced_relay.downstreams import Downstream


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

    def rule_for(self, url: str) -> Downstream | None:
        """The first rule that matches; None means that the URL may not be called, which holds for the relay's own."""
        return None if self._is_own(url) else find(self.downstreams, url)

    def _is_own(self, url: str) -> bool:
        host = (urlsplit(url).hostname or "").rstrip(".")
        return any(fnmatchcase(host, own) for own in self.own_hosts)
