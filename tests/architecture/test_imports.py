"""Who may import whom: one table. A folder imports itself, `errors`, `version` and what its line names."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from support.house import ROOT, cycle_in, modules

if TYPE_CHECKING:
    from collections.abc import Iterator

MAY_IMPORT = {
    folder: set(allowed.split())
    for folder, allowed in {
        "errors": "",
        "version": "",
        "runtime": "",
        "formats": "",
        "tasks": "formats",
        "logs": "formats runtime",
        "ledger": "tasks runtime",
        "downstream": "tasks formats runtime",
        "config": "downstream ledger tasks formats runtime",
        "cloud_tasks": "config tasks formats runtime",
        "tracing": "logs formats runtime",
        "relay": "cloud_tasks downstream ledger tracing logs tasks config formats runtime",
        "api": "relay cloud_tasks ledger tracing tasks config formats runtime",
        "app": "api relay cloud_tasks downstream ledger tracing logs tasks config formats runtime",
        "emulator": "runtime",
        "client": "tracing tasks formats runtime",
        "timeline": "client tracing logs formats runtime",
        "console": "timeline client tasks logs tracing formats runtime",
        "deploy": "config downstream cloud_tasks ledger tracing formats runtime",
        "server": "app api config logs tracing runtime",
        "dev": "app server console client emulator config logs tracing timeline formats runtime",
        "testing": "app dev emulator config downstream logs tracing runtime",
        "cli": "app api cloud_tasks console client config deploy dev downstream emulator logs server tasks timeline "
        "tracing formats runtime",
    }.items()
}
# Libraries that few modules know, so that they could be replaced there.
KNOWN_TO = {
    "click": r"cli\..*",
    "flask": r"app|api\..*|console\..*|dev\.sample_downstream|tracing\.instrumentation",
    "google.cloud.firestore": r"ledger\.firestore\..*",
    "grpc": r"cli\.queue|cloud_tasks\.client|ledger\.firestore\.requests|tracing\.exporters|emulator\..*",
    "gunicorn": r"server\..*",
    "sqlite3": r"ledger\.sqlite|emulator\.(store|service)|runtime\.private_file",
    "urllib3": r"downstream\.(connections|sender)|runtime\.bounded_fetch",
    "yaml": r"formats\.yaml_file",
}
# Values and pure rules get the world as arguments.
PURE = r"tasks\..*|formats\..*"
WORLD = {
    *("asyncio", "flask", "http.client", "logging", "os", "queue", "random", "requests", "secrets", "select", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "threading", "time", "urllib3"),
}


def folder_of(module: str) -> str:
    return module.split(".")[0]


def imports() -> Iterator[tuple[str, str]]:
    for name, module in modules().items():
        for imported in sorted(module.imports & modules().keys() - {""}):
            yield name, imported


def test_a_folder_imports_only_what_the_table_allows() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, imported in imports()
        if (folder := folder_of(name)) in MAY_IMPORT
        and folder_of(imported) not in {folder, "errors", "version"} | MAY_IMPORT[folder]
    ]
    assert wrong == []


def test_the_table_lists_every_folder_in_order() -> None:
    assert {folder_of(name) for name in modules()} - {"", "__main__"} == MAY_IMPORT.keys()
    seen: set[str] = set()
    for folder, allowed in MAY_IMPORT.items():
        assert allowed <= seen, f"{folder} is listed before what it imports"
        seen.add(folder)


def test_a_package_face_is_one_sentence_and_imports_nothing() -> None:
    faces = sorted((ROOT / "src/traced_relay").rglob("*/__init__.py"))
    assert [str(path) for path in faces if len(ast.parse(path.read_text()).body) != 1] == []


def test_no_module_imports_itself_through_others() -> None:
    assert cycle_in({name: module.imports & modules().keys() for name, module in modules().items()}) == []


def test_a_cycle_would_be_found() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_pure_modules_know_nothing_of_the_world() -> None:
    pure = [module for name, module in modules().items() if re.fullmatch(PURE, name)]
    assert len(pure) > 15
    assert [f"{m.name} imports {foreign}" for m in pure for foreign in sorted(m.imports & WORLD)] == []


@pytest.mark.parametrize("library", KNOWN_TO)
def test_a_library_is_known_to_few_modules(library: str) -> None:
    using = {
        name
        for name, module in modules().items()
        if any(imported == library or imported.startswith(f"{library}.") for imported in module.imports)
    }
    assert using
    assert {name for name in using if not re.fullmatch(KNOWN_TO[library], name)} == set()
