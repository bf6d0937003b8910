"""setup-env.sh with the real gcloud, against a stand-in of Google's APIs."""

from __future__ import annotations

import base64
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from support.house import ROOT
from support.parts import require
from support.scripts import DEPLOY, RELAY, SETUP, named, run, show
from traced_relay.formats.yaml_file import document_of

if TYPE_CHECKING:
    from pathlib import Path

    from support.google_stand_in import Asked, GoogleStandIn

SCRIPTS = ("setup-env.sh", "deploy.sh", "cloud.sh")
PLACE = "projects/demo-proj/locations/us-central1"
NOTIFIED = (*SETUP, "--notify", "a@example.com")
ENABLE = ("services", "enable", *(f"{api}.googleapis.com" for api in ("cloudtasks", "iam", "monitoring", "logging")))


def kinds(asked: list[Asked]) -> Counter[str]:
    """Requests by what they do; names of resources are left out."""
    named = r"(/(?:queues|secrets|databases|fields|metrics|collectionGroups|serviceAccounts|alertPolicies))/[^/:]+"
    return Counter(re.sub(named, r"\1/*", request.what) for request in asked)


def roles(google: GoogleStandIn) -> set[tuple[str, str]]:
    """What the relay's account may do, and where."""
    return {
        (binding["role"].removeprefix("roles/"), path.partition("/")[2].partition("/")[2])
        for path, policy in google.resources.policies.items()
        for binding in policy.get("bindings", [])
        if f"serviceAccount:{RELAY}" in binding["members"]
    }


