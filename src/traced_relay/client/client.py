"""
Client for a relay's API, with the API's names for methods, arguments and fields.

Retries only what is safe to retry: reads, and enqueueing, which sends an Idempotency-Key of its own.
"""

from __future__ import annotations

import re
from collections import deque
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from traced_relay.client import response_shapes
from traced_relay.errors import (
    FieldError,
    InvalidCall,
    InvalidSettings,
    NotAuthorized,
    NotEnded,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedResponse,
)
from traced_relay.formats import strict_json
from traced_relay.runtime.bounded_fetch import IDENTITY, fetch
from traced_relay.runtime.clock import SystemClock, pause
from traced_relay.runtime.loopback import is_local_host
from traced_relay.tasks.api_types import BatchResponse, QueueList, Receipt, Status, Summary
from traced_relay.tasks.ids import callback_id
from traced_relay.tasks.states import ENDED
from traced_relay.tracing.propagation import task_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from traced_relay.runtime.bounded_fetch import FetchedResponse
    from traced_relay.runtime.clock import Clock
    from traced_relay.tasks.api_types import CallFields, Filters

TRIES = 3
RETRY_DELAY, RETRY_AFTER_503 = 1.0, 5.0  # seconds; a relay's 503 and 429 say Retry-After: 5
_RETRIED = (requests.codes.too_many_requests, requests.codes.unavailable)
_GATEWAY_ERRORS = (502, 503, 504)
MIN_POLL, MAX_POLL, POLL_GROWTH = 0.2, 5.0, 1.5  # seconds between two requests while a task is followed

Document = dict[str, Any]
"""A status document or a queue's status, as the API returns it."""


class _Page(TypedDict):
    """A page of tasks; its token is checked where it is followed."""

    tasks: list[Summary]


