"""`traced-relay verify-callback` as a real process."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from traced_relay.downstream import webhook_signature
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole

KEY, OTHER = b"k" * 32, b"o" * 32
ID = "5b487531bceaaa36f43ec81db3b338f9"
BODY = b'{"type": "task.succeeded"}\r\n\xff\x00'


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def signed(*, ago: float = 0, body: bytes = BODY) -> dict[str, str]:
    return webhook_signature.sign([KEY], ID, SystemClock().now() - ago, body)


def options(headers: dict[str, str]) -> list[str]:
    return [f"--header={name}: {value}" for name, value in headers.items()]


def verify(*arguments: str, body: bytes = BODY, known: str | None = secret(KEY)) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, "-m", "traced_relay", "verify-callback", *arguments],
        env=inherited | ({} if known is None else {"RELAY_CALLBACK_SECRET": known}),
        input=body,
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert secret(KEY)[6:] not in ran.stderr.decode()
    return ran.returncode, ran.stdout.decode(), ran.stderr.decode()


def test_body_is_verified_from_stdin_or_a_file(tmp_path: Path) -> None:
    status, stdout, stderr = verify(*options(signed()))
    assert (status, stderr) == (0, "")
    assert stdout.startswith(f"the signature is valid: {ID}, signed ")
    assert stdout.count("\n") == 1
    (tmp_path / "body").write_bytes(BODY)
    assert verify(str(tmp_path / "body"), *options(signed()), body=b"")[0] == 0


def test_headers_are_read_from_a_raw_file(tmp_path: Path) -> None:
    lines = ["POST /hook HTTP/1.1", "Host: a.example.com", *(f"{name.title()}: {v}" for name, v in signed().items())]
    (tmp_path / "headers").write_bytes("\r\n".join([*lines, "", ""]).encode() + b"webhook-id: \xff")
    assert verify(f"--headers={tmp_path / 'headers'}")[0] == 0
    assert verify(f"--headers={tmp_path / 'headers'}", "--header=webhook-id: other")[0] == 1


def test_one_of_several_secrets_is_enough() -> None:
    given = options(signed())
    assert verify(*given, known=f"{secret(OTHER)} {secret(KEY)}")[0] == 0
    assert verify(*given, f"--secret={secret(OTHER)}", f"--secret={secret(KEY)}", known=None)[0] == 0
    assert verify(*given, f"--secret={secret(OTHER)}")[0] == 1


def test_tolerance_accepts_an_older_callback() -> None:
    assert verify(*options(signed(ago=3600)), "--tolerance=2h")[1].endswith("ago\n")
    assert verify(*options(signed(ago=-60)))[1].endswith(" ahead of this clock\n")


@pytest.mark.parametrize(
    ("changes", "ago", "body", "why"),
    [
        ({}, 0, BODY + b"\n", "no signature matches: "),
        ({"webhook-id": "other"}, 0, BODY, "no signature matches: "),
        ({"webhook-signature": ""}, 0, BODY, "webhook-signature is missing"),
        ({"webhook-timestamp": "today"}, 0, BODY, "webhook-timestamp must be whole seconds since 1970"),
        ({}, 3600, BODY, "webhook-timestamp is 36"),
        ({}, -3600, BODY, "webhook-timestamp is 3"),
    ],
)
def test_invalid_callback_is_one_line_and_status_1(changes: dict[str, str], ago: float, body: bytes, why: str) -> None:
    status, stdout, stderr = verify(*options(signed(ago=ago) | changes), body=body)
    assert (status, stdout, stderr.count("\n")) == (1, "", 1)
    assert stderr.startswith(f"traced-relay: {why}")


@pytest.mark.parametrize(
    ("arguments", "known", "why"),
    [
        ([], secret(KEY), "headers are required"),
        (["--header=webhook-id: 1"], None, "Missing option '--secret'"),
        (["--header=webhook-id: 1"], f"{secret(KEY)}!", "must be whsec_ and the base64 of 24 to 64 bytes"),
        (["--header=webhook-id: 1"], "projects/p/secrets/s", "must be the secret's value"),
        (["--header=webhook-id"], secret(KEY), "must be 'name: value'"),
        (["--header=webhook-id: 1", "--tolerance=5"], secret(KEY), "must be a duration such as"),
        (["--headers=nowhere"], secret(KEY), "'nowhere' does not exist"),
        (["nowhere", "--header=webhook-id: 1"], secret(KEY), "'nowhere': No such file or directory"),
        (["/", "--header=webhook-id: 1"], secret(KEY), "Is a directory"),
    ],
)
def test_usage_error_is_one_line_and_status_2(arguments: list[str], known: str | None, why: str) -> None:
    status, stdout, stderr = verify(*arguments, known=known)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("traced-relay: ")
    assert why in stderr
