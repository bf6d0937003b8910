"""The environment and relay.yaml, read once and frozen. Errors name the variable, or file and key."""

from __future__ import annotations

import difflib
import os
import re
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from traced_relay.config import relay_yaml
from traced_relay.config.relay_yaml import longest_timeout, rule_problems
from traced_relay.config.service_links import is_service_link
from traced_relay.downstream import webhook_signature
from traced_relay.errors import InvalidSettings
from traced_relay.ledger.location import firestore_place
from traced_relay.runtime.loopback import is_local_host
from traced_relay.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from traced_relay.config.relay_yaml import RelayFile

VARIABLES = (
    "RELAY_CALLBACK_SECRET",
    "RELAY_CONFIG",
    "RELAY_LEDGER",
    "RELAY_LOCATION",
    "RELAY_THREADS",
    "RELAY_TOKEN_FILE",
    "RELAY_TRACE_ENDPOINT",
    "RELAY_URL",
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

DEFAULT_THREADS = 100
SPARE_THREADS = 8
LEAST_THREADS = SPARE_THREADS + 1
_LEDGERS = "memory, sqlite:FILE or firestore:[DATABASE/]COLLECTION"

Platform = Literal["app_engine", "cloud_run", "local", "other"]


@dataclass(frozen=True)
class Settings:
    """
    All that a deployment decides.

    *local* means the embedded queue on this machine: loopback only, its headers
    and its tokens are believed. *open_on_loopback* lets anybody on loopback
    enqueue (`dev` without a file of rules). *callback_secret* is for receivers
    without one of their own: one or more secrets, or a name in Secret Manager.
    """

    project: str
    location: str
    rules: RelayFile
    ledger: str
    platform: Platform
    emulator: str | None = None
    port: int = 8080
    threads: int = DEFAULT_THREADS
    version: str = __version__
    instance: str = ""
    otel_file: Path | None = None
    untraced: bool = False
    open_on_loopback: bool = False
    callback_secret: str | None = field(default=None, repr=False)
    made_callback_secret: bool = False

    @property
    def is_local(self) -> bool:
        return self.platform == "local"

    @property
    def has_cron(self) -> bool:
        """Whether others ask for the sweeps: on Google's platforms a process may sleep between requests."""
        return self.platform in ("app_engine", "cloud_run")

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.is_local else "0.0.0.0"  # noqa: S104  (the platform's router is what reaches it)

    @property
    def max_running(self) -> int:
        """Calls this process runs at once; the other threads serve health checks, cancels and new tasks meanwhile."""
        return self.threads - SPARE_THREADS

    @property
    def max_timeout(self) -> float:
        """Seconds one attempt may take: what the worker's platform allows, or less where the file says so."""
        return longest_timeout(self.rules)

    @property
    def call_queues(self) -> list[str]:
        return [queue.name for queue in self.rules.queues if queue.use == "calls"]

    @property
    def callback_queue(self) -> str | None:
        return next((queue.name for queue in self.rules.queues if queue.use == "callbacks"), None)

    @property
    def own_hosts(self) -> list[str]:
        """Hosts at which the relay listens, `*` for any text; on loopback a host is not one service."""
        urls = (self.rules.worker.url, self.rules.audience)
        named = [urlsplit(url).hostname for url in urls if url]
        return [host for host in named if host and host not in LOOPBACK] + self._app_engine_hosts()

    def _app_engine_hosts(self) -> list[str]:
        """What App Engine calls the worker's service, with and without version and region; the default has no name."""
        service = self.rules.worker.app_engine
        if service is None:
            return []
        names = ("", f"{service}-dot-", f"*-dot-{service}-dot-")
        return [f"{name}{self.project}.{zone}" for name in names for zone in ("appspot.com", "*.appspot.com")]


def own_environment() -> Mapping[str, str]:
    return os.environ


def is_on_google(environ: Mapping[str, str]) -> bool:
    """Whether Cloud Logging reads what this process prints, as on App Engine and Cloud Run."""
    return bool(environ.get("GAE_ENV") or environ.get("K_SERVICE"))


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """What `serve` runs with; InvalidSettings says what is missing and what to do."""
    check_names(environ)
    rules = _rules(environ)
    platform = _platform(environ)
    settings = Settings(
        project=_project(environ),
        location=_location(environ, rules),
        rules=rules,
        ledger=read_ledger(environ, platform),
        platform=platform,
        emulator=_emulator(environ, platform),
        port=_port(environ),
        threads=_threads(environ),
        version=environ.get("GAE_VERSION") or environ.get("K_REVISION") or __version__,
        instance=environ.get("GAE_INSTANCE") or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        otel_file=otel_file(environ),
        untraced=is_untraced(environ),
        callback_secret=read_callback_secret(environ),
    )
    check_rules(settings)
    return settings


def variable_problems(environ: Mapping[str, str], rules: RelayFile | None) -> Iterator[str]:
    """Every variable for which `from_environment` would refuse to start, where that stops at the first."""
    platform = _platform(environ)
    for read in (
        lambda: check_names(environ),
        lambda: _project(environ),
        lambda: rules and _location(environ, rules),
        lambda: read_ledger(environ, platform),
        lambda: _emulator(environ, platform),
        lambda: _port(environ),
        lambda: _threads(environ),
        lambda: read_callback_secret(environ),
    ):
        try:
            read()
        except InvalidSettings as exc:
            yield from exc.problems


def _project(environ: Mapping[str, str]) -> str:
    return _required(environ, "GOOGLE_CLOUD_PROJECT", "the project whose queues are used")


def _location(environ: Mapping[str, str], rules: RelayFile) -> str:
    purpose = "the region of the queues, or set location in relay.yaml"
    location = rules.location or _required(environ, "RELAY_LOCATION", purpose)
    if not relay_yaml.REGION.fullmatch(location):
        raise InvalidSettings(f"RELAY_LOCATION must be one region such as us-central1, got {location[:80]!r}")
    return location


def _port(environ: Mapping[str, str]) -> int:
    return _number(environ, "PORT", 8080, 0, 65_535)


def _threads(environ: Mapping[str, str]) -> int:
    try:
        return _number(environ, "RELAY_THREADS", DEFAULT_THREADS, LEAST_THREADS, 10_000)
    except InvalidSettings as exc:
        why = f"{SPARE_THREADS} threads always stay free for health checks, cancels and new tasks"
        raise InvalidSettings(f"{exc}: {why}") from None


def check_names(environ: Mapping[str, str]) -> None:
    others = [name for name in environ if name.startswith("RELAY_") and name not in VARIABLES]
    if unknown := [name for name in others if not is_service_link(name, environ)]:
        raise InvalidSettings(*(_unknown(name) for name in sorted(unknown)))
    project = environ.get("GOOGLE_CLOUD_PROJECT", "")
    if not re.fullmatch(r"[a-z0-9.:-]{0,100}", project):
        raise InvalidSettings(f"GOOGLE_CLOUD_PROJECT must be a project id, got {project[:80]!r}")
    endpoint = environ.get("RELAY_TRACE_ENDPOINT", "")
    if endpoint and not is_local_host(endpoint):
        raise InvalidSettings(f"RELAY_TRACE_ENDPOINT is for tests and must be on loopback, got {endpoint[:80]!r}")


def _unknown(name: str) -> str:
    known = {variable.removeprefix("RELAY_"): variable for variable in (*VARIABLES, "PORT")}
    closest = difflib.get_close_matches(name.removeprefix("RELAY_"), known, 1)
    hint = f"the closest is {known[closest[0]]}; " if closest else ""
    return f"{name} is no variable of the relay; {hint}there are {', '.join(VARIABLES)}"


def _rules(environ: Mapping[str, str]) -> RelayFile:
    path = Path(environ.get("RELAY_CONFIG") or "relay.yaml")
    if not environ.get("RELAY_CONFIG") and not path.exists():
        raise InvalidSettings("RELAY_CONFIG must name the file of rules, or relay.yaml must be in this directory")
    return relay_yaml.load(path)


def otel_file(environ: Mapping[str, str], directory: Path = Path()) -> Path | None:
    """The file that is named, there or not; else the one beside relay.yaml, if there is one."""
    if environ.get("OTEL_CONFIG_FILE"):
        return directory / environ["OTEL_CONFIG_FILE"]
    beside = directory / Path(environ.get("RELAY_CONFIG") or "relay.yaml").with_name("otel.yaml")
    return beside if beside.exists() else None


def is_untraced(environ: Mapping[str, str]) -> bool:
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _platform(environ: Mapping[str, str]) -> Platform:
    if environ.get("GAE_ENV"):
        return "app_engine" if environ["GAE_ENV"] == "standard" else "other"
    if environ.get("K_SERVICE"):
        return "cloud_run"
    return "local" if environ.get("CLOUD_TASKS_EMULATOR_HOST") else "other"


def _required(environ: Mapping[str, str], name: str, purpose: str) -> str:
    if not environ.get(name):
        raise InvalidSettings(f"{name} must be set: {purpose}")
    return environ[name]


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InvalidSettings(f"{name} must be a number from {least} to {most}, got {text[:40]!r}")
    return int(text)


def _emulator(environ: Mapping[str, str], platform: Platform) -> str | None:
    address = environ.get("CLOUD_TASKS_EMULATOR_HOST")
    if not address:
        return None
    if platform != "local":
        raise InvalidSettings(
            "CLOUD_TASKS_EMULATOR_HOST must not be set on Google Cloud: it opens the relay to its host"
        )
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in LOOPBACK or not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise InvalidSettings(
            f"CLOUD_TASKS_EMULATOR_HOST must be a loopback address such as 127.0.0.1:8123, got {address!r}"
        )
    return address


def read_ledger(environ: Mapping[str, str], platform: Platform) -> str:
    ledger = _required(environ, "RELAY_LEDGER", f"where tasks are kept: {_LEDGERS}")
    kind, _, place = ledger.partition(":")
    if kind == "firestore":
        firestore_place(place)
    elif ledger != "memory" and not (kind == "sqlite" and re.match(r"(?!:|file:).", place)):
        raise InvalidSettings(f"RELAY_LEDGER must be {_LEDGERS}, got {ledger[:80]!r}")
    elif platform in ("app_engine", "cloud_run"):
        raise InvalidSettings(
            f"RELAY_LEDGER must not be {ledger[:80]} on {platform}: its disk is memory and is lost;"
            " firestore:[DATABASE/]COLLECTION is not"
        )
    return ledger


def read_callback_secret(environ: Mapping[str, str]) -> str | None:
    """Checked here, so that a wrong one ends the start and not a callback; the error never shows it."""
    source = environ.get("RELAY_CALLBACK_SECRET", "").strip()
    if not source or webhook_signature.SECRET_NAME.fullmatch(source):
        return source or None
    try:
        webhook_signature.parse_secrets(source)
    except ValueError as exc:
        raise InvalidSettings(
            f"RELAY_CALLBACK_SECRET {exc}; or give the name of a secret in Secret Manager, projects/P/secrets/S"
        ) from None
    return source


def check_rules(settings: Settings) -> None:
    found = [f"the rules: {problem}" for problem in rule_problems(settings.rules, is_local=settings.is_local)]
    if found:
        raise InvalidSettings(*found)
