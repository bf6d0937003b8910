"""Holds a project against the files, one look after the other. What could not be looked at is a finding like any."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from google.auth.exceptions import GoogleAuthError

from traced_relay.deploy import cloud_looks
from traced_relay.deploy import plan as cloud_plan
from traced_relay.deploy.google_apis import LOG_IN, GoogleApis
from traced_relay.deploy.plan import Finding
from traced_relay.downstream.signing_secrets import google_session
from traced_relay.errors import IdentityFailed, NotLookedAt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from traced_relay.deploy.plan import Plan


def findings(google: GoogleApis, project: str, directory: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    plan = cloud_plan.plan(project, directory, environ)
    for name, look in _looks(plan):
        try:
            yield from look(google, plan)
        except NotLookedAt as exc:
            yield Finding(name, "looked at", f"hidden from you ({exc})", "ask as somebody who may see it")


def _looks(plan: Plan) -> Iterator[tuple[str, Callable[[GoogleApis, Plan], Iterator[Finding]]]]:
    project = f"project {plan.project}"
    yield f"{project}: its APIs", cloud_looks.apis
    yield f"{project}: App Engine's application", cloud_looks.application
    yield f"{project}: its accounts", cloud_looks.accounts
    for queue in plan.queues:
        yield f"{plan.rules_file}: queues.{queue.name}", partial(cloud_looks.queue, wanted=queue)
    for owner, name in plan.secrets:
        yield f"secret projects/{owner}/secrets/{name}", partial(cloud_looks.secret, owner=owner, name=name)
    yield f"{project}: Firestore's database {plan.database}", cloud_looks.ledger
    yield f"{project}: its policy", cloud_looks.rights
    yield f"{project}: metrics, alerts and dashboard", cloud_looks.monitoring
    yield f"{project}: jobs of Cloud Scheduler", cloud_looks.sweeps
    yield f"{project}: versions of {plan.service}", cloud_looks.versions


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
