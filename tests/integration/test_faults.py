from __future__ import annotations

import base64
import socket
from threading import Event
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from support.asking import get, post
from support.faults import FAULTS, GOOD, STALE
from support.house import ROOT
from support.local_ca import Authority
from support.raw_downstream import OK, RawDownstream, says
from support.schema import validate
from support.sending import no_token
from traced_relay.downstream.sender import Sender
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.faults import Fault
    from support.raw_downstream import Behaviour

pytestmark = pytest.mark.whole

AUDIENCE, CALLER = "https://relay.example.com", "caller@p.iam.gserviceaccount.com"
RULES = {
    "queues": [{"name": "relay", "max_dispatches_per_second": 500, "max_concurrent_dispatches": 100}],
    "worker": {"app_engine": "default"},
    "audience": AUDIENCE,
    "callers": [{"email": CALLER, "queues": "*", "downstreams": "*"}],
    "downstreams": [
        {"name": "strict", "url": "http://strict.example:*/", "auth": "none"},
        {"name": "token", "url": "https://token.example:*/", "auth": "id_token", "allow_private": True},
        {"name": "plain", "url": "http://*:*/", "auth": "none", "allow_private": True},
        {"name": "tls", "url": "https://*:*/", "auth": "none", "allow_private": True},
    ],
}
SLOW = pytest.mark.whole
AT_ONCE = {"max_attempts": 2, "min_backoff": "0s", "max_backoff": "0s", "jitter": "none"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def relay(authority: Authority) -> Iterator[RunningRelay]:
    """A relay that trusts the authority, has names of its own and gets no ID token."""
    over = Event()

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        if host == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        if host == "slow.example":
            over.wait(20)
        return [] if host == "empty.example" else socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

    def refuse(audience: str) -> NoReturn:
        raise IdentityFailed(f"no ID token for {audience}")

    sender = Sender(SystemClock(), refuse, tls=authority.client(), resolve=resolve)
    with RunningRelay(rules=RULES, sender=sender) as running:
        yield running
        over.set()


def ended(relay: RunningRelay, url: str, **fields: Any) -> dict[str, Any]:
    token = {"Authorization": f"Bearer {relay.queue.token(CALLER, AUDIENCE)}"}
    answer = post(f"{relay.url}/v1/tasks", {"url": url, "retry": AT_ONCE} | fields, **token)
    assert answer.status == 202, answer.document
    relay.wait_for("task.finished", answer.document["task_id"])
    document: dict[str, Any] = get(answer.document["links"]["status"], **token).document
    return document


@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "idempotent"])
@pytest.mark.parametrize("fault", [pytest.param(f, id=f.name, marks=SLOW if f.timeout < "5s" else ()) for f in FAULTS])
def test_each_fault_has_its_reason_in_record_and_status(
    relay: RunningRelay, authority: Authority, fault: Fault, *, idempotent: bool
) -> None:
    with fault.served(authority) as url:
        document = ended(relay, url, idempotent=idempotent, timeout=fault.timeout)
    attempts = document["attempts"]
    assert [attempt["reason"] for attempt in attempts] == [fault.reason] * fault.attempts(idempotent=idempotent)
    assert [attempt["verdict"] for attempt in attempts][-1] == "gave_up"
    assert (document["state"], document["reason"]) == ("failed", fault.reason)
    records = relay.records.records(document["task_id"])
    for record in records:
        validate(record)
    said = [record for record in records if record["event"] == "attempt.finished"]
    same = ("attempt", "reason", "blame", "verdict", "status_code", "latency_ms", "retry_delay_ms", "delay_reason")
    assert [{name: r[name] for name in same} for r in said] == [{name: a[name] for name in same} for a in attempts]
    (last,) = (record for record in records if record["event"] == "task.finished")
    assert {name: last[name] for name in ("state", "reason", "blame", "total_ms")} == {
        name: document[name] for name in ("state", "reason", "blame", "total_ms")
    }
    assert all(record["latency_ms"] < 10_000 for record in said)
    assert all(fault.reason != "timeout" or record["latency_ms"] >= 299 for record in said)


@pytest.mark.parametrize(("behaviour", "body"), GOOD.values(), ids=GOOD)
def test_a_complete_response_succeeds_with_its_bytes_unchanged(
    relay: RunningRelay, behaviour: Behaviour, body: bytes
) -> None:
    with RawDownstream(behaviour) as downstream:
        document = ended(relay, f"http://127.0.0.1:{downstream.port}/")
        (request,) = downstream.requests
    assert b"\r\naccept-encoding: identity\r\n" in request.lower()
    response = document["response"]
    kept = base64.b64decode(response["body_base64"]) if "body_base64" in response else response["body"].encode()
    assert (document["state"], kept, response["truncated"]) == ("succeeded", body, False)


def drops_unread(connection: socket.socket, _: Event) -> None:
    """Answers one request, and closes when the next one arrives."""
    connection.sendall(OK + b"Content-Length: 0\r\n\r\n")
    connection.settimeout(10)
    connection.recv(1, socket.MSG_PEEK)


@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "idempotent"])
def test_a_kept_connection_closed_unread_has_its_reason_and_retry(*, idempotent: bool) -> None:
    _, reason, _ = STALE
    sender = Sender(ManualClock(), no_token)  # however slow the machine is, the connection does not age
    with (
        RunningRelay(sender=sender) as relay,
        RawDownstream(drops_unread, says(OK, b"Content-Length: 0\r\n\r\n")) as downstream,
    ):
        fields = {"url": f"http://127.0.0.1:{downstream.port}/", "retry": AT_ONCE, "idempotent": idempotent}
        for _ in range(2):
            receipt = post(f"{relay.url}/v1/tasks", fields).document
            relay.wait_for("task.finished", receipt["task_id"])
        document = get(receipt["links"]["status"]).document
        for record in relay.records.records(receipt["task_id"]):
            validate(record)
    attempts = [(attempt["reason"], attempt["blame"]) for attempt in document["attempts"]]
    assert attempts == [(reason, "platform"), *([(None, None)] if idempotent else [])]
    assert document["state"] == ("succeeded" if idempotent else "failed")


def test_the_page_of_faults_lists_exactly_these_faults() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    told = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    rows = [[fault.name, f"`{fault.reason}`", fault.retried] for fault in FAULTS]
    rows.append([STALE[0], f"`{STALE[1]}`", STALE[2]])
    rows += [[name, "success", "no need"] for name in GOOD]
    assert [[cell.strip() for cell in row] for row in told] == rows
