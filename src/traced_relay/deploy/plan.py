"""
What the relay needs in a Google Cloud project, read from relay.yaml and app.yaml; setup-env.sh creates the same.

`python -m traced_relay.deploy.plan PROJECT` prints it for the scripts. Nothing here calls Google.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from traced_relay.config import relay_yaml, settings
from traced_relay.config.queues import QUEUE_RETRIES
from traced_relay.deploy import app_yaml
from traced_relay.errors import InvalidSettings
from traced_relay.formats.yaml_file import document_of
from traced_relay.ledger.location import firestore_collection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from traced_relay.config.relay_yaml import QueueRule

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
_DEFAULT_SECRET = "traced-relay-callbacks"  # noqa: S105  (a name)


@dataclass(frozen=True)
class Plan:
    """The resources of one deployment: on App Engine, or elsewhere behind a *worker* URL."""

    project: str
    directory: Path
    rules_file: str
    region: str  # "-" if no file names one
    service: str  # App Engine's
    audience: str | None
    worker: str | None  # URL of a worker that is not on App Engine
    invoker: str | None  # service account that calls *worker*
    queues: Sequence[QueueRule]
    ledger_key: str  # file and key of RELAY_LEDGER
    database: str
    collection: str
    secrets: Sequence[tuple[str, str]]  # project and name
    secret_versions: Sequence[tuple[str, str, str]]  # versions that a file names; of other secrets the latest is read

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
    def placeholders(self) -> dict[str, str]:
        """The values that replace these words in the files of monitoring/; the queues as a regular expression."""
        return {
            "PROJECT_ID": self.project,
            "RESOURCE_TYPE": "cloud_run_revision" if self.worker else "gae_app",
            "QUEUE_NAMES": "|".join(queue.name for queue in self.queues),
        }

    @property
    def ledger_condition(self) -> str:
        """The IAM condition that limits the ledger's role to this one database."""
        return f'resource.name=="projects/{self.project}/databases/{self.database}"'

    def lines(self) -> Iterator[str]:
        """The plan for cloud.sh: one value a line, after its kind."""
        yield f"location {self.region}"
        yield f"service {self.service}"
        yield f"audience {self.audience or '-'}"
        if self.worker:
            yield f"invoker {self.invoker}"
            yield f"worker {self.worker}"
        for queue in self.queues:
            yield f"queue {queue.name} {queue.max_dispatches_per_second:g} {queue.max_concurrent_dispatches}"
        yield f"ledger {self.database} {self.collection}"
        for secret in self.secrets:
            yield f"secret {' '.join(secret)}"
        for version in self.secret_versions:
            yield f"secret_version {' '.join(version)}"


def plan(project: str, directory: Path, environ: Mapping[str, str]) -> Plan:
    """Read the files; variables come from app.yaml if the worker is on App Engine, else from *environ*."""
    app = document_of(directory / "app.yaml") if (directory / "app.yaml").exists() else {}
    variables = app_yaml.environment(app)
    rules_file = settings.rules_file(variables, environ)
    rules = relay_yaml.load(directory / rules_file)
    worker = rules.worker
    variables = variables if worker.app_engine else dict(environ)
    ledger_key = "app.yaml: env_variables.RELAY_LEDGER" if worker.app_engine else "environment: RELAY_LEDGER"
    ledger = firestore_collection(variables.get("RELAY_LEDGER", ""))
    if ledger is None:
        raise InvalidSettings(f"{ledger_key} must be firestore:[DATABASE/]COLLECTION")
    database, collection = ledger
    named = [receiver.secret for receiver in rules.callbacks] + [variables.get("RELAY_CALLBACK_SECRET")]
    names = [name.split("/") for name in named if name and name.startswith("projects/")]
    return Plan(
        project=project,
        directory=directory,
        rules_file=rules_file,
        region=rules.location or variables.get("RELAY_LOCATION") or "-",
        service=app.get("service", "default"),
        audience=rules.audience,
        worker=str(worker.url).rstrip("/") if worker.service_account else None,
        invoker=worker.service_account,
        queues=rules.queues,
        ledger_key=ledger_key,
        database=database,
        collection=collection,
        secrets=sorted({(parts[1], parts[3]) for parts in names} | {(project, _DEFAULT_SECRET)}),
        secret_versions=sorted({(parts[1], parts[3], parts[5]) for parts in names if "versions" in parts[4:]}),
    )


if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{line}\n" for line in plan(sys.argv[1], Path(), settings.own_environment()).lines())
    except InvalidSettings as exc:
        sys.exit(str(exc))
