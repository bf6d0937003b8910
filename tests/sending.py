"""One call handed to a sender, as most tests of it want one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from example_rows import TASK_ID, call
from raw_downstream import RawDownstream
from traced_relay.downstreams import Downstream as Rule

if TYPE_CHECKING:
    from raw_downstream import Behaviour
    from traced_relay.sender import Exchange, Sender

PLAIN = Rule(name="any", url="http://*:*/", auth="none")
TLS = Rule(name="tls", url="https://*:*/", auth="none")
TOKEN = Rule(name="token", url="https://*:*/", auth="id_token")


def no_token(audience: str) -> str:
    raise AssertionError(f"nobody asked for a token for {audience}")


def sent(sender: Sender, url: str, rule: Rule | None = PLAIN, **changes: Any) -> Exchange:
    return sender.send(call(**{"url": url, "timeout": 5.0} | changes), rule, TASK_ID)


def sent_to(sender: Sender, behaviour: Behaviour, **changes: Any) -> Exchange:
    with RawDownstream(behaviour) as downstream:
        return sent(sender, f"http://127.0.0.1:{downstream.port}/", **changes)
