"""The laws of the house: who may import whom, what stands in one place only, what stands nowhere."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from support.house import ROOT, modules, names_in, places, project_files, python_files, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BANNED_NAMES = re.compile(r"(base|common|constants?|core|handlers?|helpers?|managers?|misc|models?|types|utils?)")
LONGEST_CLAIM = 60  # characters of a test's name
MOST_LINES = 400

EVENTS = {
    *("task.enqueued", "attempt.started", "attempt.heartbeat", "attempt.interrupted", "attempt.finished"),
    *("task.finished", "task.cancelled", "task.redriven", "dispatch.rejected", "enqueue.rejected", "downstream.denied"),
    *("dispatch.deferred", "relay.started", "relay.stopping", "relay.swept", "telemetry.dropped"),
}


@pytest.mark.parametrize(
    ("written", "where"),
    [
        (r"time\.(sleep|time|time_ns)", {"runtime/clock.py"}),
        (
            r"os\.(environ|environb|getenv|putenv)",
            {
                "config/on_google.py",
                "config/settings.py",
                "tracing/otel_yaml.py",
                "tracing/instrumentation.py",
                "tracing/otel_environment.py",
            },
        ),
    ],
    ids=["time", "environment"],
)
def test_the_world_is_asked_in_one_place(written: str, where: set[str]) -> None:
    asking = set()
    for module in modules().values():
        for node in ast.walk(module.tree):
            is_import = isinstance(node, ast.ImportFrom) and node.module in ("os", "time")
            asked = [f"{node.module}.{alias.name}" for alias in node.names] if is_import else []
            asked += [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            if any(re.fullmatch(written, text) for text in asked):
                asking.add(module.path.relative_to(ROOT / "src/traced_relay").as_posix())
    assert asking == where


def test_there_is_one_colour_of_function() -> None:
    coloured = (ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor)
    assert [m.name for m in modules().values() for node in ast.walk(m.tree) if isinstance(node, coloured)] == []


def is_test(path: Path) -> bool:
    return path.name.startswith("test_")


def test_files_are_named_after_what_is_in_them() -> None:
    named = [path for path in python_files("src", "tests", "bench") if BANNED_NAMES.fullmatch(path.stem)]
    assert [*map(places, named)] == []


def test_files_can_be_read_at_one_sitting_and_say_what_is_in_them() -> None:
    files = [path for path in python_files("src", "tests", "bench") if not is_test(path)]
    assert [places(path) for path in files if text_of(path).count("\n") > MOST_LINES] == []
    assert [places(path) for path in files if not re.match(r'"""\s*\S', text_of(path))] == []


def test_tests_fake_nothing_and_never_sleep() -> None:
    fakes = {"AsyncMock", "MagicMock", "Mock", "mock", "mocker", "monkeypatch", "sleep"}
    suspects = [path for path in python_files("tests") if any(fake in text_of(path) for fake in fakes)]
    faking = {places(path): sorted(fakes & names_in(path)) for path in suspects}
    assert {path: names for path, names in faking.items() if names} == {}


def test_tests_are_sentences() -> None:
    texts = [text_of(path) for path in python_files("tests") if is_test(path)]
    tests = [re.findall(r"^ *def (test_\w+)\(", text, re.MULTILINE) for text in texts]
    assert [name for names in tests for name in names if name.count("_") < 3] == []
    assert [name for names in tests for name in names if len(name.removeprefix("test_")) > LONGEST_CLAIM] == []
    documented = r'^ *def (test_\w+)\((?:[^()]|\([^()]*\))*\)[^:]*:\n +[rf]?"'
    assert [name for text in texts for name in re.findall(documented, text, re.MULTILINE)] == []
    assert re.findall(documented, 'def test_x(a: b = c()) -> None:\n    """y"""', re.MULTILINE) == ["test_x"]


@pytest.mark.parametrize(
    "unwanted",
    [
        pytest.param(r"\b(TODO|FIXME|XXX|HACK)\b", id="leftovers"),
        pytest.param(r"BEGIN [A-Z ]*PRIVATE KEY-", id="keys"),
        pytest.param(r"\bya29\.|\bAIza[\w-]{30}|\"private_key(_id)?\"\s*:", id="credentials"),
        # deploy.sh has one for a moment: what App Engine's cron has, no command of gcloud lists.
        pytest.param(r"service-accounts/\S*/token|print-access-token(?!.*# to see the cron jobs,)", id="access tokens"),
        pytest.param(r"pypi\.org|pythonhosted\.org|registry\.npmjs|npm\.pkg|index-url *[=:]", id="registries"),
        pytest.param(r"(?<![\w.}/-])/(?:work|root|home)/", id="machine paths"),
    ],
)
def test_no_file_has(unwanted: str) -> None:
    found = [
        f"{places(path)}:{number}: {line.strip()[:100]}"
        for path in project_files()
        if path.name != "test_house.py" and path.suffix != ".png"
        if re.search(unwanted, text_of(path))
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if re.search(unwanted, line)
    ]
    assert found == []


VARIABLE = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|PORT"


def variables_read() -> set[str]:
    constants = {node.value for node in ast.walk(modules()["config.settings"].tree) if isinstance(node, ast.Constant)}
    return {text for text in constants if type(text) is str and re.fullmatch(VARIABLE, text)}


def test_the_readme_tells_every_variable_that_is_read_and_no_other() -> None:
    section = (ROOT / "README.md").read_text().partition("## Environment")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    told = {name for row in rows for name in re.findall(f"`({VARIABLE})`", row)}
    assert told == variables_read()
    assert len([name for name in told if name.startswith("RELAY_")]) <= 15


def test_app_yaml_sets_only_variables_that_the_relay_reads() -> None:
    names = set(yaml.safe_load((ROOT / "app.yaml").read_text())["env_variables"])
    assert {"RELAY_CONFIG", "RELAY_LEDGER"} <= names <= variables_read()
    assert [name for name in names if name == "PORT" or re.match(r"GAE_|GOOGLE_|K_|.*_EMULATOR_", name)] == []


def logged_events() -> Iterator[str]:
    """The literal event names in calls that write records."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("log.write", "LogEvent")):
                event = node.args[0]
                if isinstance(event, ast.Constant):
                    yield event.value


def test_every_event_is_one_of_the_contract_and_in_its_schema() -> None:
    schema = json.loads((ROOT / "schema" / "log-record.schema.json").read_text())
    assert set(schema["then"]["properties"]["event"]["enum"]) == EVENTS
    assert {"task.finished", "attempt.started", "relay.started", "enqueue.rejected"} <= set(logged_events()) <= EVENTS
