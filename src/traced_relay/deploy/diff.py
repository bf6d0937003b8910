"""
For setup-env.sh: what of the files is not there yet, or is there otherwise, a line each.

Run as `python -m traced_relay.differences`, with what is there on stdin. Imports little, since it is run often.
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


def missing_indexes(collection: str, there: list[dict[str, Any]], file: Path = _INDEXES) -> Iterator[str]:
    """A line of --field-config values for each composite index that Firestore lacks."""
    known = {(_group_of(index["name"]), _shape(index["fields"])) for index in there}
    for index in _index_file(file, collection)["indexes"]:
        if (index["collectionGroup"], _shape(index["fields"])) not in known:
            fields = [f"field-path={path},{key}={value.lower()}" for path, key, value in _shape(index["fields"])]
            yield " ".join([index["collectionGroup"], *fields])


def stale_fields(collection: str, there: list[dict[str, Any]], file: Path = _INDEXES) -> Iterator[str]:
    """`index GROUP FIELD ORDERS` and `ttl GROUP FIELD` for each field whose exemption Firestore lacks."""
    known = {(_group_of(field["name"]), field["name"].rpartition("/")[2]): field for field in there}
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


def stale_files(folder: Path, there: list[dict[str, Any]]) -> Iterator[str]:
    """`create FILE` or `update FILE NAME` for each file of *folder* that is not there as it is written."""
    for path in sorted(folder.iterdir()):
        document = document_of(path)
        found = counterpart(path.stem, document, there)
        if found is None:
            yield f"create {path}"
        elif differing(found, document):
            yield f"update {path} {found['name']}"


def counterpart(name: str, document: dict[str, Any], there: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What became of the file *name*: the one of the same displayName, or else of the same name."""
    key, value = ("displayName", document["displayName"]) if "displayName" in document else ("name", name)
    return next((other for other in there if other.get(key) == value), None)


def differing(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """The keys of *wanted* that are otherwise in *found*."""
    return [key for key, value in wanted.items() if not _holds(found.get(key), value)]


def _index_file(file: Path, collection: str) -> dict[str, list[dict[str, Any]]]:
    text = file.read_text()
    found: dict[str, list[dict[str, Any]]] = json.loads(re.sub(r'"calls(-bodies)?"', rf'"{collection}\1"', text))
    return found


def _group_of(name: str) -> str:
    return re.sub(".*/collectionGroups/([^/]+)/.*", r"\1", name)


def _shape(fields: list[dict[str, str]]) -> tuple[tuple[str, str, str], ...]:
    """Field, `order` or `array-config`, its value; Firestore adds the document's name by itself."""
    return tuple(
        (field["fieldPath"], "order", field["order"])
        if "order" in field
        else (field["fieldPath"], "array-config", field["arrayConfig"])
        for field in fields
        if field["fieldPath"] != "__name__"
    )


def _holds(found: Any, wanted: Any) -> bool:
    """Whether all of *wanted* is in *found*; a service adds fields of its own, and leaves out empty ones."""
    if isinstance(wanted, dict):
        fields = found if isinstance(found, dict) else {}
        return all(_holds(fields.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        there = found if isinstance(found, list) else []
        return len(there) == len(wanted) and all(map(_holds, there, wanted))
    return bool(found == wanted or str(found) == str(wanted) or (found is None and not wanted))


def lines(ask: str, given: str) -> Iterator[str]:
    """What is asked for: *given* is the collection, or the folder of files."""
    there = json.loads(sys.stdin.read().strip() or "[]")
    if ask == "indexes":
        return missing_indexes(given, there)
    return stale_fields(given, there) if ask == "fields" else stale_files(Path(given), there)


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in list(lines(*sys.argv[1:])))
