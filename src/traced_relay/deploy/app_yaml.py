"""The parts of app.yaml on which the relay's own limits depend; Google checks the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from traced_relay.cloud_tasks.client import SLACK
from traced_relay.config.relay_yaml import longest_timeout
from traced_relay.config.settings import DEFAULT_THREADS, SPARE_THREADS
from traced_relay.formats.durations import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.config.relay_yaml import RelayFile

IDLE_MARGIN = 60.0  # seconds between the last response and the end of an idle instance
LONGEST_AUTOMATIC = 600.0  # seconds; the request timeout with automatic scaling
RUNTIMES = ("python311", "python312", "python313")  # those that the tests have run on
SCALINGS = ("basic", "manual", "automatic")
MIB_OF_CLASS = {
    "F1": 384,
    "F2": 768,
    "F4": 1536,
    "F4_1G": 3072,
    "B1": 384,
    "B2": 768,
    "B4": 1536,
    "B4_1G": 3072,
    "B8": 3072,
}
MIB_IDLE, MIB_PER_CALL = 110, 2  # a call with the largest body; a third of the memory stays free
TEST_VARIABLES = ("FIRESTORE_EMULATOR_HOST", "RELAY_TRACE_ENDPOINT")
RELAY_PATHS = ("/dispatch", "/sweep", "/v1/tasks")


def environment(app: dict[str, Any] | None) -> dict[str, str]:
    """The variables that app.yaml sets for the service."""
    given = (app or {}).get("env_variables")
    return {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}


def problems(app: dict[str, Any], rules: RelayFile | None) -> Iterator[str]:
    """Problems of app.yaml alone, and of app.yaml compared with the *rules*; each starts with its key."""
    yield from _own_problems(app)
    yield from _variable_problems(app)
    yield from _class_problems(app)
    yield from _handler_problems(app)
    if rules is None:
        return
    service = app.get("service", "default")
    if service != rules.worker.app_engine:
        yield f"service: must be {rules.worker.app_engine}, to match worker.app_engine in relay.yaml, got {service}"
    yield from _scaling_problems(app, rules)


def _own_problems(app: dict[str, Any]) -> Iterator[str]:
    if app.get("runtime") not in RUNTIMES:
        yield f"runtime: must be {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}, got {app.get('runtime')}"
    if app.get("env", "standard") != "standard" or app.get("vm"):
        yield f"env: must be standard, got {app.get('env', 'vm')}; the relay depends on headers of App Engine standard"
    entrypoint = str(app.get("entrypoint") or "")
    if not entrypoint:
        yield "entrypoint: is required; without it App Engine starts its own default server"
    elif not re.search(r"traced[_-]relay serve\b", entrypoint):
        yield f"entrypoint: must start `traced_relay serve`, got {entrypoint}"
    elif "-m traced_relay" in entrypoint and "PYTHONPATH=" not in entrypoint and "PYTHONPATH" not in environment(app):
        yield "entrypoint: must set PYTHONPATH=src, because the build does not install traced_relay"
    scalings = [f"{kind}_scaling" for kind in SCALINGS if f"{kind}_scaling" in app]
    if len(scalings) > 1:
        yield f"{scalings[1]}: must not be set together with {scalings[0]}"


def _variable_problems(app: dict[str, Any]) -> Iterator[str]:
    given = app.get("env_variables")
    for name, value in given.items() if isinstance(given, dict) else ():
        if not isinstance(value, str):
            yield f"env_variables.{name}: must be a string; quote a number"
        if name in TEST_VARIABLES:
            yield f"env_variables.{name}: must not be set, because it is for tests"


def _class_problems(app: dict[str, Any]) -> Iterator[str]:
    scaling = next((kind for kind in SCALINGS if f"{kind}_scaling" in app), "automatic")
    name = app.get("instance_class") or ("F1" if scaling == "automatic" else "B2")
    if name not in MIB_OF_CLASS:
        yield f"instance_class: must be one of {', '.join(MIB_OF_CLASS)}, got {name}"
        return
    if name.startswith("F") != (scaling == "automatic"):
        yield f"instance_class: {name} does not fit {scaling}_scaling; use F for automatic, B for other scaling"
    most = (MIB_OF_CLASS[name] * 2 // 3 - MIB_IDLE) // MIB_PER_CALL
    threads = _threads(app)
    if threads.isdecimal() and int(threads) > most:
        yield f"instance_class: {name} has memory for {most} threads with the largest calls, RELAY_THREADS is {threads}"


def _handler_problems(app: dict[str, Any]) -> Iterator[str]:
    """The first handler that matches gets a request; without handlers the relay gets all."""
    handlers = app.get("handlers")
    if not handlers:
        return
    if not isinstance(handlers, list) or not all(isinstance(handler, dict) for handler in handlers):
        yield "handlers: must be a list of mappings"
        return
    for path in RELAY_PATHS:
        first: dict[str, Any] = next((handler for handler in handlers if _matches(handler, path)), {})
        if first.get("script") != "auto":
            yield f"handlers: {path} must reach the relay by `script: auto`, but {first.get('url', 'none')} matches it"


def _matches(handler: dict[str, Any], path: str) -> bool:
    url = str(handler.get("url"))
    try:
        return bool(re.match(url, path) if "static_dir" in handler else re.fullmatch(url, path))
    except re.error:
        return False


def _scaling_problems(app: dict[str, Any], rules: RelayFile) -> Iterator[str]:
    basic, manual = (app.get(f"{kind}_scaling") for kind in ("basic", "manual"))
    longest = longest_timeout(rules)
    if isinstance(basic, dict):
        yield from _idle_problems(str(basic.get("idle_timeout", "5m")), longest)
        yield from _capacity_problems(app, rules, "basic_scaling.max_instances", basic.get("max_instances"))
    elif isinstance(manual, dict):
        yield from _capacity_problems(app, rules, "manual_scaling.instances", manual.get("instances"))
    elif longest > LONGEST_AUTOMATIC:
        yield (
            "basic_scaling: is required, because automatic scaling aborts a request after 10m and max_timeout of the"
            f" rules is {format_duration(longest)}"
        )


def _idle_problems(idle: str, longest: float) -> Iterator[str]:
    if not re.fullmatch(r"[0-9]+[sm]", idle):
        yield f"basic_scaling.idle_timeout: must be whole seconds or minutes such as 1445m, got {idle}"
    elif parse_duration(idle) < longest + SLACK + IDLE_MARGIN:
        yield (
            f"basic_scaling.idle_timeout: must be at least {format_duration(longest + SLACK + IDLE_MARGIN)},"
            f" max_timeout of the rules plus {format_duration(SLACK + IDLE_MARGIN)}, got {idle};"
            " an instance could stop during a call"
        )


def _capacity_problems(app: dict[str, Any], rules: RelayFile, key: str, instances: Any) -> Iterator[str]:
    threads = _threads(app)
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 1:
        yield f"{key}: must be a number of instances, got {instances}"
    elif threads.isdecimal():
        capacity = instances * max(0, int(threads) - SPARE_THREADS)
        wanted = sum(queue.max_concurrent_dispatches for queue in rules.queues)
        if wanted > capacity:
            yield (
                f"{key}: {instances} with RELAY_THREADS {threads} run {capacity} calls at once, but the queues of the"
                f" rules allow {wanted} (max_concurrent_dispatches)"
            )


def _threads(app: dict[str, Any]) -> str:
    return environment(app).get("RELAY_THREADS") or str(DEFAULT_THREADS)
