"""The suite's own rule about skips, on small suites run by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole
TESTS = Path(__file__).parents[2]


def run(directory: Path, source: str, **environ: str) -> str:
    (directory / "test_small.py").write_text(source)
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-rs", str(directory)]
    surroundings = {name: value for name, value in os.environ.items() if name != "CI"}
    surroundings |= {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"} | environ
    return subprocess.run(
        command, cwd=directory, env=surroundings, capture_output=True, text=True, timeout=50, check=False
    ).stdout


SKIPS = """
import pytest
def test_it_skips_itself(): pytest.skip('no mood')
@pytest.mark.skip(reason='no mood')
def test_it_has_a_mark(): pass
"""
SKIPPED_MODULE = "import pytest\npytest.skip('no mood', allow_module_level=True)\n"


@pytest.mark.parametrize(("source", "count"), [(SKIPS, 2), (SKIPPED_MODULE, 1)], ids=["tests", "module"])
def test_a_skip_is_a_failure_in_ci_and_a_skip_elsewhere(tmp_path: Path, source: str, count: int) -> None:
    assert f"{count} skipped" in run(tmp_path, source)
    said = run(tmp_path, source, CI="true")
    assert said.count("skipped in CI, though no part is missing: no mood") == count
    assert "skipped in " not in said.splitlines()[-1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_missing_part_is_named_at_the_end_in_ci_too(tmp_path: Path, workers: str) -> None:
    source = "from support.parts import require\ndef test_it(): require('no-such-program')\n"
    said = run(tmp_path, source, CI="true", PYTEST_ADDOPTS=f"-n{workers}")
    assert "1 skipped" in said
    assert "not tested, because missing on this machine: no-such-program" in said.splitlines()[-2]


def test_a_part_that_is_there_is_found(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = f"from support.parts import require\ndef test_it(): assert require('program') == {str(program)!r}\n"
    assert "1 passed" in run(tmp_path, found, PATH=f"{tmp_path}:{os.environ['PATH']}")
