"""The locks are closed: whatever a pinned distribution requires, on any platform, is pinned beside it."""

from __future__ import annotations

import itertools
import re
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.house import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PIN = re.compile(
    r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,.-]+)\])?==(?P<version>[\w.!+]+)"
    r"(?: *; *(?P<marker>[^@]*?))?(?: +--hash=sha256:[0-9a-f]{64})+ *"
)
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")


class Pin(NamedTuple):
    version: str
    extras: frozenset[str]
    marker: Marker | None

    def is_active(self, environment: Mapping[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(dict(environment))


def locked(name: str) -> dict[str, Pin]:
    """Pins by package; fails on a line that is not a pinned package with its hashes."""
    joined = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    pins = [PIN.fullmatch(line) for line in lines]
    assert [line[:80] for line, pin in zip(lines, pins, strict=True) if pin is None] == []
    return {
        canonicalize_name(pin["name"]): Pin(
            pin["version"],
            frozenset(filter(None, (pin["extras"] or "").split(","))),
            Marker(pin["marker"]) if pin["marker"] else None,
        )
        for pin in pins
        if pin
    }


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def environments() -> Iterator[dict[str, str]]:
    for system, python, machine in itertools.product(SYSTEMS.values(), PYTHONS, MACHINES):
        yield {
            **default_environment(),
            **system,
            "python_version": python,
            "python_full_version": f"{python}.0",
            "platform_machine": machine,
        }


def missing(roots: list[str], pins: Mapping[str, Pin], environment: Mapping[str, str]) -> set[str]:
    """What installing *roots* with these *pins* would have to find elsewhere, in one environment."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [("the project", Requirement(line)) for line in roots]
    while waiting:
        parent, needed = waiting.pop()
        name = canonicalize_name(needed.name)
        pin = pins.get(name)
        if (
            pin is None
            or not pin.is_active(environment)
            or not needed.specifier.contains(pin.version, prereleases=True)
            or not needed.extras <= pin.extras
        ):
            found.add(f"{parent}: {needed}")
            continue
        for extra in {"", *needed.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += [(name, below) for below in required_by(name, pin, extra, environment)]
    return found


def required_by(name: str, pin: Pin, extra: str, environment: Mapping[str, str]) -> list[Requirement]:
    if not pin.is_active({**default_environment()}):
        return []  # of another platform, so its metadata is not here
    distribution = metadata.distribution(name)
    assert distribution.version == pin.version, name
    needed = [Requirement(line) for line in distribution.requires or []]
    return [line for line in needed if line.marker is None or line.marker.evaluate({**environment, "extra": extra})]


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("requirements.txt", ["firestore"]), ("requirements-dev.txt", ["firestore", "otlp", "dev"])],
)
def test_a_lock_pins_every_requirement_of_what_it_pins(lock: str, extras: list[str]) -> None:
    of_project = project()["project"]
    roots = [
        *of_project["dependencies"],
        *(line for extra in extras for line in of_project["optional-dependencies"][extra]),
    ]
    pins = locked(lock)
    assert set().union(*(missing(roots, pins, environment) for environment in environments())) == set()


def test_an_extra_that_a_lock_leaves_out_is_found() -> None:
    pins = locked("requirements-dev.txt")
    pins["coverage"] = pins["coverage"]._replace(extras=frozenset())
    assert missing(["pytest-cov"], pins, default_environment()) == {
        f"pytest-cov: {next(line for line in metadata.requires('pytest-cov') or [] if line.startswith('coverage'))}"
    }


def test_a_pin_of_another_platform_does_not_count() -> None:
    pins = locked("requirements.txt")
    pins["click"] = pins["click"]._replace(marker=Marker("sys_platform == 'win32'"))
    assert "the project: click" in missing(["click"], pins, next(environments()))


def test_the_build_lock_pins_the_build_backend() -> None:
    pins = locked("requirements-build.txt")
    assert project()["build-system"]["requires"] == project()["dependency-groups"]["build"]
    assert missing(project()["build-system"]["requires"], pins, default_environment()) == set()


def test_what_development_adds_changes_no_pin_of_a_deployment() -> None:
    assert locked("requirements-dev.txt").items() >= locked("requirements.txt").items()


@pytest.mark.parametrize("file", ["Makefile", ".ci/run"])
def test_set_up_installs_without_resolving(file: str) -> None:
    calls = [line for line in (ROOT / file).read_text().splitlines() if re.search(r"\bpip\"? install\b", line)]
    assert calls
    assert [line for line in calls if "--no-deps" not in line] == []
