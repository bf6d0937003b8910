"""Every variable that OpenTelemetry's installed packages read has a known effect on the relay."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import opentelemetry.version
import pytest

from support.house import ROOT
from traced_relay.tracing.otel_environment import ignore_instrumentation_settings

PACKAGES = Path(opentelemetry.version.__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def variables() -> set[str]:
    """The variables' names, each of which is a constant of that name in some package."""
    texts = (path.read_text() for path in PACKAGES.rglob("*.py"))
    found = {name for text in texts for name in re.findall(r'^_?(OTEL_\w+)(?:: \w+)? = "\1"', text, re.MULTILINE)}
    roots = {f"OTEL_PYTHON_{part}EXCLUDED_URLS" for part in ("", "FLASK_", "REQUESTS_")}  # put together when read
    return found | roots


def documented(effect: str) -> set[str]:
    """The patterns of the rows whose effect begins like that."""
    rows = [row.split(" | ") for row in PAGE.splitlines() if row.startswith(("| `OTEL_", "| any"))]
    return {name for row in rows if row[1].startswith(effect) for name in re.findall(r"`(OTEL_[A-Z_]+\*?)`", row[0])}


def test_every_variable_of_the_installed_packages_is_documented() -> None:
    patterns = documented("")
    found = variables()
    assert len(found) > 60
    assert {name for name in found if not any(fnmatch(name, pattern) for pattern in patterns)} == set()


def test_exactly_the_documented_variables_are_removed() -> None:
    environ = dict.fromkeys(variables(), "set")
    ignore_instrumentation_settings(environ)
    kept = documented("") - documented("removed")
    expected = {name for name in variables() if any(fnmatch(name, pattern) for pattern in kept)}
    assert environ.keys() == expected


@pytest.mark.parametrize("name", ["PATH", "OTEL_CONFIG_FILE", "OTEL_EXPORTER_OTLP_HEADERS", "MY_OTEL_PYTHON_X"])
def test_other_variables_stay(name: str) -> None:
    environ = {name: "set", "OTEL_PYTHON_EXCLUDED_URLS": ".*"}
    ignore_instrumentation_settings(environ)
    assert environ == {name: "set"}
