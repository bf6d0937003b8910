"""
Every problem that would keep the service from starting or working: relay.yaml, app.yaml, otel.yaml, the environment.

The variables are those of app.yaml if the worker is on App Engine, else this process's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from traced_relay.config import relay_yaml, settings
from traced_relay.config.relay_yaml import longest_timeout, patterns_by_address, rule_problems, url_patterns
from traced_relay.deploy import app_yaml, cron_yaml
from traced_relay.deploy.gcloudignore import is_uploaded
from traced_relay.downstream.addresses import Reach
from traced_relay.downstream.webhook_signature import SECRET_NAME
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.formats.yaml_file import document_of
from traced_relay.ledger.location import sqlite_file
from traced_relay.ledger.sqlite_file import check_file
from traced_relay.tracing import otel_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from traced_relay.config.relay_yaml import RelayFile
    from traced_relay.downstream.rules import UrlPattern

T = TypeVar("T")
ON_APP_ENGINE = {"GAE_ENV": "standard"}  # set by App Engine itself


def problems(directory: Path, environ: Mapping[str, str]) -> list[str]:
    """
    Every problem of the deployment in *directory*, with its file and key.

    The shipped examples are problems only if *environ* names a project, for which the files would then be meant.
    """
    found: list[str] = []
    app = _loaded(_mapping_in, directory / "app.yaml", found)
    given = app_yaml.environment(app)
    name = settings.rules_file(given, environ)
    rules = _loaded(relay_yaml.load, directory / name, found)
    if app is not None and (rules is None or rules.worker.app_engine):
        found += [f"app.yaml: {problem}" for problem in app_yaml.problems(app, rules)]
        # App Engine sets the project itself; if this process has none, another name stands for it.
        project = environ.get("GOOGLE_CLOUD_PROJECT") or "unnamed-project"
        deployed: Mapping[str, str] = {"GOOGLE_CLOUD_PROJECT": project} | given | ON_APP_ENGINE
        found += [f"app.yaml: env_variables: {text}" for text in settings.variable_problems(deployed, rules)]
        if SECRET_NAME.fullmatch(given.get("RELAY_CALLBACK_SECRET") or "projects/p/secrets/s") is None:
            found.append(
                "app.yaml: env_variables.RELAY_CALLBACK_SECRET must name a secret in Secret Manager, not contain one"
            )
        found += _beside_app_yaml(directory, deployed, app, rules)
    else:
        deployed = environ
        found += [f"environment: {text}" for text in settings.variable_problems(environ, rules)]
        found += _ledger_problems(environ.get("RELAY_LEDGER", ""))
    found += _otel_problems(directory, deployed)
    if rules:
        secret = deployed.get("RELAY_CALLBACK_SECRET")
        is_local = bool(deployed.get("CLOUD_TASKS_EMULATOR_HOST"))
        examples = _example_problems(rules) if environ.get("GOOGLE_CLOUD_PROJECT") and not is_local else ()
        wrong = (*rule_problems(rules, is_local=is_local), *_rule_problems(rules, secret), *examples)
        found += [f"{name}: {text}" for text in wrong]
    return found


def _ledger_problems(ledger: str) -> Iterator[str]:
    if ledger.startswith("sqlite:"):
        try:
            if file := sqlite_file(ledger):
                check_file(file)
        except InvalidSettings:
            return  # which is a problem of the variables already
        except Unavailable as exc:
            yield f"environment: RELAY_LEDGER: {exc}"


def _beside_app_yaml(
    directory: Path, deployed: Mapping[str, str], app: dict[str, Any], rules: RelayFile | None
) -> Iterator[str]:
    """App Engine uploads the files that the service reads at start, and its cron requests the sweeps."""
    for file in _files_read_at_start(deployed, directory):
        if not is_uploaded(directory, file):
            yield f".gcloudignore: must not exclude {file}, which the service reads at start"
    cron: list[str] = []
    document = _loaded(_mapping_in, directory / "cron.yaml", cron)
    yield from cron
    if not cron:
        every = rules.sweep_every if rules else 60.0
        for problem in cron_yaml.problems(document, str(app.get("service", "default")), every):
            yield f"cron.yaml: {problem}"


def _files_read_at_start(deployed: Mapping[str, str], directory: Path) -> Iterator[Path]:
    yield Path(settings.rules_file(deployed))
    if (otel := settings.otel_file(deployed, directory)) and not settings.is_untraced(deployed):
        yield Path(deployed.get("OTEL_CONFIG_FILE") or otel.relative_to(directory))


def _otel_problems(directory: Path, deployed: Mapping[str, str]) -> Iterator[str]:
    """Problems of the tracing configuration; a missing default otel.yaml is none, since it turns tracing off."""
    file = settings.otel_file(deployed, directory)
    switch = deployed.get("OTEL_SDK_DISABLED", "")
    if switch.strip().lower() not in ("", "true", "false"):
        yield f"environment: OTEL_SDK_DISABLED must be true or false, got {switch[:80]!r}"
    if settings.is_untraced(deployed):
        if file is not None and not file.exists():
            yield f"environment: OTEL_CONFIG_FILE: {file} is missing"
        return
    if file is None:
        return
    try:
        read = otel_yaml.read(file, deployed)
    except InvalidSettings as exc:
        yield from exc.problems
        return
    locked = directory / "requirements.txt"
    needs_otlp = "GAE_ENV" in deployed and any(batch.exporter.otlp_http for batch in read.batches)
    if needs_otlp and locked.exists() and not _OTLP_LOCKED.search(locked.read_text()):
        yield f"{file}: exporter otlp_http needs the extra `otlp`, which requirements.txt lacks"


_OTLP_LOCKED = re.compile(r"^opentelemetry-exporter-otlp-proto-http\b", re.MULTILINE)


def _mapping_in(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    document = document_of(path)
    if not isinstance(document, dict):
        raise InvalidSettings(f"{path}: must be a mapping of keys to values")
    return document


def _loaded(load: Callable[[Path], T], path: Path, found: list[str]) -> T | None:
    """The content of the file; None if *load* cannot read it, and *found* gets the problems."""
    try:
        return load(path)
    except InvalidSettings as exc:
        found += exc.problems
        return None


def _rule_problems(rules: RelayFile, secret: str | None) -> Iterator[str]:
    """Rules with which the service starts, but which cannot be intended."""
    yield from _never_reached("downstreams", [(rule.name, rule) for rule in rules.downstreams])
    yield from _never_reached("callbacks", [(receiver.url, receiver) for receiver in rules.callbacks])
    for key, pattern, found in patterns_by_address(rules):
        if found.reach is Reach.PRIVATE and not pattern.allow_private:
            yield f"{key}: needs `allow_private: true`, because {pattern.url} is in {found}"
    if not secret:
        for receiver in rules.callbacks:
            if not receiver.secret:
                yield f"callbacks: {receiver.url} has no secret, and RELAY_CALLBACK_SECRET is not set"
    if not rules.callers:
        yield "callers: is empty, so no caller may enqueue"
    if not rules.downstreams:
        yield "downstreams: is empty, so no URL may be called"
    if rules.heartbeat >= longest_timeout(rules):
        yield "heartbeat: must be less than max_timeout, or no call writes one"


def _never_reached(key: str, listed: Iterable[tuple[str, UrlPattern]]) -> Iterator[str]:
    earlier: list[tuple[str, UrlPattern]] = []
    for name, pattern in listed:
        if covering := next((other for other, covers in earlier if covers.covers(pattern)), None):
            yield f"{key}: {name} never matches, because {covering} before it matches the same URLs"
        earlier.append((name, pattern))


_EXAMPLE = re.compile(r"\bexample\.(com|net|org)\b|\bmy-project\b|\b(NUMBER|PROJECT)\b")
# `*` stands for whole labels, and any Google Cloud project has a label of these hosts.
_SHARED_HOSTS = re.compile(r"\*(\.appspot\.com)?|.*\*.*\.(run\.app|cloudfunctions\.net)")


def _example_problems(rules: RelayFile) -> Iterator[str]:
    for key, value in _named_values(rules):
        if value and _EXAMPLE.search(value):
            yield f"{key}: replace the example {value} with your own value"
    for rule in rules.downstreams:
        if rule.auth == "id_token" and _SHARED_HOSTS.fullmatch(urlsplit(rule.url).netloc):
            yield (
                f"downstreams.{rule.name}.url: {rule.url} matches services of other projects, which would get the"
                " relay's ID token; name your own hosts"
            )


def _named_values(rules: RelayFile) -> Iterator[tuple[str, str | None]]:
    yield "audience", rules.audience
    yield "worker.url", rules.worker.url
    yield "worker.service_account", rules.worker.service_account
    for caller in rules.callers:
        yield "callers.email", caller.email
    for key, pattern in url_patterns(rules):
        yield key, pattern.url
