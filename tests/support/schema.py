"""The published schema of a log record, as a check that any test can make of any line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "schema" / "log-record.schema.json").read_text())
_VALIDATOR = Draft202012Validator(SCHEMA)


def validate(record: dict[str, Any]) -> None:
    error = best_match(_VALIDATOR.iter_errors(record))
    assert error is None, f"{record.get('event', 'library line')}: {error.json_path}: {error.message}"


def validated(printed: str) -> list[dict[str, Any]]:
    """The records of a printed log, each of them held against the schema."""
    records = [json.loads(line) for line in printed.splitlines()]
    for record in records:
        validate(record)
    return records
