"""
Whether the service would start, and work, as relay.yaml, app.yaml, otel.yaml and the environment say: every problem.

With an app.yaml for the worker's service the environment is the one that it sets; without one, this process's.
Where the environment names a project, the files are meant for it, and must not be the examples that they come as.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from traced_relay.config import relay_yaml, settings
from traced_relay.config.relay_yaml import longest_timeout, places, range_named_by, rule_problems
from traced_relay.deploy import app_yaml, cron_yaml
from traced_relay.deploy.gcloudignore import is_uploaded, read_at_start
from traced_relay.deploy.plan import Finding
from traced_relay.downstream.addresses import Reach
from traced_relay.downstream.webhook_signature import SECRET_NAME
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.formats.yaml_file import document_of
from traced_relay.ledger.sqlite import check_file
from traced_relay.tracing import otel_yaml
from traced_relay.tracing.otel_yaml import OTLP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from traced_relay.config.relay_yaml import RelayFile
    from traced_relay.downstream.rules import UrlPattern

_EXAMPLE = re.compile(r"\bexample\.(com|net|org)\b|\bmy-project\b|\b(NUMBER|PROJECT)\b")


# `*` stands for whole labels, and whoever has a project of Google's has a label here.
_EVERYBODYS = re.compile(r"\*(\.appspot\.com)?|.*\*.*\.(run\.app|cloudfunctions\.net)")


def placeholders(rules: RelayFile) -> Iterator[str]:
    """Each begins with its key."""
    for key, value in _named_values(rules):
        if value and _EXAMPLE.search(value):
            yield f"{key} is still the example {value}: name your own"
    for rule in rules.downstreams:
        if rule.auth == "id_token" and _EVERYBODYS.fullmatch(urlsplit(rule.url).netloc):
            yield (
                f"downstreams.{rule.name}.url {rule.url} takes the services of everybody's projects, which would get"
                " the relay's ID token: name the hosts of yours"
            )


def _named_values(rules: RelayFile) -> Iterator[tuple[str, str | None]]:
    yield "audience", rules.audience
    yield "worker.url", rules.worker.url
    yield "worker.service_account", rules.worker.service_account
    for caller in rules.callers:
        yield "callers.email", caller.email
    for rule in rules.downstreams:
        yield f"downstreams.{rule.name}.url", rule.url
    for receiver in rules.callbacks:
        yield "callbacks.url", receiver.url


# What App Engine sets by itself; the project only where nobody has named one.
ON_APP_ENGINE = {"GAE_ENV": "standard"}
UNNAMED_PROJECT = {"GOOGLE_CLOUD_PROJECT": "unnamed-project"}


def problems(directory: Path = Path(), environ: Mapping[str, str] | None = None) -> list[str]:
    """All that is wrong with the deployment in *directory*, each with its file and key; nothing, if nothing is."""
    environ = settings.own_environment() if environ is None else environ
    found: list[str] = []
    app = _document(directory / "app.yaml", found)
    given = app_yaml.environment(app)
    name = given.get("RELAY_CONFIG") or environ.get("RELAY_CONFIG") or "relay.yaml"
    rules = _rules(directory / name, found)
    if app is not None and (rules is None or rules.worker.app_engine):
        found += [f"app.yaml: {problem}" for problem in app_yaml.problems(app, rules)]
        deployed: Mapping[str, str] = UNNAMED_PROJECT | _set_variables(environ) | given | ON_APP_ENGINE
        found += [f"app.yaml: env_variables: {text}" for text in settings.variable_problems(deployed, rules)]
        if SECRET_NAME.fullmatch(given.get("RELAY_CALLBACK_SECRET") or "projects/p/secrets/s") is None:
            found.append(
                "app.yaml: env_variables.RELAY_CALLBACK_SECRET must name a secret of Secret Manager, not be one"
            )
        found += _beside_app_yaml(directory, deployed, app, rules)
    else:
        deployed = environ
        found += [f"environment: {text}" for text in settings.variable_problems(environ, rules)]
        found += _ledger_problems(environ.get("RELAY_LEDGER", ""))
    found += [problem.removeprefix(f"{directory}/") for problem in _otel_problems(directory, deployed)]
    if rules:
        secret = deployed.get("RELAY_CALLBACK_SECRET")
        is_local = bool(deployed.get("CLOUD_TASKS_EMULATOR_HOST"))
        examples = placeholders(rules) if environ.get("GOOGLE_CLOUD_PROJECT") and not is_local else ()
        wrong = (*rule_problems(rules, is_local=is_local), *_rule_problems(rules, secret), *examples)
        found += [f"{name}: {text}" for text in wrong]
    return found


def _ledger_problems(ledger: str) -> Iterator[str]:
    kind, _, place = ledger.partition(":")
    if kind == "sqlite":
        try:
            check_file(Path(place))
        except Unavailable as exc:
            yield f"environment: RELAY_LEDGER: {exc}"


def _set_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in UNNAMED_PROJECT if environ.get(name)}


def _beside_app_yaml(
    directory: Path, deployed: Mapping[str, str], app: dict[str, Any], rules: RelayFile | None
) -> Iterator[str]:
    """What App Engine needs of the other files: that they are uploaded, and ask for the sweeps."""
    for file in read_at_start(deployed, directory):
        if not is_uploaded(directory, file):
            yield f".gcloudignore: {file} is not uploaded, but the service of app.yaml reads it"
    cron: list[str] = []
    document = _document(directory / "cron.yaml", cron)
    yield from (problem.removeprefix(f"{directory}/") for problem in cron)
    if not cron:
        every = rules.sweep_every if rules else 60.0
        for problem in cron_yaml.problems(document, str(app.get("service", "default")), every):
            yield f"cron.yaml: {problem}"


def _otel_problems(directory: Path, deployed: Mapping[str, str]) -> Iterator[str]:
    """Why there would be no spans; a relay without the file that it has by default has meant it."""
    file = settings.otel_file(deployed, directory)
    switch = deployed.get("OTEL_SDK_DISABLED", "")
    if switch.strip().lower() not in ("", "true", "false"):
        yield f"environment: OTEL_SDK_DISABLED must be true or false, got {switch[:80]!r}"
    if settings.is_untraced(deployed):
        if file is not None and not file.exists():
            yield f"environment: OTEL_CONFIG_FILE: {file} is missing"
        return
    try:
        with _surrounded_by(deployed):
            if file is None:
                return
            read = otel_yaml.read(file)
    except InvalidSettings as exc:
        yield from exc.problems
        return
    locked = directory / "requirements.txt"
    needs_otlp = "GAE_ENV" in deployed and any(batch.exporter == OTLP for batch in read.batches)
    if needs_otlp and locked.exists() and not _OTLP_LOCKED.search(locked.read_text()):
        yield f"{file}: {OTLP} needs the extra `otlp`, which requirements.txt lacks"


_OTLP_LOCKED = re.compile(r"^opentelemetry-exporter-otlp-proto-http\b", re.MULTILINE)


@contextmanager
def _surrounded_by(environ: Mapping[str, str]) -> Iterator[None]:
    """OpenTelemetry's reader fills in variables from this process's environment and from nowhere else."""
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)


def _document(path: Path, found: list[str]) -> dict[str, Any] | None:
    """The mapping in *path*; None where there is no such file, or no mapping in it, which is a problem."""
    if not path.exists():
        return None
    try:
        document = document_of(path)
    except InvalidSettings as exc:
        found += exc.problems
        return None
    if not isinstance(document, dict):
        found.append(f"{path}: must be a mapping of keys to values")
        return None
    return document


def _rules(path: Path, found: list[str]) -> RelayFile | None:
    try:
        return relay_yaml.load(path)
    except InvalidSettings as exc:
        found += exc.problems
        return None


def _rule_problems(rules: RelayFile, secret: str | None) -> Iterator[str]:
    """What is no error of the file, since it starts like this, but cannot be what somebody meant."""
    yield from _never_reached("downstreams", [(rule.name, rule) for rule in rules.downstreams])
    yield from _never_reached("callbacks", [(receiver.url, receiver) for receiver in rules.callbacks])
    for key, place in places(rules):
        found = range_named_by(place)
        if found is not None and found.reach is Reach.PRIVATE and not place.allow_private:
            yield f"{key} needs `allow_private: true`, because {place.url} is in {found}"
    if not secret:
        for receiver in rules.callbacks:
            if not receiver.secret:
                yield f"callbacks: {receiver.url} has no secret, and RELAY_CALLBACK_SECRET is not set"
    if not rules.callers:
        yield "callers: there are none, so nobody may enqueue"
    if not rules.downstreams:
        yield "downstreams: there are none, so nothing may be called"
    longest = longest_timeout(rules)
    if rules.heartbeat >= longest:
        yield "heartbeat must be less than max_timeout, or no call ever has one"


def _never_reached(key: str, listed: Iterable[tuple[str, UrlPattern]]) -> Iterator[str]:
    seen: list[tuple[str, UrlPattern]] = []
    for name, place in listed:
        if before := next((earlier for earlier, other in seen if other.covers(place)), None):
            yield f"{key}: {name} can never match, because {before} before it takes all that it would"
        seen.append((name, place))


def shown(found: Iterable[str | Finding], *, as_json: bool) -> Iterator[tuple[str, bool]]:
    """Each as a line to print, and whether it is a problem and no mere warning."""
    for one in found:
        severity = one.severity if isinstance(one, Finding) else "problem"
        document = {"severity": severity, "message": str(one)} | (one.document() if isinstance(one, Finding) else {})
        yield (json.dumps(document, ensure_ascii=False) if as_json else str(one)), severity == "problem"
