"""app.yaml, as far as the relay's own numbers depend on it; the rest is for Google to judge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from traced_relay.agreement import longest_timeout
from traced_relay.cloud_tasks import SLACK
from traced_relay.durations import format_duration, parse_duration
from traced_relay.settings import DEFAULT_THREADS, SPARE_THREADS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.relay_file import RelayFile

TO_SPARE = 60.0  # seconds between the last answer and the end of an idle instance
LONGEST_AUTOMATIC = 600.0  # seconds that automatic scaling lets a request take


def environment(app: dict[str, Any] | None) -> dict[str, str]:
    """What it sets for the service."""
    given = (app or {}).get("env_variables")
    return {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}


def problems(app: dict[str, Any], rules: RelayFile | None) -> Iterator[str]:
    """What is wrong with it, by itself or beside the *rules*; each starts with its key."""
    yield from _own_problems(app)
    if rules is None:
        return
    service = app.get("service", "default")
    if service != rules.worker.app_engine:
        yield f"service is {service}, but worker.app_engine of the rules is {rules.worker.app_engine}"
    yield from _scaling_problems(app, rules)


def _own_problems(app: dict[str, Any]) -> Iterator[str]:
    if not str(app.get("runtime", "")).startswith("python3"):
        yield f"runtime must be a python3 of App Engine standard, got {app.get('runtime')}"
    if not app.get("entrypoint"):
        yield "entrypoint is required: without it App Engine starts a server that knows no relay"
    given = app.get("env_variables")
    for name, value in given.items() if isinstance(given, dict) else ():
        if not isinstance(value, str):
            yield f"env_variables.{name} must be a string, in quotes where it looks like a number"


def _scaling_problems(app: dict[str, Any], rules: RelayFile) -> Iterator[str]:
    basic, manual = (app.get(f"{kind}_scaling") for kind in ("basic", "manual"))
    longest = longest_timeout(rules)
    if isinstance(basic, dict):
        yield from _idle_problems(str(basic.get("idle_timeout", "5m")), longest)
        yield from _room_problems(app, rules, "basic_scaling.max_instances", basic.get("max_instances"))
    elif isinstance(manual, dict):
        yield from _room_problems(app, rules, "manual_scaling.instances", manual.get("instances"))
    elif longest > LONGEST_AUTOMATIC:
        yield (
            "basic_scaling is required: automatic scaling ends a request after 10m, and max_timeout of the rules is"
            f" {format_duration(longest)}"
        )


def _idle_problems(idle: str, longest: float) -> Iterator[str]:
    if not re.fullmatch(r"[0-9]+[sm]", idle):
        yield f"basic_scaling.idle_timeout must be whole seconds or minutes such as 1445m, got {idle}"
    elif parse_duration(idle) < longest + SLACK + TO_SPARE:
        yield (
            f"basic_scaling.idle_timeout must be at least {format_duration(longest + SLACK + TO_SPARE)},"
            f" max_timeout of the rules and {format_duration(SLACK + TO_SPARE)}, got {idle}:"
            " an instance could end under a call"
        )


def _room_problems(app: dict[str, Any], rules: RelayFile, key: str, instances: Any) -> Iterator[str]:
    threads = environment(app).get("RELAY_THREADS") or str(DEFAULT_THREADS)
    if not isinstance(instances, int) or isinstance(instances, bool) or instances < 1:
        yield f"{key} must be a number of instances, got {instances}"
    elif threads.isdecimal():
        room = instances * max(1, int(threads) - SPARE_THREADS)
        wanted = sum(queue.max_concurrent_dispatches for queue in rules.queues)
        if wanted > room:
            yield (
                f"{key}: {instances} with RELAY_THREADS {threads} run {room} calls at once, but the queues of the rules"
                f" let {wanted} go (max_concurrent_dispatches)"
            )