class Client:
    """
    Sends requests to one relay.

    Off loopback every request carries an ID token for *audience* (default: the relay's origin), from *id_token*, else
    from the environment's Google credentials or the service account to impersonate. A relay on loopback gets a token
    only if one of these is given. *timeout* limits one whole response; reads and enqueueing have *tries*.
    """

    def __init__(
        self,
        relay_url: str,
        *,
        audience: str | None = None,
        id_token: Callable[[], str] | None = None,
        impersonate_service_account: str | None = None,
        timeout: float = 30.0,
        tries: int = TRIES,
        clock: Clock | None = None,
    ) -> None:
        self.url, self.is_on_loopback = _parse_relay_url(relay_url)
        self._timeout = timeout
        self._tries = tries
        self._clock = clock or SystemClock()
        self._session = requests.Session()
        self._session.trust_env = self.url.startswith("https:")  # no proxy for a relay on loopback
        self._session.headers.update(IDENTITY)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _TracingAdapter())
        if id_token is None and not (self.is_on_loopback and audience is None and impersonate_service_account is None):
            from traced_relay.runtime.credentials import IdTokens

            id_token = partial(IdTokens(impersonate_service_account).token, audience or self.url)
        self._session.auth = _BearerAuth(id_token)

    def enqueue(self, url: str, *, idempotency_key: str | None = None, **fields: Unpack[CallFields]) -> Receipt:
        """Enqueue a call; a retry after a lost response makes no second task."""
        receipt: Receipt = self._enqueue("/v1/tasks", Receipt, {"url": url, **fields}, idempotency_key)
        return receipt

    def enqueue_many(
        self, calls: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Sequence[Receipt | RelayError]:
        """Enqueue up to 100 calls, each with its `url`; returns a receipt or an error for each, in order."""
        document = {"tasks": [dict(call) for call in calls]}
        response = self._enqueue("/v1/tasks:batch", BatchResponse, document, idempotency_key)
        return [item if "task_id" in item else error_of(item) for item in response["tasks"]]

    def status(self, task_id: str) -> Document:
        document: Document = self._request("GET", _path(task_id), Status, tries=self._tries)
        return document

    def list(
        self, *, label: tuple[str, str] | None = None, page_size: int = 50, **filters: Unpack[Filters]
    ) -> Iterator[Document]:
        """All matching tasks, newest first, without attempts and response; fetches each page when it is needed."""
        token = None
        while True:
            tasks, token = self.page(token, label=label, page_size=page_size, **filters)
            yield from tasks
            if token is None:
                return

    def page(
        self,
        page_token: str | None = None,
        *,
        label: tuple[str, str] | None = None,
        page_size: int = 50,
        **filters: Unpack[Filters],
    ) -> tuple[Sequence[Document], str | None]:
        """One page of the list, and the token of the next page; None after the last."""
        query: dict[str, Any] = {**filters, "limit": page_size, "page_token": page_token}  # `requests` leaves None out
        if label is not None:
            query[f"label.{label[0]}"] = label[1]
        page = self._request("GET", "/v1/tasks", _Page, params=query, tries=self._tries)
        token = page.get("next_page_token")
        if token is not None and not (isinstance(token, str) and token not in ("", page_token)):
            raise UnexpectedResponse(
                f"{self.url}/v1/tasks: next_page_token must be null or a new token, got {token!a:.40}"
            )
        return page["tasks"], token

    def callbacks(self, document: Document) -> Iterator[Document]:
        """The documents of the callbacks of a task's last 100 rounds; each callback is a task of its own."""
        last = document["round"]
        for number in range(max(1, last - 99), last + 1) if document["callback"]["state"] != "none" else ():
            try:
                yield self.status(callback_id(document["task_id"], number))
            except NotFound:
                continue  # not created yet, or expired

    def queues(self) -> Sequence[Document]:
        """The queues with their state and statistics; for operators."""
        queues: Sequence[Document] = self._request("GET", "/v1/queues", QueueList, tries=self._tries)["queues"]
        return queues

    def cancel(self, task_id: str) -> Document:
        """Cancel a queued, waiting or running task; InvalidCall (409) if it succeeded or failed."""
        return self._act(task_id, "cancel")

    def redrive(self, task_id: str) -> Document:
        """Start a new round of a failed or cancelled task; InvalidCall (409) in any other state."""
        return self._act(task_id, "redrive")

    def resend_callback(self, task_id: str) -> Document:
        """Deliver the last round's callback again; InvalidCall (409) if it has none, or it is still pending."""
        return self._act(task_id, "resend-callback")

    def follow(
        self, task_id: str, *, patience: float | None = None, trouble: Callable[[str], None] | None = None
    ) -> Iterator[Document]:
        """
        Yields the task's document until it has ended; NotEnded after *patience* seconds.

        Keeps polling a relay that becomes unreachable, and calls *trouble* once each time that happens. A relay that is
        unreachable from the start raises Unavailable unless *patience* is given.
        """
        ends_at = None if patience is None else self._clock.monotonic() + patience
        delay, state, is_away = MIN_POLL, "", False
        while True:
            try:
                document: Document = self._request("GET", _path(task_id), Status)
                task_id = document["task_id"]  # a short id may match another task too before this one ends
                state, is_away = document["state"], False
                yield document
            except Unavailable as exc:
                if not state and ends_at is None:
                    raise
                if not is_away and trouble is not None:
                    trouble(str(exc))
                is_away = True
            if state in ENDED and not is_away:
                return
            left = delay if ends_at is None else ends_at - self._clock.monotonic()
            if left <= 0:
                reason = "; the relay is unreachable" if is_away else ""
                raise NotEnded(f"task {task_id} is {state or 'not yet known'} after {patience:g} s{reason}")
            self._pause(min(delay, left))
            delay = min(delay * POLL_GROWTH, MAX_POLL)

    def wait(self, task_id: str, *, patience: float | None = None) -> Document:
        """The task's document once it has ended; NotEnded after *patience* seconds."""
        (document,) = deque(self.follow(task_id, patience=patience), maxlen=1)
        return document

    def close(self) -> None:
        self._session.close()

    def _act(self, task_id: str, action: str) -> Document:
        document: Document = self._request("POST", _path(task_id, f":{action}"), Status)
        return document

    def _enqueue(self, path: str, shape: type, document: Document, key: str | None) -> Any:
        key = token_hex(16) if key is None else _quoted_if_needed(key)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return self._request("POST", path, shape, document=document, headers=headers, tries=self._tries)

    def _request(self, method: str, path: str, shape: type, *, tries: int = 1, **parts: Any) -> Any:
        """The document of a successful response, checked against the TypedDict *shape*; an error for any other."""
        while True:
            tries -= 1
            try:
                response = self._send(method, path, **parts)
            except requests.exceptions.InvalidHeader as exc:
                detail = "the key or token contains a line break or a leading space, which HTTP headers forbid"
                raise InvalidCall(detail) from exc
            except requests.RequestException as exc:
                if tries == 0:
                    how = "did not answer in time" if isinstance(exc, requests.Timeout) else "cannot be reached"
                    raise Unavailable(f"the relay at {self.url} {how}") from exc
                self._pause(RETRY_DELAY)
                continue
            if response.status not in _RETRIED or tries == 0:
                return _document_of(response, shape)
            self._pause(RETRY_AFTER_503)

    def _send(self, method: str, path: str, *, document: Document | None = None, **parts: Any) -> FetchedResponse:
        def send() -> requests.Response:
            return self._session.request(
                method,
                self.url + path,
                data=content,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                **parts,
            )

        try:
            content = None if document is None else strict_json.dumps(document)
            return fetch(send, self._timeout)
        except UnicodeEncodeError as exc:
            raise InvalidCall("a text is not valid Unicode, or the Idempotency-Key is not ASCII") from exc

    def _pause(self, seconds: float) -> None:
        pause(self._clock, self._clock.monotonic() + seconds)


class _TracingAdapter(HTTPAdapter):
    """Writes the trace headers last, inside the span that a caller's instrumentation makes of the request."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers.update(task_headers())
        return super().send(request, *args, **kwargs)


class _BearerAuth(AuthBase):
    """Set even without a token, because `requests` would otherwise send credentials from ~/.netrc."""

    def __init__(self, id_token: Callable[[], str] | None) -> None:
        self._id_token = id_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._id_token is not None:
            request.headers["Authorization"] = f"Bearer {self._id_token()}"
        return request


def _parse_relay_url(relay_url: str) -> tuple[str, bool]:
    """The relay's origin, and whether it is on loopback; elsewhere http is refused, since it would show the token."""
    try:
        parts = urlsplit(relay_url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise InvalidSettings(f"the relay's URL must be like https://relay.example.com, got {relay_url}")
    is_local = is_local_host(parts.netloc)
    if parts.scheme == "http" and not is_local:
        raise InvalidSettings(f"the relay's URL must start with https:// unless it is on loopback, got {relay_url}")
    return f"{parts.scheme}://{parts.netloc}", is_local


def _quoted_if_needed(key: str) -> str:
    """Quotes a key with a comma, which would otherwise separate two keys."""
    if "," not in key or key.startswith('"'):
        return key
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(task_id: str, action: str = "") -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{1,32}", task_id):
        message = f"must be 4 to 32 hex digits, got {task_id[:40]!a}"
        raise InvalidCall(f"task_id {message}", errors=(FieldError("task_id", message),))
    return f"/v1/tasks/{task_id.lower()}{action}"


def _document_of(response: FetchedResponse, shape: type) -> Any:
    try:
        document = strict_json.loads(response.content)
    except strict_json.NotJson:
        document = None
    unexpected = f"{response.url} answered {response.status}, not as a relay does"
    if response.status in (requests.codes.ok, requests.codes.accepted):
        if response_shapes.fits(document, shape):
            return document
        raise UnexpectedResponse(unexpected)
    error = error_of(document)
    if response.status in _GATEWAY_ERRORS and not isinstance(error, Unavailable):
        raise Unavailable(unexpected)  # from a front end, while the relay restarts
    raise UnexpectedResponse(unexpected) if isinstance(error, UnexpectedResponse) else error


def error_of(document: object) -> RelayError:
    """The error that the problem *document* was made from; UnexpectedResponse for any other document."""
    match document:
        case {"status": 400 | 409 | 413 | 415 | 422 as status, "detail": str(detail), **rest}:
            return InvalidCall(detail, status=status, errors=_fields(rest.get("errors")))
        case {"status": 401 | 403 as status, "detail": str(detail)}:
            return NotAuthorized(detail, status=status, reason="refused")
        case {"status": 404, "detail": str(detail)}:
            return NotFound(detail)
        case {"status": 429 | 503, "detail": str(detail)}:
            return Unavailable(detail)
        case {"status": int(status), "detail": str(detail)}:
            return UnexpectedResponse(f"the relay answered {status}: {detail[:200]}")
    return UnexpectedResponse("the response is not from a relay")


def _fields(errors: object) -> tuple[FieldError, ...]:
    found = []
    for error in errors if isinstance(errors, list) else ():
        match error:
            case {"field": str(field), "message": str(message)}:
                found.append(FieldError(field, message))
    return tuple(found)
