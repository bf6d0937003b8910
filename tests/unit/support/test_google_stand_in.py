"""That a script whose steps are in the wrong order, or whose request is wrong, is told so by the stand-in."""

from __future__ import annotations

import base64
import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from support.google_resources import crc32c
from support.google_stand_in import GoogleStandIn
from support.house import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROJECT = "projects/demo-proj"
QUEUE = f"cloudtasks/v2/{PROJECT}/locations/us-central1/queues/relay"
SECRET = f"secretmanager/v1/{PROJECT}/secrets/s"
NOBODY = "serviceAccount:nobody@demo-proj.iam.gserviceaccount.com"
AGAIN = {"role": "roles/viewer", "members": []}


@pytest.fixture
def unchecked() -> Iterator[GoogleStandIn]:
    """A stand-in that may be asked what Google's APIs do not know."""
    running = GoogleStandIn()
    yield running
    running.close()


def enabled(google: GoogleStandIn, *apis: str) -> None:
    for api in apis:
        google.resources.there[f"serviceusage/v1/{PROJECT}/services/{api}.googleapis.com"] = {"state": "ENABLED"}


def ask(google: GoogleStandIn, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    return google.answer(method, f"/{path}", json.dumps(body).encode() if body is not None else b"")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("apis", "command", "said"),
    [
        ((), "tasks queues create relay --location us-central1", "SERVICE_DISABLED"),
        (
            ("cloudtasks",),
            f"tasks queues add-iam-policy-binding relay --location us-central1 --role roles/viewer --member {NOBODY}",
            "Service account nobody@demo-proj.iam.gserviceaccount.com does not exist",
        ),
        (
            ("monitoring",),
            f"alpha monitoring policies create --policy-from-file {ROOT}/monitoring/alerts/workers-lost.yaml",
            "",
        ),
        (
            ("monitoring",),
            f"alpha monitoring policies create --policy-from-file {ROOT}/monitoring/alerts/tasks-overdue.yaml",
            "Cannot find metric that matches type",
        ),
        (("secretmanager",), "secrets versions add none --data-file /etc/hostname", "not found"),
    ],
)
def test_a_step_before_its_time_is_refused(
    google: GoogleStandIn, gcloud: str, tmp_path: Path, apis: tuple[str, ...], command: str, said: str
) -> None:
    enabled(google, *apis)
    google.resources.there[QUEUE] = {"name": QUEUE.partition("v2/")[2]}
    nobody = google.environ(tmp_path, gcloud) | {
        "CLOUDSDK_CORE_PROJECT": "demo-proj",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    ran = subprocess.run(["gcloud", *command.split()], env=nobody, capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == (said == ""), ran.stderr
    assert said in ran.stderr


def test_a_policy_is_set_only_as_it_was_read(google: GoogleStandIn) -> None:
    enabled(google, "cloudtasks")
    google.resources.there[QUEUE] = {}
    _, read = ask(google, "POST", f"{QUEUE}:getIamPolicy", {})
    assert "/" in read["etag"]  # so that base64 and its form for URLs differ
    for_urls = read | {"etag": read["etag"].replace("/", "_"), "bindings": [AGAIN]}
    assert ask(google, "POST", f"{QUEUE}:setIamPolicy", {"policy": for_urls})[0] == 200
    status, refused = ask(google, "POST", f"{QUEUE}:setIamPolicy", {"policy": for_urls})
    assert (status, refused["error"]["message"][:23]) == (409, "There were concurrent p")
    assert ask(google, "POST", f"{QUEUE}x:setIamPolicy", {"policy": for_urls})[0] == 404


def test_a_secret_whose_checksum_is_wrong_is_refused(google: GoogleStandIn) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value that the polynomial is known by
    enabled(google, "secretmanager")
    google.resources.there[SECRET] = {}
    payload = {"data": base64.b64encode(b"whsec_x").decode(), "dataCrc32c": str(crc32c(b"whsec_x"))}
    assert ask(google, "POST", f"{SECRET}:addVersion", {"payload": payload})[0] == 200
    assert ask(google, "POST", f"{SECRET}:addVersion", {"payload": payload | {"dataCrc32c": "1"}})[0] == 400


def test_a_thing_that_is_there_is_not_made_again(google: GoogleStandIn) -> None:
    enabled(google, "cloudtasks")
    made = {"name": QUEUE.partition("v2/")[2]}
    assert ask(google, "POST", QUEUE.rpartition("/")[0], made)[0] == 200
    assert ask(google, "POST", QUEUE.rpartition("/")[0], made)[0] == 409


def test_unknown_requests_are_400_and_problems_are_recorded(unchecked: GoogleStandIn) -> None:
    enabled(unchecked, "cloudtasks")
    assert ask(unchecked, "POST", f"{QUEUE}:pauze", {})[0] == 400
    assert ask(unchecked, "DELETE", QUEUE)[0] == 400
    assert unchecked.problems == [f"POST {QUEUE}:pauze: cloudtasks has no POST {QUEUE.partition('/')[2]}:pauze"]
