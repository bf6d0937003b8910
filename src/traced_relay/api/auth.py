"""
Who is asking: a principal or a refusal, before anything else of the application runs.

The outermost layer; what it refuses makes no span. No bytes sent as a token
make it raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from traced_relay.api import id_token
from traced_relay.cloud_tasks.delivery import APP_ENGINE, HTTP_TARGET, Dispatch
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.relay.policy import Principal
from traced_relay.runtime.clock import SystemClock
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


ANYBODY = Principal("anybody on loopback", "*", "*", is_operator=True)


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


class Gate:
    """Decides by path: the queue's door, the callers' doors, and what is open."""

    def __init__(
        self,
        rules: RelayFile,
        *,
        keys: CertificateCache,
        issuers: tuple[str, ...] | None,
        believes_app_engine: bool,
        is_local: bool,
        open_on_loopback: bool,
        clock: Clock | None = None,
    ) -> None:
        self._callers = {caller.email: Principal.of(caller) for caller in rules.callers}
        self._queues = {queue.name for queue in rules.queues}
        self._audience = rules.audience
        self._queue_account = rules.worker.service_account
        self._keys = keys
        self._issuers = issuers
        self._believes_app_engine = believes_app_engine
        self._is_local = is_local
        self._open = open_on_loopback
        self._clock = clock or SystemClock()

    def admit_queue(self, headers: Headers) -> Dispatch:
        """
        Let in Cloud Tasks alone, and read what it says.

        By the headers that App Engine keeps from others, or by its ID token: the
        family that was not asked for is not believed.
        """
        if self._queue_account is None:
            dispatch = Dispatch.from_headers(headers, APP_ENGINE)
            if not dispatch.queue or not self._believes_app_engine:
                raise NotAuthorized("only Cloud Tasks may dispatch", status=403, reason="not_from_the_queue")
        else:
            email = self._email(headers)
            if email != self._queue_account:
                detail = "only Cloud Tasks may dispatch, with an ID token of worker.service_account in relay.yaml"
                raise NotAuthorized(detail, status=403, reason="not_from_the_queue", email=email)
            dispatch = Dispatch.from_headers(headers, HTTP_TARGET)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,500}", dispatch.task):
            raise NotAuthorized("a dispatch names its task", status=403, reason="no_task_name")
        if dispatch.queue not in self._queues:
            raise NotAuthorized("this queue is not one of relay.yaml", status=403, reason="unknown_queue")
        return dispatch

    def admit_host(self, host: str) -> None:
        """On this machine only names of this machine: a page whose name was rebound to it shows by its Host."""
        if self._is_local and not is_local_host(host):
            raise NotAuthorized("this relay answers on localhost only", status=403, reason="foreign_host")

    def admit_site(self, headers: Headers) -> None:
        """Where nobody shows who he is, a page that is open in a browser here must not act for whoever looks at it."""
        if self._open and is_cross_site(headers):
            raise NotAuthorized("a page of another site may not ask for this", status=403, reason="foreign_site")

    def admit_caller(self, headers: Headers) -> Principal:
        if self._open:
            return ANYBODY
        email = self._email(headers)
        principal = self._callers.get(email)
        if principal is None:
            detail = f"{email[:LONGEST_EMAIL]} is not among the callers in relay.yaml"
            raise NotAuthorized(detail, status=403, reason="unknown_caller", email=email)
        return principal

    def admit_sweep(self, headers: Headers) -> None:
        """App Engine's cron, whose header it keeps from others; else the queue's account, or an operator."""
        if self._open or (self._believes_app_engine and headers.get("X-Appengine-Cron") == "true"):
            return
        email = self._email(headers)
        caller = self._callers.get(email)
        if email != self._queue_account and not (caller is not None and caller.is_operator):
            raise NotAuthorized("this account may not start a sweep", status=403, reason="not_the_cron", email=email)

    def _email(self, headers: Headers) -> str:
        """The address that a valid token speaks for; Unavailable if it cannot be known whether it is valid."""
        given = headers.get("Authorization", "")
        scheme, _, token = given.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            detail = "the Authorization header must be: Bearer ID_TOKEN" if given else "an ID token is required"
            raise NotAuthorized(detail, status=401, reason="no_token")
        claims = id_token.verified(
            token.strip(),
            self._keys.having,
            audience=self._audience,
            issuers=self._issuers,
            now=self._clock.now(),
        )
        return id_token.email_of(claims)
