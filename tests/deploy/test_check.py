from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support.house import ROOT
from support.scripts import named
from traced_relay.deploy.check import problems

if TYPE_CHECKING:
    from pathlib import Path

RULES = """
location: us-central1
queues:
  - {name: relay, max_concurrent_dispatches: 80}
  - {name: back, for: callbacks, max_concurrent_dispatches: 20}
worker: {app_engine: default}
audience: https://relay.example.com
callers: [{email: a@example.com, queues: [relay], downstreams: [reports]}]
downstreams: [{name: reports, url: "https://*.run.app/", auth: id_token}]
callbacks: [{url: "https://*.example.com/", secret: projects/p/secrets/s}]
max_timeout: 1h
heartbeat: 60s
"""
APP = """
service: default
runtime: python313
entrypoint: env PYTHONPATH=src python3 -m traced_relay serve
basic_scaling: {max_instances: 2, idle_timeout: 65m}
env_variables: {RELAY_LEDGER: "firestore:calls", RELAY_THREADS: "100"}
"""
CRON = """
cron:
  - {url: /own, schedule: every 24 hours}
  - {url: /sweep, schedule: every 1 minutes}
"""
LEDGERS = "memory, sqlite:FILE or firestore:[DATABASE/]COLLECTION"
CALLBACK = "secret: projects/p/secrets/s"
REPORTS = 'name: reports, url: "https://*.run.app/", auth: id_token}'


def found(directory: Path, rules: str = RULES, app: str | None = APP, **environ: str) -> list[str]:
    (directory / "relay.yaml").write_text(rules)
    if app is not None:
        (directory / "app.yaml").write_text(app)
        if not (directory / "cron.yaml").exists():
            (directory / "cron.yaml").write_text(CRON)
    return [problem.replace(f"{directory}/", "") for problem in problems(directory, environ)]


def test_the_files_of_this_project_have_no_problem() -> None:
    assert problems(ROOT, {}) == []


def test_consistent_files_have_no_problem(tmp_path: Path) -> None:
    (tmp_path / "cron.yaml").write_text(CRON)
    assert found(tmp_path) == []
    full = APP.replace('RELAY_THREADS: "100"', 'RELAY_THREADS: "58"')
    assert found(tmp_path, app=full) == []  # 2 x 50 calls at once are the 80 and 20 of the queues


