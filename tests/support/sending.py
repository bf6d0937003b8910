"""One call handed to a sender under a watch of its own, as most tests of it want one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from support.example_rows import TASK_ID, call
from support.raw_downstream import RawDownstream
from traced_relay.downstream.rules import Downstream as Rule
from traced_relay.runtime.clock import SystemClock
from traced_relay.runtime.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.raw_downstream import Behaviour
    from traced_relay.downstream.sender import Exchange, Sender
    from traced_relay.tasks.call import Call

PLAIN = Rule(name="any", url="http://*:*/", auth="none", allow_private=True)
TLS = Rule(name="tls", url="https://*:*/", auth="none", allow_private=True)
TOKEN = Rule(name="token", url="https://*:*/", auth="id_token", allow_private=True)
PUBLIC = Rule(name="public", url="http://*:*/", auth="none")


def no_token(audience: str) -> str:
    raise AssertionError(f"nobody asked for a token for {audience}")


@contextmanager
def watching() -> Iterator[Watchdog]:
    watch = Watchdog(SystemClock())
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def made(sender: Sender, wanted: Call, rule: Rule | None = PLAIN) -> Exchange:
    with watching() as watch, watch.deadline(wanted.timeout) as deadline:
        return sender.send(wanted, rule, {"idempotency-key": TASK_ID}, deadline)


def sent(sender: Sender, url: str, rule: Rule | None = PLAIN, **changes: Any) -> Exchange:
    return made(sender, call(**{"url": url, "timeout": 5.0} | changes), rule)


def sent_to(sender: Sender, behaviour: Behaviour, **changes: Any) -> Exchange:
    with RawDownstream(behaviour) as downstream:
        return sent(sender, f"http://127.0.0.1:{downstream.port}/", **changes)
