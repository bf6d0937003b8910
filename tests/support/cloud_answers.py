"""What Google would answer about a project in which all is as the files say, on loopback, for a test to break."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import yaml
from werkzeug.wrappers import Request, Response

from support.house import ROOT
from traced_relay.runtime.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PROJECT = "demo-proj"
P = f"projects/{PROJECT}"
RELAY = f"traced-relay@{PROJECT}.iam.gserviceaccount.com"
QUEUE = f"cloudtasks/v2/{P}/locations/us-central1/queues/relay"
SECRET = f"secretmanager/v1/{P}/secrets/traced-relay-callbacks"
DATABASE = f"firestore/v1/{P}/databases/traced-relay"
GROUPS = f"{P}/databases/traced-relay/collectionGroups"
VERSION = f"appengine/v1/apps/{PROJECT}/services/default/versions/v1"
JOB = f"cloudscheduler/v1beta1/{P}/locations/us-central1/jobs/sweep"
APIS = (
    *("appengine", "cloudbuild", "cloudresourcemanager", "cloudscheduler", "cloudtasks", "cloudtrace", "firestore"),
    *("iam", "logging", "monitoring", "secretmanager"),
)


@dataclass
class CloudAnswers:
    """*there* is each resource by its path, `api/version/name`; *refused* answers before them, by the path's start."""

    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refused: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    page_size: int = 1000
    asked: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = Listener(self._serve).start()
        self.endpoint = f"{self._listener.url}/{{api}}"
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.stop()

    def _serve(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        request.get_data()
        self.asked.append(request)
        status, document = self._answer(request.path.strip("/").replace("/projects/-/", f"/{P}/"), request)
        answer = Response(json.dumps(document), status, content_type="application/json")
        return answer(environ, start_response)

    def _answer(self, path: str, request: Request) -> tuple[int, dict[str, Any]]:
        for start, refusal in self.refused.items():
            if path.startswith(start):
                return refusal
        path, _, verb = path.partition(":")
        if verb == "getIamPolicy":
            return 200, {"bindings": self.policies.get(path, []), "etag": "YQ=="}
        if path in self.there:
            return 200, self.there[path]
        items = [made for name, made in self.there.items() if re.fullmatch(_pattern(path), name)]
        if not items:
            return 404, {"error": {"code": 404, "status": "NOT_FOUND", "message": f"{path} not found"}}
        start = int(request.args.get("pageToken", 0))
        page: dict[str, Any] = {path.rpartition("/")[2]: items[start : start + self.page_size]}
        if len(items) > start + self.page_size:
            page["nextPageToken"] = str(start + self.page_size)
        return 200, page

    def enable(self, *apis: str) -> None:
        for api in apis:
            name = f"{api}.googleapis.com"
            self.there[f"serviceusage/v1/{P}/services/{name}"] = {"config": {"name": name}, "state": "ENABLED"}

    def grant(self, path: str, *roles: str, condition: dict[str, str] | None = None) -> None:
        given = {} if condition is None else {"condition": condition}
        member = f"serviceAccount:{RELAY}"
        self.policies.setdefault(path, []).extend({"role": role, "members": [member], **given} for role in roles)


def _pattern(collection: str) -> str:
    return re.escape(collection).replace("/\\-/", "/[^/]+/") + "/[^/]+"


def set_up() -> CloudAnswers:
    """All that setup-env.sh and deploy.sh make of this project's own files."""
    cloud = CloudAnswers()
    cloud.enable(*APIS)
    cloud.there |= {
        f"appengine/v1/apps/{PROJECT}": {"locationId": "us-central", "servingStatus": "SERVING"},
        VERSION: {"id": "v1", "servingStatus": "SERVING", "serviceAccount": RELAY},
        f"iam/v1/{P}/serviceAccounts/{RELAY}": {"email": RELAY},
        QUEUE: {
            "state": "RUNNING",
            "rateLimits": {"maxDispatchesPerSecond": 100, "maxBurstSize": 20, "maxConcurrentDispatches": 80},
            "retryConfig": {"maxAttempts": -1, "minBackoff": "5s", "maxBackoff": "60s", "maxDoublings": 4},
            "stackdriverLoggingConfig": {"samplingRatio": 1},
        },
        SECRET: {"name": SECRET.partition("v1/")[2]},
        f"{SECRET}/versions/1": {"name": f"{SECRET.partition('v1/')[2]}/versions/1", "state": "DISABLED"},
        f"{SECRET}/versions/2": {"name": f"{SECRET.partition('v1/')[2]}/versions/2", "state": "ENABLED"},
        DATABASE: {"type": "FIRESTORE_NATIVE", "locationId": "us-central1"},
        JOB: {"state": "ENABLED", "schedule": "every 1 minutes", "appEngineHttpTarget": {"relativeUri": "/sweep"}},
    }
    _let_build_indexes(cloud)
    _let_watch(cloud)
    cloud.grant(QUEUE, *(f"roles/cloudtasks.{role}" for role in ("enqueuer", "taskDeleter", "viewer")))
    cloud.grant(SECRET, "roles/secretmanager.secretAccessor")
    project = f"cloudresourcemanager/v1/{P}"
    cloud.grant(project, "roles/cloudtrace.agent", "roles/logging.logWriter")
    condition = {"expression": f'resource.name=="{P}/databases/traced-relay"', "title": "traced-relay-ledger"}
    cloud.grant(project, "roles/datastore.user", condition=condition)
    return cloud


def _let_build_indexes(cloud: CloudAnswers) -> None:
    written = json.loads((ROOT / "firestore.indexes.json").read_text())
    for number, index in enumerate(written["indexes"]):
        name = f"{GROUPS}/{index['collectionGroup']}/indexes/{number}"
        fields = [*index["fields"], {"fieldPath": "__name__", "order": "DESCENDING"}]
        cloud.there[f"firestore/v1/{name}"] = {"name": name, "state": "READY", "fields": fields}
    for own in written["fieldOverrides"]:
        name = f"{GROUPS}/{own['collectionGroup']}/fields/{own['fieldPath']}"
        indexes = [
            {"state": "READY", "fields": [{"fieldPath": own["fieldPath"], "order": one["order"]}]}
            for one in own["indexes"]
        ]
        lives = {"ttlConfig": {"state": "ACTIVE"}} if own.get("ttl") else {}
        cloud.there[f"firestore/v1/{name}"] = {"name": name, "indexConfig": {"indexes": indexes}, **lives}


def _let_watch(cloud: CloudAnswers) -> None:
    for kind, place in (
        ("metrics/*.yaml", f"logging/v2/{P}/metrics"),
        ("alerts/*.yaml", f"monitoring/v3/{P}/alertPolicies"),
        ("dashboard.json", f"monitoring/v1/{P}/dashboards"),
    ):
        for file in (ROOT / "monitoring").glob(kind):
            text = file.read_text().replace("PROJECT_ID", PROJECT).replace("RESOURCE_TYPE", "gae_app")
            text = text.replace("QUEUE_NAMES", "relay")
            name = f"{place}/{file.stem}"
            shown = file.stem if kind.startswith("metrics") else name.partition("/")[2].partition("/")[2]
            cloud.there[name] = {**yaml.safe_load(text), "name": shown}
