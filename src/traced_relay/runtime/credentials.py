"""Google credentials of this process, and ID tokens made with them. No error or log contains a token."""

from __future__ import annotations

from threading import Lock
from typing import Any

import google.auth
import google.auth.transport.requests
import requests
from google.auth import impersonated_credentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import id_token

from traced_relay.errors import IdentityFailed
from traced_relay.runtime.google_credentials import FAILURES, NOTHING_FOUND, why_none, without_metadata

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT = 5.0  # seconds for one request
MAX_AUDIENCES = 256


def google_session() -> requests.Session:
    """A session that authenticates as this process's Google identity."""
    make: Any = AuthorizedSession  # untyped
    session: requests.Session = make(_default(), refresh_timeout=TIMEOUT)
    return session


def _default() -> Any:
    default: Any = google.auth.default  # untyped
    credentials, _ = default(scopes=[SCOPE])
    return credentials


class IdTokens:
    """
    Mints ID tokens with one credential an audience; google-auth refreshes each shortly before it expires.

    The tokens are for the environment's own identity, or for the service account to *impersonate*.
    """

    def __init__(self, impersonate: str | None = None) -> None:
        self._impersonate = impersonate
        self._credentials: dict[str, Any] = {}  # by audience
        self._lock = Lock()
        self._transport: Any = google.auth.transport.requests.Request(session=requests.Session())
        self._last_status: int | None = None

    def token(self, audience: str) -> str:
        known = self._credentials.get(audience)
        if known is not None and known.valid:  # without the lock, which another audience's slow refresh may hold
            return str(known.token)
        with self._lock:
            self._last_status = None
            try:
                return self._token(audience)
            except FAILURES as exc:
                raise IdentityFailed(f"no ID token for {audience}: {self._why(exc)}") from exc

    def _why(self, exc: Exception) -> str:
        why = why_none(exc)
        if why != NOTHING_FOUND:
            return why
        if self._last_status not in (None, requests.codes.ok):  # which google-auth reports as no metadata server
            return without_metadata(str(self._last_status))
        if self._impersonate is not None:
            return f"{why}; run: gcloud auth application-default login"
        return f"{why}; user credentials cannot request an audience: impersonate a service account"

    def _request(self, *arguments: Any, **options: Any) -> Any:
        response = self._transport(*arguments, **{"timeout": TIMEOUT} | options)
        self._last_status = response.status
        return response

    def _token(self, audience: str) -> str:
        credentials = self._credentials.pop(audience, None) or self._fetch(audience)  # the last refreshed is the last
        self._credentials[audience] = credentials
        if len(self._credentials) > MAX_AUDIENCES:
            del self._credentials[next(iter(self._credentials))]
        if not credentials.valid:
            credentials.refresh(self._request)
        return str(credentials.token)

    def _fetch(self, audience: str) -> Any:
        if self._impersonate is None:
            fetch: Any = id_token.fetch_id_token_credentials
            return fetch(audience, request=self._request)
        assumed: Any = impersonated_credentials
        account = assumed.Credentials(_default(), self._impersonate, [SCOPE])
        # A relay identifies its callers by the email address in the token.
        return assumed.IDTokenCredentials(account, audience, include_email=True)
