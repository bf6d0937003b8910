"""The README, by doing what it says: every command and every program in it runs, with ports that are free."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING

import pytest
import yaml

from support.house import ROOT
from support.parts import require
from traced_relay.config import relay_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.whole

MOST_LINES = 150
RUN = ("sh", "console", "python")
SERVERS = re.compile(r"^(?:\.venv/bin/)?traced-relay (dev|queue --queue .*)$", re.MULTILINE)
# What a value is in the README, and what is true in this run: same form, another value.
PASSING = [
    (r"[0-9a-f]{32}", "ID"),
    (r"localhost:\d+|127\.0\.0\.1:\d+", "ADDRESS"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
]
PRELUDE = f"""
set -euo pipefail
export PATH="{Path(sys.executable).parent}:$PATH"
make() {{ command make -C "{ROOT}" -o .venv/.ready -o .venv/.ready-dev "$@"; }}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the number of its first line, its language, and what is in it."""

    line: int
    language: str
    text: str

    @property
    def is_server(self) -> bool:
        return self.language in RUN and SERVERS.search(self.text) is not None


def blocks() -> list[Block]:
    readme = (ROOT / "README.md").read_text()
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return [Block(readme.count("\n", 0, fence.start()) + 2, fence[1], fence[2]) for fence in fences]


def told(language: str) -> list[pytest.param]:
    found = [block for block in blocks() if block.language == language and not block.is_server]
    return [pytest.param(block, id=f"line{block.line}") for block in found]


class Server:
    """A block that keeps running: on free ports, until the README has been read."""

    def __init__(self, block: Block, directory: Path) -> None:
        (command,) = block.text.splitlines()
        ports = "--port=0 --tasks-port=0" if " dev" in command else "--port=0 --rest-port=0"
        script = f"{PRELUDE}exec {command.removeprefix('.venv/bin/')} {ports}"
        self.said = ""
        self._changed = Condition()
        self._process = subprocess.Popen(
            ["bash", "-c", script], cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                with self._changed:
                    self.said += line
                    self._changed.notify_all()

    def address(self, pattern: str) -> str:
        with self._changed:
            found = self._changed.wait_for(lambda: re.search(pattern, self.said), 20)
        assert found, self.said
        return found[1]

    def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(10)
        self._reader.join(10)
        return status


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the README's addresses are in this run; whatever it starts is running."""
    directory = tmp_path_factory.mktemp("servers")
    dev, queue = [Server(block, directory) for block in blocks() if block.is_server]
    yield {
        "localhost:8080": dev.address(r"relay +http://(\S+) "),
        "127.0.0.1:8090": dev.address(r"downstream http://(\S+) "),
        "127.0.0.1:8123": queue.address(r"gRPC on (\S+), "),
        "127.0.0.1:8124": queue.address(r"REST on http://(\S+), "),
        "127.0.0.1:9000": "127.0.0.1:9",
    }
    assert [dev.end(), queue.end()] == [0, 0]


def run(command: list[str], text: str, addresses: dict[str, str], directory: Path) -> str:
    for written, true in addresses.items():
        text = text.replace(written, true)
    environ = os.environ | {"CLOUDSDK_CONFIG": str(directory), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    ran = subprocess.run(
        [*command, text], cwd=directory, env=environ, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def bash(text: str, addresses: dict[str, str], directory: Path) -> str:
    for program in ("curl", "gcloud", "make"):
        if re.search(rf"^{program} ", text, re.MULTILINE):
            require(program)
    return run(["bash", "-c"], PRELUDE + text, addresses, directory)


def form_of(output: str) -> str:
    for value, form in PASSING:
        output = re.sub(value, form, output)
    return output


@pytest.mark.parametrize("block", told("sh"))
def test_its_commands_run(block: Block, addresses: dict[str, str], tmp_path: Path) -> None:
    bash(block.text, addresses, tmp_path)


@pytest.mark.parametrize("block", told("python"))
def test_its_programs_run(block: Block, addresses: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, "-c"], block.text, addresses, tmp_path)


@pytest.mark.parametrize("block", told("console"))
def test_its_answers_are_what_is_answered(block: Block, addresses: dict[str, str], tmp_path: Path) -> None:
    for command, answer in re.findall(r"^\$ (.*\n)((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
        assert form_of(bash(command, addresses, tmp_path)) == form_of(answer)


@pytest.mark.parametrize("block", told("yaml"))
def test_its_file_of_rules_is_one(block: Block) -> None:
    assert relay_yaml.parse(yaml.safe_load(block.text), "README.md").queues


@pytest.mark.parametrize("block", told("text"))
def test_its_waterfall_is_one_of_the_demo(block: Block, tmp_path: Path) -> None:
    def labels(text: str) -> list[str]:
        return [line[:14].strip().rstrip("0123456789. ms") for line in text.splitlines() if line[:14].strip()]

    shown, printed = labels(block.text), labels(bash("traced-relay demo", {}, tmp_path))
    assert any(printed[start : start + len(shown)] == shown for start in range(len(printed)))


def test_it_is_short_and_nothing_in_it_is_left_out() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES
    assert {block.language for block in blocks()} == {*RUN, "text", "yaml"}
    assert sum(block.is_server for block in blocks()) == 2


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
