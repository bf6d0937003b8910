from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from google.auth.exceptions import DefaultCredentialsError
from google.auth.transport.requests import AuthorizedSession
from google.oauth2.credentials import Credentials
from werkzeug.wrappers import Response

from traced_relay.downstream.signing_secrets import FRESH_FOR, SigningSecrets
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.clock import ManualClock
from traced_relay.runtime.refreshing import RETRY_AFTER, RETRY_AFTER_NOTHING
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import requests

NAME = "projects/p/secrets/callbacks"
OLD_KEY, NEW_KEY = b"o" * 32, b"n" * 32


def text_of(*keys: bytes) -> str:
    return "\n".join(f"whsec_{base64.b64encode(key).decode()}" for key in keys)


def payload(content: bytes) -> Response:
    return Response(
        json.dumps({"name": f"{NAME}/versions/1", "payload": {"data": base64.b64encode(content).decode()}}),
        content_type="application/json",
    )


def holding(*keys: bytes) -> Callable[[Arrived], Response]:
    return lambda _: payload(text_of(*keys).encode() + b"\n")


def connect() -> requests.Session:
    make: Any = AuthorizedSession
    session: requests.Session = make(Credentials("the-token"))
    return session


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Google:
    """A Secret Manager that answers by its script, and what reads from it."""

    def __init__(self, clock: ManualClock, *script: int | Callable[[Arrived], Response]) -> None:
        self.server = Downstream(*script)
        self.secrets = SigningSecrets(clock, connect=connect, url=self.server.url)

    @property
    def asked(self) -> list[str]:
        return [request.path for request in self.server.arrived]

    def refusal(self, source: str = NAME) -> IdentityFailed:
        with pytest.raises(IdentityFailed) as refused:
            self.secrets.of(source)
        return refused.value


@pytest.fixture
def google(clock: ManualClock) -> Iterator[Callable[..., Google]]:
    with ExitStack() as running:

        def start(*script: int | Callable[[Arrived], Response]) -> Google:
            made = Google(clock, *script)
            running.enter_context(made.server)
            running.callback(made.secrets.close)
            return made

        yield start


def test_a_secret_given_as_text_is_taken_as_it_is(google: Callable[..., Google]) -> None:
    there = google()
    assert there.secrets.of(text_of(OLD_KEY, NEW_KEY)) == (OLD_KEY, NEW_KEY)
    assert there.asked == []


def test_a_named_secret_is_read_with_our_identity(google: Callable[..., Google]) -> None:
    there = google(holding(OLD_KEY, NEW_KEY))
    assert there.secrets.of(NAME) == (OLD_KEY, NEW_KEY)
    [request] = there.server.arrived
    assert (request.method, request.path) == ("GET", f"/v1/{NAME}/versions/latest:access")
    assert request.headers["authorization"] == "Bearer the-token"


def test_a_named_version_of_a_secret_is_read(google: Callable[..., Google]) -> None:
    there = google(holding(OLD_KEY))
    there.secrets.of(f"{NAME}/versions/7")
    assert there.asked == [f"/v1/{NAME}/versions/7:access"]


def test_a_secret_is_read_again_after_five_minutes(google: Callable[..., Google], clock: ManualClock) -> None:
    there = google(holding(OLD_KEY), holding(NEW_KEY))
    assert there.secrets.of(NAME) == (OLD_KEY,)
    clock.advance(FRESH_FOR - 1)
    assert (there.secrets.of(NAME), len(there.asked)) == ((OLD_KEY,), 1)
    clock.advance(1)
    assert (there.secrets.of(NAME), len(there.asked)) == ((NEW_KEY,), 2)


