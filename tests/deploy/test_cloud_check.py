"""`check --cloud` against answers in which one thing after the other is broken, over real sockets."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests

from support.cloud_answers import DATABASE, GROUPS, JOB, PROJECT, QUEUE, RELAY, SECRET, VERSION, CloudAnswers, P, set_up
from support.house import ROOT
from support.scripts import SETUP, checkout, run
from support.surroundings import surroundings
from traced_relay.deploy import plan as cloud_plan
from traced_relay.deploy.cloud_check import connected, findings, sweeps
from traced_relay.deploy.finding import output_lines
from traced_relay.deploy.google_apis import GoogleApis
from traced_relay.errors import IdentityFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.google_stand_in import GoogleStandIn

OF_PROJECT = f"cloudresourcemanager/v1/{P}"
ACCOUNT = f"iam/v1/{P}/serviceAccounts/{RELAY}"
ELSEWHERE = {"RELAY_LEDGER": "firestore:traced-relay/calls"}  # where there is no app.yaml to say it
INVOKER = f"calls@{PROJECT}.iam.gserviceaccount.com"


@pytest.fixture
def cloud() -> Iterator[CloudAnswers]:
    with set_up() as running:
        yield running


def found(cloud: CloudAnswers, directory: Path = ROOT) -> list[str]:
    google = GoogleApis(requests.Session(), cloud.endpoint)
    return [str(finding) for finding in findings(google, PROJECT, directory, ELSEWHERE)]


def without(cloud: CloudAnswers, path: str) -> None:
    for name in [name for name in cloud.there if name.startswith(path)]:
        del cloud.there[name]


def changed(cloud: CloudAnswers, path: str, **fields: Any) -> None:
    cloud.there[path] |= fields


def taken(cloud: CloudAnswers, path: str, role: str) -> None:
    cloud.policies[path] = [binding for binding in cloud.policies[path] if binding["role"] != role]


def given(cloud: CloudAnswers, role: str) -> None:
    cloud.grant(OF_PROJECT, role)


def test_a_complete_project_has_no_problem_and_is_only_read(cloud: CloudAnswers) -> None:
    assert found(cloud) == []
    assert {request.method for request in cloud.asked if not request.path.endswith(":getIamPolicy")} == {"GET"}
    cloud.page_size = 3
    assert found(cloud) == []


BROKEN: dict[str, tuple[Any, str]] = {
    "an API": (
        lambda c: without(c, f"serviceusage/v1/{P}/services/cloudtrace"),
        "project demo-proj: API cloudtrace.googleapis.com: expected enabled, found disabled; run ./setup-env.sh",
    ),
    "the application": (
        lambda c: c.there.pop(f"appengine/v1/apps/{PROJECT}"),
        "project demo-proj: App Engine application: expected in us-central, found missing; run ./setup-env.sh",
    ),
    "the region": (
        lambda c: changed(c, f"appengine/v1/apps/{PROJECT}", locationId="europe-west3"),
        "project demo-proj: App Engine application: expected in us-central, found in europe-west3; it cannot move",
    ),
    "an application at rest": (
        lambda c: changed(c, f"appengine/v1/apps/{PROJECT}", servingStatus="USER_DISABLED"),
        "project demo-proj: App Engine application: expected SERVING, found USER_DISABLED; enable it",
    ),
    "the account": (
        lambda c: without(c, ACCOUNT),
        f"project demo-proj: account {RELAY}: expected present, found missing; run ./setup-env.sh",
    ),
    "a disabled account": (
        lambda c: changed(c, ACCOUNT, disabled=True),
        f"project demo-proj: account {RELAY}: expected enabled, found disabled; run: gcloud iam",
    ),
    "a queue": (
        lambda c: without(c, QUEUE),
        "relay.yaml: queues.relay: expected present in us-central1, found missing",
    ),
    "a paused queue": (
        lambda c: changed(c, QUEUE, state="PAUSED"),
        "relay.yaml: queues.relay: expected RUNNING, found PAUSED; run: gcloud tasks queues resume relay",
    ),
    "rates": (
        lambda c: changed(c, QUEUE, rateLimits={"maxDispatchesPerSecond": 50, "maxConcurrentDispatches": 80}),
        "relay.yaml: queues.relay.max_dispatches_per_second: expected 100, found 50; run ./setup-env.sh",
    ),
    "a limit": (
        lambda c: changed(c, QUEUE, rateLimits={"maxDispatchesPerSecond": 100, "maxConcurrentDispatches": 1000}),
        "relay.yaml: queues.relay.max_concurrent_dispatches: expected 80, found 1000; run ./setup-env.sh",
    ),
    "the queue's own log": (
        lambda c: c.there[QUEUE].pop("stackdriverLoggingConfig"),
        (
            "relay.yaml: queues.relay.stackdriverLoggingConfig.samplingRatio: expected 1.0,"
            " found not set; run ./setup-env.sh"
        ),
    ),
    "a right to a queue": (
        lambda c: taken(c, QUEUE, "roles/cloudtasks.taskDeleter"),
        f"relay.yaml: queues.relay: roles of {RELAY}: expected roles/cloudtasks.taskDeleter, found not granted; run ./",
    ),
    "the secret": (
        lambda c: without(c, SECRET),
        f"secret {P}/secrets/traced-relay-callbacks: expected present, found missing; run ./setup-env.sh",
    ),
    "every version of the secret": (
        lambda c: changed(c, f"{SECRET}/versions/2", state="DESTROYED"),
        f"secret {P}/secrets/traced-relay-callbacks: expected an enabled version, found none; run",
    ),
    "the latest version of the secret": (
        lambda c: c.there.update({f"{SECRET}/versions/3": {"name": "s/versions/3", "state": "DISABLED"}}),
        f"secret {P}/secrets/traced-relay-callbacks: version 3 (latest): expected ENABLED, found DISABLED; run",
    ),
    "a right to the secret": (
        lambda c: taken(c, SECRET, "roles/secretmanager.secretAccessor"),
        (
            f"secret {P}/secrets/traced-relay-callbacks: roles of {RELAY}: expected roles/secretmanager.secretAccessor,"
            " found"
        ),
    ),
    "the database": (
        lambda c: without(c, DATABASE),
        "app.yaml: env_variables.RELAY_LEDGER: Firestore database traced-relay: expected present, found missing",
    ),
    "another kind of database": (
        lambda c: changed(c, DATABASE, type="DATASTORE_MODE"),
        "Firestore database traced-relay: expected FIRESTORE_NATIVE, found DATASTORE_MODE; name another database",
    ),
    "an index": (
        lambda c: without(c, f"firestore/v1/{GROUPS}/calls/indexes/0"),
        "firestore.indexes.json: index calls kind,order=ascending created_at,order=descending: expected present, fo",
    ),
    "an index to come": (
        lambda c: changed(c, f"firestore/v1/{GROUPS}/calls/indexes/3", state="CREATING"),
        "firestore.indexes.json: calls/indexes/3: expected ready, found CREATING; wait a few minutes",
    ),
    "a time to live": (
        lambda c: c.there[f"firestore/v1/{GROUPS}/calls/fields/expires_at"].pop("ttlConfig"),
        "firestore.indexes.json: field calls.expires_at: expected a TTL policy, found none; run",
    ),
    "a time to live that failed": (
        lambda c: changed(
            c, f"firestore/v1/{GROUPS}/calls-bodies/fields/expires_at", ttlConfig={"state": "NEEDS_REPAIR"}
        ),
        (
            "firestore.indexes.json: calls-bodies/fields/expires_at: expected ready,"
            " found NEEDS_REPAIR; run ./setup-env.sh"
        ),
    ),
    "a field's exemption": (
        lambda c: without(c, f"firestore/v1/{GROUPS}/calls/fields/document"),
        "firestore.indexes.json: field calls.document: expected no index, found a different index; run ./setup-env.sh",
    ),
    "a right in the project": (
        lambda c: taken(c, OF_PROJECT, "roles/logging.logWriter"),
        f"project demo-proj: roles of {RELAY}: expected roles/logging.logWriter, found not granted; run ./setup-env.sh",
    ),
    "the right to the ledger": (
        lambda c: taken(c, OF_PROJECT, "roles/datastore.user"),
        f"roles of {RELAY}: expected roles/datastore.user for the database traced-relay, found not granted; run",
    ),
    "a right to another ledger": (
        lambda c: c.policies[OF_PROJECT][2].update(condition={"expression": 'resource.name=="other"'}),
        (
            "expected roles/datastore.user for the database traced-relay,"
            " found another condition; remove that binding, then run"
        ),
    ),
    "a metric": (
        lambda c: without(c, f"logging/v2/{P}/metrics/traced_relay_sweeps"),
        "monitoring/metrics/traced_relay_sweeps.yaml: expected present, found missing; run ./setup-env.sh",
    ),
    "an alert of another time": (
        lambda c: changed(c, f"monitoring/v3/{P}/alertPolicies/queue-depth", combiner="AND"),
        "monitoring/alerts/queue-depth.yaml: expected the values of the file, found different combiner; run",
    ),
    "the dashboard": (
        lambda c: without(c, f"monitoring/v1/{P}/dashboards"),
        "monitoring/dashboard.json: expected present, found missing; run ./setup-env.sh",
    ),
    "the cron": (
        lambda c: without(c, JOB),
        "cron.yaml: job for /sweep: expected present, found missing; run ./deploy.sh",
    ),
    "a cron at rest": (
        lambda c: changed(c, JOB, state="PAUSED"),
        "job for /sweep: expected ENABLED, found PAUSED; res",
    ),
    "a slower cron": (
        lambda c: changed(c, JOB, schedule="every 1 hours"),
        "cron.yaml: job for /sweep: expected every 1 minutes, found every 1 hours; run ./deploy.sh",
    ),
    "every version": (
        lambda c: changed(c, VERSION, servingStatus="STOPPED"),
        "app.yaml: service default: expected deployed, found missing; run ./deploy.sh",
    ),
    "a version of another account": (
        lambda c: changed(c, VERSION, serviceAccount=f"{PROJECT}@appspot.gserviceaccount.com"),
        f"version v1: account: expected {RELAY}, found {PROJECT}@appspot.gserviceaccount.com; run ./deploy.sh, then",
    ),
    "a muted alert": (
        lambda c: changed(c, f"monitoring/v3/{P}/alertPolicies/sweep-silent", enabled=False),
        (
            "monitoring/alerts/sweep-silent.yaml: expected the values of the file,"
            " found different enabled; run ./setup-env"
        ),
    ),
    "too much": (
        lambda c: given(c, "roles/editor"),
        f"warning: project demo-proj: roles of {RELAY}: expected only what the relay needs, found roles/editor;",
    ),
    "all ledgers": (
        lambda c: given(c, "roles/datastore.user"),
        "warning: project demo-proj: roles of",
    ),
}


@pytest.mark.whole
@pytest.mark.parametrize("what", BROKEN)
def test_each_difference_is_one_finding_with_its_fix(cloud: CloudAnswers, what: str) -> None:
    broken, said = BROKEN[what]
    broken(cloud)
    (line,) = found(cloud)
    assert said in line


def test_one_run_reports_every_difference(cloud: CloudAnswers) -> None:
    for what in ("an API", "a paused queue", "rates", "a right to a queue", "every version of the secret", "an index",
                 "a time to live", "a right in the project", "a metric", "an alert of another time", "the cron",
                 "a version of another account", "too much"):  # fmt: skip
        BROKEN[what][0](cloud)
    assert len(found(cloud)) == 13


def test_an_empty_project_lacks_everything(cloud: CloudAnswers) -> None:
    cloud.there.clear()
    cloud.policies.clear()
    disabled = {"code": 403, "message": "not used before", "details": [{"reason": "SERVICE_DISABLED"}]}
    cloud.refused["cloudtasks/"] = 403, {"error": disabled}
    lines = found(cloud)
    assert "relay.yaml: queues.relay: expected present in us-central1, found missing; run ./setup-env.sh" in lines
    assert sum("API " in line for line in lines) == len(cloud_plan.APIS) + 1
    assert not any(line.startswith("warning") for line in lines)


@pytest.mark.parametrize(
    ("api", "what"),
    [
        ("serviceusage", "project demo-proj: APIs"),
        ("cloudtasks", "relay.yaml: queues.relay"),
        ("secretmanager", f"secret {P}/secrets/traced-relay-callbacks"),
        ("cloudresourcemanager", "project demo-proj: IAM policy"),
        ("monitoring", "project demo-proj: metrics, alerts and dashboard"),
    ],
)
def test_a_denied_read_is_a_finding_and_the_rest_is_checked(cloud: CloudAnswers, api: str, what: str) -> None:
    cloud.refused[f"{api}/"] = 403, {"error": {"code": 403, "message": "Permission 'x.y.get' denied"}}
    without(cloud, JOB)
    hidden, seen = found(cloud)
    assert hidden.startswith(f"{what}: expected read access, found none (403 Permission 'x.y.get' denied); use cred")
    assert seen.startswith("cron.yaml: ")


def test_disabled_apis_are_not_guessed_without_serviceusage(cloud: CloudAnswers) -> None:
    disabled = {"code": 403, "message": "not used before", "details": [{"reason": "SERVICE_DISABLED"}]}
    cloud.refused |= {f"{api}/": (403, {"error": disabled}) for api in ("serviceusage", "cloudresourcemanager")}
    assert [line.partition(" (")[0] for line in found(cloud)] == [
        "project demo-proj: APIs: expected read access, found none",
        "project demo-proj: IAM policy: expected read access, found none",
    ]


@pytest.mark.parametrize(("quota", "header"), [({}, PROJECT), ({"quota_project_id": "own"}, None)])
def test_a_persons_requests_use_the_projects_quota(tmp_path: Path, quota: dict[str, str], header: str | None) -> None:
    person = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r", **quota}
    (tmp_path / "adc.json").write_text(json.dumps(person))
    with surroundings(GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "adc.json")):
        google = connected(PROJECT)
    assert google._session.headers.get("X-Goog-User-Project") == header


def test_a_missing_login_or_network_is_one_clear_line(cloud: CloudAnswers) -> None:
    cloud.refused["serviceusage/"] = 401, {"error": {"code": 401}}
    with pytest.raises(IdentityFailed, match="Google rejects these credentials; run: gcloud auth application-d"):
        found(cloud)
    nobody = GoogleApis(requests.Session(), "http://127.0.0.1:9/{api}")
    with pytest.raises(Unavailable, match=r"no response from 127\.0\.0\.1:9: ConnectionError"):
        list(findings(nobody, PROJECT, ROOT, {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cron: [{url: /own, schedule: every 24 hours}, {url: /sweep, schedule: every 1 minutes}]", []),
        ("", ["cron.yaml: job for /sweep: expected a schedule in the file, found none; add it"]),
        (
            "cron: [{url: /sweep}]",
            ["cron.yaml: job for /sweep: expected a schedule in the file, found none; add it"],
        ),
    ],
)
def test_only_the_sweep_job_of_cron_yaml_is_checked(
    cloud: CloudAnswers, tmp_path: Path, text: str, said: list[str]
) -> None:
    (tmp_path / "cron.yaml").write_text(text)
    for name in ("relay.yaml", "app.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    plan = cloud_plan.plan(PROJECT, tmp_path, {})
    google = GoogleApis(requests.Session(), cloud.endpoint)
    assert [str(finding) for finding in sweeps(google, plan)] == said


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The project's files, with a worker on Cloud Run and a receiver's secret in another project."""
    shutil.copy(ROOT / "firestore.indexes.json", tmp_path)
    shutil.copytree(ROOT / "monitoring", tmp_path / "monitoring")
    worker = f"{{url: https://relay-x.a.run.app, service_account: {INVOKER}}}"
    queues = "queues: [{name: relay}, {name: told, for: callbacks}]"
    receivers = 'callbacks: [{url: "https://hooks.example.com/", secret: projects/other/secrets/theirs}]'
    rules = (ROOT / "relay.yaml").read_text().replace("{app_engine: default}", worker)
    (tmp_path / "relay.yaml").write_text(re.sub(r"queues: .*\n  - .*", f"{queues}\n{receivers}", rules, count=1))
    return tmp_path


