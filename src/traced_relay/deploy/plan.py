"""
What the relay needs of a Google Cloud project, as relay.yaml and app.yaml say: the same as setup-env.sh makes.

Reads files, asks nobody.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from traced_relay.config import relay_yaml, settings
from traced_relay.config.queues import QUEUE_RETRIES
from traced_relay.deploy import app_yaml
from traced_relay.errors import InvalidSettings
from traced_relay.formats.yaml_file import document_of
from traced_relay.ledger.location import firestore_collection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_DEFAULT_SECRET = "traced-relay-callbacks"  # noqa: S105  (a name)


def wanted(project: str, directory: Path = Path(), environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """The facts of relay.yaml and app.yaml, or of the environment where the worker is no App Engine service."""
    environ = settings.own_environment() if environ is None else environ
    app = document_of(directory / "app.yaml") if (directory / "app.yaml").exists() else {}
    given = app_yaml.environment(app)
    rules = relay_yaml.load(directory / settings.rules_file(given, environ))
    given = given if rules.worker.app_engine else dict(environ)
    yield f"location {rules.location or given.get('RELAY_LOCATION') or '-'}"
    yield f"service {app.get('service', 'default')}"
    yield f"audience {rules.audience or '-'}"
    if rules.worker.service_account:
        yield f"invoker {rules.worker.service_account}"
        yield f"worker {str(rules.worker.url).rstrip('/')}"
    for queue in rules.queues:
        yield f"queue {queue.name} {queue.max_dispatches_per_second:g} {queue.max_concurrent_dispatches}"
    collection = firestore_collection(given.get("RELAY_LEDGER", ""))
    if collection is None:
        where = "app.yaml: env_variables.RELAY_LEDGER" if rules.worker.app_engine else "environment: RELAY_LEDGER"
        raise InvalidSettings(f"{where} must be firestore:[DATABASE/]COLLECTION")
    yield " ".join(["ledger", *collection])
    named = [receiver.secret for receiver in rules.callbacks] + [given.get("RELAY_CALLBACK_SECRET")]
    names = [name.split("/") for name in named if name and name.startswith("projects/")]
    for owner, secret in sorted({(parts[1], parts[3]) for parts in names} | {(project, _DEFAULT_SECRET)}):
        yield f"secret {owner} {secret}"
    for parts in sorted({tuple(name) for name in names if "versions" in name[4:]}):
        yield f"secret_version {parts[1]} {parts[3]} {parts[5]}"


APIS = ("cloudbuild", "cloudresourcemanager", "cloudscheduler", "cloudtasks", "cloudtrace", "firestore", "iam",
        "logging", "monitoring", "secretmanager")  # fmt: skip
APP_ENGINE_APIS, RUN_APIS = ("appengine",), ("artifactregistry", "run")
QUEUE_ROLES = ("roles/cloudtasks.enqueuer", "roles/cloudtasks.taskDeleter", "roles/cloudtasks.viewer")
SECRET_ROLE = "roles/secretmanager.secretAccessor"  # noqa: S105  (a role's name)
INVOKER_ROLE = "roles/iam.serviceAccountUser"
LEDGER_ROLE = "roles/datastore.user"
PROJECT_ROLES = ("roles/cloudtrace.agent", "roles/logging.logWriter")
QUEUE_SETTINGS = {
    **{f"retryConfig.{name}": value for name, value in QUEUE_RETRIES.items()},
    "stackdriverLoggingConfig.samplingRatio": "1.0",
}
SETUP, DEPLOY = "run ./setup-env.sh", "run ./deploy.sh"


@dataclass(frozen=True)
class Finding:
    """One difference: *where* names file and key, *mend* what to do. A warning is no reason to fail."""

    where: str
    wanted: str
    there: str
    mend: str = SETUP
    severity: Literal["problem", "warning"] = "problem"

    def __str__(self) -> str:
        prefix = "" if self.severity == "problem" else "warning: "
        return f"{prefix}{self.where} must be {self.wanted}, is {self.there}; {self.mend}"

    def document(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Queue:
    name: str
    max_dispatches_per_second: str
    max_concurrent_dispatches: str


@dataclass(frozen=True)
class Plan:
    """The facts of the files; *service* is App Engine's, or *worker* the URL of one elsewhere, called as *invoker*."""

    project: str
    directory: Path
    rules_file: str
    region: str
    service: str
    worker: str | None
    invoker: str | None
    queues: Sequence[Queue]
    database: str
    collection: str
    secrets: Sequence[tuple[str, str]]
    secret_versions: Sequence[tuple[str, str, str]]  # those that are named; of all others the latest is read

    @property
    def relay(self) -> str:
        return f"traced-relay@{self.project}.iam.gserviceaccount.com"

    @property
    def accounts(self) -> list[str]:
        return [self.relay, *([self.invoker] if self.invoker else [])]

    @property
    def apis(self) -> list[str]:
        return sorted([*APIS, *(RUN_APIS if self.worker else APP_ENGINE_APIS)])

    @property
    def app_engine_region(self) -> str:
        """App Engine knows two regions by an older name."""
        return self.region[:-1] if self.region in ("us-central1", "europe-west1") else self.region

    @property
    def ledger_key(self) -> str:
        return "environment: RELAY_LEDGER" if self.worker else "app.yaml: env_variables.RELAY_LEDGER"

    @property
    def placeholders(self) -> dict[str, str]:
        """What stands in the files of monitoring/ instead of these words; of the queues any one matches."""
        return {
            "PROJECT_ID": self.project,
            "RESOURCE_TYPE": "cloud_run_revision" if self.worker else "gae_app",
            "QUEUE_NAMES": "|".join(queue.name for queue in self.queues),
        }

    def exemption(self) -> str:
        """The condition under which the ledger's role holds: for this one database."""
        return f'resource.name=="projects/{self.project}/databases/{self.database}"'


def plan(project: str, directory: Path, environ: Mapping[str, str]) -> Plan:
    """As app.yaml's environment has it, or *environ* where the worker is elsewhere."""
    facts: dict[str, list[list[str]]] = {}
    for line in wanted(project, directory, environ):
        kind, *values = line.split()
        facts.setdefault(kind, []).append(values)
    app = directory / "app.yaml"
    given = app_yaml.environment(document_of(app) if app.exists() else None)
    return Plan(
        project=project,
        directory=directory,
        rules_file=settings.rules_file(given, environ),
        region=facts["location"][0][0],
        service=facts["service"][0][0],
        worker=facts["worker"][0][0] if "worker" in facts else None,
        invoker=facts["invoker"][0][0] if "invoker" in facts else None,
        queues=[Queue(*values) for values in facts["queue"]],
        database=facts["ledger"][0][0],
        collection=facts["ledger"][0][1],
        secrets=[(owner, secret) for owner, secret in facts["secret"]],
        secret_versions=[(owner, secret, version) for owner, secret, version in facts.get("secret_version", [])],
    )


def at(document: Any, path: str) -> Any:
    """What stands at `a.b` in a document, None where nothing does."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def amount(value: Any) -> float:
    """A number or a duration as Google writes it; it leaves out what is zero."""
    return float(str(value or 0).removesuffix("s"))


if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{line}\n" for line in list(wanted(sys.argv[1])))
    except InvalidSettings as exc:
        sys.exit(str(exc))
