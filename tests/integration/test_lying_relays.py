"""Whatever answers in a relay's place, there is one clear error: for programs, and for people at a terminal."""

from __future__ import annotations

import gzip
import json
import socket
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from werkzeug.wrappers import Response

from support.relay_stand_in import RelayStandIn, answer, document
from traced_relay.cli.main import main
from traced_relay.client import response_shapes
from traced_relay.client.client import Client
from traced_relay.errors import NotAuthorized, NotEnded, NotFound, Unavailable, UnexpectedResponse
from traced_relay.runtime.bounded_fetch import LARGEST
from traced_relay.runtime.clock import SystemClock
from traced_relay.tasks.api_types import Receipt, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.whole

TASK = f"{0:032x}"
RECEIPT = dict.fromkeys(("task_id", "task_name", "queue", "state", "trace_id"), "x") | {
    "task_id": "0" * 32,
    "schedule_time": "2026-11-21T18:00:00Z",
    "links": {"status": "http://x", "trace": "http://x", "logs": "http://x"},
}
ESCAPE = "\x1b[2J\r\n\x9b1m"
VERBS: dict[str, Callable[[Client], object]] = {
    "enqueue": lambda client: client.enqueue("http://x.example"),
    "enqueue_many": lambda client: client.enqueue_many([{"url": "http://x.example"}]),
    "status": lambda client: client.status(TASK),
    "list": lambda client: list(client.list()),
    "queues": lambda client: client.queues(),
    "cancel": lambda client: client.cancel(TASK),
    "wait": lambda client: client.wait(TASK, patience=5),
}
LIES = ['{"task_id":"a"}', '{"tasks":[null]}', '{"tasks":5,"queues":5}', "[" * 100_000, '{"a":' * 100_000, "null", "5"]


@pytest.fixture
def lying() -> Iterator[RelayStandIn]:
    with RelayStandIn([document()]) as relay:
        yield relay


def run(relay: RelayStandIn, *arguments: str) -> Result:
    ran = CliRunner().invoke(main, [*arguments, "--relay", relay.url])
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exc_info
    return ran


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_a_lie_is_an_unexpected_answer(lying: RelayStandIn, verb: str, lie: str) -> None:
    lying.instead = lambda: Response(lie, content_type="application/json")
    with pytest.raises(UnexpectedResponse, match="answered 200, not as a relay does"):
        VERBS[verb](Client(lying.url))


@pytest.mark.parametrize("part", ["itself", "attempts", "response", "callback", "links"])
def test_no_type_of_any_field_brings_a_command_down(lying: RelayStandIn, part: str) -> None:
    for name in list(_part(_whole(), part)):
        for wrong in (None, -5, 10**30, "", "\x1b", "\ud800", "http://[", [], {}, True):
            changed = _whole()
            _part(changed, part)[name] = wrong
            lying.instead = lambda told=changed: answer(told)
            for command in ("status", "explain", "cancel"):
                assert run(lying, command, TASK).exit_code in (0, 1)


def _whole() -> dict[str, Any]:
    return document(response={"status_code": 200, "headers": {"a": "b"}, "body": "ok", "truncated": False})


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    parts = {"itself": document, "attempts": document["attempts"][0]}
    return parts.get(name) or document[name]


@pytest.mark.parametrize("field", ["attempt", "time", "timing", "round", "event"])
def test_no_record_brings_explain_down(lying: RelayStandIn, tmp_path: Path, field: str) -> None:
    record = {"event": "attempt.finished", "task_id": TASK, "attempt": 1, "time": document()["created_at"]}
    for wrong in (None, 5, "x", [], {}, {"token_ms": "x"}, 1e308):
        file = tmp_path / "records"
        file.write_text(json.dumps(record | {"message": "m", "severity": "INFO", field: wrong}))
        ran = run(lying, "explain", TASK, "--records", str(file))
        assert (ran.exit_code, len(ran.stderr.splitlines())) in ((0, 0), (1, 1))


def test_what_the_real_documents_are_fits() -> None:
    assert response_shapes.fits(document(), Status)
    assert response_shapes.fits(RECEIPT, Receipt)


def test_an_answer_without_end_is_cut_off(lying: RelayStandIn) -> None:
    sent: list[int] = []

    def without_end() -> Response:
        def parts() -> Iterator[bytes]:
            while True:
                sent.append(100_000)
                yield b" " * 100_000

        return Response(parts(), content_type="application/json")

    lying.instead = without_end
    with pytest.raises(UnexpectedResponse, match=f"over {LARGEST} bytes"):
        Client(lying.url).status(TASK)
    assert sum(sent) < 4 * LARGEST


def test_the_largest_page_that_a_relay_gives_is_taken(lying: RelayStandIn) -> None:
    labels = {f"{number:02}" + "\U0001f600" * 61: "\U0001f600" * 256 for number in range(16)}
    page = {"tasks": [document(number, url="http://x/" + "x" * 8183, labels=labels) for number in range(200)]}
    lying.instead = lambda: answer(page)
    assert len(list(Client(lying.url).list())) == 200


