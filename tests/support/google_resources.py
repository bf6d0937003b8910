"""
Google's resources, as far as our scripts make and ask for them: refused is what Google refuses, in its words.

An API answers only when it is enabled; a policy names no account that was never made, and is set only as it was read.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import Any

PROJECT = "demo-proj"
ALWAYS_ON = {"serviceusage", "storage"}
# Where the id of a new resource stands: a query's parameter, or a field of the body.
ID_IN_QUERY = {"secrets": "secretId", "databases": "databaseId"}
COLLECTIONS = {
    *("services", "apps", "serviceAccounts", "queues", "secrets", "versions", "databases", "indexes", "fields"),
    *("metrics", "alertPolicies", "notificationChannels", "dashboards", "jobs"),
}
SLOW = ("apps", "databases", "indexes", "versions")  # their making is an operation
WORDS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}
WORDS |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL"}
OWN_METRIC = re.compile(r'metric\.type="logging\.googleapis\.com/user/(\w+)"')


class Refused(Exception):
    """An answer that is no 200: its *status*, what it says, and details beyond that."""

    def __init__(self, status: int, message: str, **info: str) -> None:
        super().__init__(message)
        self.status = status
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", **info}] if info else []
        error = {"code": status, "status": WORDS[status], "message": message, "details": details}
        self.document = {"error": error}


@dataclass
class Resources:
    """*there* is each resource by its path, `api/version/name`; *policies* who may do what, *entries* the log."""

    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        self._require_enabled(path.partition("/")[0])
        if path.startswith("storage/b/"):
            return self._store(method, path, query, body)
        if path.startswith("run/apis/"):
            return self._knative(method, path, body)
        path, _, verb = path.partition(":")
        last = path.rpartition("/")[2]
        if (path, verb) == ("logging/v2/entries", "list"):
            return {"entries": self.entries}
        if verb in ("getIamPolicy", "setIamPolicy"):
            return self._policy(path, verb, body)
        if verb == "batchEnable" or verb == "enable":
            return self._enable(path, body["serviceIds"] if verb == "batchEnable" else [last])
        if verb == "addVersion":
            return self._add_version(path, body["payload"])
        if method == "GET":
            return self._look(path, last)
        if method == "POST" and last in COLLECTIONS:
            return self._create(path, last, query, body)
        if method in ("PATCH", "PUT"):
            return self._change(path, body)
        raise Refused(400, f"the stand-in does not know {method} {path}:{verb}")

    def _require_enabled(self, api: str) -> None:
        name = f"{api}.googleapis.com"
        if api in ALWAYS_ON or f"serviceusage/v1/projects/{PROJECT}/services/{name}" in self.there:
            return
        message = f"{name} has not been used in project {PROJECT} before or it is disabled."
        raise Refused(403, message, reason="SERVICE_DISABLED", domain="googleapis.com")

    def _enable(self, path: str, names: list[str]) -> dict[str, Any]:
        collection = path if path.endswith("/services") else path.rpartition("/")[0]
        for name in names:
            self.there[f"{collection}/{name}"] = {"config": {"name": name}, "state": "ENABLED"}
        return {"name": "operations/acf.1", "done": True, "response": {}}

    def _policy(self, path: str, verb: str, body: Any) -> dict[str, Any]:
        """Read, or set by somebody who read it as it is now; members are accounts that there are."""
        path = path.replace("projects/-/", f"projects/{PROJECT}/")
        if path != f"cloudresourcemanager/v1/projects/{PROJECT}" and path not in self._with_policies():
            raise Refused(404, f"NOT_FOUND: {path} does not exist")
        now = self.policies.setdefault(path, {"version": 1, "etag": _etag(0)})
        if verb == "getIamPolicy":
            return now
        wanted = body["policy"]
        if _plain(wanted.get("etag", "")) != _plain(now["etag"]):
            raise Refused(409, "There were concurrent policy changes. Please retry the whole read-modify-write.")
        accounts = {made["email"] for key, made in self.there.items() if "/serviceAccounts/" in key}
        for binding in wanted.get("bindings", []):
            if "condition" in binding and wanted.get("version") != 3:
                raise Refused(400, "a policy with conditions has to be of version 3")
            for member in binding["members"]:
                kind, _, email = member.partition(":")
                if kind == "serviceAccount" and email not in accounts:
                    raise Refused(400, f"Service account {email} does not exist.")
        self.policies[path] = wanted | {"etag": _etag(1 + int(base64.b64decode(now["etag"])[3:]))}
        return self.policies[path]

    def _with_policies(self) -> set[str]:
        """Each resource that can have a policy; a service of Cloud Run has its own under another path."""
        services = {f"run/v1/{made['metadata']['selfLink']}" for key, made in self.there.items() if "run/apis" in key}
        return set(self.there) | services

    def _add_version(self, path: str, payload: dict[str, str]) -> dict[str, Any]:
        if path not in self.there:
            raise Refused(404, f"Secret [{_name(path)}] not found or has no versions.")
        if int(payload["dataCrc32c"]) != crc32c(base64.b64decode(payload["data"])):
            raise Refused(400, "The checksum in the field payload.data_crc32c did not match the payload's data.")
        number = 1 + sum(key.startswith(f"{path}/versions/") for key in self.there)
        made = {"name": f"{_name(path)}/versions/{number}", "state": "ENABLED", "clientSpecifiedPayloadChecksum": True}
        self.there[f"{path}/versions/{number}"] = made
        return made

    def _look(self, path: str, last: str) -> dict[str, Any]:
        if last == "locations":
            place = {"locationId": "us-central1", "labels": {"cloud.googleapis.com/region": "us-central1"}}
            return {"locations": [{"name": f"{_name(path)}/us-central1", **place}]}
        if last in COLLECTIONS:
            pattern = re.escape(path).replace("/\\-/", "/[^/]+/").replace("/-/", "/[^/]+/") + "/[^/]+"
            return {last: [found for key, found in self.there.items() if re.fullmatch(pattern, key)]}
        found = self.there.get(path.replace("projects/-/", f"projects/{PROJECT}/"))
        if found is None:
            raise Refused(404, f"NOT_FOUND: {_name(path)} not found")
        return found

    def _create(self, path: str, collection: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        key = self._key(collection, query, body)
        if f"{path}/{key}" in self.there:
            raise Refused(409, f"{_name(path)}/{key} already exists")
        if collection == "alertPolicies":
            self._require_metrics(body)
        made = {**body, "name": f"{_name(path)}/{key}"}
        if collection == "serviceAccounts":
            made = {**body.get("serviceAccount", {}), "name": made["name"], "email": key}
        if collection == "metrics":
            made["name"] = key
        if collection in ("queues", "jobs"):
            made |= {
                "name": body.get("name", made["name"]),
                "state": "RUNNING" if collection == "queues" else "ENABLED",
            }
        self.there[f"{path}/{key}"] = made
        return self._done(f"{path}/{key}") if collection in SLOW else made

    def _key(self, collection: str, query: dict[str, list[str]], body: Any) -> str:
        match collection:
            case "secrets" | "databases":
                return query[ID_IN_QUERY[collection]][0]
            case "serviceAccounts":
                return f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
            case "apps" | "versions":
                return str(body["id"])
            case "queues" | "metrics" | "jobs" if "name" in body:
                return str(body["name"].rpartition("/")[2])
        return str(len(self.there))

    def _require_metrics(self, policy: dict[str, Any]) -> None:
        for name in OWN_METRIC.findall(str(policy["conditions"])):
            if f"logging/v2/projects/{PROJECT}/metrics/{name}" not in self.there:
                raise Refused(404, f"Cannot find metric that matches type = logging.googleapis.com/user/{name}.")

    def _change(self, path: str, body: Any) -> dict[str, Any]:
        is_field = "/fields/" in path  # these are always there
        if path not in self.there and not is_field:
            raise Refused(404, f"NOT_FOUND: {_name(path)} not found")
        name = self.there.get(path, {}).get("name", _name(path))
        self.there[path] = self.there.get(path, {}) | body | {"name": name}
        return self._done(path) if is_field or path.startswith("appengine/") else self.there[path]

    def _done(self, path: str) -> dict[str, Any]:
        owner = re.match(f"apps/{PROJECT}|projects/{PROJECT}/databases/[^/]+", _name(path))
        assert owner is not None
        if "collectionGroups" in path:  # takes minutes, so nobody waits
            metadata = {"@type": "type.googleapis.com/google.firestore.admin.v1.IndexOperationMetadata"}
            return {"name": f"{owner[0]}/operations/1", "metadata": metadata}
        response = {"@type": "type.googleapis.com/x", **self.there[path]}
        return {"name": f"{owner[0]}/operations/1", "done": True, "response": response}

    def _store(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        """A bucket that is there and empty, and takes what it is given."""
        if "runtime-builders" in path:
            raise Refused(404, "the object does not exist")
        bucket = path.split("/b/")[1].split("/")[0]
        if method == "POST":
            return {"kind": "storage#object", "bucket": bucket, "name": query["name"][0], **body}
        return {"kind": "storage#objects", "items": []} if path.endswith("/o") else {"name": bucket}

    def _knative(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """A service of Cloud Run, which is ready as soon as it is asked for."""
        if method == "GET" and path not in self.there:
            raise Refused(404, f"Resource '{path.rpartition('/')[2]}' of kind 'SERVICE' does not exist")
        if method in ("POST", "PUT"):
            metadata = body["metadata"]
            name, number = metadata["name"], 1 + self.there.get(path, {}).get("metadata", {}).get("generation", 0)
            path = path if method == "PUT" else f"{path}/{name}"
            link = f"projects/{PROJECT}/locations/us-central1/services/{name}"
            metadata |= {"generation": number, "selfLink": link, "resourceVersion": f"v{number}"}
            url, revision = f"https://{name}-abc-uc.a.run.app", f"{name}-0000{number}-aaa"
            status = {
                "observedGeneration": number,
                "url": url,
                "address": {"url": url},
                "latestReadyRevisionName": revision,
                "latestCreatedRevisionName": revision,
                "traffic": [{"revisionName": revision, "percent": 100, "latestRevision": True}],
                "conditions": [{"type": t, "status": "True"} for t in ("Ready", "ConfigurationsReady", "RoutesReady")],
            }
            self.there[path] = body | {"status": status}
        return self.there[path]


def crc32c(content: bytes) -> int:
    """Castagnoli's, bit by bit."""
    rest = 0xFFFFFFFF
    for byte in content:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def _etag(number: int) -> str:
    return base64.b64encode(b"\xff\xfe/%d" % number).decode()


def _plain(etag: str) -> str:
    """An etag as it is compared: gcloud writes base64 anew, for URLs."""
    return etag.translate(str.maketrans("-_", "+/")).rstrip("=")


def _name(path: str) -> str:
    """The resource's name: its path without API and version."""
    return path.split("/", 2)[2]
