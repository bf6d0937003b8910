from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

import pytest

from support.example_rows import call
from support.faults import FAULTS
from support.local_ca import Authority
from support.raw_downstream import (
    OK,
    RawDownstream,
    hears,
    says,
    says_and_resets,
    says_and_stays,
    shakes_hands,
    trickles,
)
from support.sending import TLS, made, no_token, sent, sent_to, watching
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.retry import AttemptResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.raw_downstream import Behaviour

pytestmark = pytest.mark.whole


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender(SystemClock(), no_token)
    yield made
    made.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusting(authority: Authority) -> Iterator[Sender]:
    """A sender that trusts the authority."""
    sender = Sender(SystemClock(), no_token, tls=authority.client())
    yield sender
    sender.close()


def failed(reason: str) -> AttemptResult:
    return AttemptResult(None, reason)


def failed_unsent(reason: str) -> AttemptResult:
    return AttemptResult(None, reason, was_sent=False)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (says(), "reset"),
        (says_and_resets(), "reset"),
        (says_and_resets(OK, b"Content-Length: 100\r\n\r\n", b"abc"), "reset"),
        (says(OK, b"Content-Length: 100\r\n\r\n", b"abc"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"9\r\nabc"), "incomplete_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"xyz\r\nabc\r\n0\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 9\r\n\r\n", b"abc"), "incomplete_response"),
        (says(b"SSH-2.0-OpenSSH_9.6\r\n"), "malformed_response"),
        (says(b"\x15\x03\x01\x00\x02\x02\x16"), "malformed_response"),
        (says(b"hello, this is HTTP/0.9"), "malformed_response"),
        (says(b"HTTP/1.1 abc OK\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 099 Low\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 1000 High\r\n\r\n"), "malformed_response"),
        (says(b"HTTP/1.1 200 ", b"x" * 70_000, b"\r\n\r\n"), "malformed_response"),
        (says(OK, b"X: ", b"x" * 70_000, b"\r\n\r\n"), "malformed_response"),
        (says(OK, b"X: y\r\n" * 11_000, b"\r\n"), "malformed_response"),
        (says(OK, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), "malformed_response"),
        (says(OK, b"Content-Length: 3, 4\r\n\r\nabcd"), "malformed_response"),
        (says(OK, b"Content-Length: -3\r\n\r\nabc"), "malformed_response"),
        (says(OK, b"Content-Length: +3\r\n\r\nabc"), "malformed_response"),
        (says(OK, b"Content-Length: three\r\n\r\nabc"), "malformed_response"),
        (says(OK, b"Content-Length:\r\n\r\nabc"), "malformed_response"),
        (says(OK, b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), "malformed_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"-5\r\nabcde\r\n0\r\n\r\n"), "malformed_response"),
        (says(OK, b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 70_000), "malformed_response"),
    ],
    ids=range(26),
)
def test_an_incomplete_response_is_a_reason(sender: Sender, behaviour: Behaviour, reason: str) -> None:
    exchange = sent_to(sender, behaviour)
    assert (exchange.ending, exchange.response, exchange.response_size) == (failed(reason), None, None)


