"""setup-env.sh and deploy.sh with the real gcloud, against a stand-in of Google's APIs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from google_stand_in import GoogleStandIn
from house import ROOT
from parts import require
from test_app_yaml import uploaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRIPTS = ("setup-env.sh", "deploy.sh", "cloud.sh")
SETUP = ("setup-env.sh", "--project", "demo-proj", "--region", "us-central1", "--notify", "a@example.com")
RELAY = "serviceAccount:traced-relay@demo-proj.iam.gserviceaccount.com"


@pytest.fixture
def google() -> Iterator[GoogleStandIn]:
    running = GoogleStandIn()
    yield running
    running.close()


def run(google: GoogleStandIn, directory: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / script, *arguments],
        env=google.environ(directory) | {"PYTHON": sys.executable},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def kinds(asked: list[tuple[str, Any]]) -> Counter[str]:
    """Requests by what they do; names of resources are left out."""
    return Counter(
        re.sub(r"(/(?:queues|secrets|databases|fields|metrics|collectionGroups))/[^/:]+", r"\1/*", what)
        for what, _ in asked
    )


def changes(asked: list[tuple[str, Any]]) -> list[str]:
    return [what for what, _ in asked if not what.startswith("GET ") and not what.endswith(":getIamPolicy")]


def members(google: GoogleStandIn, role: str) -> list[str]:
    """Where the relay's account has *role*."""
    return [
        path
        for path, policy in google.policies.items()
        for binding in policy.get("bindings", [])
        if binding["role"] == role and RELAY in binding["members"]
    ]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_setup_makes_all_that_is_needed_and_the_second_time_nothing(google: GoogleStandIn, tmp_path: Path) -> None:
    first = run(google, tmp_path, *SETUP)
    assert first.returncode == 0, first.stdout + first.stderr
    made = google.asked[:]
    queue = google.there["cloudtasks/v2/projects/demo-proj/locations/us-central1/queues/relay"]
    assert (queue["state"], queue["rateLimits"], queue["stackdriverLoggingConfig"]) == (
        "RUNNING",
        {"maxDispatchesPerSecond": 100.0, "maxConcurrentDispatches": 80},
        {"samplingRatio": 1.0},
    )
    assert queue["retryConfig"] == {
        "maxAttempts": -1,
        "maxRetryDuration": "0s",
        "minBackoff": "5s",
        "maxBackoff": "60s",
        "maxDoublings": 4,
    }
    of = Counter(path.split("/")[-2] for path in google.there)
    assert (of["metrics"], of["alertPolicies"], of["dashboards"], of["notificationChannels"]) == (17, 13, 1, 1)
    assert (of["indexes"], of["fields"], of["secrets"], of["databases"], of["apps"]) == (8, 23, 1, 1, 1)
    ttls = [path for path, found in google.there.items() if "ttlConfig" in found]
    assert [re.sub(".*collectionGroups/", "", path) for path in ttls] == [
        "calls/fields/expires_at",
        "calls-bodies/fields/expires_at",
    ]
    assert [path for role in ("editor", "owner") for path in members(google, f"roles/{role}")] == []
    assert members(google, "roles/cloudtasks.enqueuer") == [
        "cloudtasks/v2/projects/demo-proj/locations/us-central1/queues/relay"
    ]
    assert members(google, "roles/secretmanager.secretAccessor") == [
        "secretmanager/v1/projects/demo-proj/secrets/traced-relay-callbacks"
    ]
    assert members(google, "roles/datastore.user") == ["cloudresourcemanager/v1/projects/demo-proj"]
    assert [what for what in kinds(made) if ":pause" in what or "/keys" in what or "DELETE" in what] == []

    again = run(google, tmp_path, *SETUP)
    assert again.returncode == 0, again.stdout + again.stderr
    assert changes(google.asked[len(made) :]) == []
    assert "everything is there; nothing was changed" in again.stdout


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_dry_run_of_the_setup_shows_every_change_and_makes_none(google: GoogleStandIn, tmp_path: Path) -> None:
    ran = run(google, tmp_path, *SETUP, "--dry-run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert changes(google.asked) == []
    shown = Counter(re.findall(r"would run: gcloud (\S+ \S+ \S+)", ran.stdout))
    assert (shown["logging metrics create"], shown["firestore indexes composite"]) == (17, 8)
    assert "dry run: nothing was changed" in ran.stdout


@pytest.fixture
def application(google: GoogleStandIn) -> GoogleStandIn:
    """Google with an application, and a version of it that runs."""
    for path, document in {
        "": {"codeBucket": "staging.demo-proj.appspot.com", "defaultHostname": "demo-proj.uc.r.appspot.com"},
        "/services/default": {"split": {"allocations": {"old": 1.0}}},
        "/services/default/versions/old": {"createTime": "2026-11-21T18:00:00Z", "runtime": "python313"},
    }.items():
        name = f"apps/demo-proj{path}"
        state = {"name": name, "id": name.rpartition("/")[2], "servingStatus": "SERVING"}
        google.there[f"appengine/v1/{name}"] = state | document
    return google


@pytest.mark.whole
@pytest.mark.timeout(120)
def test_a_deploy_makes_a_version_stops_none_and_moves_the_traffic(application: GoogleStandIn, tmp_path: Path) -> None:
    ran = run(application, tmp_path, "deploy.sh", "--project", "demo-proj", "--version", "v2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    done = [(what, body) for what, body in application.asked if not what.startswith(("GET ", "POST upload/"))]
    assert [what for what, _ in done] == [
        "POST appengine/v1/apps/demo-proj/services/default/versions",
        "POST cloudscheduler/v1beta1/projects/demo-proj/locations/us-central1/jobs",
        "PATCH appengine/v1/apps/demo-proj/services/default",
    ]
    version, job, service = (body for _, body in done)
    theirs = {"source-context.json"}  # gcloud's own, where the checkout has a remote: which revision this is
    assert set(version["deployment"]["files"]) - theirs == uploaded()
    assert (version["id"], version["serviceAccount"]) == ("v2", RELAY.partition(":")[2])
    assert job["appEngineHttpTarget"]["relativeUri"] == "/sweep"
    assert service["split"]["allocations"] == {"v2": 1.0}
    assert "https://v2-dot-demo-proj.uc.r.appspot.com" in ran.stdout
    assert "not stopped, since calls may run there: old" in ran.stdout

    again = run(application, tmp_path, "deploy.sh", "--project", "demo-proj", "--version", "v2")
    assert again.returncode == 1
    assert "version v2 is there already" in again.stderr


@pytest.mark.whole
def test_a_deploy_without_promotion_leaves_the_traffic_alone(application: GoogleStandIn, tmp_path: Path) -> None:
    arguments = ("--project", "demo-proj", "--version", "v2", "--no-promote", "--dry-run")
    ran = run(application, tmp_path, "deploy.sh", *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.findall(r"would run: (gcloud app \S+ \S+)", ran.stdout) == [
        "gcloud app deploy app.yaml",
        "gcloud app deploy cron.yaml",
    ]
    assert changes(application.asked) == []


@pytest.mark.whole
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("setup-env.sh", "--project", "demo-proj"), "--region is required"),
        (("setup-env.sh", "--region", "us-central1"), "--project or GOOGLE_CLOUD_PROJECT is required"),
        (("setup-env.sh", "--project"), "--project needs a value"),
        (("setup-env.sh", "--proj", "p"), "unknown: --proj"),
        (("setup-env.sh", "--project", "demo-proj", "--region", "europe-west1"), "queues live in one region"),
        (("deploy.sh", "--project", "Not a project"), "this is no project id"),
        (("deploy.sh", "--project", "demo-proj", "--version", "V_1"), "a version is a-z, 0-9 and -"),
        (("deploy.sh", "--project", "demo-proj"), "run ./setup-env.sh first"),
    ],
)
def test_a_mistake_ends_in_one_line(
    google: GoogleStandIn, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ran = run(google, tmp_path, *arguments)
    assert ran.returncode > 0
    assert said in ran.stderr.splitlines()[-1]
    assert changes(google.asked) == []


@pytest.mark.whole
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    ran = subprocess.run([require("shellcheck"), "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout == ""
    assert ran.returncode == 0
