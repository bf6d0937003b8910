from dataclasses import replace
from typing import Any

import pytest

from support.rig import Rig
from traced_relay.emulator import messages as m
from traced_relay.emulator.http_request import NoSuchTarget, Origin, Request, request_for

ROUTES = {"default": "http://127.0.0.1:8080", "reports": "http://127.0.0.1:9090/base/"}
INJECTED = [
    "X-CloudTasks-QueueName: q",
    "X-CloudTasks-TaskName: t",
    "X-CloudTasks-TaskRetryCount: 0",
    "X-CloudTasks-TaskExecutionCount: 0",
    "X-CloudTasks-TaskETA: 1790000000.000000",
]


def mint(email: str, audience: str) -> str:
    return f"token for {email} at {audience}"


def sent(routes: dict[str, str] = ROUTES, **task: Any) -> Request:
    rig = Rig()
    rig.make_queue()
    rig.create("t", **task)
    return request_for(rig.due_one(), routes, mint)


def lines(request: Request) -> list[str]:
    return request.message.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def test_an_http_task_becomes_a_whole_request() -> None:
    request = sent(
        http_request={"url": "http://worker:81/do?a=1", "body": b"hi", "headers": {"content-type": "text/plain"}}
    )

    assert request.origin == Origin(is_tls=False, host="worker", port=81)
    assert request.message.partition(b"\r\n\r\n")[2] == b"hi"
    assert sorted(lines(request)) == sorted(
        [
            "POST /do?a=1 HTTP/1.1",
            "Host: worker:81",
            "content-type: text/plain",
            "User-Agent: Google-Cloud-Tasks",
            *INJECTED,
            "Content-Length: 2",
        ]
    )


def test_an_app_engine_task_goes_to_the_address_of_its_service() -> None:
    request = sent(app_engine_http_request={"relative_uri": "/do?a=1", "app_engine_routing": {"service": "reports"}})

    assert request.origin == Origin(is_tls=False, host="127.0.0.1", port=9090)
    assert lines(request)[:2] == ["POST /base/do?a=1 HTTP/1.1", "Host: 127.0.0.1:9090"]
    assert "X-AppEngine-TaskName: t" in lines(request)
    assert not [line for line in lines(request) if line.startswith("Authorization")]


@pytest.mark.parametrize("service", ["", "default", "unheard-of"])
def test_an_unknown_service_uses_the_default_address(service: str) -> None:
    assert sent(app_engine_http_request={"app_engine_routing": {"service": service}}).origin.port == 8080


def test_a_queues_routing_decides_where_an_app_engine_task_goes() -> None:
    rig = Rig()
    rig.make_queue(app_engine_routing_override={"service": "reports"})
    rig.create("t", app_engine_http_request={"app_engine_routing": {"service": "own"}})

    assert request_for(rig.due_one(), ROUTES, mint).origin.port == 9090


def test_app_engine_without_an_address_has_no_target() -> None:
    with pytest.raises(NoSuchTarget, match="no address for App Engine service default"):
        sent({}, app_engine_http_request={})


@pytest.mark.parametrize(
    ("url", "origin", "host", "path"),
    [
        ("http://worker", Origin(False, "worker", 80), "worker", "/"),
        ("https://worker", Origin(True, "worker", 443), "worker", "/"),
        ("HTTP://Worker:8080/A", Origin(False, "worker", 8080), "Worker:8080", "/A"),
        ("http://[::1]:81/x", Origin(False, "::1", 81), "[::1]:81", "/x"),
        ("http://user:pw@worker/x", Origin(False, "worker", 80), "worker", "/x"),
        ("http://worker/a b/ü?q=ä b#part", Origin(False, "worker", 80), "worker", "/a%20b/%C3%BC?q=%C3%A4%20b"),
        ("http://worker/%2F?x=%41", Origin(False, "worker", 80), "worker", "/%2F?x=%41"),
        ("http://worker?a=b", Origin(False, "worker", 80), "worker", "/?a=b"),
        ("http://worker/x?", Origin(False, "worker", 80), "worker", "/x?"),
        ("http://worker?", Origin(False, "worker", 80), "worker", "/?"),
        ("http://worker//a/./b/../%61;c?u=//x/?#", Origin(False, "worker", 80), "worker", "//a/./b/../%61;c?u=//x/?"),
    ],
)
def test_a_url_is_split_and_escaped(url: str, origin: Origin, host: str, path: str) -> None:
    request = sent(http_request={"url": url})

    assert request.origin == origin
    assert lines(request)[:2] == [f"POST {path} HTTP/1.1", f"Host: {host}"]


@pytest.mark.parametrize("url", ["http://worker/%zz", "http://worker/%", "http://", "http://:80/", "http://w:99999/"])
def test_an_invalid_url_has_no_target(url: str) -> None:
    with pytest.raises(NoSuchTarget):
        sent(http_request={"url": url})


@pytest.mark.parametrize(
    ("method", "has_length"), [("POST", True), ("PUT", True), ("PATCH", True), ("GET", False), ("DELETE", False)]
)
def test_only_methods_that_carry_a_body_tell_its_length(method: str, *, has_length: bool) -> None:
    request = sent(http_request={"url": "http://worker/", "http_method": method})

    assert ("Content-Length: 0" in lines(request)) is has_length


@pytest.mark.parametrize(
    ("token", "authorization"),
    [
        ({"oidc_token": {"service_account_email": "e", "audience": "a"}}, "token for e at a"),
        ({"oidc_token": {"service_account_email": "e"}}, "token for e at http://worker/do?x=1"),
        ({"oauth_token": {"service_account_email": "e", "scope": "s"}}, "token for e at s"),
        (
            {"oauth_token": {"service_account_email": "e"}},
            "token for e at https://www.googleapis.com/auth/cloud-platform",
        ),
    ],
)
def test_a_token_replaces_the_tasks_own_authorization(token: dict[str, Any], authorization: str) -> None:
    request = sent(http_request={"url": "http://worker/do?x=1", "headers": {"authorization": "mine"}, **token})

    found = [line for line in lines(request) if line.lower().startswith("authorization")]
    assert found == [f"Authorization: Bearer {authorization}"]


def test_without_a_token_the_tasks_own_authorization_is_sent() -> None:
    assert "Authorization: mine" in lines(
        sent(http_request={"url": "http://worker/", "headers": {"Authorization": "mine"}})
    )


def test_stored_headers_never_override_injected_ones() -> None:
    rig = Rig()
    rig.make_queue()
    rig.create("t")
    forged = m.Task(
        http_request={"url": "http://worker/", "http_method": m.POST, "headers": {"X-CloudTasks-TaskName": "f"}}
    )

    request = request_for(replace(rig.due_one(), task=forged), ROUTES, mint)

    assert [line for line in lines(request) if "TaskName" in line] == ["X-CloudTasks-TaskName: t"]
