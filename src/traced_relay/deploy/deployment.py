"""For setup-env.sh and deploy.sh: what the files want, a line each; `python -m … PROJECT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from traced_relay.config import relay_yaml, settings
from traced_relay.deploy import app_yaml
from traced_relay.errors import InvalidSettings
from traced_relay.formats.yaml_file import document_of
from traced_relay.ledger.location import firestore_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULT_SECRET = "traced-relay-callbacks"  # noqa: S105  (a name)


def wanted(project: str, directory: Path = Path(), environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """The facts of relay.yaml and app.yaml, or of the environment where the worker is no App Engine service."""
    environ = settings.own_environment() if environ is None else environ
    app = document_of(directory / "app.yaml") if (directory / "app.yaml").exists() else {}
    given = app_yaml.environment(app)
    rules = relay_yaml.load(directory / (given.get("RELAY_CONFIG") or environ.get("RELAY_CONFIG") or "relay.yaml"))
    given = given if rules.worker.app_engine else dict(environ)
    yield f"location {rules.location or given.get('RELAY_LOCATION') or '-'}"
    yield f"service {app.get('service', 'default')}"
    yield f"audience {rules.audience or '-'}"
    if rules.worker.service_account:
        yield f"invoker {rules.worker.service_account}"
        yield f"worker {str(rules.worker.url).rstrip('/')}"
    for queue in rules.queues:
        yield f"queue {queue.name} {queue.max_dispatches_per_second:g} {queue.max_concurrent_dispatches}"
    kind, _, place = given.get("RELAY_LEDGER", "").partition(":")
    if kind != "firestore":
        where = "app.yaml: env_variables.RELAY_LEDGER" if rules.worker.app_engine else "environment: RELAY_LEDGER"
        raise InvalidSettings(f"{where} must be firestore:[DATABASE/]COLLECTION")
    yield " ".join(["ledger", *firestore_place(place)])
    named = [receiver.secret for receiver in rules.callbacks] + [given.get("RELAY_CALLBACK_SECRET")]
    names = [name.split("/") for name in named if name and name.startswith("projects/")]
    for owner, secret in sorted({(parts[1], parts[3]) for parts in names} | {(project, _DEFAULT_SECRET)}):
        yield f"secret {owner} {secret}"
    for parts in sorted({tuple(name) for name in names if "versions" in name[4:]}):
        yield f"secret_version {parts[1]} {parts[3]} {parts[5]}"


if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{line}\n" for line in list(wanted(sys.argv[1])))
    except InvalidSettings as exc:
        sys.exit(str(exc))
