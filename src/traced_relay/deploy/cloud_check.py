"""Holds a project against the files, one look after the other. What could not be looked at is a finding like any."""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from google.auth.exceptions import GoogleAuthError

from traced_relay.config.queues import queue_prefix
from traced_relay.deploy import cron_yaml, diff
from traced_relay.deploy import plan as cloud_plan
from traced_relay.deploy.google_apis import LOG_IN, GoogleApis
from traced_relay.deploy.plan import (
    DEPLOY,
    INVOKER_ROLE,
    LEDGER_ROLE,
    PROJECT_ROLES,
    QUEUE_ROLES,
    QUEUE_SETTINGS,
    SECRET_ROLE,
    SETUP,
    Finding,
    Plan,
    Queue,
    amount,
    at,
)
from traced_relay.errors import IdentityFailed, NotLookedAt
from traced_relay.formats.yaml_file import document_of
from traced_relay.runtime.credentials import google_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MISSING = "missing"


def apis(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    listed = google.listed("serviceusage", f"v1/projects/{plan.project}/services", filter="state:ENABLED")
    enabled = {at(service, "config.name") for service in listed}
    for api in plan.apis:
        if f"{api}.googleapis.com" not in enabled:
            yield Finding(f"project {plan.project}: API {api}.googleapis.com", "enabled", "not")


def application(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    if plan.worker:
        return
    where, zone = f"project {plan.project}: App Engine's application", plan.app_engine_region
    found = google.get("appengine", f"v1/apps/{plan.project}")
    if found is None:
        yield Finding(where, f"in {zone}", MISSING)
    elif found.get("locationId") != zone:
        mend = f"it never moves: let location in {plan.rules_file} follow it, or take another project"
        yield Finding(where, f"in {zone}", f"in {found.get('locationId')}", mend)
    elif found.get("servingStatus", "SERVING") != "SERVING":
        yield Finding(where, "SERVING", found["servingStatus"], "enable it in App Engine's settings")


def accounts(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    for email in plan.accounts:
        path = f"v1/projects/-/serviceAccounts/{email}"
        found = google.get("iam", path)
        where = f"project {plan.project}: account {email}"
        if found is None:
            yield Finding(where, "there", MISSING)
        elif found.get("disabled"):
            yield Finding(where, "enabled", "disabled", "run: gcloud iam service-accounts enable")
        elif email == plan.invoker:
            yield from _roles(google, plan, where, ("iam", path), INVOKER_ROLE)


def queue(google: GoogleApis, plan: Plan, wanted: Queue) -> Iterator[Finding]:
    where = f"{plan.rules_file}: queues.{wanted.name}"
    path = f"v2/{queue_prefix(plan.project, plan.region)}/{wanted.name}"
    found = google.get("cloudtasks", path)
    if found is None:
        yield Finding(where, f"there, in {plan.region}", MISSING)
        return
    if found.get("state") != "RUNNING":
        mend = f"run: gcloud tasks queues resume {wanted.name} --location {plan.region}"
        yield Finding(where, "RUNNING", str(found.get("state")), mend)
    for name, path_there, value in (
        ("max_dispatches_per_second", "rateLimits.maxDispatchesPerSecond", wanted.max_dispatches_per_second),
        ("max_concurrent_dispatches", "rateLimits.maxConcurrentDispatches", wanted.max_concurrent_dispatches),
        *((name, name, value) for name, value in QUEUE_SETTINGS.items()),
    ):
        there = at(found, path_there)
        if amount(there) != amount(value):
            yield Finding(f"{where}.{name}", value, "not set" if there is None else str(there))
    yield from _roles(google, plan, where, ("cloudtasks", path), *QUEUE_ROLES)


def secret(google: GoogleApis, plan: Plan, owner: str, name: str) -> Iterator[Finding]:
    where, path = f"secret projects/{owner}/secrets/{name}", f"v1/projects/{owner}/secrets/{name}"
    mend = SETUP if owner == plan.project else f"it is project {owner}'s to mend"
    if google.get("secretmanager", path) is None:
        yield Finding(where, "there", MISSING, mend)
        return
    listed = google.listed("secretmanager", f"{path}/versions")
    if not any(version.get("state") == "ENABLED" for version in listed):
        yield Finding(where, "of a version that is enabled", "without one", mend)
    else:
        numbers = {str(version.get("name")).rpartition("/")[2]: str(version.get("state")) for version in listed}
        yield from _versions_read(plan, owner, name, {no: state for no, state in numbers.items() if no.isdigit()})
    yield from _roles(google, plan, where, ("secretmanager", path), SECRET_ROLE, mend=mend)


def _versions_read(plan: Plan, owner: str, name: str, states: dict[str, str]) -> Iterator[Finding]:
    """The versions that the relay reads; Secret Manager's `latest` is the newest, whatever its state."""
    named = [version for project, secret, version in plan.secret_versions if (project, secret) == (owner, name)]
    for version in named or sorted(states, key=int)[-1:]:
        state = states.get(version, MISSING) if version.isdigit() else "ENABLED"  # an alias is not listed
        if state != "ENABLED":
            mend = f"run: gcloud secrets versions enable {version} --secret {name} --project {owner}; or add a version"
            where = f"secret projects/{owner}/secrets/{name}: version {version}{'' if named else ', its latest'}"
            yield Finding(where, "ENABLED", state, mend)


def ledger(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    where, path = plan.ledger_key, f"v1/projects/{plan.project}/databases/{plan.database}"
    found = google.get("firestore", path)
    if found is None:
        yield Finding(f"{where}: Firestore's database {plan.database}", "there", MISSING)
        return
    if found.get("type", "FIRESTORE_NATIVE") != "FIRESTORE_NATIVE":
        yield Finding(
            f"{where}: Firestore's database {plan.database}", "FIRESTORE_NATIVE", found["type"], "name another"
        )
    file, groups = plan.directory / "firestore.indexes.json", f"{path}/collectionGroups/-"
    indexes = google.listed("firestore", f"{groups}/indexes")
    for line in diff.missing_indexes(plan.collection, indexes, file):
        yield Finding(f"{file.name}: index {line.replace('field-path=', '')}", "there", MISSING)
    fields = google.listed("firestore", f"{groups}/fields", filter="indexConfig.usesAncestorConfig:false")
    for line in diff.stale_fields(plan.collection, fields, file):
        kind, group, field, *orders = line.split()
        indexed = f"indexed {orders[0].lower()}" if orders else "without an index"
        wanted, there = ("with a time to live", "without one") if kind == "ttl" else (indexed, "otherwise")
        yield Finding(f"{file.name}: field {group}.{field}", wanted, there)
    lives = [{"name": field["name"], **field["ttlConfig"]} for field in fields if "ttlConfig" in field]
    yield from _unready(file.name, plan.collection, [*indexes, *lives])


def _unready(file: str, collection: str, there: list[dict[str, Any]]) -> Iterator[Finding]:
    for resource in there:
        shown, state = resource["name"].partition("/collectionGroups/")[2], resource.get("state", "READY")
        is_ours = shown.partition("/")[0] in (collection, f"{collection}-bodies")
        if is_ours and state not in ("READY", "ACTIVE"):
            yield Finding(f"{file}: {shown}", "ready", state, "wait some minutes" if state == "CREATING" else SETUP)


def rights(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    bindings = google.bindings("cloudresourcemanager", f"v1/projects/{plan.project}")
    where = f"project {plan.project}: the roles of {plan.relay}"
    held = {role for role, condition in _held(bindings, plan.relay) if not condition}
    for role in PROJECT_ROLES:
        if role not in held:
            yield Finding(where, f"with {role}", "without")
    conditions = [condition for role, condition in _held(bindings, plan.relay) if role == LEDGER_ROLE]
    if not {"", plan.exemption()} & set(conditions):
        shown, mend = ("with another condition", f"take that away, then {SETUP}") if conditions else ("without", SETUP)
        yield Finding(where, f"with {LEDGER_ROLE} for the database {plan.database}", shown, mend)
    elif "" in conditions:
        mend = f"take away {LEDGER_ROLE} without a condition, then {SETUP}"
        yield Finding(where, f"with {LEDGER_ROLE} for one database alone", "with it for all", mend, "warning")
    for email in plan.accounts:
        known = {*PROJECT_ROLES, LEDGER_ROLE} if email == plan.relay else set()
        for role in sorted({role for role, _ in _held(bindings, email)} - known):
            mend = "take it away if nothing else needs it"
            shown = f"project {plan.project}: the roles of {email}"
            yield Finding(shown, "no more than the relay needs", f"with {role}", mend, "warning")


def _roles(
    google: GoogleApis, plan: Plan, where: str, resource: tuple[str, str], *roles: str, mend: str = SETUP
) -> Iterator[Finding]:
    held = {role for role, condition in _held(google.bindings(*resource), plan.relay) if not condition}
    for role in roles:
        if role not in held:
            yield Finding(f"{where}: {plan.relay}", f"with {role}", "without", mend)


def _held(bindings: list[dict[str, Any]], email: str) -> Iterator[tuple[str, str]]:
    """Each role of the account, with the condition under which it holds."""
    for binding in bindings:
        if f"serviceAccount:{email}" in binding.get("members", []):
            yield binding["role"], at(binding, "condition.expression") or ""


def monitoring(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    project = f"projects/{plan.project}"
    ours = {"filter": 'user_labels.app="traced-relay"'}
    for files, there in (
        ("metrics/*.yaml", google.listed("logging", f"v2/{project}/metrics")),
        ("alerts/*.yaml", google.listed("monitoring", f"v3/{project}/alertPolicies", **ours)),
        ("dashboard.json", google.listed("monitoring", f"v1/{project}/dashboards")),
    ):
        for file in sorted((plan.directory / "monitoring").glob(files)):
            document = _filled_in(document_of(file), plan)
            found = diff.counterpart(file.stem, document, there)
            where = f"monitoring/{files.replace('*.yaml', file.name)}"
            if found is None:
                yield Finding(where, "there", MISSING)
            elif keys := diff.differing(found, document):
                yield Finding(where, "there as it is written", f"different in {', '.join(keys)}")


def _filled_in(document: Any, plan: Plan) -> Any:
    text = json.dumps(document)
    for placeholder, value in plan.placeholders.items():
        text = text.replace(placeholder, value)
    return json.loads(text)


def sweeps(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    """On App Engine its cron asks for them, elsewhere Cloud Scheduler; App Engine's jobs are listed when named so."""
    where = "Cloud Scheduler's job for /sweep" if plan.worker else "cron.yaml: the job for /sweep"
    mend = SETUP if plan.worker else DEPLOY
    legacy = {} if plan.worker else {"legacyAppEngineCron": "true"}
    path = f"v1beta1/projects/{plan.project}/locations/{plan.region}/jobs"
    uris = ("appEngineHttpTarget.relativeUri", "httpTarget.uri")
    wanted = f"{plan.worker or ''}/sweep"
    jobs = [job for job in google.listed("cloudscheduler", path, **legacy) if wanted in [at(job, uri) for uri in uris]]
    if not jobs:
        yield Finding(where, "there", MISSING, mend)
    for job in jobs:
        if job.get("state", "ENABLED") != "ENABLED":
            yield Finding(where, "ENABLED", job["state"], "resume it in Cloud Scheduler")
    if jobs and not plan.worker:
        written = cron_yaml.sweep_of(document_of(plan.directory / "cron.yaml")).get("schedule")
        if written is None:
            yield Finding(where, "in the file with its schedule", "without", "add it")
        elif written not in [job.get("schedule") for job in jobs]:
            yield Finding(where, str(written), str(jobs[0].get("schedule")), mend)


def versions(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    if plan.worker:
        yield from _service(google, plan, plan.worker)
        return
    where = f"app.yaml: service {plan.service}"
    path = f"v1/apps/{plan.project}/services/{plan.service}/versions"
    serving = [one for one in google.listed("appengine", path) if one.get("servingStatus") == "SERVING"]
    if not serving:
        yield Finding(where, "deployed", MISSING, DEPLOY)
    for version in serving:
        account = version.get("serviceAccount", "the project's default account")
        if account != plan.relay:
            mend = f"{DEPLOY}, and stop it when nothing runs there"
            yield Finding(f"{where}: version {version['id']}", f"run as {plan.relay}", f"run as {account}", mend)


def _service(google: GoogleApis, plan: Plan, url: str) -> Iterator[Finding]:
    """The one of Cloud Run that has the worker's URL; with a domain of its own it cannot be told."""
    where = f"{plan.rules_file}: worker {url}"
    services = google.listed("run", f"v2/projects/{plan.project}/locations/{plan.region}/services")
    service = next((one for one in services if url in (one.get("uri"), *one.get("urls", []))), None)
    if service is None:
        mend = "deploy it, unless it runs elsewhere or has a domain of its own"
        yield Finding(where, f"a service of Cloud Run in {plan.region}", "none of them", mend, "warning")
    elif (account := at(service, "template.serviceAccount")) != plan.relay:
        yield Finding(where, f"run as {plan.relay}", f"run as {account}", f"deploy it with {plan.relay}")


def findings(google: GoogleApis, project: str, directory: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    plan = cloud_plan.plan(project, directory, environ)
    for name, look in _looks(plan):
        try:
            yield from look(google, plan)
        except NotLookedAt as exc:
            yield Finding(name, "looked at", f"hidden from you ({exc})", "ask as somebody who may see it")


def _looks(plan: Plan) -> Iterator[tuple[str, Callable[[GoogleApis, Plan], Iterator[Finding]]]]:
    project = f"project {plan.project}"
    yield f"{project}: its APIs", apis
    yield f"{project}: App Engine's application", application
    yield f"{project}: its accounts", accounts
    for wanted in plan.queues:
        yield f"{plan.rules_file}: queues.{wanted.name}", partial(queue, wanted=wanted)
    for owner, name in plan.secrets:
        yield f"secret projects/{owner}/secrets/{name}", partial(secret, owner=owner, name=name)
    yield f"{project}: Firestore's database {plan.database}", ledger
    yield f"{project}: its policy", rights
    yield f"{project}: metrics, alerts and dashboard", monitoring
    yield f"{project}: jobs of Cloud Scheduler", sweeps
    yield f"{project}: versions of {plan.service}", versions


def connected(project: str) -> GoogleApis:
    """With the environment's Google credentials; a person's need a project that the requests count for."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a person's credentials without a project, see below
            session: Any = google_session()
    except GoogleAuthError as exc:
        raise IdentityFailed(f"there are no Google credentials; {LOG_IN}") from exc
    if getattr(session.credentials, "refresh_token", None) and not session.credentials.quota_project_id:
        session.headers["X-Goog-User-Project"] = project
    return GoogleApis(session)
