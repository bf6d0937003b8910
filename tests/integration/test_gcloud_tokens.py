"""Every `gcloud auth print-identity-token` that we print, by the real gcloud, against the authenticator."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from google.auth import crypt, jwt
from werkzeug.datastructures import Headers
from werkzeug.wrappers import Response

from support.house import ROOT
from support.parts import require
from traced_relay.api.auth import GOOGLE_ISSUERS, Authenticator, CertificateCache
from traced_relay.config import relay_yaml
from traced_relay.emulator.id_tokens import Signer
from traced_relay.errors import NotAuthorized
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.testing import Arrived, Downstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.whole, pytest.mark.timeout(180)]

ACCOUNT, AUDIENCE = "oncall@my-project.iam.gserviceaccount.com", "https://relay.example.com"
SIGNER = Signer.generate()
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("*.sh"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py"))
STANDS_FOR = {"ACCOUNT": ACCOUNT, "EMAIL": ACCOUNT, "$(planned audience)": AUDIENCE, "AUDIENCE": AUDIENCE}


def printed() -> Iterator[tuple[str, list[str]]]:
    """Each such command in the docs, the scripts and the help texts that names the account to ask as."""
    for page in PAGES:
        text = re.sub(r'"\n\s+"', "", re.sub(r"\\+\n\s*", " ", page.read_text()))
        for found in re.findall(
            r"gcloud auth (print-identity-token (?:\s*--[a-z-]+(?:=(?:\$\([^)]*\)|[^\s)`]+))?)+)", text
        ):
            if "--impersonate" in found:
                for name, value in STANDS_FOR.items():
                    found = found.replace(f"={name}", f"={value}")
                yield page.name, shlex.split(found)


def iam(request: Arrived) -> Response:
    """As IAM's credentials API mints for a service account: the address is in a token only where it is asked for."""
    asked, email = json.loads(request.body), re.findall(r"serviceAccounts/([^:]+):", request.path)[0]
    if request.path.endswith(":generateAccessToken"):
        minted = {"accessToken": "an-access-token", "expireTime": "2099-01-01T00:00:00Z"}
    else:
        now = int(SystemClock().now())
        claims: dict[str, Any] = {"iss": GOOGLE_ISSUERS[0], "aud": asked["audience"], "sub": "1", "azp": "1"}
        claims |= {"email": email, "email_verified": True} if asked.get("includeEmail") else {}
        signer = crypt.RSASigner.from_string(SIGNER.pem, SIGNER.key_id)
        minted = {"token": jwt.encode(signer, claims | {"iat": now, "exp": now + 3600}).decode()}
    return Response(json.dumps(minted), content_type="application/json")


@pytest.fixture
def gcloud(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The real gcloud, logged in by an access token, with IAM on loopback."""
    program = require("gcloud")
    (tmp_path / "access").write_text("a-token")
    with Downstream(*[iam] * 20) as credentials:
        environ = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CLOUDSDK_CONFIG": str(tmp_path / ".config"),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(tmp_path / "access"),
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": f"{credentials.url}/",
        }

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [program, "auth", *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False
            )

        yield run


def admitted(token: str) -> str:
    rules = {"queues": [{"name": "relay"}], "worker": {"app_engine": "default"}, "audience": AUDIENCE}
    authenticator = Authenticator(
        relay_yaml.parse(rules | {"callers": [{"email": ACCOUNT, "role": "operator"}]}, "rules"),
        keys=CertificateCache(SIGNER.certificates, ManualClock()),
        issuers=GOOGLE_ISSUERS,
        trusts_app_engine=True,
        is_local=False,
        open_on_loopback=False,
        clock=SystemClock(),
    )
    return authenticator.authenticate_caller(Headers({"Authorization": f"Bearer {token}"})).name


def test_every_printed_command_asks_for_a_whole_token() -> None:
    found = list(printed())
    assert {"console.md", "deploy.sh", "options.py"} <= {page for page, _ in found}
    for page, (command, *flags) in found:
        named = dict(flag.partition("=")[::2] for flag in flags)
        wanted = {"--impersonate-service-account": ACCOUNT, "--audiences": AUDIENCE, "--include-email": ""}
        assert (command, named) == ("print-identity-token", wanted), page


def test_every_printed_command_yields_a_token_that_works(
    gcloud: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for page, words in printed():
        ran = gcloud(*words)
        assert ran.returncode == 0, (page, words, ran.stderr)
        assert admitted(ran.stdout.strip()) == ACCOUNT, page


def test_a_token_without_the_email_is_refused_with_the_cure(
    gcloud: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ran = gcloud("print-identity-token", f"--impersonate-service-account={ACCOUNT}", f"--audiences={AUDIENCE}")
    with pytest.raises(NotAuthorized, match="--include-email") as refused:
        admitted(ran.stdout.strip())
    assert refused.value.reason == "no_email"


def test_gcloud_names_no_audience_for_a_person(gcloud: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    ran = gcloud("print-identity-token", f"--audiences={AUDIENCE}")
    assert "Invalid account type for `--audiences`" in ran.stderr
