"""The laws of the house: who may import whom, what stands in one place only, what stands nowhere."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from house import ROOT, cycle_in, modules, names_in, places, project_files, python_files, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# From the ground up: a layer imports those before it. Every module has its place; a new one gets it here.
LAYERS = {
    "values": """
        . clock errors durations strict_json json_values reasons trace_ref span_tree states calls rows agenda
        ledger_place yaml_file api_words
    """,
    "rules": """
        header_policy border url_paths downstreams policy dispatch retry machine ledger callbacks documents problems
        records refusals record_text task_text queue_log log_input log_entries log_filters bars marks gaps lengths
        listing
        timeline waterfall answer_shapes api_schemas openapi addresses arriving asked_host service_links stored_rows
        webhooks id_token google_credentials
    """,
    "edges": """
        answers carrier cloud_logging cloud_tasks dev_console egress firestore_ledger firestore_queries
        firestore_requests firestore_workers gate google_apis identity journal sqlite_ledger listener logs outlet
        otel_environment private_file reception rhythm sender signing stop_signal tracing watch whole_answer
    """,
    "flows": "client enqueue evidence following pulse queues readiness relay running steering steps sweeper telemetry",
    "shells": """
        __main__ agreement app app_yaml assembly captured check cli cloud_check cloud_looks cloud_plan commands console
        cron_yaml demo deployment dev dev_rules differences doors explain flags front placeholders provision relay_file
        samples serve settings tail testing uploads localqueue
    """,
}
ROOMS = {
    "values": "errors messages attempts backoff changes loopback",
    "rules": """
        names headers rates paging tombstones configuration validation tasks queues engine calls
        http_rules json_forms statistics status targets tokens
    """,
    "edges": "connections exchange store",
    "flows": "dispatcher service",
    "shells": ". grpc_server rest_server command",
}
ORDER = list(LAYERS)
THAT_MEET = {
    ("firestore_ledger", "firestore_requests"),  # the store, as it may be asked
    *(("firestore_ledger", "firestore_queries"), ("firestore_workers", "firestore_queries")),  # and what for
    ("firestore_ledger", "firestore_workers"),  # a part of it
    ("tracing", "carrier"),  # what of it clients need
    ("tracing.propagation", "carrier"),
    ("dev_console", "whole_answer"),  # how it asks
    ("logs", "outlet"),  # where its lines go
    ("sqlite_ledger", "private_file"),  # what it is kept in
    ("sender", "egress"),  # its way out
    ("egress", "answers"),  # what comes back on it
    ("relay", "running"),  # the calls that it has out
    ("relay", "steps"),  # what all do who decide about a row
    ("steering", "steps"),
    ("sweeper", "steps"),
    ("relay", "pulse"),  # for how long nobody else judges what it holds
}
QUEUE_MAY_IMPORT = {"agenda", "clock", "errors", "listener", "private_file", "stop_signal", "watch"}
MAY_IMPORT_QUEUE = {"cli", "dev", "demo", "serve", "testing"}

# Values and rules have no business with any of these; their world comes in as arguments.
WORLD = {
    *("asyncio", "flask", "http.client", "logging", "os", "queue", "random", "requests", "secrets", "select", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "threading", "time", "urllib3"),
}
# What is known in few places, so that it could be changed there.
KNOWN_TO = {
    "click": {"cli", "commands", "explain", "flags", "tail"},
    "flask": {"app", "assembly", "console", "console.nearby", "console.protection", "samples"},
    "google.cloud.firestore": {f"firestore_{part}" for part in ("ledger", "queries", "requests", "workers")},
    "grpc": {"cloud_tasks", "firestore_requests", "tracing.cloud_trace"},
    "gunicorn": {"front", "reception", "serve"},
    "opentelemetry.configuration": {"tracing.otel_file"},
    "sqlite3": {"private_file", "sqlite_ledger"},
    "urllib3": {"egress", "sender", "whole_answer"},
    "yaml": {"yaml_file"},
}
BANNED_NAMES = re.compile(r"(base|common|constants?|core|handlers?|helpers?|managers?|misc|models?|types|utils?)")
MOST_LINES = 400

EVENTS = {
    *("task.enqueued", "attempt.started", "attempt.heartbeat", "attempt.interrupted", "attempt.finished"),
    *("task.finished", "task.cancelled", "task.redriven", "dispatch.rejected", "enqueue.rejected", "downstream.denied"),
    *("dispatch.deferred", "relay.started", "relay.stopping", "relay.swept", "telemetry.dropped"),
}


def layer_of(name: str) -> int:
    """The place of a module from the ground up; a room of `tracing` is where `tracing` is."""
    inside_queue = name.startswith("localqueue.")
    table = ROOMS if name == "localqueue" or inside_queue else LAYERS
    known = name.removeprefix("localqueue").lstrip(".") if table is ROOMS else name.split(".")[0]
    found = [ORDER.index(layer) for layer, names in table.items() if (known or ".") in names.split()]
    assert len(found) == 1, f"{name}: give it one place in the layers of tests/test_house.py"
    return found[0]


def own_imports() -> Iterator[tuple[str, str]]:
    for name, module in modules().items():
        for imported in sorted(module.imports & modules().keys()):
            yield name, imported


def is_in_queue(name: str) -> bool:
    return name.split(".")[0] == "localqueue"


def test_every_module_has_its_place_and_every_place_its_module() -> None:
    tops = {name.split(".")[0] for name in modules()}
    rooms = {name.removeprefix("localqueue").lstrip(".") for name in modules() if is_in_queue(name)}
    for table, there in ((LAYERS, tops), (ROOMS, rooms)):
        listed = [name for names in table.values() for name in names.split()]
        assert (sorted(there - set(listed) - {""}), sorted(set(listed) - there - {"."})) == ([], [])
        assert len(set(listed)) == len(listed)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imported in own_imports()
        if is_in_queue(name) == is_in_queue(imported) and layer_of(name) < layer_of(imported)
    ]
    assert wrong == []


def test_edges_and_flows_do_not_know_their_like() -> None:
    apart = {ORDER.index("edges"), ORDER.index("flows")}
    met = [
        (name, imported)
        for name, imported in own_imports()
        if layer_of(name) == layer_of(imported) in apart
        and is_in_queue(name) == is_in_queue(imported)
        and name.split(".")[0] != imported.split(".")[0]
    ]
    assert sorted(met) == sorted(THAT_MEET)


def test_nothing_goes_round() -> None:
    assert cycle_in({name: module.imports & modules().keys() for name, module in modules().items()}) == []


def test_a_cycle_would_be_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_embedded_queue_stands_alone() -> None:
    out = {imported for name, imported in own_imports() if is_in_queue(name) and not is_in_queue(imported)}
    into = {name for name, imported in own_imports() if is_in_queue(imported) and not is_in_queue(name)}
    assert out <= QUEUE_MAY_IMPORT
    assert into <= MAY_IMPORT_QUEUE


def test_values_and_rules_know_nothing_of_the_world() -> None:
    pure = [m for name, m in modules().items() if layer_of(name) <= ORDER.index("rules") and name != "clock"]
    known = [f"{m.name} imports {foreign}" for m in pure for foreign in sorted(m.imports & WORLD)]
    assert len(pure) > 30
    assert known == []


@pytest.mark.parametrize("technology", KNOWN_TO)
def test_a_technology_is_known_in_few_places(technology: str) -> None:
    using = {
        name
        for name, module in modules().items()
        if not is_in_queue(name) and any(i == technology or i.startswith(f"{technology}.") for i in module.imports)
    }
    assert using == KNOWN_TO[technology]


@pytest.mark.parametrize(
    ("written", "where"),
    [
        (r"time\.(sleep|time|time_ns)", {"clock.py"}),
        (
            r"os\.(environ|environb|getenv|putenv)",
            {"check.py", "otel_environment.py", "settings.py", "tracing/instrumentation.py"},
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
    constants = {node.value for node in ast.walk(modules()["settings"].tree) if isinstance(node, ast.Constant)}
    return {text for text in constants if type(text) is str and re.fullmatch(VARIABLE, text)}


def test_the_readme_tells_every_variable_that_is_read_and_no_other() -> None:
    section = (ROOT / "README.md").read_text().partition("## Environment")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|([^|]*)\|", section, re.MULTILINE)
    told = {name for row in rows for name in re.findall(f"`({VARIABLE})`", row)}
    assert told == variables_read()
    assert len([name for name in told if name.startswith("RELAY_")]) <= 15


def test_app_yaml_sets_no_variable_that_is_not_read_or_that_app_engine_sets() -> None:
    names = set(yaml.safe_load((ROOT / "app.yaml").read_text())["env_variables"])
    assert {"RELAY_CONFIG", "RELAY_LEDGER"} <= names <= variables_read()
    assert [name for name in names if name == "PORT" or re.match(r"GAE_|GOOGLE_|K_|.*_EMULATOR_", name)] == []


def said_events() -> Iterator[str]:
    """The first argument of whatever says a record, where it is written out."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("say", "Said"):
                event = node.args[0]
                if isinstance(event, ast.Constant):
                    yield event.value


def test_every_event_is_one_of_the_contract_and_in_its_schema() -> None:
    schema = json.loads((ROOT / "schema" / "log-record.schema.json").read_text())
    assert set(schema["then"]["properties"]["event"]["enum"]) == EVENTS
    assert {"task.finished", "attempt.started", "relay.started", "enqueue.rejected"} <= set(said_events()) <= EVENTS
