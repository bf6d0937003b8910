from __future__ import annotations

import logging
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from google.auth import jwt
from google.auth.transport.requests import Request as AuthRequest
from google.oauth2 import id_token
from werkzeug.test import Client

from traced_relay.emulator.emulator import LocalQueue
from traced_relay.emulator.id_tokens import Signer
from traced_relay.emulator.rest_server import LARGEST_BODY, RestApp
from traced_relay.emulator.service import Service
from traced_relay.runtime.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.emulator import messages as m

LOCATION = "projects/p/locations/europe-west1"
QUEUE = f"{LOCATION}/queues/reports"


class Api:
    """The REST surface as curl sees it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def __call__(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> tuple[int, Any]:
        answer = self._session.request(method, self._url + path, json=body, data=raw, timeout=10)
        return answer.status_code, answer.json()

    def close(self) -> None:
        self._session.close()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalQueue]:
    with LocalQueue() as running:
        yield running


@pytest.fixture(scope="module")
def api(local: LocalQueue) -> Iterator[Api]:
    local.add_queue(QUEUE)
    with closing(Api(local.rest_url)) as opened:
        opened("POST", f"/v2/{QUEUE}:pause")
        yield opened


def refusal(code: int, status: str, message: str) -> tuple[int, dict[str, Any]]:
    return code, {"error": {"code": code, "message": message, "status": status}}


def test_messages_are_camel_case_json_with_enums_by_name(api: Api) -> None:
    status, queue = api("GET", f"/v2/{QUEUE}")
    assert status == 200
    assert (queue["name"], queue["state"]) == (QUEUE, "PAUSED")
    assert queue["retryConfig"]["minBackoff"] == "0.100s"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.500Z")
    status, task = api(
        "POST",
        f"/v2/{QUEUE}/tasks",
        {
            "responseView": "FULL",
            "task": {
                "name": f"{QUEUE}/tasks/one",
                "scheduleTime": tomorrow,
                "dispatchDeadline": "30s",
                "httpRequest": {"url": "http://127.0.0.1:9/x", "httpMethod": "PUT", "body": "aGVsbG8="},
            },
        },
    )
    assert status == 200
    assert task.pop("createTime").endswith("Z")
    assert task["httpRequest"].pop("headers") == {"User-Agent": "Google-Cloud-Tasks"}
    assert task == {
        "name": f"{QUEUE}/tasks/one",
        "scheduleTime": tomorrow,
        "dispatchDeadline": "30s",
        "view": "FULL",
        "httpRequest": {"url": "http://127.0.0.1:9/x", "httpMethod": "PUT", "body": "aGVsbG8="},
    }


def test_fields_may_be_written_in_snake_case_and_enums_as_numbers(api: Api) -> None:
    body = {"response_view": 2, "task": {"http_request": {"url": "http://127.0.0.1:9/", "http_method": 4}}}
    status, task = api("POST", f"/v2/{QUEUE}/tasks", body)
    assert (status, task["httpRequest"]["httpMethod"], task["view"]) == (200, "PUT", "FULL")


@pytest.mark.parametrize(
    "mask", ["updateMask=rateLimits.maxBurstSize,retryConfig.maxAttempts", "update_mask=retry_config.max_attempts"]
)
def test_update_masks_come_in_either_case(api: Api, mask: str) -> None:
    changes = {"retryConfig": {"maxAttempts": 5, "maxDoublings": 1}}
    status, queue = api("PATCH", f"/v2/{QUEUE}?{mask}", changes)
    assert (status, queue["retryConfig"]["maxAttempts"], queue["retryConfig"]["maxDoublings"]) == (200, 5, 16)


def test_an_empty_answer_is_an_empty_object(local: LocalQueue, api: Api) -> None:
    local.add_queue(f"{LOCATION}/queues/short-lived")
    assert api("DELETE", f"/v2/{LOCATION}/queues/short-lived") == (200, {})


def test_pages_follow_their_token(local: LocalQueue, api: Api) -> None:
    queue = f"{LOCATION}/queues/paged"
    local.add_queue(queue)
    api("POST", f"/v2/{queue}:pause")
    for number in range(3):
        api(
            "POST",
            f"/v2/{queue}/tasks",
            {"task": {"name": f"{queue}/tasks/t{number}", "httpRequest": {"url": "http://x"}}},
        )
    _, first = api("GET", f"/v2/{queue}/tasks?pageSize=2&responseView=FULL")
    _, second = api("GET", f"/v2/{queue}/tasks?page_size=2&pageToken={first['nextPageToken']}")
    assert sorted(task["name"][-2:] for page in (first, second) for task in page["tasks"]) == ["t0", "t1", "t2"]
    assert {task["view"] for task in first["tasks"]} == {"FULL"}
    assert "nextPageToken" not in second


def test_system_parameters_change_nothing(api: Api) -> None:
    plain = api("GET", f"/v2/{QUEUE}")
    noise = "$alt=json%3Benum-encoding%3Dint&alt=json&$.xgafv=2&prettyPrint=false&key=k&quotaUser=u&fields=name"
    assert api("GET", f"/v2/{QUEUE}?{noise}") == plain


def test_a_project_may_have_a_domain_in_its_id(local: LocalQueue, api: Api) -> None:
    local.add_queue("projects/example.com:p/locations/l/queues/q")
    assert api("GET", "/v2/projects/example.com:p/locations/l/queues/q")[0] == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tsak": {}}, 'Invalid JSON payload received. Unknown name "tsak": Cannot find field.'),
        ({"task": {"ulr": 1}}, "Invalid JSON payload received. Unknown name \"ulr\" at 'task': Cannot find field."),
        (
            {"task": {"httpRequest": {"ulr": 1}}},
            "Invalid JSON payload received. Unknown name \"ulr\" at 'task.http_request': Cannot find field.",
        ),
        (
            {"task": {"httpRequest": {"httpMethod": "GOT"}}},
            (
                "Invalid value at 'task.http_request.http_method': "
                "Invalid enum value GOT for enum type google.cloud.tasks.v2.HttpMethod"
            ),
        ),
        (
            {"task": {"dispatchDeadline": "5"}},
            "Invalid value at 'task.dispatch_deadline': Duration must end with letter \"s\": 5",
        ),
        (["task"], "Invalid JSON payload received. Root element must be a message."),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_field(api: Api, body: Any, message: str) -> None:
    assert api("POST", f"/v2/{QUEUE}/tasks", body) == refusal(400, "INVALID_ARGUMENT", message)


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"task": {"dispatchCount": ' + b"9" * 5000 + b"}}",
        b'{"task": {"name": "\\ud800"}}',
        b'{"task": 7}',
        b'{"task": {"httpRequest": {"body": "\xe2\x82\xac"}}}',
        b'{"task": ' + b'{"httpRequest":' * 200 + b"{}" + b"}" * 200 + b"}",
    ],
    ids=["cut", "not utf-8", "deep", "long number", "lone surrogate", "number", "not base64", "deep message"],
)
def test_invalid_json_is_an_invalid_argument(api: Api, raw: bytes) -> None:
    status, body = api("POST", f"/v2/{QUEUE}/tasks", raw=raw)
    assert (status, body["error"]["status"]) == (400, "INVALID_ARGUMENT")


def test_an_unknown_query_parameter_is_refused(api: Api) -> None:
    message = (
        'Invalid JSON payload received. Unknown name "pagesize": Cannot bind query parameter. '
        "Field 'pagesize' could not be found in request message."
    )
    assert api("GET", f"/v2/{QUEUE}/tasks?pagesize=2") == refusal(400, "INVALID_ARGUMENT", message)


def test_a_body_beyond_the_limit_is_refused(api: Api) -> None:
    message = f"Request payload size exceeds the limit: {LARGEST_BODY} bytes."
    raw = b" " * (LARGEST_BODY + 1)
    assert api("POST", f"/v2/{QUEUE}/tasks", raw=raw) == refusal(400, "INVALID_ARGUMENT", message)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v2/nonsense"), ("PUT", f"/v2/{QUEUE}"), ("POST", f"/v2/{QUEUE}:frobnicate")],
)
def test_an_unknown_path_is_not_found(api: Api, method: str, path: str) -> None:
    assert api(method, path) == refusal(404, "NOT_FOUND", "Method not found.")


@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("POST", f"/v2/{QUEUE}:getIamPolicy", "GetIamPolicy"),
        ("POST", f"/v2/{QUEUE}:setIamPolicy", "SetIamPolicy"),
        ("POST", f"/v2/{QUEUE}:testIamPermissions", "TestIamPermissions"),
        ("POST", f"/v2/{QUEUE}/tasks:buffer", "BufferTask"),
        ("POST", f"/v2/{QUEUE}/tasks/t:buffer", "BufferTask"),
        ("POST", f"/v2/{QUEUE}/tasks:batchCreate", "BatchCreateTasks"),
        ("GET", "/v2/projects/p/locations", "ListLocations"),
        ("GET", f"/v2/{LOCATION}", "GetLocation"),
        ("GET", f"/v2/{LOCATION}/cmekConfig", "GetCmekConfig"),
    ],
)
def test_an_unserved_method_is_501(api: Api, method: str, path: str, rpc: str) -> None:
    message = f"{rpc} is not implemented by the embedded queue."
    assert api(method, path) == refusal(501, "UNIMPLEMENTED", message)


def test_a_help_link_is_among_the_details(api: Api) -> None:
    status, body = api(
        "POST", f"/v2/{QUEUE}/tasks", {"task": {"name": f"{QUEUE}/tasks/a b", "httpRequest": {"url": "http://x"}}}
    )
    (detail,) = body["error"]["details"]
    assert status == 400
    assert detail["@type"] == "type.googleapis.com/google.rpc.Help"
    assert detail["links"][0]["url"].startswith("https://cloud.google.com/tasks/")


def test_openid_discovery_leads_to_the_key_of_our_tokens(local: LocalQueue, api: Api) -> None:
    _, discovered = api("GET", "/.well-known/openid-configuration")
    token = local.token("a@example.com", "https://x")
    assert discovered["issuer"] == local.rest_url == jwt.decode(token, verify=False)["iss"]
    assert discovered["jwks_uri"] == f"{local.rest_url}/jwks"
    _, keys = api("GET", "/jwks")
    assert keys["keys"][0]["kid"] == jwt.decode_header(token)["kid"]


def test_googles_library_verifies_tokens_by_served_keys(local: LocalQueue) -> None:
    token = local.token("a@example.com", "https://x")
    with requests.Session() as session:
        claims = id_token.verify_token(token, AuthRequest(session), "https://x", certs_url=f"{local.rest_url}/certs")
    assert claims["email"] == "a@example.com"


class Defective(Service):
    def call(self, method: str, request: m.Message) -> m.Message:  # noqa: ARG002
        raise ZeroDivisionError


def test_a_bug_is_reported_as_internal_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = RestApp(Defective(ManualClock()), Signer.generate(), "http://127.0.0.1:8124")
    answer = Client(app).get("/v2/projects/p/locations/l/queues/q")
    assert (answer.status_code, answer.json) == refusal(500, "INTERNAL", "Internal error encountered.")
    (record,) = caplog.records
    assert (record.getMessage(), record.levelno) == ("GET /v2/projects/p/locations/l/queues/q failed", logging.ERROR)


def test_a_page_of_another_site_cannot_use_a_queue_on_loopback(local: LocalQueue) -> None:
    with requests.Session() as session:
        for headers in ({"Origin": "https://evil.example.com"}, {"Host": "rebound.example.com"}):
            answer = session.get(f"{local.rest_url}/jwks", headers=headers, timeout=5)
            assert (answer.status_code, answer.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_a_queue_that_others_can_reach_answers_to_any_name(local: LocalQueue) -> None:
    client = Client(RestApp(local.service, Signer.generate(), local.rest_url))
    assert client.get("/jwks", base_url="http://192.0.2.5:8124", headers={"Host": "queue:8124"}).status_code == 200
