from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from support.house import ROOT
from traced_relay.deploy import diff
from traced_relay.deploy.diff import stale_files
from traced_relay.formats.yaml_file import document_of

if TYPE_CHECKING:
    from pathlib import Path

INDEXES = ROOT / "firestore.indexes.json"
GROUPS = "projects/p/databases/d/collectionGroups"


def missing_indexes(collection: str, there: list[dict[str, Any]]) -> list[str]:
    return list(diff.missing_indexes(collection, there, INDEXES))


def stale_fields(there: list[dict[str, Any]]) -> list[str]:
    return list(diff.stale_fields("calls", there, INDEXES))


def indexes_there(collection: str) -> list[dict[str, Any]]:
    given = json.loads(INDEXES.read_text())["indexes"]
    return [
        {
            "name": f"{GROUPS}/{index['collectionGroup'].replace('calls', collection)}/indexes/{number}",
            "fields": [*index["fields"], {"fieldPath": "__name__", "order": "DESCENDING"}],
        }
        for number, index in enumerate(given)
    ]


def test_an_index_is_missing_until_firestore_lists_it() -> None:
    assert len(missing_indexes("tasks", [])) == 8
    assert missing_indexes("tasks", indexes_there("tasks")) == []
    assert missing_indexes("tasks", indexes_there("tasks")[1:]) == [
        "tasks field-path=kind,order=ascending field-path=created_at,order=descending"
    ]
    assert len(missing_indexes("tasks", indexes_there("others"))) == 8


def test_a_field_is_stale_without_its_indexes_or_ttl() -> None:
    assert [line for line in stale_fields([]) if "expires_at" in line] == [
        "index calls expires_at ASCENDING",
        "ttl calls expires_at",
        "index calls-bodies expires_at",
        "ttl calls-bodies expires_at",
    ]
    there = {
        "name": f"{GROUPS}/calls/fields/expires_at",
        "indexConfig": {"indexes": [{"fields": [{"fieldPath": "expires_at", "order": "ASCENDING"}]}]},
    }
    assert [line for line in stale_fields([there]) if "calls expires_at" in line] == ["ttl calls expires_at"]
    there["ttlConfig"] = {"state": "ACTIVE"}
    assert [line for line in stale_fields([there]) if "calls expires_at" in line] == []


def test_a_file_is_stale_if_a_deployed_value_differs(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("filter: x\nbounds: [1, 2]\n")
    (tmp_path / "b.yaml").write_text('{"displayName": "B", "threshold": 5}')
    b = {"name": "alertPolicies/7", "displayName": "B", "threshold": 5.0, "etag": "of theirs"}
    assert list(stale_files(tmp_path, [])) == [f"create {tmp_path}/a.yaml", f"create {tmp_path}/b.yaml"]
    assert list(stale_files(tmp_path, [b, {"name": "a", "filter": "x", "bounds": [1, 2]}])) == []
    assert list(stale_files(tmp_path, [b | {"threshold": 6}, {"name": "a", "filter": "x", "bounds": [1]}])) == [
        f"update {tmp_path}/a.yaml a",
        f"update {tmp_path}/b.yaml alertPolicies/7",
    ]


def test_only_fields_of_the_file_are_compared() -> None:
    there = [document_of(path) | {"name": path.stem} for path in sorted((ROOT / "monitoring/metrics").iterdir())]
    assert list(stale_files(ROOT / "monitoring" / "metrics", there)) == []


def test_an_alert_with_another_channel_is_stale(tmp_path: Path) -> None:
    there = [{"name": "alertPolicies/7", "displayName": "A", "notificationChannels": ["channels/1"]}]
    for channels, stale in (("", []), ("channels/1", []), ("channels/2", ["7"]), ("channels/1, channels/2", ["7"])):
        (tmp_path / "a.yaml").write_text(
            "displayName: A\n" + (f"notificationChannels: [{channels}]\n" if channels else "")
        )
        assert [line.rpartition("/")[2] for line in stale_files(tmp_path, there)] == stale