@pytest.mark.parametrize(("version", "state"), [("1", "DISABLED"), ("2", None), ("9", "missing"), ("current", None)])
def test_the_version_that_relay_yaml_names_must_be_enabled(
    cloud: CloudAnswers, elsewhere: Path, version: str, state: str | None
) -> None:
    secret = f"{P}/secrets/traced-relay-callbacks"
    rules = (elsewhere / "relay.yaml").read_text()
    (elsewhere / "relay.yaml").write_text(
        rules.replace("projects/other/secrets/theirs", f"{secret}/versions/{version}")
    )
    told = [line for line in found(cloud, elsewhere) if line.startswith(f"secret {secret}")]
    enable = f"gcloud secrets versions enable {version} --secret traced-relay-callbacks --project {PROJECT}"
    wrong = f"secret {secret}: version {version}: expected ENABLED, found {state}; run: {enable}; or add a version"
    assert told == ([wrong] if state else [])


def test_a_worker_url_needs_invoker_and_job(cloud: CloudAnswers, elsewhere: Path) -> None:
    without(cloud, "appengine/")
    without(cloud, f"serviceusage/v1/{P}/services/appengine")
    cloud.enable("artifactregistry", "run")
    without(cloud, JOB)
    cloud.there[QUEUE.replace("relay", "told")] = cloud.there[QUEUE]
    cloud.policies[QUEUE.replace("relay", "told")] = cloud.policies[QUEUE]
    lines = [line for line in found(cloud, elsewhere) if "monitoring/" not in line]
    assert lines == [
        f"project demo-proj: account {INVOKER}: expected present, found missing; run ./setup-env.sh",
        "secret projects/other/secrets/theirs: expected present, found missing; fix it in project other",
        "Cloud Scheduler: job for /sweep: expected present, found missing; run ./setup-env.sh",
        (
            "warning: relay.yaml: worker https://relay-x.a.run.app: expected a Cloud Run service in us-central1,"
            " found none; deploy it, unless it runs elsewhere or has its own domain"
        ),
    ]
    cloud.there[f"iam/v1/{P}/serviceAccounts/{INVOKER}"] = {"email": INVOKER}
    cloud.there[JOB] = {"httpTarget": {"uri": "https://relay-x.a.run.app/sweep"}}
    cloud.there[f"run/v2/{P}/locations/us-central1/services/relay"] = {
        "uri": "https://relay-x.a.run.app",
        "template": {"serviceAccount": "1-compute@developer.gserviceaccount.com"},
    }
    first, service = (line for line in found(cloud, elsewhere) if "monitoring/" not in line and "theirs" not in line)
    assert service == (
        f"relay.yaml: worker https://relay-x.a.run.app: account: expected {RELAY}, found"
        f" 1-compute@developer.gserviceaccount.com; deploy it with {RELAY}"
    )
    assert (
        f"account {INVOKER}: roles of {RELAY}: expected roles/iam.serviceAccountUser, found not granted; run" in first
    )


