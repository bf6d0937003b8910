"""
The differences between the files and a project, one a line, for setup-env.sh.

`python -m traced_relay.deploy.diff KIND ARGUMENT < DEPLOYED` prints them. Few imports, since the script runs it often.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traced_relay.formats.yaml_file import document_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDEXES = Path("firestore.indexes.json")


def missing_indexes(collection: str, deployed: list[dict[str, Any]], file: Path = _INDEXES) -> Iterator[str]:
    """A line of --field-config values for each composite index that Firestore lacks."""
    known = {(_group_of(index["name"]), _shape(index["fields"])) for index in deployed}
    for index in _index_file(file, collection)["indexes"]:
        if (index["collectionGroup"], _shape(index["fields"])) not in known:
            fields = [f"field-path={path},{key}={value.lower()}" for path, key, value in _shape(index["fields"])]
            yield " ".join([index["collectionGroup"], *fields])


def stale_fields(collection: str, deployed: list[dict[str, Any]], file: Path = _INDEXES) -> Iterator[str]:
    """`index GROUP FIELD ORDERS` and `ttl GROUP FIELD` for each field whose exemption or TTL policy Firestore lacks."""
    known = {(_group_of(field["name"]), field["name"].rpartition("/")[2]): field for field in deployed}
    for field in _index_file(file, collection)["fieldOverrides"]:
        group, path = field["collectionGroup"], field["fieldPath"]
        found = known.get((group, path), {})
        orders = [index["order"] for index in field["indexes"]]
        config = found.get("indexConfig", {"usesAncestorConfig": True})
        is_own = not config.get("usesAncestorConfig") and bool(found)
        if not is_own or [index["fields"][0].get("order") for index in config.get("indexes", [])] != orders:
            yield " ".join(["index", group, path, *orders])
        if field.get("ttl") and "ttlConfig" not in found:
            yield f"ttl {group} {path}"


def stale_files(folder: Path, deployed: list[dict[str, Any]]) -> Iterator[str]:
    """`create FILE` or `update FILE NAME` for each file of *folder* that is missing or differs."""
    for path in sorted(folder.iterdir()):
        document = document_of(path)
        found = counterpart(path.stem, document, deployed)
        if found is None:
            yield f"create {path}"
        elif differing_keys(found, document):
            yield f"update {path} {found['name']}"


def counterpart(name: str, document: dict[str, Any], deployed: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The deployed resource of the file *name*: the one with its displayName, or else with its name."""
    key, value = ("displayName", document["displayName"]) if "displayName" in document else ("name", name)
    return next((other for other in deployed if other.get(key) == value), None)


def differing_keys(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The keys of *wanted* whose values differ in *found*."""
    return [key for key, value in wanted.items() if not _contains(found.get(key), value)]


def _index_file(file: Path, collection: str) -> dict[str, list[dict[str, Any]]]:
    text = file.read_text()
    found: dict[str, list[dict[str, Any]]] = json.loads(re.sub(r'"calls(-bodies)?"', rf'"{collection}\1"', text))
    return found


def _group_of(name: str) -> str:
    return re.sub(".*/collectionGroups/([^/]+)/.*", r"\1", name)


def _shape(fields: list[dict[str, str]]) -> tuple[tuple[str, str, str], ...]:
    """Field, `order` or `array-config`, value; without `__name__`, which Firestore adds itself."""
    return tuple(
        (field["fieldPath"], "order", field["order"])
        if "order" in field
        else (field["fieldPath"], "array-config", field["arrayConfig"])
        for field in fields
        if field["fieldPath"] != "__name__"
    )


def _contains(found: Any, wanted: Any) -> bool:
    """Whether *found* has all of *wanted*; a service adds fields of its own and omits empty ones."""
    if isinstance(wanted, dict):
        fields = found if isinstance(found, dict) else {}
        return all(_contains(fields.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        deployed = found if isinstance(found, list) else []
        return len(deployed) == len(wanted) and all(map(_contains, deployed, wanted))
    return bool(found == wanted or str(found) == str(wanted) or (found is None and not wanted))


def lines(kind: str, argument: str) -> Iterator[str]:
    """The differences of one *kind*; *argument* is the collection, or the folder of files."""
    deployed = json.loads(sys.stdin.read().strip() or "[]")
    if kind == "indexes":
        return missing_indexes(argument, deployed)
    return stale_fields(argument, deployed) if kind == "fields" else stale_files(Path(argument), deployed)


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in list(lines(*sys.argv[1:])))