@pytest.mark.parametrize("target", [", target: other", ""])
def test_a_sweep_that_reaches_another_service_is_a_problem(tmp_path: Path, target: str) -> None:
    (tmp_path / "cron.yaml").write_text(CRON.replace("/sweep,", f"/sweep{target},"))
    service = "other" if not target else "default"
    rules, app = (text.replace("default", service) for text in (RULES, APP))
    reached = "default" if not target else "other"
    said = f"cron.yaml: target of /sweep: must be {service}, the service of app.yaml, got {reached}"
    assert found(tmp_path, rules, app) == [said]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("queues:\n", "queus: 1\nqueues:\n", "relay.yaml: queus is not a known field"),
        ("name: relay,", "name: re_lay,", "relay.yaml: queues.0.name is not valid"),
        ("max_concurrent_dispatches: 20", "max_concurrent_dispatches: 0", "queues.1.max_concurrent_dispatches must be"),
        (", for: callbacks", "", "relay.yaml: queues must have one with `for: callbacks`"),
        ("heartbeat: 60s", "heartbeat: 60", "relay.yaml: heartbeat must be a duration"),
        ("heartbeat: 60s", "heartbeat: 2d", "relay.yaml: heartbeat must be at most 1h"),
        ("heartbeat: 60s", "heartbeat: 1h", "relay.yaml: heartbeat: must be less than max_timeout"),
        ("max_timeout: 1h", "max_timeout: 25h", "relay.yaml: max_timeout must be at most 24h with this worker"),
        ("max_timeout: 1h", "max_timeout: 1h\nmax_timeout: 2h", "relay.yaml: is not YAML: the key max_timeout"),
        ("audience: https://relay.example.com", "", "relay.yaml: audience must be set"),
        (
            "audience: https://relay.example.com",
            'audience: "https://x\\nqueue y 1 1"',
            "relay.yaml: audience is not valid",
        ),
        ("relay.example.com", "$(id).example.com", "relay.yaml: audience is not valid"),
        (
            "{app_engine: default}",
            '{url: "https://r.run.app", service_account: "--quiet x"}',
            "service_account must be a service account",
        ),
        (
            "queues: [relay], d",
            "queues: [back], d",
            "callers.queues of a@example.com refers to back, which is not defined",
        ),
        ("downstreams: [reports]}", "downstreams: [x]}", "callers.downstreams of a@example.com refers to x, which is"),
        (f", {CALLBACK}", "", "callbacks: https://*.example.com/ has no secret, and RELAY_CALLBACK_SECRET is not set"),
        (CALLBACK, "secret: whsec_hunter2", "callbacks.0.secret must be the name of a secret in Secret Manager"),
        (REPORTS, REPORTS + ', {name: b, url: "https://b.run.app/", auth: none}', "downstreams: b never matches"),
        ("https://*.run.app/", "http://a.run.app/", "downstreams.0.auth must be none for http://"),
        (
            "{app_engine: default}",
            "{app_engine: other}",
            "app.yaml: service: must be other, to match worker.app_engine in relay.yaml, got default",
        ),
        ("us-central1", "us", "relay.yaml: location must be one region such as us-central1"),
        ("us-central1", "global", "relay.yaml: location must be one region such as us-central1"),
        ("audience: https://relay.example.com", "audience: ' '", "relay.yaml: audience is not valid"),
        ("a@example.com", "A@example.com", "relay.yaml: callers.0.email must be an email address in lower case"),
        ("projects/p/secrets/s", "projects/p/secrets/s/versions/0", "callbacks.0.secret must be the name of a secret"),
        ("name: relay,", "name: late, for: callbacks}\n  - {name: relay,", "queues must not have two with `for: callb"),
        ("{app_engine: default}", "{url: 'http://a.test', service_account: a}", "worker.url must start with https://"),
        ("{app_engine: default}", "{url: 'https://a.test/x', service_account: a}", "worker.url must have no path"),
        ("{app_engine: default}", "{url: 'https://a.test', service_account: a@b}", "worker.service_account must be a"),
        (
            "{app_engine: default}",
            "{url: 'https://localhost', service_account: a@p.iam.gserviceaccount.com}",
            "relay.yaml: worker.url must not be on this machine, because Cloud Tasks cannot reach it, got https://localhost",
        ),
        ("{app_engine: default}", "{}", "relay.yaml: worker must have either app_engine or url"),
    ],
)
def test_a_problem_of_relay_yaml_names_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in RULES
    assert said in "\n".join(found(tmp_path, RULES.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("idle_timeout: 65m", "idle_timeout: 61m", "app.yaml: basic_scaling.idle_timeout: must be at least 3675s"),
        ("idle_timeout: 65m", "idle_timeout: 2h", "app.yaml: basic_scaling.idle_timeout: must be whole seconds or"),
        (", idle_timeout: 65m", "", "app.yaml: basic_scaling.idle_timeout: must be at least 3675s"),
        ("basic_scaling: {max_instances: 2, idle_timeout: 65m}", "", "app.yaml: basic_scaling: is required"),
        ("max_instances: 2", "max_instances: 1", "1 with RELAY_THREADS 100 run 92 calls at once, but the queues of"),
        ("max_instances: 2", "max_instances: two", "app.yaml: basic_scaling.max_instances: must be a number"),
        (
            "basic_scaling: {max_instances: 2, idle_timeout: 65m}",
            "manual_scaling: {instances: 1}",
            "manual_scaling.ins",
        ),
        ('"100"', "100", "app.yaml: env_variables.RELAY_THREADS: must be a string"),
        ('"100"', '"many"', "app.yaml: env_variables: RELAY_THREADS must be a number"),
        ('"100"', '"8"', "app.yaml: env_variables: RELAY_THREADS must be a number from 9 to 10000, got '8'"),
        ("firestore:calls", "memory", "app.yaml: env_variables: RELAY_LEDGER must not be memory on app_engine"),
        (
            "firestore:calls",
            "firestore:Bad/calls",
            "app.yaml: env_variables: RELAY_LEDGER: the Firestore database must",
        ),
        ("RELAY_THREADS", "RELAY_THREAD", "app.yaml: env_variables: RELAY_THREAD is not a variable of the relay"),
        ("RELAY_THREADS", "RELAY_CONFIG", "100: cannot be read"),
        ("RELAY_THREADS", "RELAY_CALLBACK_SECRET", "RELAY_CALLBACK_SECRET must be whsec_"),
        ("python313", "nodejs", "app.yaml: runtime: must be python311, python312 or python313, got nodejs"),
        ("python313", "python310", "app.yaml: runtime: must be python311, python312 or python313, got python310"),
        ("runtime:", "env: flex\nruntime:", "app.yaml: env: must be standard, got flex"),
        (
            "runtime:",
            "automatic_scaling: {}\nruntime:",
            "automatic_scaling: must not be set together with basic_scaling",
        ),
        ("runtime:", "instance_class: B9\nruntime:", "app.yaml: instance_class: must be one of F1, "),
        ("runtime:", "instance_class: F4\nruntime:", "app.yaml: instance_class: F4 does not fit basic_scaling"),
        (
            "runtime:",
            "instance_class: B1\nruntime:",
            "B1 has memory for 73 threads with the largest calls, RELAY_THREADS",
        ),
        ("runtime:", "handlers: {}x\nruntime:", "app.yaml: is not YAML"),
        ("runtime:", "handlers: [a]\nruntime:", "app.yaml: handlers: must be a list of mappings"),
        ("runtime:", "handlers: [{url: /v2/.*, script: auto}]\nruntime:", "handlers: /sweep must reach the relay by"),
        (
            "runtime:",
            "handlers: [{url: /v1, static_dir: a}, {url: /.*, script: auto}]\nruntime:",
            "handlers: /v1/tasks must reach the relay by `script: auto`, but /v1 matches it",
        ),
        (
            "RELAY_THREADS",
            "FIRESTORE_EMULATOR_HOST",
            "env_variables.FIRESTORE_EMULATOR_HOST: must not be set, because",
        ),
        (
            "RELAY_THREADS",
            "RELAY_TRACE_ENDPOINT",
            "RELAY_TRACE_ENDPOINT is for tests and must be on loopback, got '100'",
        ),
        ("entrypoint: env PYTHONPATH=src python3 -m traced_relay serve", "", "app.yaml: entrypoint: is required"),
        ("traced_relay serve", "gunicorn main:app", "app.yaml: entrypoint: must start `traced_relay serve`, got env"),
        ("env PYTHONPATH=src ", "", "app.yaml: entrypoint: must set PYTHONPATH=src"),
        (APP, "- a", "app.yaml: must be a mapping of keys to values"),
        (APP, "a: [", "app.yaml: is not YAML"),
    ],
)
def test_a_problem_of_app_yaml_names_its_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in APP
    assert said in "\n".join(found(tmp_path, app=APP.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "variables", "said"),
    [
        ('file_format: "1.0"', 'file_format: "3"', "", "otel.yaml: "),
        (
            "attribute_count_limit: 28",
            "attribute_count_limit: 64",
            "",
            "attribute_count_limit must be at most 32, got 64",
        ),
        (
            "relay_cloud_trace:",
            "zipkin:",
            "",
            "otel.yaml: tracer_provider.processors.0.batch.exporter.zipkin is not a known",
        ),
        ("    - tracecontext:\n", "", "", "otel.yaml: propagator.composite must be tracecontext and then relay_origin"),
        (
            "tracer_provider:",
            "log_level: info\ntracer_provider:",
            "",
            "otel.yaml: log_level is not a known field",
        ),
        ("disabled: ${OTEL_SDK_DISABLED:-false}", "disabled: [", "", "otel.yaml: "),
        ("", "", 'OTEL_TRACES_SAMPLER_ARG: "2"', "root.trace_id_ratio_based.ratio must be at most 1.0, got 2"),
        ("", "", "OTEL_CONFIG_FILE: traces/otel.yaml", "traces/otel.yaml"),
    ],
)
def test_a_problem_of_otel_yaml_is_found_as_in_the_service(
    tmp_path: Path, old: str, new: str, variables: str, said: str
) -> None:
    text = (ROOT / "otel.yaml").read_text()
    assert old in text
    (tmp_path / "otel.yaml").write_text(text.replace(old, new, 1))
    (problem,) = found(tmp_path, app=APP.replace("RELAY_THREADS", f"{variables or 'OTEL_X: y'}, RELAY_THREADS"))
    assert problem.startswith(("otel.yaml: ", "traces/otel.yaml: "))
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "cron.yaml: is not YAML"),
        ("", "cron.yaml: must be a mapping of keys to values"),
        ("a: 1", "cron.yaml: cron: must have a job with url /sweep"),
        ("cron: [1, {url: /other}]", "cron.yaml: cron: must have a job with url /sweep"),
        (
            "cron: [{url: /sweep}]",
            "cron.yaml: schedule of /sweep: must be `every N minutes`, at most 1m as sweep_e",
        ),
        (
            "cron: [{url: /sweep, schedule: every 5 minutes}]",
            "at most 1m as sweep_every of the rules, got every 5",
        ),
        ("cron: [{url: /sweep, schedule: every monday 09:00}]", "got every monday 09:00"),
    ],
)
def test_a_problem_of_cron_yaml_is_reported(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cron.yaml").write_text(text)
    (problem,) = found(tmp_path)
    assert said in problem


def test_cron_may_be_as_slow_as_sweep_every(tmp_path: Path) -> None:
    (tmp_path / "cron.yaml").write_text(CRON.replace("every 1 minutes", "every 5 mins"))
    assert found(tmp_path, rules=RULES + "sweep_every: 5m\n") == []


def test_files_that_the_service_reads_have_to_be_uploaded(tmp_path: Path) -> None:
    (tmp_path / ".gcloudignore").write_text("#!include:.gitignore\n/*\n!/relay.yaml\n!/conf/\n*.own.yaml\n")
    (tmp_path / ".gitignore").write_text("# kept\n\n")
    assert found(tmp_path) == []
    (tmp_path / "conf").mkdir()
    for name, is_uploaded in {
        "conf/otel.yaml": True,
        "conf/otel.own.yaml": False,
        "otel-otlp.yaml": False,
        "../otel.yaml": False,
    }.items():
        (tmp_path / name).write_text((ROOT / "otel.yaml").read_text())
        said = found(tmp_path, app=APP.replace("RELAY_THREADS", f"OTEL_CONFIG_FILE: {name}, RELAY_THREADS"))
        text = f".gcloudignore: must not exclude {name}, which the service reads at start"
        assert said == [] if is_uploaded else said == [text]


def test_spans_over_otlp_need_their_exporter_in_what_is_installed(tmp_path: Path) -> None:
    (tmp_path / "otel-otlp.yaml").write_text((ROOT / "otel-otlp.yaml").read_text())
    app = APP.replace("RELAY_THREADS", "OTEL_CONFIG_FILE: otel-otlp.yaml, RELAY_THREADS")
    (tmp_path / "requirements.txt").write_text("flask==3\nopentelemetry-exporter-otlp-proto-http==1.39.1\n")
    assert found(tmp_path, app=app) == []
    (tmp_path / "requirements.txt").write_text("flask==3\n")
    assert found(tmp_path, app=app) == [
        "otel-otlp.yaml: exporter otlp_http needs the extra `otlp`, which requirements.txt lacks"
    ]


def test_shipped_examples_are_problems_only_with_a_project(tmp_path: Path) -> None:
    rules = (ROOT / "relay.yaml").read_text()
    app = (ROOT / "app.yaml").read_text()
    assert found(tmp_path, rules, app) == []
    assert found(tmp_path, rules, app, GOOGLE_CLOUD_PROJECT="p") == [
        "relay.yaml: audience: replace the example https://relay.example.com with your own value",
        "relay.yaml: callers.email: replace the example reports@my-project.iam.gserviceaccount.com with your own value",
        "relay.yaml: callers.email: replace the example oncall@example.com with your own value",
        (
            "relay.yaml: downstreams.reports.url: https://*.run.app/ matches services of other projects, which"
            " would get the relay's ID token; name your own hosts"
        ),
    ]
    assert found(tmp_path, named(rules), app, GOOGLE_CLOUD_PROJECT="p") == []


def test_otel_yaml_is_not_checked_if_tracing_is_off(tmp_path: Path) -> None:
    (tmp_path / "otel.yaml").write_text("a: [")
    assert found(tmp_path, app=APP.replace("RELAY_THREADS", 'OTEL_SDK_DISABLED: "true", RELAY_THREADS')) == []
    assert len(found(tmp_path)) == 1


def test_otel_yaml_is_read_with_the_services_variables(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    found(tmp_path / "conf", app=None)
    (tmp_path / "conf" / "otel.yaml").write_text((ROOT / "otel.yaml").read_text())
    app = APP.replace("RELAY_THREADS", "RELAY_CONFIG: conf/relay.yaml, RELAY_THREADS")
    before = dict(os.environ)
    assert found(tmp_path, app=app, OTEL_TRACES_SAMPLER_ARG="7") == []
    (tmp_path / "app.yaml").write_text(app.replace("RELAY_THREADS", 'OTEL_TRACES_SAMPLER_ARG: "7", RELAY_THREADS'))
    assert [problem.split(": ")[0] for problem in problems(tmp_path, {})] == [f"{tmp_path}/conf/otel.yaml"]
    assert dict(os.environ) == before


def test_app_yaml_must_not_contain_a_secret(tmp_path: Path) -> None:
    key = f"whsec_{'A' * 40}"
    said = found(tmp_path, app=APP.replace("RELAY_THREADS: ", f"RELAY_CALLBACK_SECRET: {key}, RELAY_THREADS: "))
    assert said == [
        "app.yaml: env_variables.RELAY_CALLBACK_SECRET must name a secret in Secret Manager, not contain one"
    ]


def test_every_problem_is_reported(tmp_path: Path) -> None:
    rules = RULES.replace("audience: https://relay.example.com", "").replace("[relay]", "[x]")
    app = APP.replace("65m", "5m").replace("firestore:calls", "").replace("100", "0")
    keys = ["idle_timeout", "RELAY_LEDGER", "RELAY_THREADS", "audience", "callers.queues"]
    said = "\n".join(found(tmp_path, rules, app))
    assert [key for key in keys if key not in said] == []


def test_without_app_yaml_the_process_environment_counts(tmp_path: Path) -> None:
    said = found(tmp_path, app=None, PORT="http")
    assert said == [
        "environment: GOOGLE_CLOUD_PROJECT must be set: the project whose queues are used",
        f"environment: RELAY_LEDGER must be set: where tasks are kept: {LEDGERS}",
        "environment: PORT must be a number from 0 to 65535, got 'http'",
    ]
    here = {"CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123"}
    assert found(tmp_path, app=None, GOOGLE_CLOUD_PROJECT="p", RELAY_LEDGER="memory", **here) == []


def test_variables_of_opentelemetry_are_checked(tmp_path: Path) -> None:
    here = {"CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123", "GOOGLE_CLOUD_PROJECT": "p", "RELAY_LEDGER": "memory"}
    missing, switch = "/nonexistent/otel.yaml", "environment: OTEL_SDK_DISABLED must be true or false, got 'maybe'"
    unread = f"{missing}: cannot be read: No such file or directory"
    assert found(tmp_path, app=None, OTEL_SDK_DISABLED="maybe", **here) == [switch]
    assert found(tmp_path, app=None, OTEL_SDK_DISABLED="maybe", OTEL_CONFIG_FILE=missing, **here) == [switch, unread]
    assert found(tmp_path, app=None, OTEL_SDK_DISABLED="true", OTEL_CONFIG_FILE=missing, **here) == [
        f"environment: OTEL_CONFIG_FILE: {missing} is missing"
    ]


def test_a_file_that_is_no_ledger_is_a_problem(tmp_path: Path) -> None:
    here = {"CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123", "GOOGLE_CLOUD_PROJECT": "p"}
    file = tmp_path / "other.db"
    assert found(tmp_path, app=None, RELAY_LEDGER=f"sqlite:{file}", **here) == []
    assert not file.exists()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE people (name TEXT)")
    why = "other.db: is a database of another program, with the table people; name another file"
    assert found(tmp_path, app=None, RELAY_LEDGER=f"sqlite:{file}", **here) == [
        f"environment: RELAY_LEDGER: the ledger cannot be used: {why}"
    ]


def test_a_private_address_needs_allow_private(tmp_path: Path) -> None:
    inside = "{name: inside, url: 'http://10.0.0.7:8080/', auth: none}"
    rules = RULES.replace("\ndownstreams: [", f"\ndownstreams: [{inside}, ")
    assert found(tmp_path, rules.replace("auth: none", "auth: none, allow_private: true")) == []
    leave = "`allow_private: true`, because http://10.0.0.7:8080/ is in 10.0.0.0/8 (private)"
    assert found(tmp_path, rules) == [f"relay.yaml: downstreams.inside.url: needs {leave}"]


@pytest.mark.whole
def test_check_prints_one_line_a_problem_and_exits_1(tmp_path: Path) -> None:
    def run() -> tuple[int, str]:
        command = [sys.executable, "-m", "traced_relay", "check"]
        ran = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True)
        return ran.returncode, ran.stdout.decode()

    found(tmp_path)
    assert run() == (0, "no problem found\n")
    found(tmp_path, RULES.replace("60s", "1h"))
    assert run() == (1, "relay.yaml: heartbeat: must be less than max_timeout, or no call writes one\n")
