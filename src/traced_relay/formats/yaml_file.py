"""A YAML file as plain values, read strictly: no duplicate key, at most 1 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from traced_relay.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = 1_000_000  # bytes


def document_of(path: Path) -> Any:
    """The document in *path*; InvalidSettings names the file and the problem."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise InvalidSettings(f"{path}: is larger than {LARGEST} bytes")
        return yaml.load(text.decode("utf-8-sig"), Loader=_StrictLoader)  # noqa: S506  (a SafeLoader)
    except OSError as exc:
        raise InvalidSettings(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSettings(f"{path}: is not UTF-8, at byte {exc.start}") from exc
    except (yaml.YAMLError, ValueError, RecursionError) as exc:
        raise InvalidSettings(f"{path}: is not YAML: {' '.join(str(exc).split())[:200]}") from exc


class _StrictLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) != len(names):
            raise yaml.constructor.ConstructorError(problem=f"the key {max(names, key=names.count)} is given twice")
        return super().construct_mapping(node, deep)
