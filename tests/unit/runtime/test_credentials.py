"""Why there is no ID token: google-auth in a process of its own, with what it finds there."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from threading import Event
from typing import TYPE_CHECKING, Any

import pytest
from google.auth.exceptions import RefreshError
from werkzeug.wrappers import Response

from traced_relay.runtime.google_credentials import why_none
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ASK = """
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.credentials import IdTokens
try:
    print(IdTokens().token("https://reports.example.com"))
except IdentityFailed as exc:
    print(exc)
"""
FLAVOR = {"Metadata-Flavor": "Google"}
PERSON = {"type": "authorized_user", "client_id": "c", "client_secret": "hunter2", "refresh_token": "hunter2"}
NOWHERE = (
    "no metadata server and no service account credentials in GOOGLE_APPLICATION_CREDENTIALS;"
    " user credentials cannot request an audience: impersonate a service account"
)
UNKNOWN = "the metadata server has no service account for this process (404)"


ASK_WHILE_ANOTHER_WAITS = """
import sys
from threading import Thread
from traced_relay.runtime.credentials import IdTokens
tokens = IdTokens()
first = tokens.token("https://quick.example.com")
Thread(target=tokens.token, args=("https://slow.example.com",), daemon=True).start()
sys.stdin.readline()
print(tokens.token("https://quick.example.com") == first)
"""


def environment(directory: Path, metadata: str) -> dict[str, str]:
    given = {"HOME": str(directory), "GCE_METADATA_HOST": metadata, "GCE_METADATA_IP": metadata, "PATH": ""}
    return given | {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def told(directory: Path, metadata: str = "127.0.0.1:1", **environ: str) -> str:
    given = environment(directory, metadata)
    ran = subprocess.run(
        [sys.executable, "-c", ASK], env=given | environ, capture_output=True, text=True, timeout=50, check=True
    )
    assert "hunter2" not in ran.stdout
    return ran.stdout.strip().removeprefix("no ID token for https://reports.example.com: ")


def id_token() -> str:
    """A token that google-auth takes for one: it reads the expiry alone."""
    parts = [{"alg": "none"}, {"exp": int(time.time()) + 3600}]
    return ".".join([base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts] + ["c2ln"])


def metadata_server(identity: Response, account: Response | None = None) -> Callable[[Arrived], Response]:
    known = {"email": "a@p.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}

    def answer(request: Arrived) -> Response:
        if "/identity" in request.path:
            return identity
        if "/service-accounts/" in request.path:
            return account or Response(json.dumps(known), headers=FLAVOR, content_type="application/json")
        return Response("ok", headers=FLAVOR)

    return answer


@pytest.mark.whole
@pytest.mark.parametrize(
    ("script", "why"),
    [
        (metadata_server(Response("none hunter2", 404, FLAVOR)), UNKNOWN),
        (metadata_server(Response(), Response("none hunter2", 404, FLAVOR)), UNKNOWN),
        (metadata_server(Response("no", 403, FLAVOR)), "the metadata server denies credentials to this process (403)"),
        (metadata_server(Response("hunter2", 200, FLAVOR)), "the credentials or Google's response cannot be parsed"),
    ],
    ids=["no identity", "no account", "forbidden", "no token"],
)
def test_a_metadata_server_without_credentials_is_reported(
    tmp_path: Path, script: Callable[[Arrived], Response], why: str
) -> None:
    with Downstream(*[script] * 20) as server:
        assert told(tmp_path, server.url.removeprefix("http://")) == why


@pytest.mark.whole
def test_credentials_without_a_token_are_reported(tmp_path: Path) -> None:
    def named(content: Any) -> str:
        file = tmp_path / "credentials.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return told(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(file))

    assert told(tmp_path) == NOWHERE
    assert named(PERSON) == NOWHERE
    absent = told(tmp_path, GOOGLE_APPLICATION_CREDENTIALS="/nowhere.json")
    assert absent == "the file in GOOGLE_APPLICATION_CREDENTIALS does not exist"
    broken = "the file in GOOGLE_APPLICATION_CREDENTIALS contains no service account credentials"
    assert named("{hunter2") == broken
    assert named({"type": "service_account", "client_email": "hunter2"}) == broken
    assert named("[]") == "the credentials or Google's response cannot be parsed"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            403,
            "no right to impersonate the service account (403): grant roles/iam.serviceAccountTokenCreator",
        ),
        (404, "the service account to impersonate does not exist (404)"),
        (503, "IAM refuses to impersonate the service account (503)"),
    ],
)
def test_a_failed_impersonation_is_reported(status: int, why: str) -> None:
    answer = {"error": {"code": status, "message": "Permission 'iam.serviceAccounts.getOpenIdToken' denied: hunter2"}}
    assert why_none(RefreshError(f"Error getting ID token: {answer}")) == why
    assert why_none(RefreshError("Unable to acquire impersonated credentials", json.dumps(answer))) == why


def test_expired_credentials_are_reported() -> None:
    expired = RefreshError("invalid_grant: Token has been expired or revoked.", {"error": "invalid_grant"})
    assert why_none(expired) == "the credentials expired or were revoked; run: gcloud auth application-default login"
    assert why_none(RefreshError("hunter2", {"x": "hunter2"})) == "Google's token service returned no token"
    assert why_none(KeyError("hunter2")) == "the credentials or Google's response cannot be parsed"


@pytest.mark.whole
def test_a_slow_audience_does_not_delay_a_cached_token(tmp_path: Path) -> None:
    asked, answered, identities = Event(), Event(), iter(["quick", "slow"])
    usual = metadata_server(Response(id_token(), headers=FLAVOR))

    def answer(request: Arrived) -> Response:
        if "/identity" in request.path and next(identities) == "slow":
            asked.set()
            answered.wait(30)
        return usual(request)

    with Downstream(*[answer] * 20) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", ASK_WHILE_ANOTHER_WAITS],
            env=environment(tmp_path, server.url.removeprefix("http://")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert asked.wait(30)
            output, _ = process.communicate("\n", timeout=30)
            answered.set()
    assert output == "True\n"