@pytest.mark.whole
@pytest.mark.timeout(400)
def test_a_second_setup_changes_nothing(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    first = run(google, tmp_path, *NOTIFIED, programs=gcloud)
    assert first.returncode == 0, first.stdout + first.stderr
    made = google.asked[:]
    show("first run", sorted(f"{n:3} {what}" for what, n in kinds(made).items()))
    assert kinds([asked for asked in made if asked.is_change]) == {
        "POST serviceusage/v1/projects/demo-proj/services:batchEnable": 1,
        "POST iam/v1/projects/demo-proj/serviceAccounts": 1,
        "POST appengine/v1/apps": 1,
        "POST logging/v2/projects/demo-proj/metrics": 17,
        f"POST cloudtasks/v2/{PLACE}/queues": 1,
        f"POST cloudtasks/v2/{PLACE}/queues/*:setIamPolicy": 3,
        "POST secretmanager/v1/projects/demo-proj/secrets": 1,
        "POST secretmanager/v1/projects/demo-proj/secrets/*:addVersion": 1,
        "POST secretmanager/v1/projects/demo-proj/secrets/*:setIamPolicy": 1,
        "POST firestore/v1/projects/demo-proj/databases": 1,
        "POST firestore/v1/projects/demo-proj/databases/*/collectionGroups/*/indexes": 8,
        "PATCH firestore/v1/projects/demo-proj/databases/*/collectionGroups/*/fields/*": 26,
        "POST cloudresourcemanager/v1/projects/demo-proj:setIamPolicy": 3,
        "POST monitoring/v3/projects/demo-proj/notificationChannels": 1,
        "POST monitoring/v3/projects/demo-proj/alertPolicies": 13,
        "POST monitoring/v1/projects/demo-proj/dashboards": 1,
    }
    assert {asked.status for asked in made} <= {200, 404, 403}
    (secret,) = (asked.body["payload"]["data"] for asked in made if asked.path.endswith(":addVersion"))
    assert base64.b64decode(secret).decode() not in first.stdout + first.stderr
    assert "secrets versions add traced-relay-callbacks --data-file - \n" in first.stdout

    again = run(google, tmp_path, *NOTIFIED, programs=gcloud)
    assert again.returncode == 0, again.stdout + again.stderr
    looked = google.asked[len(made) :]
    show("second run", sorted(kinds(looked)))
    assert [asked for asked in looked if asked.is_change] == []
    assert "everything is up to date; nothing was changed" in again.stdout
    holds_what_the_project_needs(google)


def holds_what_the_project_needs(google: GoogleStandIn) -> None:
    there = google.resources.there
    queue = there[f"cloudtasks/v2/{PLACE}/queues/relay"]
    assert queue | {"name": ""} == {
        "name": "",
        "state": "RUNNING",
        "rateLimits": {"maxDispatchesPerSecond": 100.0, "maxConcurrentDispatches": 80},
        "retryConfig": {
            "maxAttempts": -1,
            "maxRetryDuration": "0s",
            "minBackoff": "5s",
            "maxBackoff": "60s",
            "maxDoublings": 4,
        },
        "stackdriverLoggingConfig": {"samplingRatio": 1.0},
    }
    of = Counter(path.split("/")[-2] for path in there)
    assert (of["indexes"], of["fields"], of["secrets"], of["versions"], of["apps"]) == (8, 24, 1, 1, 1)
    ttls = [path for path, found in there.items() if "ttlConfig" in found]
    assert [re.sub(".*collectionGroups/", "", path) for path in ttls] == [
        "calls/fields/expires_at",
        "calls-bodies/fields/expires_at",
    ]
    (deep,) = (found for found in there.values() if found.get("displayName") == "traced-relay: a queue is deep")
    filter_ = deep["conditions"][0]["conditionThreshold"]["filter"]
    assert filter_.endswith('resource.labels.queue_id=monitoring.regex.full_match("relay")')
    (channel,) = (found["name"] for path, found in there.items() if "/notificationChannels/" in path)
    told = [found["notificationChannels"] for path, found in there.items() if "/alertPolicies/" in path]
    assert told == [[channel]] * 13
    assert roles(google) == {
        ("cloudtasks.enqueuer", f"{PLACE}/queues/relay"),
        ("cloudtasks.taskDeleter", f"{PLACE}/queues/relay"),
        ("cloudtasks.viewer", f"{PLACE}/queues/relay"),
        ("secretmanager.secretAccessor", "projects/demo-proj/secrets/traced-relay-callbacks"),
        ("datastore.user", "projects/demo-proj"),
        ("cloudtrace.agent", "projects/demo-proj"),
        ("logging.logWriter", "projects/demo-proj"),
    }
    bindings = google.resources.policies["cloudresourcemanager/v1/projects/demo-proj"]["bindings"]
    (condition,) = (binding["condition"] for binding in bindings if "condition" in binding)
    assert condition["expression"] == 'resource.name=="projects/demo-proj/databases/traced-relay"'


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The project with one metric, one alert on it, and no field exemption, so that a run is short."""
    root = tmp_path / "project"
    kept = [*SCRIPTS, "relay.yaml", "app.yaml", "cron.yaml", "otel.yaml", "monitoring/dashboard.json"]
    kept += ["monitoring/metrics/traced_relay_sweeps.yaml", "monitoring/alerts/sweep-silent.yaml"]
    for name in kept:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(named((ROOT / name).read_text()))
    (root / "src").symlink_to(ROOT / "src")
    (root / "firestore.indexes.json").write_text('{"indexes": [], "fieldOverrides": []}')
    return root


def alert_of(google: GoogleStandIn) -> dict[str, Any]:
    (found,) = (found for path, found in google.resources.there.items() if "/alertPolicies/" in path)
    return found


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_existing_alerts_get_a_new_address_and_new_text(
    google: GoogleStandIn, gcloud: str, tmp_path: Path, alone: Path
) -> None:
    def changes_of(*arguments: str) -> Counter[str]:
        before = len(google.asked)
        ran = run(google, tmp_path, *SETUP, *arguments, programs=gcloud, root=alone)
        assert ran.returncode == 0, ran.stderr
        return kinds([asked for asked in google.asked[before:] if asked.is_change])

    changes_of()
    assert "notificationChannels" not in alert_of(google)
    patch = {"PATCH monitoring/v3/projects/demo-proj/alertPolicies/*": 1}
    made = {"POST monitoring/v3/projects/demo-proj/notificationChannels": 1}
    assert changes_of("--notify", "a@example.com") == made | patch
    told = alert_of(google)["notificationChannels"]
    file = alone / "monitoring/alerts/sweep-silent.yaml"
    file.write_text(file.read_text().replace("CRITICAL", "ERROR"))
    assert changes_of() == patch
    assert (alert_of(google)["severity"], alert_of(google)["notificationChannels"]) == ("ERROR", told)
    assert len(told) == 1


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_setup_corrects_what_others_changed(google: GoogleStandIn, gcloud: str, tmp_path: Path, alone: Path) -> None:
    temporary = tmp_path / "my files"  # some have a space in it
    temporary.mkdir()
    app = (alone / "app.yaml").read_text()
    elsewhere = "env_variables:\n  RELAY_CALLBACK_SECRET: projects/other/secrets/s\n"
    (alone / "app.yaml").write_text(app.replace("env_variables:\n", elsewhere))

    def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
        given = {"TMPDIR": str(temporary)}
        return run(google, tmp_path, *SETUP, *arguments, programs=gcloud, root=alone, environ=given)

    first = ran()
    assert first.returncode == 0, first.stderr
    assert f"s belongs to project other; grant {RELAY} the role secretmanager.secretAccessor there" in first.stdout
    assert [what for what in google.changes if "/other" in what] == []
    there, before = google.resources.there, len(google.changes)
    for number in ("1", "2"):
        name = f"projects/demo-proj/notificationChannels/{number}"
        there[f"monitoring/v3/{name}"] = {
            "name": name,
            "type": "email",
            "labels": {"email_address": "a@example.com"},
        }
    queue = there[f"cloudtasks/v2/{PLACE}/queues/relay"]
    queue |= {"state": "PAUSED", "rateLimits": {"maxDispatchesPerSecond": 5.0, "maxConcurrentDispatches": 80}}
    (binding,) = (
        binding
        for binding in google.resources.policies["cloudresourcemanager/v1/projects/demo-proj"]["bindings"]
        if "condition" in binding
    )
    binding["condition"]["expression"] = 'resource.name=="projects/demo-proj/databases/another"'
    again = ran("--notify", "a@example.com")
    assert again.returncode == 0, again.stderr
    assert "relay is PAUSED; resume it with: gcloud tasks queues resume relay" in again.stdout
    assert alert_of(google)["notificationChannels"] == ["projects/demo-proj/notificationChannels/1"]
    assert [what.partition("/v")[0] for what in google.changes[before:]] == [
        "PATCH cloudtasks",
        "POST cloudresourcemanager",
        "PATCH monitoring",
    ]
    assert "everything is up to date; nothing was changed" in ran("--notify", "a@example.com").stdout
    assert list(temporary.iterdir()) == []
    there["firestore/v1/projects/demo-proj/databases/traced-relay"]["type"] = "DATASTORE_MODE"
    refused = ran()
    assert refused.returncode == 1
    assert "database traced-relay has type DATASTORE_MODE" in refused.stderr.splitlines()[-1]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "status",
    [pytest.param(403, marks=pytest.mark.whole), *(pytest.param(each, marks=pytest.mark.soak) for each in (429, 500))],
)
def test_the_next_run_continues_after_a_refusal(
    google: GoogleStandIn, gcloud: str, tmp_path: Path, alone: Path, status: int
) -> None:
    refused = "POST secretmanager/v1/projects/demo-proj/secrets"
    google.fails = {refused: status}
    ran = run(google, tmp_path, *SETUP, programs=gcloud, root=alone)
    assert ran.returncode == 1
    assert f"refused by the test: {refused}" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("setup-env.sh: command failed: gcloud secrets create")
    before = google.changes
    assert google.asked[-1].what == refused
    google.fails = {}
    ran = run(google, tmp_path, *SETUP, programs=gcloud, root=alone)
    assert ran.returncode == 0, ran.stderr
    went_on = google.changes[len(before) :]
    assert went_on[-1].endswith("/dashboards")
    assert [what for what in went_on if what in set(before) - {refused} and "setIamPolicy" not in what] == []


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_a_dry_run_shows_every_change_and_makes_none(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    ran = run(google, tmp_path, *NOTIFIED, "--dry-run", programs=gcloud)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert google.changes == []
    shown = Counter(re.findall(r"would run: gcloud (\S+ \S+ \S+)", ran.stdout))
    assert (shown["logging metrics create"], shown["firestore indexes composite"]) == (17, 8)
    assert "dry run: nothing was changed; 80 changes would be made" in ran.stdout


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_worker_url_gets_account_roles_and_sweep_job(
    google: GoogleStandIn, gcloud: str, tmp_path: Path, alone: Path
) -> None:
    on_cloud_run(alone)
    elsewhere = {"RELAY_LEDGER": "firestore:traced-relay/calls"}
    ran = run(google, tmp_path, *SETUP, programs=gcloud, root=alone, environ=elsewhere)
    assert ran.returncode == 0, ran.stderr
    caller = "caller@demo-proj.iam.gserviceaccount.com"
    there = google.resources.there
    assert f"iam/v1/projects/demo-proj/serviceAccounts/{caller}" in there
    assert ("iam.serviceAccountUser", f"projects/demo-proj/serviceAccounts/{caller}") in roles(google)
    (job,) = (found for path, found in there.items() if "/jobs/" in path)
    assert (job["schedule"], job["httpTarget"]) == (
        "* * * * *",
        {
            "uri": "https://traced-relay-123.us-central1.run.app/sweep",
            "httpMethod": "GET",
            "oidcToken": {"serviceAccountEmail": caller, "audience": "https://relay.demo.test"},
        },
    )
    assert [what for what in google.changes if "appengine" in what] == []
    ran = run(google, tmp_path, *SETUP, programs=gcloud, root=alone, environ=elsewhere)
    assert "nothing was changed" in ran.stdout, ran.stdout + ran.stderr
    assert "deploy to Cloud Run" in ran.stdout
    said = run(google, tmp_path, *DEPLOY, programs=gcloud, root=alone, environ=elsewhere)
    assert "docs/operations.md" in said.stderr


def on_cloud_run(root: Path) -> None:
    rules = (root / "relay.yaml").read_text()
    worker = (
        "{url: https://traced-relay-123.us-central1.run.app, service_account: caller@demo-proj.iam.gserviceaccount.com}"
    )
    rules = rules.replace("{app_engine: default}", worker).replace("max_timeout: 24h", "max_timeout: 29m45s")
    (root / "relay.yaml").write_text(rules)
    assert document_of(root / "relay.yaml")["worker"]["url"]


@pytest.mark.whole
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("setup-env.sh", "--project", "demo-proj"), "--region is required"),
        (("setup-env.sh", "--region", "us-central1"), "--project or GOOGLE_CLOUD_PROJECT is required"),
        (("setup-env.sh", "--project"), "--project requires a value"),
        (("setup-env.sh", "--proj", "p"), "unknown option: --proj"),
        ((*SETUP, "--notify", "--dry-run"), "--notify requires a value"),
        ((*SETUP, "--notify", 'a@b" OR "c'), "--notify: not an e-mail address"),
        (("setup-env.sh", "--project", "demo-proj", "--region", "europe-west1"), "both must be the same"),
        (("deploy.sh", "--project", "Not a project"), "--project: not a project id"),
        (("deploy.sh", "--project", "demo-proj", "--version", "V_1"), "--version: must consist of a-z, 0-9 and -"),
        (("deploy.sh", "--project", "demo-proj"), "run ./setup-env.sh first"),
    ],
)
def test_an_invalid_option_ends_in_one_line(
    google: GoogleStandIn, gcloud: str, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    ran = run(google, tmp_path, *arguments, programs=gcloud)
    assert ran.returncode > 0
    assert said in ran.stderr.splitlines()[-1]
    assert google.changes == []


@pytest.mark.whole
def test_a_denied_read_is_not_taken_for_absence(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    services = "GET serviceusage/v1/projects/demo-proj/services"
    google.fails = {services: 403}
    ran = run(google, tmp_path, *SETUP, "--dry-run", programs=gcloud)
    assert ran.returncode == 1
    assert f"refused by the test: {services}" in ran.stderr
    assert [asked.what for asked in google.asked] == [services]


@pytest.mark.whole
def test_wrong_region_and_missing_login_end_in_one_line(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    there = google.resources.there
    there["serviceusage/v1/projects/demo-proj/services/appengine.googleapis.com"] = {"state": "ENABLED"}
    there["appengine/v1/apps/demo-proj"] = {"name": "apps/demo-proj", "locationId": "europe-west"}
    ran = run(google, tmp_path, *SETUP, "--dry-run", programs=gcloud)
    assert ran.stderr.endswith("App Engine is in europe-west and cannot move, so the queues cannot be in us-central1\n")
    nobody = {"CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "false"}
    ran = run(google, tmp_path, *SETUP, programs=gcloud, environ=nobody)
    assert ran.stderr.endswith("gcloud has no active account; run: gcloud auth login\n")


@pytest.mark.whole
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    ran = subprocess.run([require("shellcheck"), "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout == ""
    assert ran.returncode == 0
