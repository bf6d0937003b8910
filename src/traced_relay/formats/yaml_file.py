"""A YAML file as plain values, read strictly: no duplicate key, at most 1 MB."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from traced_relay.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LARGEST = 1_000_000  # bytes


def document_of(path: Path, *, variables: Mapping[str, str] | None = None) -> Any:
    """What *path* holds, with `${NAME}` replaced from *variables* if given; InvalidSettings names file and problem."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InvalidSettings(f"is larger than {LARGEST} bytes")
        loader = _StrictLoader(text.decode("utf-8-sig"))
        root = loader.get_single_node()
        if variables is not None:
            _substitute(root, variables, loader)
        return None if root is None else loader.construct_document(root)
    except OSError as exc:
        raise InvalidSettings(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSettings(f"{path}: is not UTF-8, at byte {exc.start}") from exc
    except InvalidSettings as exc:
        raise InvalidSettings(f"{path}: {exc}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise InvalidSettings(f"{path}: is not YAML: {' '.join(str(exc).split())[:200]}") from exc


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise yaml.constructor.ConstructorError(problem=f"the key {max(names, key=names.count)} is given twice")
        return super().construct_mapping(node, deep)


# https://opentelemetry.io/docs/specs/otel/configuration/data-model/#environment-variable-substitution
_REFERENCE = re.compile(r"\$\$|\$\{(?:(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\})?")


def _substitute(root: yaml.Node | None, variables: Mapping[str, str], loader: _StrictLoader) -> None:
    """Replace variables in strings; an unquoted value that is one variable gets its type from the variable's text."""
    for key, node in _strings(root, "", set()):
        text = _substituted(key, node.value, variables)
        if node.style is None and _REFERENCE.fullmatch(node.value):
            node.tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        node.value = text


def _strings(node: yaml.Node | None, key: str, visited: set[int]) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Each string value under *node* once, with its key; aliases share a node."""
    if id(node) in visited:
        return
    visited.add(id(node))
    match node:
        case yaml.MappingNode():
            for name, value in node.value:
                yield from _strings(value, f"{key}.{name.value}", visited)
        case yaml.SequenceNode():
            for number, item in enumerate(node.value):
                yield from _strings(item, f"{key}.{number}", visited)
        case yaml.ScalarNode(tag="tag:yaml.org,2002:str"):
            yield key.lstrip("."), node


def _substituted(key: str, text: str, variables: Mapping[str, str]) -> str:
    def value_of(reference: re.Match[str]) -> str:
        if reference[0] == "$$":
            return "$"
        value = variables.get(reference[1], reference[2] or "") if reference[1] else "${"
        if "${" in value:
            raise InvalidSettings(f"{key} must refer to variables as ${{NAME}} or ${{NAME:-default}}")
        return value

    return _REFERENCE.sub(value_of, text)
