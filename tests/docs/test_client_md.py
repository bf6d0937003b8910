"""docs/client.md, by doing what it says."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.house import ROOT
from traced_relay import errors
from traced_relay.cli.main import main
from traced_relay.dev.environment import Dev

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
    with Dev(stream=io.StringIO()) as dev:
        yield {"http://localhost:8080": dev.url, "http://127.0.0.1:8090": dev.sample_url}


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
    assert lines[4].startswith("state  succeeded, 2 attempts in ")
    assert any(line.startswith("attempt 2 ") for line in lines)
    assert any(re.match(r"records: \d+, spans: \d+, both from ", line) for line in lines)
    assert '"state": "succeeded"' in lines[-1]


def test_the_commands_in_its_sentences_can_be_understood() -> None:
    commands = [shlex.split(line) for line in re.findall(r"`traced-relay ((?:tail|explain)[^`]*)`", TEXT)]
    assert len(commands) == 2
    for name, *arguments in commands:
        verb = main.commands[name]
        assert verb.make_context(name, arguments).params


def test_its_errors_are_there() -> None:
    named = re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)
    assert len(named) == 7
    assert [name for name in named if not issubclass(getattr(errors, name), errors.RelayError)] == []


def test_it_is_short_enough() -> None:
    assert len(TEXT.splitlines()) <= 80
