"""docs/callbacks.md, by doing what it says."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from standardwebhooks.webhooks import WebhookVerificationError

from support.house import ROOT
from traced_relay.config import relay_yaml
from traced_relay.downstream import webhook_signature
from traced_relay.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = (ROOT / "docs" / "callbacks.md").read_text()
BODY = b'{"type": "task.succeeded"}'
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
(SECRET,) = re.findall(r"whsec_[\w+/=]{32}", TEXT)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def signed(*, ago: float = 0) -> dict[str, str]:
    return webhook_signature.sign(
        webhook_signature.parse_secrets(f"{OTHER} {SECRET}"), "an-id", SystemClock().now() - ago, BODY
    )


@pytest.fixture
def programs(tmp_path: Path) -> Mapping[str, Any]:
    """What its programs define."""
    (tmp_path / "receiver.py").write_text("\n".join(blocks("python")))
    return runpy.run_path(str(tmp_path / "receiver.py"))


def test_its_ten_lines_know_a_callback_from_what_is_none(programs: Mapping[str, Any]) -> None:
    is_genuine = programs["is_genuine"]
    assert is_genuine(SECRET, signed(), BODY)
    assert is_genuine(OTHER, signed(), BODY)
    assert not is_genuine(SECRET, signed(), BODY + b" ")
    assert not is_genuine("whsec_" + "A" * 32, signed(), BODY)
    assert not is_genuine(SECRET, signed(ago=301), BODY)
    assert not is_genuine(SECRET, {}, BODY)
    assert not is_genuine(SECRET, signed() | {"webhook-timestamp": "now"}, BODY)
    assert not is_genuine(SECRET, signed() | {"webhook-signature": "é v1,"}, BODY)


def test_its_use_of_the_library_does_too(programs: Mapping[str, Any]) -> None:
    assert programs["receive"](SECRET, signed(), BODY) == {"type": "task.succeeded"}
    with pytest.raises(WebhookVerificationError):
        programs["receive"](SECRET, signed(), BODY + b" ")


@pytest.mark.whole
def test_its_command_verifies_one_that_was_kept(tmp_path: Path) -> None:
    (tmp_path / "headers.txt").write_text("".join(f"{name}: {value}\n" for name, value in signed().items()))
    (tmp_path / "body.json").write_bytes(BODY)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    (script,) = blocks("sh")
    ran = subprocess.run(
        ["bash", "-euc", script.replace("traced-relay", "python -m traced_relay")],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("the signature is valid: an-id, signed ")


def test_its_receivers_are_rules() -> None:
    (rules,) = blocks("yaml")
    assert len(relay_yaml.parse(yaml.safe_load(rules), "callbacks.md").callbacks) == 2