def test_an_alert_without_a_new_queue_is_a_finding(cloud: CloudAnswers, elsewhere: Path) -> None:
    where = "monitoring/alerts/queue-depth.yaml"
    assert [line for line in found(cloud) if where in line] == []
    assert [line for line in found(cloud, elsewhere) if where in line] == [
        f"{where}: expected the values of the file, found different conditions; run ./setup-env.sh"
    ]
    (depth,) = (there for path, there in cloud.there.items() if path.endswith("/alertPolicies/queue-depth"))
    threshold = depth["conditions"][0]["conditionThreshold"]
    threshold["filter"] = threshold["filter"].replace('"relay"', '"relay|told"')
    assert [line for line in found(cloud, elsewhere) if where in line] == []


def test_setup_creates_what_the_plan_names() -> None:
    script = (ROOT / "setup-env.sh").read_text()
    lists = re.findall(r"wanted\+?=\(([a-z ]+)\)", script)
    assert sorted(" ".join(lists).split()) == sorted(cloud_plan.APIS + cloud_plan.APP_ENGINE_APIS + cloud_plan.RUN_APIS)
    roles = {*cloud_plan.QUEUE_ROLES, *cloud_plan.PROJECT_ROLES, cloud_plan.SECRET_ROLE, cloud_plan.INVOKER_ROLE}
    assert set(re.findall(r"grant (roles/\S+)", script)) == roles | {cloud_plan.LEDGER_ROLE}
    values = [value.removesuffix(".0") for value in cloud_plan.QUEUE_SETTINGS.values()]
    assert [value for value in values if value not in script] == []


