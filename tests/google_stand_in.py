"""Google's REST APIs as far as our scripts ask them, on loopback: keeps what it gets, writes down what was asked."""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from parts import require

if TYPE_CHECKING:
    from pathlib import Path

APIS = (
    *("serviceusage", "appengine", "iam", "cloudresourcemanager", "cloudtasks", "secretmanager", "logging"),
    *("monitoring", "storage", "firestore", "cloudscheduler"),
)
# Where the id of a new resource stands: a query's parameter, or a field of the body.
ID_IN_QUERY = {"secrets": "secretId", "databases": "databaseId"}
COLLECTIONS = {
    *("services", "apps", "serviceAccounts", "queues", "secrets", "versions", "databases", "indexes", "fields"),
    *("metrics", "alertPolicies", "notificationChannels", "dashboards", "jobs"),
}


@dataclass
class GoogleStandIn:
    """Resources by their path; *asked* is every request as `METHOD api/path`, with its body."""

    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        stand_in = self

        class Answering(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, document = stand_in.answer(self.command, self.path, self.rfile.read(length))
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815  (the names that http.server calls)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environ(self, directory: Path) -> dict[str, str]:
        """What makes gcloud ask here, as nobody."""
        given = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "CLOUDSDK_CONFIG": str(directory / ".config"),
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        }
        require("gcloud")
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return given | {f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api.upper()}": f"{address}/{api}/" for api in APIS}

    def answer(self, method: str, target: str, content: bytes) -> tuple[int, dict[str, Any]]:
        url = urlsplit(target)
        body = _uploaded(content) if url.path.startswith("/upload/") else json.loads(content or b"null")
        with self._lock:
            self.asked.append((f"{method} {url.path.strip('/')}", body))
            path, query = url.path.strip("/"), parse_qs(url.query)
            is_file = path.startswith(("storage/b/", "upload/"))
            status, document = (
                self._store(method, path, query, body) if is_file else self._of(method, path, query, body)
            )
        if status >= 400:
            word = {404: "NOT_FOUND", 400: "INVALID_ARGUMENT"}[status]
            return status, {"error": {"code": status, "status": word, "message": f"{word}: {url.path} not found"}}
        return status, document

    def _of(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        path, _, verb = path.partition(":")
        if verb in ("getIamPolicy", "setIamPolicy"):
            if verb == "setIamPolicy":
                self.policies[path] = body["policy"]
            return 200, self.policies.get(path, {"etag": "YQ=="})
        if verb == "batchEnable":
            for name in body["serviceIds"]:
                self.there[f"{path}/{name}"] = {"config": {"name": name}, "state": "ENABLED"}
            return 200, {"name": "operations/acf.1", "done": True, "response": {}}
        last = path.rpartition("/")[2]
        if verb == "addVersion":
            self.there[f"{path}/versions/1"] = {"name": f"{_name(path)}/versions/1", "state": "ENABLED"}
            return 200, {**self.there[f"{path}/versions/1"], "clientSpecifiedPayloadChecksum": True}
        if method == "GET":
            return self._look(path, last)
        if method == "POST" and last in COLLECTIONS:
            return self._create(path, last, query, body)
        if method in ("PATCH", "PUT"):
            self.there[path] = self.there.get(path, {}) | body | {"name": _name(path)}
            is_slow = "/fields/" in path or path.startswith("appengine/")
            return 200, self._done(path) if is_slow else self.there[path]
        return 400, {}

    def _look(self, path: str, last: str) -> tuple[int, dict[str, Any]]:
        if last == "locations":
            place = {"locationId": "us-central1", "labels": {"cloud.googleapis.com/region": "us-central1"}}
            return 200, {"locations": [{"name": f"{_name(path)}/us-central1", **place}]}
        if last in COLLECTIONS:
            pattern = re.escape(path).replace("/\\-/", "/[^/]+/").replace("/-/", "/[^/]+/") + "/[^/]+"
            return 200, {last: [found for key, found in self.there.items() if re.fullmatch(pattern, key)]}
        found = self.there.get(re.sub("projects/-/", "projects/demo-proj/", path))
        return (200, found) if found else (404, {})

    def _store(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        """A bucket that is there and empty, and takes what it is given."""
        if "runtime-builders" in path:
            return 404, {}
        bucket = path.split("/b/")[1].split("/")[0]
        if method == "POST":
            return 200, {"kind": "storage#object", "bucket": bucket, "name": query["name"][0], **body}
        return 200, {"kind": "storage#objects", "items": []} if path.endswith("/o") else {"name": bucket}

    def _create(self, path: str, collection: str, query: dict[str, list[str]], body: Any) -> tuple[int, dict[str, Any]]:
        match collection:
            case "secrets" | "databases":
                key = query[ID_IN_QUERY[collection]][0]
            case "serviceAccounts":
                key = f"{body['accountId']}@demo-proj.iam.gserviceaccount.com"
            case "apps" | "versions":
                key = body["id"]
            case "queues" | "metrics":
                key = body["name"].rpartition("/")[2]
            case _:
                key = str(len(self.there))
        made = {**body, "name": f"{_name(path)}/{key}"}
        if collection == "serviceAccounts":
            made["email"] = key
        if collection == "metrics":
            made["name"] = key
        if collection == "queues":
            made["state"] = "RUNNING"
        self.there[f"{path}/{key}"] = made
        is_slow = collection in ("apps", "databases", "indexes", "versions")
        return 200, self._done(f"{path}/{key}") if is_slow else made

    def _done(self, path: str) -> dict[str, Any]:
        owner = re.match("apps/demo-proj|projects/demo-proj/databases/[^/]+", _name(path))
        if "collectionGroups" in path:  # takes minutes, so nobody waits
            metadata = {"@type": "type.googleapis.com/google.firestore.admin.v1.IndexOperationMetadata"}
            return {"name": f"{owner and owner[0]}/operations/1", "metadata": metadata}
        return {
            "name": f"{owner and owner[0]}/operations/1",
            "done": True,
            "response": {"@type": "type.googleapis.com/x", **self.there[path]},
        }


def _uploaded(content: bytes) -> dict[str, str]:
    """An upload's size, found by hand: gcloud writes its boundary in a way that the email package does not read."""
    boundary, _, rest = content.partition(b"\n")
    file = rest.split(b"\n" + boundary.rstrip() + b"\n")[1]
    return {"size": str(len(file.partition(b"\n\n")[2].rpartition(b"\n" + boundary.rstrip() + b"--")[0]))}


def _name(path: str) -> str:
    """The resource's name: its path without API and version."""
    return path.split("/", 2)[2]
