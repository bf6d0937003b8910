"""docs/client.md, by doing what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from house import ROOT
from traced_relay import errors
from traced_relay.listener import Listener
from traced_relay.samples import sample_downstream
from traced_relay.testing import RunningRelay

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.whole

TEXT = (ROOT / "docs" / "client.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    """What its addresses are in this run."""
    sample = Listener(sample_downstream())
    sample.start()
    with RunningRelay() as relay:
        yield {"http://localhost:8080": relay.url, "http://127.0.0.1:43539": sample.url}
    sample.stop()


def run(command: list[str], text: str, addresses: dict[str, str]) -> str:
    for written, true in addresses.items():
        text = text.replace(written, true)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(
        [*command, text], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_its_program_runs(addresses: dict[str, str]) -> None:
    waited, *listed = run([sys.executable, "-c"], block("python"), addresses).splitlines()
    assert waited == "succeeded 2"
    assert [line.split()[1] for line in listed] == ["succeeded"]


def test_its_commands_run(addresses: dict[str, str]) -> None:
    relay = addresses["http://localhost:8080"]
    script = re.sub(r"traced-relay (\w+)", rf"python -m traced_relay \1 --relay {relay}", block("sh"))
    lines = run(["bash", "-euo", "pipefail", "-c"], script, addresses).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["task_id", "trace_id", "state"]
    assert '"state": "succeeded"' in lines[3]
    assert len(lines) == 4


def test_its_errors_are_there() -> None:
    named = re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)
    assert len(named) == 7
    assert [name for name in named if not issubclass(getattr(errors, name), errors.RelayError)] == []


def test_it_is_short_enough() -> None:
    assert len(TEXT.splitlines()) <= 60
