"""Settings from the environment and relay.yaml, read once. Errors name the variable, or the file and key."""

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
from traced_relay.config.queues import queue_prefix
from traced_relay.config.relay_yaml import longest_timeout, rule_problems
from traced_relay.config.service_links import is_service_link
from traced_relay.downstream import webhook_signature
from traced_relay.errors import InvalidSettings
from traced_relay.ledger.location import LEDGERS, firestore_collection, sqlite_file
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

Platform = Literal["app_engine", "cloud_run", "local", "other"]


@dataclass(frozen=True)
class Settings:
    """Everything that a deployment decides."""

    project: str  # of the queues
    location: str  # region of the queues
    rules: RelayFile  # relay.yaml
    ledger: str  # value of RELAY_LEDGER
    platform: Platform  # "local": an embedded queue, whose headers and tokens are trusted, and loopback only
    emulator: str | None = None  # host and port of the embedded queue
    port: int = 8080
    threads: int = DEFAULT_THREADS
    version: str = __version__  # of the deployment, in records and spans
    instance: str = ""  # name of this process, in records and spans
    otel_file: Path | None = None  # OpenTelemetry's configuration
    untraced: bool = False
    open_on_loopback: bool = False  # accepts tasks without a token; `dev` without relay.yaml
    callback_secret: str | None = field(default=None, repr=False)  # secrets, or a name in Secret Manager; the default
    made_callback_secret: bool = False  # `dev` generated it, and prints it

    @property
    def is_local(self) -> bool:
        return self.platform == "local"

    @property
    def queue_prefix(self) -> str:
        return queue_prefix(self.project, self.location)

    @property
    def has_cron(self) -> bool:
        """Whether a cron job requests the sweeps: on Google's platforms a process may sleep between requests."""
        return self.platform in ("app_engine", "cloud_run")

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.is_local else "0.0.0.0"  # noqa: S104  (only the platform's router reaches it)

    @property
    def max_running(self) -> int:
        """Maximum number of calls at once; the other threads serve health checks, cancels and new tasks."""
        return self.threads - SPARE_THREADS

    @property
    def max_timeout(self) -> float:
        """Maximum seconds of one attempt: the limit of the worker's platform, or max_timeout of relay.yaml."""
        return longest_timeout(self.rules)

    @property
    def call_queues(self) -> list[str]:
        return [queue.name for queue in self.rules.queues if queue.use == "calls"]

    @property
    def callback_queue(self) -> str | None:
        return next((queue.name for queue in self.rules.queues if queue.use == "callbacks"), None)

    @property
    def own_hosts(self) -> list[str]:
        """Hosts at which the relay listens, `*` for any text; no loopback host, which other services share."""
        urls = (self.rules.worker.url, self.rules.audience)
        named = [urlsplit(url).hostname for url in urls if url]
        return [host for host in named if host and host not in LOOPBACK] + self._app_engine_hosts()

    def _app_engine_hosts(self) -> list[str]:
        """App Engine's hosts of the worker's service and of the default one, with and without version and region."""
        service = self.rules.worker.app_engine
        if service is None:
            return []
        names = ("", f"{service}-dot-", f"*-dot-{service}-dot-")
        return [f"{name}{self.project}.{zone}" for name in names for zone in ("appspot.com", "*.appspot.com")]


def own_environment() -> Mapping[str, str]:
    return os.environ


def from_environment(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings of `serve`; InvalidSettings names what is missing and what to do."""
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
    """Every problem with a variable; `from_environment` raises the first only."""
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
    why = f": {SPARE_THREADS} threads always stay free for health checks, cancels and new tasks"
    return _number(environ, "RELAY_THREADS", DEFAULT_THREADS, LEAST_THREADS, 10_000, why)


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
    return f"{name} is not a variable of the relay; {hint}the variables are {', '.join(VARIABLES)}"


def _rules(environ: Mapping[str, str]) -> RelayFile:
    path = Path(rules_file(environ))
    if not environ.get("RELAY_CONFIG") and not path.exists():
        raise InvalidSettings("RELAY_CONFIG must name the file of rules, or relay.yaml must be in this directory")
    return relay_yaml.load(path)


def rules_file(*environs: Mapping[str, str]) -> str:
    """The file that the first RELAY_CONFIG among *environs* names, else relay.yaml."""
    return next((environ["RELAY_CONFIG"] for environ in environs if environ.get("RELAY_CONFIG")), "relay.yaml")


def otel_file(environ: Mapping[str, str], directory: Path = Path()) -> Path | None:
    """The file that OTEL_CONFIG_FILE names, existing or not; else otel.yaml beside relay.yaml, if it exists."""
    if environ.get("OTEL_CONFIG_FILE"):
        return directory / environ["OTEL_CONFIG_FILE"]
    beside = directory / Path(rules_file(environ)).with_name("otel.yaml")
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


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int, why: str = "") -> int:
    text = environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InvalidSettings(f"{name} must be a number from {least} to {most}, got {text[:40]!r}{why}")
    return int(text)


def _emulator(environ: Mapping[str, str], platform: Platform) -> str | None:
    address = environ.get("CLOUD_TASKS_EMULATOR_HOST")
    if not address:
        return None
    if platform != "local":
        raise InvalidSettings(
            "CLOUD_TASKS_EMULATOR_HOST must not be set on Google Cloud: it would let every process on the host enqueue"
        )
    host, _, port = address.rpartition(":")
    if host.strip("[]") not in LOOPBACK or not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise InvalidSettings(
            f"CLOUD_TASKS_EMULATOR_HOST must be a loopback address such as 127.0.0.1:8123, got {address!r}"
        )
    return address


def read_ledger(environ: Mapping[str, str], platform: Platform) -> str:
    ledger = _required(environ, "RELAY_LEDGER", f"where tasks are kept: {LEDGERS}")
    if firestore_collection(ledger) is None:
        sqlite_file(ledger)
        if platform in ("app_engine", "cloud_run"):
            raise InvalidSettings(
                f"RELAY_LEDGER must not be {ledger[:80]} on {platform}: its disk is in memory and is lost;"
                " use firestore:[DATABASE/]COLLECTION"
            )
    return ledger


def read_callback_secret(environ: Mapping[str, str]) -> str | None:
    """RELAY_CALLBACK_SECRET, checked here because a malformed one must fail the start; the error never shows it."""
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
