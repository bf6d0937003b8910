"""Who may import whom: one table. A folder imports itself, `errors`, `version` and what its line names."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

import pytest

from support.house import ROOT, cycle_in, modules

if TYPE_CHECKING:
    from collections.abc import Iterator

# `folder.module` is that module alone; `folder(types)` is for a type checker only.
MAY_IMPORT = {
    folder: set(allowed.split())
    for folder, allowed in {
        "errors": "",
        "version": "",
        "runtime": "",
        "formats": "",
        "tasks": "formats",
        "logs": "formats runtime.clock",
        "ledger": "tasks runtime",
        "downstream": "tasks formats runtime",
        "config": "downstream ledger.location tasks formats runtime",
        "cloud_tasks": "config(types) tasks formats runtime",
        "tracing": "logs formats runtime",
        "relay": "cloud_tasks downstream ledger(types) tracing logs tasks config(types) formats runtime",
        "api": "relay cloud_tasks ledger.protocol tracing tasks config(types) formats runtime",
        "app": "api relay cloud_tasks downstream ledger tracing logs(types) tasks config(types) runtime",
        "emulator": "runtime",
        "client": "tracing.propagation tracing.span_tree tasks formats runtime",
        "timeline": "client.task_text tracing logs formats runtime",
        "console": "timeline client tasks logs(types) tracing(types) formats runtime",
        "deploy": "config downstream cloud_tasks ledger.location ledger.sqlite_file tracing.otel_yaml formats runtime",
        "server": "app api config logs tracing runtime",
        "dev": "app server console client downstream(types) emulator config logs tracing timeline formats runtime",
        "testing": "dev config downstream(types) logs tracing runtime",
        "cli": "console client config deploy dev downstream emulator logs server timeline tracing formats runtime",
    }.items()
}
# Libraries that few modules know, so that they could be replaced there.
KNOWN_TO = {
    "click": r"cli\..*",
    "flask": r"app|api\..*|console\..*|dev\.sample_downstream|tracing\.instrumentation",
    "google.cloud.firestore": r"ledger\.firestore\..*",
    "grpc": r"cli\.queue|cloud_tasks\.client|ledger\.firestore\.requests|tracing\.cloud_trace|emulator\..*",
    "gunicorn": r"server\..*",
    "httptools": r"server\.request",
    "sqlite3": r"ledger\.(sqlite.*|group_commit)|emulator\.(store|service)|runtime\.private_file",
    "urllib3": r"downstream\.(connections|sender)|runtime\.bounded_fetch",
    "yaml": r"formats\.yaml_file",
}
# Values and pure rules get the world as arguments.
PURE = r"tasks\..*|formats\..*"
WORLD = {
    *("asyncio", "flask", "http.client", "logging", "os", "queue", "random", "requests", "secrets", "select", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "threading", "time", "urllib3"),
}


def folder_of(name: str) -> str:
    """The folder of a module or of an entry of the table."""
    return name.split(".")[0].removesuffix("(types)")


def violations() -> Iterator[str]:
    for module in modules().values():
        folder = folder_of(module.name)
        allowed = MAY_IMPORT.get(folder, set(MAY_IMPORT)) | {folder, "errors", "version"}
        for imported in module.imports & modules().keys() - {""}:
            if not {imported, folder_of(imported)} & allowed:
                yield f"{module.name} imports {imported}"
        for imported in module.imports_for_types & modules().keys() - {""}:
            if folder_of(imported) not in {folder_of(entry) for entry in allowed}:
                yield f"{module.name} imports {imported} for types"


def used_by(folder: str) -> set[str]:
    """The entries of a folder's line of which a module has need."""
    own = [module for module in modules().values() if folder_of(module.name) == folder]
    running = {imported for module in own for imported in module.imports & modules().keys()}
    typed = {imported for module in own for imported in module.imports_for_types & modules().keys()}
    entries = running | {folder_of(name) for name in running} | {f"{folder_of(name)}(types)" for name in typed}
    return entries & MAY_IMPORT[folder]


def test_a_folder_imports_only_what_the_table_allows() -> None:
    assert sorted(violations()) == []


def test_the_table_allows_nothing_that_is_not_used() -> None:
    unused = {folder: MAY_IMPORT[folder] - used_by(folder) for folder in MAY_IMPORT}
    assert {folder: entries for folder, entries in unused.items() if entries} == {}


def test_the_table_lists_every_folder_in_order() -> None:
    assert {folder_of(name) for name in modules()} - {"", "__main__"} == MAY_IMPORT.keys()
    seen: set[str] = set()
    for folder, allowed in MAY_IMPORT.items():
        assert {folder_of(entry) for entry in allowed} <= seen, f"{folder} is listed before what it imports"
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
