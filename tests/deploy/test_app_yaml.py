"""app.yaml: a form that Google accepts, numbers that agree with relay.yaml's, and an entrypoint that starts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import traced_relay
from support.asking import get
from support.house import ROOT, places, project_files
from support.parts import require
from support.place import free_port
from support.uploads import uploaded
from traced_relay.cloud_tasks.client import SLACK
from traced_relay.config import settings
from traced_relay.deploy.gcloudignore import is_uploaded
from traced_relay.formats.durations import parse_duration

if TYPE_CHECKING:
    from support.firestore_emulator import FirestoreEmulator

TEXT = (ROOT / "app.yaml").read_text()
APP: dict[str, Any] = yaml.safe_load(TEXT)
ON_APP_ENGINE = {"GAE_ENV": "standard", "GOOGLE_CLOUD_PROJECT": "p"}
LOCAL = {"GOOGLE_CLOUD_PROJECT": "p", "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1", "RELAY_LEDGER": "memory"}

MIB_OF_CLASS = {"B1": 384, "B2": 768, "B4": 1536, "B4_1G": 3072, "B8": 3072}
MIB_AT_REST = 110
MIB_OF_A_LARGE_CALL = 2
SECONDS_TO_SPARE = 60


def as_deployed() -> settings.Settings:
    """What app.yaml and relay.yaml say together, and App Engine with them."""
    rules = {"RELAY_CONFIG": str(ROOT / APP["env_variables"]["RELAY_CONFIG"])}
    return settings.from_environment(APP["env_variables"] | ON_APP_ENGINE | rules)


def gcloud(*arguments: str, directory: Path) -> str:
    environ = os.environ | {"CLOUDSDK_CONFIG": str(directory / ".config"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    ran = subprocess.run(
        [require("gcloud"), *arguments], cwd=directory, env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def judged(tmp_path: Path, *texts: str) -> list[dict[str, Any]]:
    """What the Cloud SDK makes of each text as an app.yaml; its libraries stay in a process of their own."""
    sdk, python = gcloud(
        "info", "--format=value(installation.sdk_root,basic.python_location)", directory=tmp_path
    ).split()
    files = [tmp_path / f"app{number}.yaml" for number, _ in enumerate(texts)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    ran = subprocess.run(
        [python, ROOT / "tests" / "support" / "app_yaml_as_posted.py", sdk, *files],
        env={"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / ".config")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.whole
def test_the_cloud_sdk_posts_it_as_it_is_meant(tmp_path: Path) -> None:
    assert judged(tmp_path, TEXT) == [
        {
            "service": "default",
            "posted": {
                "runtime": "python313",
                "instanceClass": "B4",
                "basicScaling": {"maxInstances": 2, "idleTimeout": "86700s"},
                "entrypoint": {"shell": APP["entrypoint"]},
                "handlers": [
                    {"urlRegex": "/.*", "script": {"scriptPath": "auto"}, "securityLevel": "SECURE_ALWAYS"},
                ],
                "envVariables": APP["env_variables"],
            },
        }
    ]


@pytest.mark.whole
def test_the_cloud_sdk_would_refuse_what_is_wrong(tmp_path: Path) -> None:
    changes = {
        ("basic_scaling:", "basic_scalling:"): "basic_scalling",
        ("idle_timeout: 1445m", "idle_timeout: 24h"): "24h",
        ("idle_timeout: 1445m", "idle_timeout: 1445"): "1445",
        ("max_instances: 2", "max_instances: two"): "two",
        ("secure: always", "secure: surely"): "surely",
        ("service: default", "service: Default_"): "Default_",
        ("env_variables:", "automatic_scaling: {max_instances: 1}\nenv_variables:"): "_scaling",
    }
    assert [text for text, _ in changes if text not in TEXT] == []
    answers = judged(tmp_path, *(TEXT.replace(*change) for change in changes))
    assert [why in answer.get("refused", "") for answer, why in zip(answers, changes.values(), strict=True)] == [
        True
    ] * len(changes), answers


def test_the_environment_it_sets_is_one_that_the_relay_takes() -> None:
    deployed = as_deployed()
    assert deployed.threads == int(APP["env_variables"]["RELAY_THREADS"])
    assert {type(value) for value in APP["env_variables"].values()} == {str}


def test_its_ledger_is_one_that_outlives_an_instance() -> None:
    assert re.fullmatch(r"firestore:([a-z][a-z0-9-]{3,62}/)?\w+", APP["env_variables"]["RELAY_LEDGER"])


def test_it_is_the_service_that_the_rules_send_tasks_to() -> None:
    assert as_deployed().rules.worker.app_engine == APP["service"]


def test_an_instance_outlives_the_longest_call() -> None:
    idle = parse_duration(APP["basic_scaling"]["idle_timeout"])
    assert idle >= as_deployed().max_timeout + SLACK + SECONDS_TO_SPARE


def test_all_threads_fit_into_memory_with_the_largest_calls() -> None:
    needed = MIB_AT_REST + as_deployed().threads * MIB_OF_A_LARGE_CALL
    assert needed <= MIB_OF_CLASS[APP["instance_class"]]


def test_the_instances_can_run_all_that_the_queues_let_go() -> None:
    deployed = as_deployed()
    running = sum(queue.max_concurrent_dispatches for queue in deployed.rules.queues)
    assert running <= APP["basic_scaling"]["max_instances"] * deployed.max_running


@pytest.mark.whole
def test_only_files_of_the_service_are_uploaded() -> None:
    package = {places(path) for path in project_files() if path.is_relative_to(ROOT / "src" / "traced_relay")}
    assert len(package) > 50
    assert uploaded() == package | {"app.yaml", "otel.yaml", "relay.yaml", "requirements.txt"}


def test_check_reads_gcloudignore_as_git_does() -> None:
    left = {places(path) for path in project_files() if is_uploaded(ROOT, path.relative_to(ROOT))}
    assert left == uploaded()


@pytest.mark.whole
def test_gcloud_uploads_exactly_these_files(tmp_path: Path) -> None:
    lying_about = {".env", "ledger.db", ".venv/bin/python", "src/traced_relay.egg-info/PKG-INFO", "src/secret.json"}
    lying_about |= {"src/traced_relay/__pycache__/app.cpython-313.pyc", "node_modules/a/index.js", "tests/.env"}
    for name in lying_about | {places(path) for path in project_files()}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shutil.copy(ROOT / ".gcloudignore", tmp_path)
    assert set(gcloud("meta", "list-files-for-upload", directory=tmp_path).splitlines()) == uploaded()


def unpack(directory: Path) -> None:
    for name in uploaded():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)


def start_and_end(directory: Path, **surroundings: str) -> None:
    programs = os.environ.get("DEPLOYED_BIN") or str(Path(sys.executable).parent)
    port = free_port()
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(directory), "PORT": str(port)}
    process = subprocess.Popen(
        ["bash", "-c", APP["entrypoint"]],
        cwd=directory,
        env=environ | APP["env_variables"] | surroundings,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        started = next((r for r in map(json.loads, process.stdout) if r.get("event") == "relay.started"), None)
        assert started, "it ended before it had started"
        assert started["version"] == traced_relay.__version__
        assert [get(f"http://127.0.0.1:{port}{path}").status for path in ("/health", "/_ah/start")] == [200, 200]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10)


@pytest.mark.whole
def test_the_entrypoint_runs_from_the_uploaded_files(tmp_path: Path) -> None:
    unpack(tmp_path)
    start_and_end(tmp_path, **LOCAL)


@pytest.mark.whole
def test_its_entrypoint_starts_as_on_app_engine_with_its_own_ledger(
    tmp_path: Path, firestore: FirestoreEmulator
) -> None:
    unpack(tmp_path)
    nobody = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    (tmp_path / "credentials.json").write_text(json.dumps(nobody))  # read at the start, not used before the first task
    start_and_end(
        tmp_path,
        **ON_APP_ENGINE,
        GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "credentials.json"),
        FIRESTORE_EMULATOR_HOST=firestore.host,
    )
    _, _, place = APP["env_variables"]["RELAY_LEDGER"].partition(":")
    workers = firestore.ledger(place.partition("/")[2], project="p")
    assert len(list(workers._workers.list_documents())) == 1
    workers.close()


def test_its_cron_asks_the_relay_for_a_sweep_every_minute() -> None:
    (job,) = yaml.safe_load((ROOT / "cron.yaml").read_text())["cron"]
    assert (job["url"], job["schedule"], job["target"]) == ("/sweep", "every 1 minutes", APP["service"])
