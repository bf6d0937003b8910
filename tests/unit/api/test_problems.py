from __future__ import annotations

import json

import pytest

from traced_relay import errors
from traced_relay.api import problems
from traced_relay.client.client import error_of
from traced_relay.errors import FieldError, RelayError

FIELDS = (FieldError("retry.max_attempts", "must be at least 1, got 0"),)
BROKEN = errors.InvalidCall("retry.max_attempts must be at least 1, got 0", errors=FIELDS)


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (BROKEN, 422, "retry.max_attempts must be at least 1, got 0"),
        (errors.InvalidCall("the body is not JSON", status=400), 400, "the body is not JSON"),
        (
            errors.NotAuthorized("an ID token is required", status=401, reason="no_token"),
            401,
            "an ID token is required",
        ),
        (errors.NotAuthorized("only Cloud Tasks may", status=403, reason="x"), 403, "only Cloud Tasks may"),
        (errors.NotFound("there is no task"), 404, "there is no task"),
        (errors.TooManyRequests("too many lists at once"), 429, "too many lists at once"),
        (
            errors.Unavailable("/data/ledger is locked"),
            503,
            "the ledger, the queue or the certificates are unreachable; try again",
        ),
        (errors.EnqueueFailed("queue p/l/q: no permission"), 503, "the queue refused the task; nothing was enqueued"),
        (errors.IdentityFailed("no ID token"), 500, "no ID token"),
    ],
)
def test_an_error_has_a_status_and_a_public_detail(error: RelayError, status: int, detail: str) -> None:
    assert (problems.status_of(error), problems.detail_of(error)) == (status, detail)


def test_only_invalid_call_names_fields() -> None:
    assert problems.fields_of(BROKEN) == FIELDS
    assert problems.fields_of(errors.NotFound("x")) == ()


def test_a_problem_in_full() -> None:
    answer = problems.problem(422, BROKEN.detail, FIELDS)
    assert answer.status == "422 UNPROCESSABLE ENTITY"
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert json.loads(answer.get_data()) == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "detail": "retry.max_attempts must be at least 1, got 0",
        "errors": [{"field": "retry.max_attempts", "message": "must be at least 1, got 0"}],
    }


def test_a_problem_without_fields_has_no_errors() -> None:
    assert problems.document_of(404, "there is no task") == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no task",
    }


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [
        (401, "WWW-Authenticate", "Bearer"),
        (503, "Retry-After", "5"),
        (429, "Retry-After", "5"),
        (403, "WWW-Authenticate", None),
        (500, "Retry-After", None),
    ],
)
def test_a_status_has_the_header_that_http_requires(status: int, name: str, value: str | None) -> None:
    assert problems.problem(status, "x").headers.get(name) == value


def test_a_problem_is_always_ascii() -> None:
    assert problems.problem(422, "é\ud800", [FieldError("\ud800", "é")]).get_data().isascii()


@pytest.mark.parametrize(
    "error",
    [
        BROKEN,
        errors.InvalidCall("the task has succeeded", status=409),
        errors.NotAuthorized("only Cloud Tasks may", status=403, reason="refused"),
        errors.NotFound("there is no task"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_through_its_problem(error: RelayError) -> None:
    status, detail = problems.status_of(error), problems.detail_of(error)
    again = error_of(problems.document_of(status, detail, problems.fields_of(error)))
    assert (type(again), vars(again), str(again)) == (type(error), vars(error), str(error))


@pytest.mark.parametrize("document", [None, [], {}, {"status": "404", "detail": "x"}, {"status": 500, "detail": "x"}])
def test_another_document_is_an_unexpected_answer(document: object) -> None:
    assert type(error_of(document)) is errors.UnexpectedResponse


@pytest.mark.parametrize("given", [None, "x", [1], [{"field": "x"}], {"field": "x"}])
def test_malformed_field_errors_are_left_out(given: object) -> None:
    error = error_of({"status": 422, "detail": "x", "errors": given})
    assert problems.fields_of(error) == ()


def challenge(status: int, reason: str, detail: str = "x", email: str | None = None) -> str | None:
    answer = problems.refusal(errors.NotAuthorized(detail, status=status, reason=reason, email=email))
    return answer.headers.get("WWW-Authenticate")


def test_a_challenge_has_the_reason_of_the_refusal() -> None:
    assert challenge(401, "no_token") == "Bearer"
    assert challenge(401, "expired", "the token expired") == (
        'Bearer error="invalid_token", error_description="the token expired"'
    )
    assert challenge(403, "unknown_caller", "a@b is not among the callers", "a@b") == (
        'Bearer error="insufficient_scope", error_description="a@b is not among the callers"'
    )
    assert challenge(403, "foreign_host") is None


def test_a_challenge_cannot_break_out_of_its_header() -> None:
    told = challenge(403, "unknown_caller", 'é"\\\r\nSet-Cookie: a=b\x7f\U0001f600', "a@b")
    assert told == 'Bearer error="insufficient_scope", error_description="?????Set-Cookie: a=b??"'
