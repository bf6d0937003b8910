"""
A relay's API as a Python object: the same verbs and the same words, in and out.

Only what is safe to ask again is: looking, and enqueueing, which carries an Idempotency-Key of its own.
"""

from __future__ import annotations

import re
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from traced_relay.client import problems, response_shapes
from traced_relay.errors import (
    FieldError,
    InvalidCall,
    InvalidSettings,
    NotEnded,
    NotFound,
    RelayError,
    Unavailable,
    UnexpectedAnswer,
)
from traced_relay.formats import strict_json
from traced_relay.runtime.bounded_fetch import AS_IT_IS, fetch
from traced_relay.runtime.clock import SystemClock, pause
from traced_relay.runtime.loopback import is_local_host
from traced_relay.tasks.states import ENDED
from traced_relay.tracing.propagation import task_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from traced_relay.client.api_types import CallFields, Filters, Receipt
    from traced_relay.runtime.bounded_fetch import FetchedResponse
    from traced_relay.runtime.clock import Clock

TRIES = 3
PAUSE, PAUSE_WHEN_TOLD = 1.0, 5.0  # after a lost connection; after a 503, whose Retry-After this is
_GATEWAYS = (502, 503, 504)
FIRST_LOOK, LAST_LOOK, SLOWER = 0.2, 5.0, 1.5  # seconds between looks at a task that is waited for

Document = dict[str, Any]
"""A task's status, or what is said of a queue, as the API has it."""


class Client:
    """
    Asks one relay.

    Away from loopback every request carries an ID token for *audience* (default:
    the relay's origin): what *id_token* gives, or else one of the environment's
    Google credentials, or of the service account to impersonate. A relay on
    loopback gets one only if something of that is given. What is safe to ask
    again is asked up to so many *tries*; *timeout* is for one whole answer.
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
        self.url, self.is_on_loopback = _checked(relay_url)
        self._timeout = timeout
        self._tries = tries
        self._clock = clock or SystemClock()
        self._session = requests.Session()
        self._session.trust_env = self.url.startswith("https:")  # a proxy has no part in asking this machine
        self._session.headers.update(AS_IT_IS)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _Traced())
        if id_token is None and not (self.is_on_loopback and audience is None and impersonate_service_account is None):
            from traced_relay.runtime.credentials import IdTokens

            wanted, tokens = audience or self.url, IdTokens(impersonate_service_account)
            id_token = lambda: tokens.token(wanted)  # noqa: E731  (a name for what the argument else is)
        self._session.auth = _Bearer(id_token)

    def enqueue(self, url: str, *, idempotency_key: str | None = None, **fields: Unpack[CallFields]) -> Receipt:
        """Have the call made; asked again after a lost answer, which makes no second task."""
        receipt: Receipt = self._post_call(
            "/v1/tasks", response_shapes.RECEIPT, {"url": url, **fields}, idempotency_key
        )
        return receipt

    def enqueue_many(
        self, calls: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Sequence[Receipt | RelayError]:
        """Up to 100 calls at once, each with its `url`: a receipt each, or what is wrong with it, in order."""
        document = {"tasks": [dict(call) for call in calls]}
        answer = self._post_call("/v1/tasks:batch", response_shapes.BATCH, document, idempotency_key)
        return [item if "task_id" in item else problems.error_of(item) for item in answer["tasks"]]

    def status(self, task_id: str) -> Document:
        return self._status(task_id, self._tries)

    def list(
        self, *, label: tuple[str, str] | None = None, page_size: int = 50, **filters: Unpack[Filters]
    ) -> Iterator[Document]:
        """All tasks that pass, newest first, fetched page by page as they are wanted; without attempts and response."""
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
        """One page of that list, and the token of the next one; None after the last."""
        query: dict[str, Any] = {**filters, "limit": page_size, "page_token": page_token}  # None is not sent
        if label is not None:
            query[f"label.{label[0]}"] = label[1]
        answer = self._ask("GET", "/v1/tasks", response_shapes.PAGE, params=query, tries=self._tries)
        following = answer.get("next_page_token")
        if following is not None and not (isinstance(following, str) and following not in ("", page_token)):
            raise UnexpectedAnswer(f"{self.url}/v1/tasks gave a next_page_token that leads nowhere")
        return answer["tasks"], following

    def callbacks(self, document: Document) -> Iterator[Document]:
        """The documents of the callbacks of a task's last 100 rounds: tasks of their own, with ids that follow."""
        from traced_relay.tasks.ids import callback_id

        last = document["round"]
        for number in range(max(1, last - 99), last + 1) if document["callback"]["state"] != "none" else ():
            try:
                yield self.status(callback_id(document["task_id"], number))
            except NotFound:
                continue  # still to come, or forgotten by now

    def queues(self) -> Sequence[Document]:
        """How each queue is and what it holds; for operators."""
        queues: Sequence[Document] = self._ask("GET", "/v1/queues", response_shapes.QUEUES, tries=self._tries)["queues"]
        return queues

    def cancel(self, task_id: str) -> Document:
        """End a task that waits or runs; InvalidCall (409) if it ended otherwise."""
        return self._verb(task_id, "cancel")

    def redrive(self, task_id: str) -> Document:
        """Start a new round of a task that failed or was cancelled; InvalidCall (409) if it did not."""
        return self._verb(task_id, "redrive")

    def resend_callback(self, task_id: str) -> Document:
        """Tell the end of the last round again; InvalidCall (409) if there is none, or it is still being told."""
        return self._verb(task_id, "resend-callback")

    def follow(
        self, task_id: str, *, patience: float | None = None, trouble: Callable[[str], None] | None = None
    ) -> Iterator[Document]:
        """
        The task's document, again and again until it has ended; NotEnded after *patience* seconds.

        A relay that goes away is asked on, and *trouble* is told so, once until it is back. One that is away from the
        start is waited for with *patience* alone.
        """
        until = None if patience is None else self._clock.monotonic() + patience
        wait, document, away = FIRST_LOOK, Document(), False
        while True:
            try:
                document, away = self._status(task_id, 1), False
                yield document
            except Unavailable as exc:
                if not document and until is None:
                    raise
                if not away and trouble is not None:
                    trouble(str(exc))
                away = True
            state = document.get("state", "not yet seen")
            if state in ENDED and not away:
                return
            left = wait if until is None else until - self._clock.monotonic()
            if left <= 0:
                raise NotEnded(f"task {task_id} is {state} after {patience:g} s" + (", the relay away" if away else ""))
            self._pause(min(wait, left))
            wait = min(wait * SLOWER, LAST_LOOK)

    def wait(self, task_id: str, *, patience: float | None = None) -> Document:
        """The task's document when it has ended; NotEnded if that takes more than *patience* seconds."""
        document: Document = {}
        for document in self.follow(task_id, patience=patience):  # noqa: B007  (the last one is wanted)
            pass
        return document

    def close(self) -> None:
        self._session.close()

    def _status(self, task_id: str, tries: int) -> Document:
        document: Document = self._ask("GET", _path(task_id), response_shapes.STATUS, tries=tries)
        return document

    def _verb(self, task_id: str, verb: str) -> Document:
        document: Document = self._ask("POST", _path(task_id, f":{verb}"), response_shapes.STATUS)
        return document

    def _post_call(self, path: str, shape: Any, document: Document, key: str | None) -> Any:
        key = token_hex(16) if key is None else _quoted_if_needed(key)
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return self._ask("POST", path, shape, document=document, headers=headers, tries=self._tries)

    def _ask(self, method: str, path: str, shape: Any, *, tries: int = 1, **parts: Any) -> Any:
        """The answer, which is of that *shape*; any other is said by an error."""
        while True:
            tries -= 1
            try:
                answer = self._sent(method, path, **parts)
            except requests.exceptions.InvalidHeader as exc:
                raise InvalidCall("a key or token has what no header may: a line break, or a space in front") from exc
            except requests.RequestException as exc:
                if tries == 0:
                    how = "did not answer in time" if isinstance(exc, requests.Timeout) else "cannot be reached"
                    raise Unavailable(f"the relay at {self.url} {how}") from exc
                self._pause(PAUSE)
                continue
            if answer.status != requests.codes.unavailable or tries == 0:
                return _content(answer, shape)
            self._pause(PAUSE_WHEN_TOLD)

    def _sent(self, method: str, path: str, *, document: Document | None = None, **parts: Any) -> FetchedResponse:
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
            raise InvalidCall("there is a text that is no valid Unicode, or a key that is not ASCII") from exc

    def _pause(self, seconds: float) -> None:
        pause(self._clock, self._clock.monotonic() + seconds)