def test_old_keys_serve_while_secret_manager_fails(google: Callable[..., Google], clock: ManualClock) -> None:
    there = google(holding(OLD_KEY), 503, 429, holding(NEW_KEY))
    there.secrets.of(NAME)
    clock.advance(86_400)
    assert [there.secrets.of(NAME) for _ in range(5)] == [(OLD_KEY,)] * 5
    assert len(there.asked) == 2
    clock.advance(RETRY_AFTER)
    assert (there.secrets.of(NAME), len(there.asked)) == ((OLD_KEY,), 3)
    clock.advance(RETRY_AFTER)
    assert there.secrets.of(NAME) == (NEW_KEY,)


REFUSALS = {
    400: "/versions/latest is disabled or destroyed (Secret Manager responded 400)",
    403: "/versions/latest may not be read by the relay's account, which needs roles/secretmanager.secretAccessor on it"
    " (Secret Manager responded 403)",
    404: "/versions/latest does not exist (Secret Manager responded 404)",
    429: "/versions/latest cannot be read: the project's quota is used up (Secret Manager responded 429)",
    503: "/versions/latest cannot be read (Secret Manager responded 503)",
}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_keeps_its_reason_until_the_next_read(
    google: Callable[..., Google], clock: ManualClock, status: int
) -> None:
    there = google(status, holding(NEW_KEY))
    assert str(there.refusal()) == str(there.refusal()) == f"no signing secret: {NAME}{REFUSALS[status]}"
    assert len(there.asked) == 1
    clock.advance(RETRY_AFTER_NOTHING)
    assert there.secrets.of(NAME) == (NEW_KEY,)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_revoked_keys_sign_nothing(google: Callable[..., Google], clock: ManualClock, status: int) -> None:
    there = google(holding(OLD_KEY), status)
    there.secrets.of(NAME)
    clock.advance(86_400)
    assert str(there.refusal()) == f"no signing secret: {NAME}{REFUSALS[status]}"


@pytest.mark.parametrize(
    "content",
    [
        text_of(OLD_KEY).encode("utf-8-sig"),
        text_of(OLD_KEY).encode("utf-16"),
        f'"{text_of(OLD_KEY)}"\r\n'.encode(),
        f"v1,{text_of(OLD_KEY)} \n".encode(),
    ],
    ids=["bom", "utf-16", "quotes", "v1"],
)
def test_a_secret_is_read_as_editors_and_dashboards_write_it(google: Callable[..., Google], content: bytes) -> None:
    assert google(lambda _: payload(content)).secrets.of(NAME) == (OLD_KEY,)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it is empty"),
        (b"hunter2", "it does not start with whsec_"),
        (text_of(OLD_KEY).encode() + b" hunter2", "secret 2 does not start with whsec_"),
        (b"whsec_hunter2", "it is not base64 with its padding after whsec_"),
        (b"whsec_aHVudGVyMg==", "it has 7 bytes"),
        (OLD_KEY + b"\xff", "it is not text, in UTF-8 or UTF-16"),
    ],
    ids=range(6),
)
def test_a_wrong_content_is_named_by_its_fault(google: Callable[..., Google], content: bytes, fault: str) -> None:
    rule = "must be whsec_ and the base64 of 24 to 64 bytes, or several of these with spaces between"
    refused = google(lambda _: payload(content)).refusal()
    assert str(refused) == f"no signing secret: the content of {NAME} {rule}; {fault}"


def test_a_secret_without_keys_is_read_again_soon(google: Callable[..., Google], clock: ManualClock) -> None:
    there = google(404, holding(NEW_KEY))
    assert str(there.refusal()) == str(there.refusal())
    assert len(there.asked) == 1
    clock.advance(RETRY_AFTER_NOTHING)
    assert there.secrets.of(NAME) == (NEW_KEY,)


def test_an_unreachable_secret_manager_gives_no_secret(clock: ManualClock) -> None:
    secrets = SigningSecrets(clock, connect=connect, url="http://127.0.0.1:1")
    with pytest.raises(
        IdentityFailed, match=f"^no signing secret: {NAME} cannot be read: Secret Manager does not respond$"
    ):
        secrets.of(NAME)