def test_without_a_byte_of_an_answer_there_is_no_time_of_one(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert sent(sender, f"http://127.0.0.1:{port}/").timing.first_byte_ms is None
    for silent in (says(), says_and_resets(), says_and_stays()):
        assert sent_to(sender, silent, timeout=0.2).timing.first_byte_ms is None
    for heard in (says(b"HTTP/1.1 2"), says(b"SSH-2.0-x\r\n"), says(OK, b"\r\n")):
        assert sent_to(sender, heard).timing.first_byte_ms is not None


@pytest.mark.parametrize(
    "behaviour",
    [
        says_and_stays(),
        says_and_stays(b"HTTP/1.1 2"),
        says_and_stays(OK, b"X: y\r\n"),
        says_and_stays(OK, b"Content-Length: 9\r\n\r\n", b"abc"),
        says_and_stays(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 9\r\n\r\n"),
        trickles(OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.01),
        trickles(OK + b"\r\n", b"x", 0.01),
        trickles(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.01),
        trickles(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x", 0.01),
        trickles(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.001),
    ],
    ids=range(10),
)
def test_a_silent_or_endless_response_is_aborted_at_its_timeout(sender: Sender, behaviour: Behaviour) -> None:
    started = monotonic()
    assert sent_to(sender, behaviour, timeout=0.4).ending == failed("timeout")
    assert 0.39 < monotonic() - started < 5


def test_a_downstream_that_does_not_read_the_body_is_a_timeout(sender: Sender) -> None:
    with RawDownstream(says_and_stays(), reads=False) as downstream:
        url, body = f"http://127.0.0.1:{downstream.port}/", b"x" * 50_000_000
        assert sent(sender, url, body=body, timeout=0.4).ending == failed("timeout")


@pytest.mark.parametrize("url", ["http://*/", "http://.a/", "http://a:b/"])
def test_a_url_that_requests_rejects_is_denied(sender: Sender, url: str) -> None:
    wanted = call(timeout=5.0).changed(url=url)
    assert made(sender, wanted).ending == failed_unsent("denied")


def test_a_closed_port_is_connect_failed(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    exchange = sent(sender, f"http://127.0.0.1:{port}/")
    assert exchange.ending == failed_unsent("connect_failed")
    assert exchange.timing.connect_ms is None


def test_an_unknown_name_is_dns_failed(sender: Sender) -> None:
    # The border lets no zone pass; here one that is not there makes the lookup fail without leaving this machine.
    nowhere = call(timeout=5.0).changed(url="http://[fe80::1%25nowhere]/")
    assert made(sender, nowhere).ending == failed_unsent("dns_failed")


@pytest.mark.parametrize(
    ("hosts", "faults"),
    [
        (["127.0.0.1"], {"is_self_signed": True}),
        (["127.0.0.1"], {"is_expired": True}),
        (["127.0.0.2", "other.example"], {}),
    ],
    ids=["self-signed", "expired", "another host's"],
)
def test_a_bad_certificate_is_tls_failed(
    trusting: Sender, authority: Authority, hosts: list[str], faults: dict[str, bool]
) -> None:
    with RawDownstream(shakes_hands(authority.server(*hosts, **faults)), reads=False) as downstream:
        exchange = sent(trusting, f"https://127.0.0.1:{downstream.port}/", TLS)
    assert exchange.ending == failed_unsent("tls_failed")


def test_an_untrusted_authority_is_tls_failed(sender: Sender, authority: Authority) -> None:
    with RawDownstream(shakes_hands(authority.server("127.0.0.1")), reads=False) as downstream:
        exchange = sent(sender, f"https://127.0.0.1:{downstream.port}/", TLS)
    assert exchange.ending == failed_unsent("tls_failed")


@pytest.mark.parametrize(
    "behaviour",
    [
        says(),
        says_and_resets(),
        says(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        says(b"\x15\x03\x03\x00\x02\x02\x28"),
        says_and_stays(),
        says_and_stays(b"\x16\x03\x03\x00\x7a\x02"),
        trickles(b"\x16\x03\x03\x40\x00\x02", b"\x00", 0.01),
    ],
    ids=["closes", "resets", "speaks HTTP", "alerts", "hangs", "hangs in the middle", "trickles"],
)
def test_tls_that_fails_is_connect_failed(trusting: Sender, behaviour: Behaviour) -> None:
    started = monotonic()
    with RawDownstream(hears(behaviour), reads=False) as downstream:
        exchange = sent(trusting, f"https://127.0.0.1:{downstream.port}/", TLS, timeout=0.4)
    assert exchange.ending == failed_unsent("connect_failed")
    assert monotonic() - started < 5


def test_a_hanging_handshake_can_be_aborted(trusting: Sender) -> None:
    with RawDownstream(says_and_stays(), reads=False) as downstream, watching() as watch:
        wanted = call(url=f"https://127.0.0.1:{downstream.port}/", timeout=20.0)
        with watch.deadline(0.4) as deadline:
            started = monotonic()
            assert trusting.send(wanted, TLS, {}, deadline).ending == failed_unsent("connect_failed")
    assert monotonic() - started < 5


def test_a_failed_call_is_made_once(sender: Sender) -> None:
    with RawDownstream(says_and_resets()) as downstream:
        assert sent(sender, f"http://127.0.0.1:{downstream.port}/", method="GET").ending == failed("reset")
        assert downstream.connections == 1


def test_a_refused_response_leaves_no_socket_open(sender: Sender) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sent_to(sender, says(OK, b"Content-Length: 3, 4\r\n\r\nabcd"))
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []


NOW = [fault.behaviour for fault in FAULTS if fault.behaviour and not fault.is_https and fault.timeout == "5s"]


def test_no_failure_leaves_a_socket_to_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        before = sockets_open()
        for behaviour in NOW:
            sender = Sender(SystemClock(), no_token)
            sent_to(sender, behaviour)
            sender.close()
            assert sockets_open() <= before
    finally:
        gc.enable()


def sockets_open() -> set[str]:
    """The sockets of this process, by their inodes."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_lookup_without_a_descriptor_is_interrupted(number: int) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    sender = Sender(SystemClock(), no_token, resolve=fail)
    assert sent(sender, "http://name.example/").ending == failed_unsent("interrupted")
    sender.close()


STARVES = """
import os, resource, socket, sys
from traced_relay.tasks.call import Call, RetryPolicy
from traced_relay.runtime.clock import SystemClock
from traced_relay.downstream.connections import has_room
from traced_relay.downstream.rules import Downstream
from traced_relay.downstream.sender import Sender
from traced_relay.runtime.watchdog import Watchdog

def leave(count):
    held = []
    while True:
        try:
            held.append(os.dup(0))
        except OSError:
            break
    for number in held[:count]:
        os.close(number)
    return held[count:]

def resolve(host, port, **_):
    if host == "lookup.example":
        raise socket.gaierror(socket.EAI_AGAIN, "as it is said where no descriptor is left")
    return socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)

sender = Sender(SystemClock(), str, resolve=resolve)
rule = Downstream(name="any", url="http://*:*/", auth="none", allow_private=True)
hosts = ("name.example", "lookup.example")

def send(host):
    with Watchdog(SystemClock()).deadline(5.0) as deadline:
        call = Call(url=f"http://{host}:{sys.argv[1]}/", timeout=5.0, retry=RetryPolicy())
        ending = sender.send(call, rule, {}, deadline).ending
        return ending.status_code or f"{ending.reason}:{ending.was_sent}"

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for count in (0, 1, 2):
    held = leave(count)
    room, said = has_room(), [send(host) for host in hosts]
    for number in held:
        os.close(number)
    print(room, *said)
print(has_room(), *[send(host) for host in hosts])
"""


@pytest.mark.whole
def test_a_lack_of_descriptors_is_interrupted_and_leaks_none() -> None:
    with RawDownstream(says(OK, b"Content-Length: 0\r\n\r\n")) as downstream:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", STARVES, str(downstream.port)],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    ours = "interrupted:False"
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        f"False {ours} {ours}",
        f"False {ours} {ours}",
        f"False 200 {ours}",
        "True 200 dns_failed:False",
    ]