def test_a_finding_is_text_or_json_and_a_warning_no_problem(cloud: CloudAnswers) -> None:
    BROKEN["rates"][0](cloud)
    BROKEN["too much"][0](cloud)
    google = GoogleApis(requests.Session(), cloud.endpoint)
    lines = list(output_lines(findings(google, PROJECT, ROOT, {}), as_json=True))
    assert [is_problem for _, is_problem in lines] == [True, False]
    assert json.loads(lines[0][0]) == {
        "severity": "problem",
        "message": "relay.yaml: queues.relay.max_dispatches_per_second: expected 100, found 50; run ./setup-env.sh",
        "where": "relay.yaml: queues.relay.max_dispatches_per_second",
        "wanted": "100",
        "there": "50",
        "fix": "run ./setup-env.sh",
    }
    assert list(output_lines(["relay.yaml: a problem"], as_json=False)) == [("relay.yaml: a problem", True)]


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_a_project_after_setup_has_no_problem(google: GoogleStandIn, gcloud: str, tmp_path: Path) -> None:
    ran = run(google, tmp_path, *SETUP, programs=gcloud)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    address = f"http://127.0.0.1:{google._server.server_address[1]}"
    looking = GoogleApis(requests.Session(), f"{address}/{{api}}")
    made = len(google.changes)
    assert [str(finding) for finding in findings(looking, PROJECT, ROOT, {})] == [
        "cron.yaml: job for /sweep: expected present, found missing; run ./deploy.sh",
        "app.yaml: service default: expected deployed, found missing; run ./deploy.sh",
    ]
    assert google.changes[made:] == google.problems == []


