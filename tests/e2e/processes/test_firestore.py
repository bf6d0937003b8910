"""A relay whose tasks are kept in Firestore."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.asking import get, post
from support.firestore_emulator import emulator_at
from support.hanging import Hanging
from support.place import Place
from support.schema import validate
from traced_relay.app import Application
from traced_relay.config import settings
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from pathlib import Path

    from support.firestore_emulator import FirestoreEmulator

pytestmark = pytest.mark.whole

REPORTS = "reports@p.iam.gserviceaccount.com"
RULES = "location: us-central1\nqueues: [{name: relay}]\nworker: {app_engine: default}\n"
RETRY = {"max_attempts": 3, "min_backoff": "0.1s", "jitter": "none"}


def test_a_call_is_relayed_retried_listed_and_outlives_its_process(
    tmp_path: Path, firestore: FirestoreEmulator
) -> None:
    with Downstream(503, 200) as downstream:
        place = Place(tmp_path, downstream.url, firestore=firestore)
        with place.queue:
            who = place.bearer(REPORTS)
            call: dict[str, Any] = {"url": f"{downstream.url}/reports", "retry": RETRY, "labels": {"team": "billing"}}
            with place.relay() as relay:
                task_id = post(f"{place.url}/v1/tasks", call | {"body": "x" * 700_000}, **who).document["task_id"]
                finished = relay.wait_for("task.finished", task_id=task_id)
                assert (finished["state"], finished["attempt_count"]) == ("succeeded", 2)
                assert [len(arrived.body) for arrived in downstream.arrived] == [700_000] * 2
                assert get(f"{place.url}/ready").status == 200
                assert relay.end(signal.SIGTERM) == 0
                for record in relay.records:
                    validate(record)
            with place.relay():
                document = get(f"{place.url}/v1/tasks/{task_id}", **who).document
                assert [attempt["status_code"] for attempt in document["attempts"]] == [503, 200]
                for query, found in (("label.team=billing", 1), ("label.team=sales", 0), ("state=succeeded", 1)):
                    assert len(get(f"{place.url}/v1/tasks?{query}", **who).document["tasks"]) == found


def test_a_call_that_a_signal_cuts_is_made_again_by_the_next_process(
    tmp_path: Path, firestore: FirestoreEmulator
) -> None:
    hang = Hanging(60)
    with Downstream(hang, 200) as downstream:
        place = Place(tmp_path, downstream.url, firestore=firestore)
        with place.queue:
            who, call = place.bearer(REPORTS), {"url": f"{downstream.url}/reports", "idempotent": True}
            with place.relay() as relay:
                task_id = post(f"{place.url}/v1/tasks", call, **who).document["task_id"]
                downstream.wait_for(1)
                assert relay.end(signal.SIGTERM) == 0
            hang.release()
            with place.relay() as relay:
                finished = relay.wait_for("task.finished", 40, task_id=task_id)
                assert (finished["state"], finished["attempt_count"]) == ("succeeded", 2)
                assert relay.said("attempt.finished", attempt=1)[0]["reason"] == "interrupted"


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_a_killed_processs_call_is_repeated_after_its_lease(tmp_path: Path, firestore: FirestoreEmulator) -> None:
    hang = Hanging(150)
    with Downstream(hang, 200) as downstream:
        place = Place(tmp_path, downstream.url, firestore=firestore)
        with place.queue:
            who, call = place.bearer(REPORTS), {"url": f"{downstream.url}/reports", "idempotent": True}
            with place.relay() as relay:
                task_id = post(f"{place.url}/v1/tasks", call, **who).document["task_id"]
                downstream.wait_for(1)
                relay.kill()
            with place.relay() as relay:
                finished = relay.wait_for("task.finished", 120, task_id=task_id)
                assert (finished["state"], finished["attempt_count"]) == ("succeeded", 2)
                assert relay.said("attempt.finished", attempt=1)[0]["reason"] == "worker_lost"
            hang.release()


SERVING = {
    "GOOGLE_CLOUD_PROJECT": "p",
    "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1",
    "RELAY_LEDGER": "firestore:relay/calls",
    "PORT": "0",
}


def test_without_the_extra_it_is_said_in_one_line_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    without = "import sys; sys.modules['google.cloud.firestore'] = None; sys.argv[1:] = ['serve']"
    ran = subprocess.run(
        [sys.executable, "-c", f"{without}; from traced_relay.cli.main import main; main()"],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)} | SERVING,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    said = ran.stderr.splitlines()[-1]
    assert said.endswith("RELAY_LEDGER firestore:relay/calls needs: pip install 'traced-relay[firestore]'")
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr


def test_nothing_is_asked_of_firestore_before_the_server_forks(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    read = settings.from_environment(SERVING | {"RELAY_CONFIG": str(tmp_path / "relay.yaml")})
    with socket.create_server(("127.0.0.1", 0)) as store, emulator_at(f"127.0.0.1:{store.getsockname()[1]}"):
        store.setblocking(False)
        Application.check(read)
        with pytest.raises(BlockingIOError):
            store.accept()
