"""The project's own files as the laws of the house look at them: tracked text, syntax trees, who imports whom."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PACKAGE = "traced_relay"


@dataclass(frozen=True)
class Module:
    """One source file; *name* without the package: `localqueue.engine`, and `` for the package itself."""

    name: str
    path: Path
    tree: ast.Module

    @cached_property
    def imports(self) -> set[str]:
        """What it imports when it runs: modules of the package by *name*, foreign ones by their whole name."""
        return self._imports(_running(self.tree))

    @cached_property
    def imports_for_types(self) -> set[str]:
        """What only a type checker imports, named in the same way."""
        return self._imports(ast.walk(self.tree)) - self.imports

    def _imports(self, nodes: Iterable[ast.AST]) -> set[str]:
        found: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                found |= {_short(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{self.path}: a relative import"
                found |= {_imported(node.module, alias.name) for alias in node.names}
        return found


@cache
def modules() -> dict[str, Module]:
    found = [_module(path) for path in sorted((SRC / PACKAGE).rglob("*.py"))]
    return {module.name: module for module in found}


def _module(path: Path) -> Module:
    parts = path.relative_to(SRC / PACKAGE).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    return Module(name, path, tree_of(path))


@cache
def text_of(path: Path) -> str:
    return path.read_text(errors="replace")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text_of(path))


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, but for what only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _running(child)


def _imported(source: str, name: str) -> str:
    """`from a import b` means the module a.b where there is one, else a."""
    path = SRC.joinpath(*source.split("."), name)
    is_module = path.is_dir() or path.with_suffix(".py").exists()
    return _short(f"{source}.{name}" if is_module else source)


def _short(name: str) -> str:
    return "" if name == PACKAGE else name.removeprefix(f"{PACKAGE}.")


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Some way through the graph that ends where it began, or nothing."""
    finished: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in finished:
            for following in sorted(graph.get(name, ())):
                if found := walk(following, [*way, name]):
                    return found
            finished.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


@cache
def project_files() -> list[Path]:
    """All files under version control, and those about to be."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders: str) -> list[Path]:
    inside = [ROOT / folder for folder in folders]
    return [p for p in project_files() if p.suffix == ".py" and any(p.is_relative_to(folder) for folder in inside)]


def names_in(path: Path) -> set[str]:
    """Every identifier of the file; what stands in strings and comments is none."""
    tokens = tokenize.generate_tokens(io.StringIO(text_of(path)).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def places(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
