"""
Authentication: headers of a request in, its principal or dispatch out, or NotAuthorized.

Runs before the rest of the application, so a refused request makes no span. No token, however malformed, raises
another error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from traced_relay.api import id_token
from traced_relay.cloud_tasks.delivery import APP_ENGINE, HTTP_TARGET, Dispatch
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.relay.policy import Principal
from traced_relay.runtime.loopback import is_cross_site, is_local_host
from traced_relay.runtime.refreshing import Refreshing

if TYPE_CHECKING:
    from werkzeug.datastructures import Headers

    from traced_relay.config.relay_yaml import RelayFile
    from traced_relay.runtime.clock import Clock

Certificates = Mapping[str, str]

GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
LONGEST_EMAIL = 320  # characters (RFC 5321, section 4.5.3.1)
FRESH_FOR = 3600.0


ANONYMOUS = Principal("anybody on loopback", "*", "*", is_operator=True)


class CertificateCache:
    """Public keys by their id, cached for an hour; the old ones serve on while their source is unavailable."""

    def __init__(self, fetch: Callable[[], Certificates], clock: Clock) -> None:
        self._fetch = fetch
        self._keys = Refreshing(self._fetch_some, clock, fresh_for=lambda _: FRESH_FOR)

    def having(self, key_id: str) -> Certificates:
        """The keys, fetched again if they are old or lack *key_id*, at most every 30 s."""
        try:
            return self._keys.get(lambda keys: key_id in keys)
        except Unavailable as exc:
            raise Unavailable("no certificates available to verify ID tokens") from exc

    def _fetch_some(self) -> Certificates:
        keys = self._fetch()
        if not keys:
            raise Unavailable("the source has no certificates")
        return keys


class Authenticator:
    """Decides who sends a request, by ID token, by the headers that App Engine protects, or on loopback by default."""

    def __init__(
        self,
        rules: RelayFile,
        *,
        keys: CertificateCache,
        issuers: tuple[str, ...] | None,
        trusts_app_engine: bool,
        is_local: bool,
        open_on_loopback: bool,
        clock: Clock,
    ) -> None:
        self._callers = {caller.email: Principal.of(caller) for caller in rules.callers}
        self._queues = {queue.name for queue in rules.queues}
        self._queue_account = rules.worker.service_account
        self._tokens = id_token.Verifier(keys.having, audience=rules.audience, issuers=issuers)
        self._trusts_app_engine = trusts_app_engine
        self._is_local = is_local
        self._open = open_on_loopback
        self._clock = clock

    def authenticate_queue(self, headers: Headers) -> Dispatch:
        """
        The dispatch that Cloud Tasks sends; NotAuthorized for every other sender.

        With an App Engine worker its protected headers decide, else an ID token; headers of the other kind are ignored.
        """
        if self._queue_account is None:
            family = APP_ENGINE
            if not self._trusts_app_engine or not headers.get(f"{family}QueueName"):
                raise NotAuthorized("only Cloud Tasks may dispatch", status=403, reason="not_from_the_queue")
        else:
            family, email = HTTP_TARGET, self._email(headers)
            if email != self._queue_account:
                detail = "only Cloud Tasks may dispatch, with an ID token of worker.service_account in relay.yaml"
                raise NotAuthorized(detail, status=403, reason="not_from_the_queue", email=email)
        dispatch = Dispatch.from_headers(headers, family)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,500}", dispatch.task):
            detail = f"{family}TaskName: must be 1 to 500 letters, digits, - or _, got {dispatch.task[:100]!a}"
            raise NotAuthorized(detail, status=403, reason="no_task_name")
        if dispatch.queue not in self._queues:
            detail = f"{family}QueueName: must be a queue of relay.yaml, got {dispatch.queue[:100]!a}"
            raise NotAuthorized(detail, status=403, reason="unknown_queue")
        return dispatch

    def check_host(self, host: str) -> None:
        """Refuse, on a local relay, any Host but loopback's: DNS rebinding lets a web page send another one."""
        if self._is_local and not is_local_host(host):
            detail = f"Host: must be localhost, 127.0.0.1 or [::1] on a local relay, got {host[:100]!a}"
            raise NotAuthorized(detail, status=403, reason="foreign_host")

    def check_site(self, headers: Headers) -> None:
        """Refuse, where no token is required, requests that a web page of another site makes the browser send."""
        if self._open and is_cross_site(headers):
            detail = "a web page of another site or port must not send this request"
            raise NotAuthorized(detail, status=403, reason="foreign_site")

    def authenticate_caller(self, headers: Headers) -> Principal:
        if self._open:
            return ANONYMOUS
        email = self._email(headers)
        principal = self._callers.get(email)
        if principal is None:
            detail = f"{email[:LONGEST_EMAIL]} is not among the callers in relay.yaml"
            raise NotAuthorized(detail, status=403, reason="unknown_caller", email=email)
        return principal

    def check_sweep(self, headers: Headers) -> None:
        """Refuse all but App Engine's cron, the account of the queue, and operators."""
        if self._open or (self._trusts_app_engine and headers.get("X-Appengine-Cron") == "true"):
            return
        email = self._email(headers)
        caller = self._callers.get(email)
        if email != self._queue_account and not (caller is not None and caller.is_operator):
            detail = f"{email[:LONGEST_EMAIL]} is neither worker.service_account nor an operator in relay.yaml"
            raise NotAuthorized(detail, status=403, reason="not_the_cron", email=email)

    def _email(self, headers: Headers) -> str:
        """The address in a valid ID token; Unavailable without the certificates to verify it."""
        given = headers.get("Authorization", "")
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            detail = "the Authorization header must be: Bearer ID_TOKEN" if given else "an ID token is required"
            raise NotAuthorized(detail, status=401, reason="no_token")
        return id_token.email_of(self._tokens.verify(token.strip(), self._clock.now()))
