from datetime import timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

import pytest

from support.rig import QUEUE, START, duration, refusal
from traced_relay.emulator import messages as m
from traced_relay.emulator import task_rules
from traced_relay.emulator.errors import ApiError

NAME = f"{QUEUE}/tasks/t"
DAY = 86400
GET = 2
URL = "http://worker/do"


def stored(now: float = START, **fields: Any) -> m.Task:
    return task_rules.task_to_store(m.Task(**fields), NAME, now)


def at(seconds: float) -> m.Timestamp:
    stamp = m.Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def http(**fields: Any) -> dict[str, Any]:
    return {"http_request": {"url": URL, **fields}}


def app_engine(**fields: Any) -> dict[str, Any]:
    return {"app_engine_http_request": m.AppEngineHttpRequest(**fields)}


def test_an_http_task_gets_a_method_a_deadline_and_its_times() -> None:
    assert stored(START + 0.123456, **http()) == m.Task(
        name=NAME,
        http_request={"url": URL, "http_method": m.POST, "headers": {"User-Agent": "Google-Cloud-Tasks"}},
        schedule_time=at(START + 0.123456),
        create_time=at(START),
        dispatch_deadline=duration(600),
    )


def test_an_app_engine_task_gets_a_path_and_a_host_too() -> None:
    assert stored(**app_engine(app_engine_routing={"service": "s", "host": "elsewhere"})) == m.Task(
        name=NAME,
        app_engine_http_request={
            "http_method": m.POST,
            "relative_uri": "/",
            "app_engine_routing": {"service": "s", "host": "s.p.appspot.com"},
            "headers": {"User-Agent": "AppEngine-Google; (+http://code.google.com/appengine)"},
        },
        schedule_time=at(START),
        create_time=at(START),
        dispatch_deadline=duration(600),
    )


def test_output_only_fields_are_ignored() -> None:
    boasting = {"dispatch_count": 3, "response_count": 2, "first_attempt": {}, "last_attempt": {}, "view": m.FULL}

    assert stored(**http(), **boasting, create_time=at(1)) == stored(**http())


def test_the_request_is_not_changed() -> None:
    requested = m.Task(**http(headers={"Host": "x"}))
    before = m.Task.FromString(requested.SerializeToString())

    task_rules.task_to_store(requested, NAME, START)

    assert requested == before


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Task must have one of Task.httpRequest and Task.appEngineHttpRequest set."),
        (http(url=""), "HttpRequest.url is required."),
        (http(url="ftp://worker/"), "HttpTarget.url must start with 'http://' or 'https://'."),
        (http(url="worker/path"), "HttpTarget.url must start with 'http://' or 'https://'."),
        (http(url=URL + "x" * 2083), "HttpRequest.url must be less than or equal to 2083 characters."),
        (http(http_method=99), "HttpRequest.httpMethod is invalid."),
        (http(http_method=GET, body=b"x"), "HttpRequest.body is not allowed for the HTTP method GET."),
        (http(headers={"a b": ""}), 'HttpRequest.headers has an invalid header name: "a b".'),
        (http(headers={"A": "x" * 81920}), "HttpRequest.headers must be less than 80KB."),
        (http(oidc_token={}), "HttpRequest.authorizationHeader must have a serviceAccountEmail."),
        (http(oauth_token={}), "HttpRequest.authorizationHeader must have a serviceAccountEmail."),
        (
            app_engine(relative_uri="do"),
            "AppEngineHttpRequest.relativeUri must begin with '/' and contain no spaces.",
        ),
        (
            app_engine(relative_uri="/a b"),
            "AppEngineHttpRequest.relativeUri must begin with '/' and contain no spaces.",
        ),
        (
            app_engine(relative_uri="/" + "x" * 2083),
            "AppEngineHttpRequest.relativeUri must be less than or equal to 2083 characters.",
        ),
        (app_engine(headers={"A": "\n"}), 'AppEngineHttpRequest.headers has an invalid value for header "A".'),
        (
            app_engine(http_method=6, body=b"x"),
            "AppEngineHttpRequest.body is not allowed for the HTTP method PATCH.",
        ),
        (http() | {"retry_config": {"max_attempts": -2}}, "RetryConfig.maxAttempts must be greater or equal to -1."),
    ],
)
def test_a_bad_task_is_refused_with_the_rule(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ApiError) as refused:
        stored(**fields)

    assert refusal(refused.value) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize(
    "url", ["HTTPS://worker/", "http://worker", "http://worker/%zz", "http://[::1]:8080/?q=a b", "http://", URL + "ü"]
)
def test_any_url_that_starts_like_one_is_accepted(url: str) -> None:
    assert stored(**http(url=url)).http_request.url == url


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_an_http_task_may_have_a_body_with_these_methods(method: str) -> None:
    assert stored(**http(http_method=method, body=b"x")).http_request.body == b"x"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_every_method_goes_without_a_body(method: str) -> None:
    assert m.HTTP_METHODS[stored(**http(http_method=method)).http_request.http_method] == method
    assert m.HTTP_METHODS[stored(**app_engine(http_method=method)).app_engine_http_request.http_method] == method