def test_a_small_answer_is_not_unpacked_into_a_large_one(lying: RelayStandIn) -> None:
    bomb = gzip.compress(b" " * 20_000_000)
    lying.instead = lambda: Response(bomb, headers={"Content-Encoding": "gzip"}, content_type="application/json")
    with pytest.raises(UnexpectedResponse, match="with an unrequested content encoding"):
        Client(lying.url).status(TASK)


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b""]
)
def test_an_answer_that_trickles_is_not_waited_for(beginning: bytes) -> None:
    ended = Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(beginning)
                while not ended.wait(0.05):
                    connection.sendall(b" ")

        thread = Thread(target=trickle)
        thread.start()
        clock = SystemClock()
        started = clock.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.5, tries=1).status(TASK)
        assert clock.monotonic() - started < 5
        ended.set()
        thread.join(5)


@pytest.mark.parametrize("token", [{"a": 1}, "", 5, [], "again"])
def test_a_list_whose_next_page_is_no_other_ends(lying: RelayStandIn, token: Any) -> None:
    lying.instead = lambda: answer({"tasks": [], "next_page_token": token})
    with pytest.raises(UnexpectedResponse, match="next_page_token must be null or a new token"):
        list(Client(lying.url).list())


def test_nothing_that_a_relay_says_moves_the_cursor(lying: RelayStandIn) -> None:
    names = ("task_id", "state", "queue", "method", "url", "trace_id", "reason", "blame")
    hostile = document() | dict.fromkeys(names, ESCAPE) | {"labels": {ESCAPE: ESCAPE}}
    hostile["links"] = dict.fromkeys(hostile["links"], f"https://x/{ESCAPE}")
    hostile["callback"] |= {"state": ESCAPE}
    told = {
        "status": answer(hostile),
        "explain": answer(hostile),
        "cancel": answer(hostile),
        "list": answer({"tasks": [hostile]}),
        "enqueue": answer(RECEIPT | dict.fromkeys(("task_id", "trace_id"), ESCAPE)),
    }
    refusal = answer({"status": 422, "detail": ESCAPE + "\ud800"}, 422)
    for command, said in told.items():
        argument = () if command == "list" else ("http://x.example" if command == "enqueue" else TASK,)
        for instead in (said, refusal):
            lying.instead = lambda instead=instead: instead
            ran = run(lying, command, *argument)
            assert [line for line in ran.output.split("\n") if not line.isprintable()] == []
            assert ran.exit_code == (0 if instead is said else 1), (command, ran.output)
    assert ran.stderr.count("\n") == 1


def test_a_task_is_waited_for_through_a_restart_of_the_relay() -> None:
    task, troubles, relays = document(), [], [RelayStandIn([document(state="running")])]
    port = int(relays[0].url.rpartition(":")[2])

    def start_again(trouble: str) -> None:
        troubles.append(trouble)
        relays.append(RelayStandIn([task], port=port).__enter__())

    relays[0].__enter__()
    states = []
    for seen in Client(relays[0].url, timeout=5).follow(task["task_id"], patience=30, trouble=start_again):
        states.append(seen["state"])
        relays[0].stop()
    relays[1].stop()
    assert states == ["running", "failed"]
    assert troubles == [f"the relay at {relays[0].url} cannot be reached"]


def test_a_relay_that_stays_away_is_waited_for_as_long_as_was_said() -> None:
    nobody = Client("http://127.0.0.1:9")
    with pytest.raises(NotEnded, match=r"not yet known after 0\.3 s; the relay is unreachable"):
        nobody.wait(TASK, patience=0.3)
    with pytest.raises(Unavailable):
        nobody.wait(TASK)


def test_the_command_asks_on_and_says_so_once(lying: RelayStandIn) -> None:
    away, front_end = answer({"status": 503, "detail": "starting"}, 503), Response("<h1>Bad Gateway</h1>", 502)
    done = document(state="succeeded", reason=None, blame=None)
    answers = iter([answer(RECEIPT), away, front_end, away, answer(done)])
    lying.instead = lambda: next(answers)
    ran = run(lying, "enqueue", "http://x.example", "--wait")
    assert ran.exit_code == 0
    assert ran.stderr.count("the relay cannot be reached; retrying") == 1


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (401, NotAuthorized)])
def test_a_relay_that_says_no_ends_the_wait(lying: RelayStandIn, status: int, error: type[Exception]) -> None:
    refused = json.dumps({"status": status, "detail": "no"})
    lying.instead = lambda: Response(refused, status, content_type="application/json")
    with pytest.raises(error, match="no"):
        Client(lying.url).wait(TASK, patience=30)


def test_many_broken_rules_are_no_trouble(lying: RelayStandIn) -> None:
    errors = [{"field": "url", "message": "m"}] * 5000
    lying.instead = lambda: answer({"status": 422, "detail": "no", "errors": errors}, 422)
    assert run(lying, "status", TASK).exit_code == 1
