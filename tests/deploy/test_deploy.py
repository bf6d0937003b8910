"""deploy.sh with the real gcloud, against a stand-in of Google's APIs."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from support.documents import QUEUED
from support.house import ROOT
from support.local_ca import Authority
from support.scripts import DEPLOY, RELAY, checkout, run, show
from support.uploads import uploaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.google_stand_in import GoogleStandIn

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]
VERSIONS = "POST appengine/v1/apps/demo-proj/services/default/versions"


@pytest.fixture
def application(google: GoogleStandIn) -> GoogleStandIn:
    """Google with an application, and a version of it that runs."""
    there = google.resources.there
    for api in ("appengine", "cloudscheduler"):
        there[f"serviceusage/v1/projects/demo-proj/services/{api}.googleapis.com"] = {"state": "ENABLED"}
    for path, document in {
        "": {"codeBucket": "staging.demo-proj.appspot.com", "defaultHostname": "demo-proj.uc.r.appspot.com"},
        "/services/default": {"split": {"allocations": {"old": 1.0}}},
        "/services/default/versions/old": {"createTime": "2026-11-21T18:00:00Z", "runtime": "python313"},
        "/services/default/versions/older": {"createTime": "2026-11-20T18:00:00Z", "runtime": "python313"},
    }.items():
        name = f"apps/demo-proj{path}"
        state = {"name": name, "id": name.rpartition("/")[2], "servingStatus": "SERVING"}
        if path.count("/") < 3:
            del state["servingStatus"]  # an application has another, a service none
        there[f"appengine/v1/{name}"] = state | document
    there["appengine/v1/apps/demo-proj/services/default/versions/older"]["servingStatus"] = "STOPPED"
    return google


def test_a_deploy_moves_traffic_and_stops_no_version(application: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    ran = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    done = [asked for asked in application.asked if asked.is_change and not asked.path.startswith("storage/")]
    show("deploy", [asked.what for asked in done])
    assert [asked.what for asked in done] == [
        VERSIONS,
        "POST cloudscheduler/v1beta1/projects/demo-proj/locations/us-central1/jobs",
        "PATCH appengine/v1/apps/demo-proj/services/default",
    ]
    version, job, service = (asked.body for asked in done)
    show("uploaded", sorted(version["deployment"]["files"]))
    theirs = {"source-context.json"}  # gcloud's own, where the checkout has a remote: which revision this is
    assert set(version["deployment"]["files"]) - theirs == uploaded()
    assert (version["id"], version["serviceAccount"], version["runtime"]) == ("v2", RELAY, "python313")
    assert version["basicScaling"] == {"maxInstances": 2, "idleTimeout": "86700s"}
    assert job["appEngineHttpTarget"]["relativeUri"] == "/sweep"
    assert service["split"]["allocations"] == {"v2": 1.0}
    assert [asked.what for asked in application.asked if ":pause" in asked.path or ":stop" in asked.path] == []
    assert application.resources.there["appengine/v1/apps/demo-proj/services/default/versions/old"][
        "servingStatus"
    ] == ("SERVING")
    assert "https://v2-dot-demo-proj.uc.r.appspot.com" in ran.stdout
    assert "old: running calls unknown (no ID token of an operator); list them with" in ran.stdout
    assert "older" not in ran.stdout
    assert "traced-relay list --state running --version old --relay https://demo-proj.uc.r.appspot.com" in ran.stdout

    again = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert again.returncode == 1
    assert "version v2 exists" in again.stderr


def test_secrets_and_data_are_not_uploaded(application: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    root = checkout(tmp_path / "project")
    secret = (".env", ".env.local", "ledger.db", "ledger.db-wal", "tasks.sqlite3", "key.pem", "account.key")
    for name in secret:
        (root / name).write_text("whsec_x")
        (root / "src" / "traced_relay" / name).write_text("whsec_x")
    ignored = root / ".gcloudignore"
    written = ignored.read_text()
    ignored.write_text(written.replace("!/relay.yaml\n", ""))
    refused = run(application, tmp_path, *DEPLOY, "--no-promote", programs=gcloud, root=root)
    assert ".gcloudignore: must not exclude relay.yaml, which the service reads at start" in refused.stdout
    assert refused.stderr.splitlines()[-1] == "deploy.sh: fix these problems first"
    assert application.changes == []
    ignored.write_text(written)
    locked = (root / "requirements.txt").read_text()
    (root / "requirements.txt").write_text(re.sub(r"(?m)^pydantic==\S+", "pydantic==1.0", locked))
    refused = run(application, tmp_path, *DEPLOY, programs=gcloud, root=root)
    assert "1.0 locked" in refused.stderr
    assert refused.stderr.splitlines()[-1].endswith("run: make lock")
    (root / "requirements.txt").write_text(locked)
    ran = run(application, tmp_path, *DEPLOY, "--no-promote", programs=gcloud, root=root)
    assert ran.returncode == 0, ran.stderr
    (version,) = (asked.body for asked in application.asked if asked.what == VERSIONS)
    assert set(version["deployment"]["files"]) - {"source-context.json"} == uploaded()
    assert "PATCH appengine/v1/apps/demo-proj/services/default" not in application.changes
    assert "now served by this version" not in ran.stdout


@pytest.mark.soak
def test_another_version_can_be_deployed_after_a_refusal(
    application: GoogleStandIn, gcloud: str, tmp_path: Path
) -> None:
    refused = "PATCH appengine/v1/apps/demo-proj/services/default"
    application.fails = {refused: 403}
    ran = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert ran.returncode == 1
    assert f"refused by the test: {refused}" in ran.stderr
    assert ran.stderr.splitlines()[-1] == (
        "deploy.sh: version v2 is deployed but has no traffic; move the traffic with:"
        " gcloud app services set-traffic default --splits v2=1 --quiet --project demo-proj"
    )
    application.fails = {}
    ran = run(application, tmp_path, *DEPLOY[:-1], "v3", programs=gcloud)
    assert ran.returncode == 0, ran.stderr
    split = application.resources.there["appengine/v1/apps/demo-proj/services/default"]["split"]
    assert split["allocations"] == {"v3": 1.0}


def test_a_dry_run_changes_nothing(application: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    ran = run(application, tmp_path, *DEPLOY, "--no-promote", "--dry-run", programs=gcloud)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.findall(r"would run: (gcloud app \S+ \S+)", ran.stdout) == ["gcloud app deploy app.yaml"]
    assert application.changes == []
    curl = ran.stdout[ran.stdout.index("  curl ") :]
    assert {"--include-email", '--impersonate-service-account=ACCOUNT)"'} <= set(curl.split())


OTHERS_JOB = "cloudscheduler/v1beta1/projects/demo-proj/locations/us-central1/jobs/theirs"


@pytest.mark.soak
def test_a_deploy_that_would_delete_cron_jobs_is_refused(
    application: GoogleStandIn, gcloud: str, tmp_path: Path
) -> None:
    application.resources.there[OTHERS_JOB] = {
        "name": OTHERS_JOB.removeprefix("cloudscheduler/v1beta1/"),
        "schedule": "every 24 hours",
        "appEngineHttpTarget": {"relativeUri": "/report", "appEngineRouting": {"service": "shop"}},
    }
    refused = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert refused.returncode == 1
    *_, job, last = refused.stderr.splitlines()
    assert job == "/report of service shop, every 24 hours"
    assert last.startswith("deploy.sh: a deploy would delete them; add them to cron.yaml")
    assert application.changes == []
    cron = tmp_path / "checkout" / "cron.yaml"
    cron.write_text(cron.read_text() + "  - {url: /report, target: shop, schedule: every 24 hours}\n")
    ran = run(application, tmp_path, *DEPLOY, "--dry-run", programs=gcloud)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "would run: gcloud app deploy cron.yaml" in ran.stdout


def test_unreadable_cron_jobs_stop_a_deploy(application: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    application.fails = {f"GET {OTHERS_JOB.rpartition('/')[0]}": 403}
    refused = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert refused.stderr.splitlines()[-1].startswith("deploy.sh: cannot list the deployed cron jobs: curl: (22)")
    assert application.changes == []


def test_the_examples_of_relay_yaml_are_not_deployed(application: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    root = checkout(tmp_path / "checkout")
    (root / "relay.yaml").write_text((ROOT / "relay.yaml").read_text())
    refused = run(application, tmp_path, *DEPLOY, programs=gcloud)
    assert refused.stderr.splitlines()[-1] == "deploy.sh: fix these problems first"
    assert "relay.yaml: audience: replace the example https://relay.example.com with your own value" in refused.stdout
    assert application.changes == []


class Relay(BaseHTTPRequestHandler):
    """One call runs in each version, as far as an operator asks."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        content = json.dumps({"tasks": [QUEUED | {"state": "running"}], "next_page_token": None}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Any]:
    authority = Authority(tmp_path)
    server: Any = HTTPServer(("127.0.0.1", 0), Relay)
    server.socket = authority.server("localhost").wrap_socket(server.socket, server_side=True)
    server.asked, server.authority = [], str(authority.certificate)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_operator_sees_what_old_versions_run(
    application: GoogleStandIn, gcloud: str, tmp_path: Path, relay: Any
) -> None:
    application.resources.there["appengine/v1/apps/demo-proj"]["defaultHostname"] = f"localhost:{relay.server_port}"
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gcloud").write_text(
        f'#!/bin/sh\n[ "$2" = print-identity-token ] && echo a.b.c || "{gcloud}/gcloud" "$@"\n'
    )
    (programs / "gcloud").chmod(0o755)
    trusted = {"REQUESTS_CA_BUNDLE": relay.authority}
    ran = run(application, tmp_path, *DEPLOY, "--dry-run", programs=str(programs), environ=trusted)
    assert ran.returncode == 0, ran.stderr
    ((path, token),) = relay.asked
    assert (path.partition("?")[0], token) == ("/v1/tasks", "Bearer a.b.c")
    assert {"state=running", "version=old"} <= set(path.partition("?")[2].split("&"))
    assert f"  old: 1 running\n    {QUEUED['task_id']}" in ran.stdout
    assert "a.b.c" not in ran.stdout + ran.stderr
