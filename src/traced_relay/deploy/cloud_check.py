"""Compares a Google Cloud project with the files, resource by resource. One that cannot be read is a finding too."""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from google.auth.exceptions import GoogleAuthError

from traced_relay.config.queues import queue_prefix
from traced_relay.deploy import cron_yaml, diff
from traced_relay.deploy import plan as deployment
from traced_relay.deploy.finding import DEPLOY, SETUP, Finding
from traced_relay.deploy.google_apis import LOG_IN, GoogleApis
from traced_relay.deploy.plan import (
    INVOKER_ROLE,
    LEDGER_ROLE,
    PROJECT_ROLES,
    QUEUE_ROLES,
    QUEUE_SETTINGS,
    SECRET_ROLE,
    Plan,
)
from traced_relay.errors import AccessDenied, IdentityFailed
from traced_relay.formats.yaml_file import document_of
from traced_relay.runtime.credentials import google_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from traced_relay.config.relay_yaml import QueueRule

PRESENT, MISSING = "present", "missing"


def apis(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    listed = google.listed("serviceusage", f"v1/projects/{plan.project}/services", filter="state:ENABLED")
    enabled = {at(service, "config.name") for service in listed}
    for api in plan.apis:
        if f"{api}.googleapis.com" not in enabled:
            yield Finding(f"project {plan.project}: API {api}.googleapis.com", "enabled", "disabled")


def application(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    where, zone = f"project {plan.project}: App Engine application", plan.app_engine_region
    found = google.get("appengine", f"v1/apps/{plan.project}")
    if found is None:
        yield Finding(where, f"in {zone}", MISSING)
    elif found.get("locationId") != zone:
        fix = f"it cannot move: change location in {plan.rules_file}, or use another project"
        yield Finding(where, f"in {zone}", f"in {found.get('locationId')}", fix)
    elif found.get("servingStatus", "SERVING") != "SERVING":
        yield Finding(where, "SERVING", found["servingStatus"], "enable it in the settings of App Engine")


def accounts(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    for email in plan.accounts:
        path = f"v1/projects/-/serviceAccounts/{email}"
        found = google.get("iam", path)
        where = f"project {plan.project}: account {email}"
        if found is None:
            yield Finding(where, PRESENT, MISSING)
        elif found.get("disabled"):
            yield Finding(where, "enabled", "disabled", "run: gcloud iam service-accounts enable")
        elif email == plan.invoker:
            yield from _missing_roles(google.bindings("iam", path), plan, where, INVOKER_ROLE)


def queue(google: GoogleApis, plan: Plan, wanted: QueueRule) -> Iterator[Finding]:
    where = f"{plan.rules_file}: queues.{wanted.name}"
    path = f"v2/{queue_prefix(plan.project, plan.region)}/{wanted.name}"
    found = google.get("cloudtasks", path)
    if found is None:
        yield Finding(where, f"{PRESENT} in {plan.region}", MISSING)
        return
    if found.get("state") != "RUNNING":
        fix = f"run: gcloud tasks queues resume {wanted.name} --location {plan.region}"
        yield Finding(where, "RUNNING", str(found.get("state")), fix)
    for name, path_there, value in (
        ("max_dispatches_per_second", "rateLimits.maxDispatchesPerSecond", f"{wanted.max_dispatches_per_second:g}"),
        ("max_concurrent_dispatches", "rateLimits.maxConcurrentDispatches", str(wanted.max_concurrent_dispatches)),
        *((name, name, value) for name, value in QUEUE_SETTINGS.items()),
    ):
        there = at(found, path_there)
        if amount(there) != amount(value):
            yield Finding(f"{where}.{name}", value, "not set" if there is None else str(there))
    yield from _missing_roles(google.bindings("cloudtasks", path), plan, where, *QUEUE_ROLES)


def secret(google: GoogleApis, plan: Plan, owner: str, name: str) -> Iterator[Finding]:
    where, path = f"secret projects/{owner}/secrets/{name}", f"v1/projects/{owner}/secrets/{name}"
    fix = SETUP if owner == plan.project else f"fix it in project {owner}"
    if google.get("secretmanager", path) is None:
        yield Finding(where, PRESENT, MISSING, fix)
        return
    listed = google.listed("secretmanager", f"{path}/versions")
    if not any(version.get("state") == "ENABLED" for version in listed):
        yield Finding(where, "an enabled version", "none", fix)
    else:
        numbers = {str(version.get("name")).rpartition("/")[2]: str(version.get("state")) for version in listed}
        yield from _used_versions(plan, owner, name, {no: state for no, state in numbers.items() if no.isdigit()})
    yield from _missing_roles(google.bindings("secretmanager", path), plan, where, SECRET_ROLE, fix=fix)


def _used_versions(plan: Plan, owner: str, name: str, states: dict[str, str]) -> Iterator[Finding]:
    """Secret Manager's `latest` is the newest version, enabled or not."""
    named = [version for project, secret, version in plan.secret_versions if (project, secret) == (owner, name)]
    for version in named or sorted(states, key=int)[-1:]:
        state = states.get(version, MISSING) if version.isdigit() else "ENABLED"  # an alias is not listed
        if state != "ENABLED":
            fix = f"run: gcloud secrets versions enable {version} --secret {name} --project {owner}; or add a version"
            where = f"secret projects/{owner}/secrets/{name}: version {version}{'' if named else ' (latest)'}"
            yield Finding(where, "ENABLED", state, fix)


def ledger(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    where, path = plan.ledger_key, f"v1/projects/{plan.project}/databases/{plan.database}"
    found = google.get("firestore", path)
    if found is None:
        yield Finding(f"{where}: Firestore database {plan.database}", PRESENT, MISSING)
        return
    if found.get("type", "FIRESTORE_NATIVE") != "FIRESTORE_NATIVE":
        yield Finding(
            f"{where}: Firestore database {plan.database}", "FIRESTORE_NATIVE", found["type"], "name another database"
        )
    file, groups = plan.directory / "firestore.indexes.json", f"{path}/collectionGroups/-"
    indexes = google.listed("firestore", f"{groups}/indexes")
    for line in diff.missing_indexes(plan.collection, indexes, file):
        yield Finding(f"{file.name}: index {line.replace('field-path=', '')}", PRESENT, MISSING)
    fields = google.listed("firestore", f"{groups}/fields", filter="indexConfig.usesAncestorConfig:false")
    for line in diff.stale_fields(plan.collection, fields, file):
        kind, group, field, *orders = line.split()
        indexed = f"indexed {orders[0].lower()}" if orders else "no index"
        wanted, there = ("a TTL policy", "none") if kind == "ttl" else (indexed, "a different index")
        yield Finding(f"{file.name}: field {group}.{field}", wanted, there)
    lives = [{"name": field["name"], **field["ttlConfig"]} for field in fields if "ttlConfig" in field]
    yield from _unready(file.name, plan.collection, [*indexes, *lives])


def _unready(file: str, collection: str, deployed: list[dict[str, Any]]) -> Iterator[Finding]:
    for resource in deployed:
        shown, state = resource["name"].partition("/collectionGroups/")[2], resource.get("state", "READY")
        is_ours = shown.partition("/")[0] in (collection, f"{collection}-bodies")
        if is_ours and state not in ("READY", "ACTIVE"):
            yield Finding(f"{file}: {shown}", "ready", state, "wait a few minutes" if state == "CREATING" else SETUP)


def project_roles(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    bindings = google.bindings("cloudresourcemanager", f"v1/projects/{plan.project}")
    where = f"project {plan.project}: roles of {plan.relay}"
    yield from _missing_roles(bindings, plan, f"project {plan.project}", *PROJECT_ROLES)
    conditions = [condition for role, condition in _roles_of(bindings, plan.relay) if role == LEDGER_ROLE]
    if not {"", plan.ledger_condition} & set(conditions):
        remove = f"remove that binding, then {SETUP}"
        shown, fix = ("another condition", remove) if conditions else ("not granted", SETUP)
        yield Finding(where, f"{LEDGER_ROLE} for the database {plan.database}", shown, fix)
    elif "" in conditions:
        fix = f"remove the binding without a condition, then {SETUP}"
        yield Finding(where, f"{LEDGER_ROLE} for one database", "it for all databases", fix, "warning")
    for email in plan.accounts:
        known = {*PROJECT_ROLES, LEDGER_ROLE} if email == plan.relay else set()
        for role in sorted({role for role, _ in _roles_of(bindings, email)} - known):
            fix = "remove it unless something else needs it"
            shown = f"project {plan.project}: roles of {email}"
            yield Finding(shown, "only what the relay needs", role, fix, "warning")


def _missing_roles(
    bindings: list[dict[str, Any]], plan: Plan, where: str, *roles: str, fix: str = SETUP
) -> Iterator[Finding]:
    held = {role for role, condition in _roles_of(bindings, plan.relay) if not condition}
    for role in roles:
        if role not in held:
            yield Finding(f"{where}: roles of {plan.relay}", role, "not granted", fix)


def _roles_of(bindings: list[dict[str, Any]], email: str) -> Iterator[tuple[str, str]]:
    """Each role of the account with its condition, empty if it has none."""
    for binding in bindings:
        if f"serviceAccount:{email}" in binding.get("members", []):
            yield binding["role"], at(binding, "condition.expression") or ""


def monitoring(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    project = f"projects/{plan.project}"
    ours = {"filter": 'user_labels.app="traced-relay"'}
    for files, deployed in (
        ("metrics/*.yaml", google.listed("logging", f"v2/{project}/metrics")),
        ("alerts/*.yaml", google.listed("monitoring", f"v3/{project}/alertPolicies", **ours)),
        ("dashboard.json", google.listed("monitoring", f"v1/{project}/dashboards")),
    ):
        for file in sorted((plan.directory / "monitoring").glob(files)):
            document = _filled_in(document_of(file), plan)
            found = diff.counterpart(file.stem, document, deployed)
            where = f"monitoring/{files.replace('*.yaml', file.name)}"
            if found is None:
                yield Finding(where, PRESENT, MISSING)
            elif keys := diff.differing_keys(found, document):
                yield Finding(where, "the values of the file", f"different {', '.join(keys)}")


def _filled_in(document: Any, plan: Plan) -> Any:
    text = json.dumps(document)
    for placeholder, value in plan.placeholders.items():
        text = text.replace(placeholder, value)
    return json.loads(text)


def sweeps(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    """App Engine's cron requests sweeps, elsewhere Cloud Scheduler; only a flag lists the jobs of App Engine."""
    where = "Cloud Scheduler: job for /sweep" if plan.worker else "cron.yaml: job for /sweep"
    fix = SETUP if plan.worker else DEPLOY
    legacy = {} if plan.worker else {"legacyAppEngineCron": "true"}
    path = f"v1beta1/projects/{plan.project}/locations/{plan.region}/jobs"
    uris = ("appEngineHttpTarget.relativeUri", "httpTarget.uri")
    wanted = f"{plan.worker or ''}/sweep"
    jobs = [job for job in google.listed("cloudscheduler", path, **legacy) if wanted in [at(job, uri) for uri in uris]]
    if not jobs:
        yield Finding(where, PRESENT, MISSING, fix)
    for job in jobs:
        if job.get("state", "ENABLED") != "ENABLED":
            yield Finding(where, "ENABLED", job["state"], "resume it in Cloud Scheduler")
    if jobs and not plan.worker:
        written = cron_yaml.sweep_of(document_of(plan.directory / "cron.yaml")).get("schedule")
        if written is None:
            yield Finding(where, "a schedule in the file", "none", "add it")
        elif written not in [job.get("schedule") for job in jobs]:
            yield Finding(where, str(written), str(jobs[0].get("schedule")), fix)


def versions(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    where = f"app.yaml: service {plan.service}"
    path = f"v1/apps/{plan.project}/services/{plan.service}/versions"
    serving = [one for one in google.listed("appengine", path) if one.get("servingStatus") == "SERVING"]
    if not serving:
        yield Finding(where, "deployed", MISSING, DEPLOY)
    for version in serving:
        account = version.get("serviceAccount", "the project's default account")
        if account != plan.relay:
            fix = f"{DEPLOY}, then stop this version when it runs no calls"
            yield Finding(f"{where}: version {version['id']}: account", plan.relay, account, fix)


def run_service(google: GoogleApis, plan: Plan) -> Iterator[Finding]:
    """The Cloud Run service with the worker's URL; a service with its own domain is not found."""
    where = f"{plan.rules_file}: worker {plan.worker}"
    services = google.listed("run", f"v2/projects/{plan.project}/locations/{plan.region}/services")
    service = next((one for one in services if plan.worker in (one.get("uri"), *one.get("urls", []))), None)
    if service is None:
        fix = "deploy it, unless it runs elsewhere or has its own domain"
        yield Finding(where, f"a Cloud Run service in {plan.region}", "none", fix, "warning")
    elif (account := at(service, "template.serviceAccount")) != plan.relay:
        yield Finding(f"{where}: account", plan.relay, str(account), f"deploy it with {plan.relay}")


def findings(google: GoogleApis, project: str, directory: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    plan = deployment.plan(project, directory, environ)
    for name, check in _checks(plan):
        try:
            yield from check(google, plan)
        except AccessDenied as exc:
            yield Finding(name, "read access", f"none ({exc})", "use credentials that may read it")


def _checks(plan: Plan) -> Iterator[tuple[str, Callable[[GoogleApis, Plan], Iterator[Finding]]]]:
    project = f"project {plan.project}"
    yield f"{project}: APIs", apis
    if not plan.worker:
        yield f"{project}: App Engine application", application
    yield f"{project}: accounts", accounts
    for wanted in plan.queues:
        yield f"{plan.rules_file}: queues.{wanted.name}", partial(queue, wanted=wanted)
    for owner, name in plan.secrets:
        yield f"secret projects/{owner}/secrets/{name}", partial(secret, owner=owner, name=name)
    yield f"{project}: Firestore database {plan.database}", ledger
    yield f"{project}: IAM policy", project_roles
    yield f"{project}: metrics, alerts and dashboard", monitoring
    yield f"{project}: Cloud Scheduler jobs", sweeps
    yield f"{project}: versions of {plan.service}", run_service if plan.worker else versions


def connected(project: str) -> GoogleApis:
    """With the environment's Google credentials; those of a person need a project for the quota."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about a person's credentials without a project, see below
            session: Any = google_session()
    except GoogleAuthError as exc:
        raise IdentityFailed(f"no Google credentials found; {LOG_IN}") from exc
    if getattr(session.credentials, "refresh_token", None) and not session.credentials.quota_project_id:
        session.headers["X-Goog-User-Project"] = project
    return GoogleApis(session)


def at(document: Any, path: str) -> Any:
    """The value at `a.b` in a document, or None."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def amount(value: Any) -> float:
    """A number or a duration in Google's JSON, which omits zero."""
    return float(str(value or 0).removesuffix("s"))