@pytest.mark.whole
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--cloud",), 2, "--cloud requires a project id: set --project or GOOGLE_CLOUD_PROJECT"),
        (("--cloud", "--project", "a/b"), 2, "--cloud requires a project id"),
        (("--cloud", "--project", PROJECT), 1, "no Google credentials found; run: gcloud auth application-default"),
    ],
)
def test_a_missing_project_or_login_ends_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    environ = {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
    command = [sys.executable, "-m", "traced_relay", "check", *arguments]
    root = checkout(tmp_path / "checkout")
    ran = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (status, "")
    (line,) = ran.stderr.splitlines()
    assert said in line


@pytest.mark.whole
def test_problems_in_files_stop_the_check_of_the_project(elsewhere: Path) -> None:
    (elsewhere / "relay.yaml").write_text("queues: []")
    environ = {"PYTHONPATH": str(ROOT / "src"), "GOOGLE_CLOUD_PROJECT": PROJECT}
    command = [sys.executable, "-m", "traced_relay", "check", "--cloud", "--json"]
    ran = subprocess.run(command, cwd=elsewhere, env=environ, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert {json.loads(line)["severity"] for line in ran.stdout.splitlines()} == {"problem"}
    assert ran.stderr.splitlines()[-1] == "the project was not checked: fix these problems first"