class _Traced(HTTPAdapter):
    """Writes the context last, and twice: inside the span that a caller's instrumentation makes of the request."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers.update(task_headers())
        return super().send(request, *args, **kwargs)


class _Bearer(AuthBase):
    """Always there, even without a token: `requests` would else send what it finds in ~/.netrc."""

    def __init__(self, id_token: Callable[[], str] | None) -> None:
        self._id_token = id_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._id_token is not None:
            request.headers["Authorization"] = f"Bearer {self._id_token()}"
        return request


def _checked(relay_url: str) -> tuple[str, bool]:
    """The relay's origin, and whether it is on this machine; elsewhere a token goes over TLS or nowhere."""
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
    """A bare comma would begin another key."""
    if "," not in key or key.startswith('"'):
        return key
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _path(task_id: str, verb: str = "") -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{1,32}", task_id):
        message = f"must be 4 to 32 hex digits, got {task_id[:40]!a}"
        raise InvalidCall(f"task_id {message}", errors=(FieldError("task_id", message),))
    return f"/v1/tasks/{task_id.lower()}{verb}"


def _content(answer: FetchedResponse, shape: Any) -> Any:
    try:
        document = strict_json.loads(answer.content)
    except strict_json.NotJson:
        document = None
    told = f"{answer.url} answered {answer.status}, not as a relay does"
    if answer.status in (requests.codes.ok, requests.codes.accepted):
        if response_shapes.fits(document, shape):
            return document
        raise UnexpectedAnswer(told)
    error = problems.error_of(document)
    if answer.status in _GATEWAYS and not isinstance(error, Unavailable):
        raise Unavailable(told)  # what stands before a relay that is being started anew
    raise UnexpectedAnswer(told) if isinstance(error, UnexpectedAnswer) else error
