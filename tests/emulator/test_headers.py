import pytest

from support.rig import refusal
from traced_relay.emulator import headers
from traced_relay.emulator.errors import ApiError

AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"
SENT = {"X-Mixed-Case": "preserve-me", "content-type": "application/json"}


def test_an_http_task_keeps_headers_and_gets_the_user_agent() -> None:
    assert headers.for_http(SENT) == SENT | {"User-Agent": "Google-Cloud-Tasks"}


def test_an_http_task_cannot_choose_its_user_agent() -> None:
    assert headers.for_http({"user-agent": "mine"}) == {"User-Agent": "Google-Cloud-Tasks"}


def test_an_app_engine_body_gets_length_and_content_type() -> None:
    added = {"User-Agent": AGENT, "Content-Length": "17"}

    assert headers.for_app_engine(SENT, b"x" * 17) == SENT | added
    assert headers.for_app_engine({"A": "b"}, b"x" * 17) == {
        "A": "b",
        "Content-Type": "application/octet-stream",
        **added,
    }


def test_an_app_engine_task_without_a_body_gets_the_user_agent_alone() -> None:
    assert headers.for_app_engine({}, b"") == {"User-Agent": AGENT}


def test_an_app_engine_tasks_own_user_agent_stands_in_front() -> None:
    assert headers.for_app_engine({"user-agent": "mine/1"}, b"") == {"User-Agent": f"mine/1 {AGENT}"}


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "X-Google-Anything",
        "x-appengine-queuename",
        "X-AppEngine-TaskName",
        "X-CLOUDTASKS-TaskRetryCount",
    ],
)
def test_reserved_headers_are_dropped_whatever_their_case(name: str) -> None:
    assert name not in headers.for_http({name: "forged"})
    assert name not in headers.for_app_engine({name: "forged"}, b"")


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "x-relay-traceparent", "Authorization", "X-Googlebot"])
def test_other_headers_pass(name: str) -> None:
    assert headers.for_http({name: "v"})[name] == "v"
    assert headers.for_app_engine({name: "v"}, b"")[name] == "v"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "a\r\nb"])
def test_a_name_that_http_forbids_is_refused(name: str) -> None:
    with pytest.raises(ApiError) as refused:
        headers.for_http({name: "v"})

    assert refusal(refused.value) == ("INVALID_ARGUMENT", f'HttpRequest.headers has an invalid header name: "{name}".')


@pytest.mark.parametrize("value", ["a\r\nX-AppEngine-QueueName: forged", "a\nb", "a\x00b", "\x7f"])
def test_a_value_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(ApiError, match='has an invalid value for header "X"'):
        headers.for_http({"X": value})


@pytest.mark.parametrize("value", ["", "a,b", "tab\there", "grüße", "日本"])
def test_other_values_pass(value: str) -> None:
    assert headers.for_http({"X": value})["X"] == value