def test_without_an_identity_there_is_no_secret(clock: ManualClock) -> None:
    def nobody() -> requests.Session:
        raise DefaultCredentialsError("none here")

    with pytest.raises(
        IdentityFailed, match=f"^no signing secret: {NAME} needs Google credentials, no metadata server"
    ):
        SigningSecrets(clock, connect=nobody).of(NAME)


@pytest.mark.parametrize(
    "answer",
    [
        payload(b"hunter2"),
        payload(b"whsec_hunter2"),
        payload(b"hunter2 " + text_of(OLD_KEY).encode()),
        payload(b"hunter2\xff"),
        payload(b""),
        Response('{"payload": {"data": "hunter2!"}}'),
        Response('{"payload": {"data": ["hunter2"]}}'),
        Response('{"payload": "hunter2"}'),
        Response('["hunter2"]'),
        Response("hunter2"),
        Response("hunter2", 302, {"Location": "http://127.0.0.1:1/hunter2"}),
        Response("hunter2", 500),
    ],
    ids=range(12),
)
def test_errors_and_logs_contain_no_secret(
    google: Callable[..., Google], answer: Response, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        refused = google(lambda _: answer).refusal()
    told = "".join(traceback.format_exception(refused)) + caplog.text
    assert str(refused).startswith("no signing secret: ")
    assert NAME in str(refused)
    for hidden in ("hunter2", base64.b64encode(b"hunter2").decode()[:8], text_of(OLD_KEY)):
        assert hidden not in told


def test_one_thread_refreshes_keys_while_others_use_the_old(google: Callable[..., Google], clock: ManualClock) -> None:
    may_answer, is_asked = Event(), Event()

    def slowly(_: Arrived) -> Response:
        is_asked.set()
        assert may_answer.wait(10)
        return payload(text_of(NEW_KEY).encode())

    there = google(holding(OLD_KEY), slowly)
    there.secrets.of(NAME)
    clock.advance(FRESH_FOR)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(there.secrets.of, NAME)
        assert is_asked.wait(10)
        assert there.secrets.of(NAME) == (OLD_KEY,)
        may_answer.set()
        assert reading.result(10) == (NEW_KEY,)
    assert len(there.asked) == 2


def test_concurrent_first_reads_share_one_request(google: Callable[..., Google]) -> None:
    there = google(holding(OLD_KEY))
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(there.secrets.of, [NAME] * 8)) == {(OLD_KEY,)}
    assert len(there.asked) == 1


READ = """
import sys
from traced_relay.runtime.clock import SystemClock
from traced_relay.downstream.signing_secrets import SigningSecrets
print(SigningSecrets(SystemClock(), url=sys.argv[1]).of(sys.argv[2]))
"""


def metadata_server(request: Arrived) -> Response:
    """As much of Google's metadata server as credentials ask for."""
    flavored = {"Metadata-Flavor": "Google"}
    if "/token" in request.path:
        return Response(
            json.dumps({"access_token": "from-metadata", "expires_in": 3600, "token_type": "Bearer"}),
            headers=flavored,
            content_type="application/json",
        )
    if "service-accounts" in request.path:
        account = {"email": "relay@p.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}
        return Response(json.dumps(account), headers=flavored, content_type="application/json")
    return Response("p", headers=flavored, content_type="text/plain")


@pytest.mark.whole
def test_the_identity_is_that_of_the_process(tmp_path: Path) -> None:
    with Downstream(*[metadata_server] * 20) as metadata, Downstream(holding(NEW_KEY)) as secret_manager:
        host = metadata.url.removeprefix("http://")
        given = {"HOME": str(tmp_path), "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "PATH": ""}
        given |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        ran = subprocess.run(
            [sys.executable, "-c", READ, secret_manager.url, NAME],
            env=given,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (ran.returncode, ran.stdout.strip()) == (0, str((NEW_KEY,))), ran.stderr
    assert secret_manager.arrived[0].headers["authorization"] == "Bearer from-metadata"
    assert any("scopes=https" in request.path and "cloud-platform" in request.path for request in metadata.arrived)