HTTP_RANGE = "Task.dispatchDeadline must be between [15s, 30m]."
APP_ENGINE_RANGE = "Task.dispatchDeadline must be between [15s, 24h15s]."


@pytest.mark.parametrize(
    ("kind", "seconds", "text"),
    [
        (http(), 14.999, HTTP_RANGE),
        (http(), 1800.001, HTTP_RANGE),
        (http(), -1, HTTP_RANGE),
        (app_engine(), 14.999, APP_ENGINE_RANGE),
        (app_engine(), 86415.001, APP_ENGINE_RANGE),
    ],
)
def test_a_deadline_out_of_its_familys_range_is_refused(kind: dict[str, Any], seconds: float, text: str) -> None:
    with pytest.raises(ApiError) as refused:
        stored(**kind, dispatch_deadline=duration(seconds))

    assert refusal(refused.value) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize(
    ("kind", "seconds", "kept"),
    [
        (http(), 15, 15),
        (http(), 1800, 1800),
        (http(), 15.0009, 15),
        (http(), 0, 600),
        (app_engine(), 3600, 3600),
        (app_engine(), 86415, 86415),
    ],
)
def test_a_deadline_in_range_is_kept_to_the_millisecond(kind: dict[str, Any], seconds: float, kept: float) -> None:
    assert stored(**kind, dispatch_deadline=duration(seconds)).dispatch_deadline == duration(kept)


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (START - 3600, START),
        (START, START),
        (START + 30 * DAY, START + 30 * DAY),
    ],
)
def test_the_past_means_now_and_30_days_ahead_are_fine(wanted: float, kept: float) -> None:
    assert stored(**http(), schedule_time=at(wanted)).schedule_time == at(kept)


def test_a_schedule_time_is_cut_to_the_microsecond() -> None:
    precise = m.Timestamp(seconds=int(START) + 60, nanos=123_456_789)

    assert stored(**http(), schedule_time=precise).schedule_time.nanos == 123_456_000


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (m.Timestamp(seconds=4_102_444_800), "2099-12-31T16:00:00-08:00"),
        (m.Timestamp(seconds=2**62), "9999-12-30T16:00:00-08:00"),
        (at(START + 30 * DAY + 1), "2026-10-21T07:13:21-07:00"),
    ],
)
def test_over_30_days_ahead_is_refused_in_productions_words(wanted: m.Timestamp, shown: str) -> None:
    with pytest.raises(ApiError) as refused:
        stored(**http(), schedule_time=wanted)

    assert refusal(refused.value) == (
        "INVALID_ARGUMENT",
        (
            f"The Task.scheduleTime, {shown}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        ),
    )


def test_without_time_zone_data_times_are_written_as_in_winter() -> None:
    def find(name: str) -> tzinfo:
        raise ZoneInfoNotFoundError(name)

    assert task_rules.pacific(find).utcoffset(None) == timedelta(hours=-8)


def test_the_largest_task_is_a_byte_smaller_than_one_that_is_refused() -> None:
    overhead = stored(**http(body=b"x" * 1_000_000)).ByteSize() - 1_000_000
    most = task_rules.LARGEST_TASK - overhead

    assert stored(**http(body=b"x" * most)).ByteSize() == 1_048_569
    with pytest.raises(ApiError) as refused:
        stored(**http(body=b"x" * (most + 1)))
    assert refusal(refused.value) == ("INVALID_ARGUMENT", "Task size too large")
