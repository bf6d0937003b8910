from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.house import ROOT
from traced_relay.deploy.plan import plan
from traced_relay.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

CLOUD_RUN = """
worker: {url: https://relay-1.us-central1.run.app/, service_account: caller@p.iam.gserviceaccount.com}
audience: https://relay.example.com
queues: [{name: relay}]
"""


def test_the_plan_of_this_projects_files() -> None:
    assert list(plan("p", ROOT, {}).lines()) == [
        "location us-central1",
        "service default",
        "audience https://relay.example.com",
        "queue relay 100 80",
        "ledger traced-relay calls",
        "secret p traced-relay-callbacks",
    ]


def test_a_named_secret_version_has_its_own_line(tmp_path: Path) -> None:
    receivers = "callbacks: [{url: https://a.example.com/, secret: projects/o/secrets/s/versions/7}]"
    queues = "queues: [{name: relay}, {name: told, for: callbacks}]"
    (tmp_path / "relay.yaml").write_text(CLOUD_RUN.replace("queues: [{name: relay}]", f"{queues}\n{receivers}"))
    assert list(plan("p", tmp_path, {"RELAY_LEDGER": "firestore:tasks"}).lines())[-3:] == [
        "secret o s",
        "secret p traced-relay-callbacks",
        "secret_version o s 7",
    ]


def test_a_worker_url_takes_variables_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(CLOUD_RUN)
    environ = {"RELAY_LEDGER": "firestore:tasks", "RELAY_LOCATION": "europe-west1"}
    assert list(plan("p", tmp_path, environ).lines()) == [
        "location europe-west1",
        "service default",
        "audience https://relay.example.com",
        "invoker caller@p.iam.gserviceaccount.com",
        "worker https://relay-1.us-central1.run.app",
        "queue relay 100 80",
        "ledger (default) tasks",
        "secret p traced-relay-callbacks",
    ]
    with pytest.raises(InvalidSettings, match="environment: RELAY_LEDGER must be firestore:"):
        plan("p", tmp_path, environ | {"RELAY_LEDGER": "memory"})
