"""
The secrets that sign callbacks: given as text, or read from Secret Manager over REST.

No error, log or span contains what Secret Manager returns.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import requests

from traced_relay.downstream import webhook_signature
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.credentials import TIMEOUT, google_session
from traced_relay.runtime.google_credentials import FAILURES, why_none
from traced_relay.runtime.refreshing import Refreshing

if TYPE_CHECKING:
    from traced_relay.runtime.clock import Clock

Keys = tuple[bytes, ...]
Connect = Callable[[], requests.Session]

GOOGLE = "https://secretmanager.googleapis.com"
_REVOKED = (400, 403, 404)
_REFUSALS = {
    400: "is disabled or destroyed",
    401: "may not be read with these Google credentials",
    403: "may not be read by the relay's account, which needs roles/secretmanager.secretAccessor on it",
    404: "does not exist",
    429: "cannot be read: the project's quota is used up",
}
FRESH_FOR = 300.0


class _Revoked(IdentityFailed):
    """The secret does not exist, is disabled, or may not be read: its old keys must not be used any more."""


class SigningSecrets:
    """
    Returns keys by their source: the secrets as text, or a name in Secret Manager.

    Reads a name again after 5 minutes. The old keys serve on while it is read and while Secret Manager is unavailable,
    but not after it answers 400, 403 or 404.
    """

    def __init__(self, clock: Clock, *, connect: Connect = google_session, url: str = GOOGLE) -> None:
        self._clock = clock
        self._connect = connect
        self._url = url
        self._session: requests.Session | None = None
        self._cached: dict[str, Refreshing[Keys]] = {}
        self._lock, self._connecting = Lock(), Lock()

    def of(self, source: str) -> Keys:
        """The keys of *source*, which settings or relay.yaml have checked; IdentityFailed if there are none."""
        if not webhook_signature.SECRET_NAME.fullmatch(source):
            return webhook_signature.parse_secrets(source)
        with self._lock:
            if source not in self._cached:
                read = partial(self._read, source)
                self._cached[source] = Refreshing(read, self._clock, fresh_for=lambda _: FRESH_FOR, revoked=_Revoked)
        return self._cached[source].get()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _read(self, name: str) -> Keys:
        version = name if "/versions/" in name else f"{name}/versions/latest"
        try:
            response = self._connected().get(f"{self._url}/v1/{version}:access", timeout=TIMEOUT, allow_redirects=False)
        except requests.Timeout as exc:
            raise IdentityFailed(f"no signing secret: {name} was not read within {TIMEOUT:g} s") from exc
        except requests.RequestException as exc:
            raise IdentityFailed(f"no signing secret: {name} cannot be read: Secret Manager does not respond") from exc
        except FAILURES as exc:
            raise IdentityFailed(f"no signing secret: {name} needs Google credentials, {why_none(exc)}") from exc
        if response.status_code != requests.codes.ok:
            kind = _Revoked if response.status_code in _REVOKED else IdentityFailed
            why = _REFUSALS.get(response.status_code, "cannot be read")
            raise kind(f"no signing secret: {version} {why} (Secret Manager responded {response.status_code})")
        return _keys_in(response, name)

    def _connected(self) -> requests.Session:
        with self._connecting:
            if self._session is None:
                self._session = self._connect()
            return self._session


def _keys_in(response: requests.Response, name: str) -> Keys:
    # Not `from` the causes, which may contain the payload.
    try:
        content = base64.b64decode(response.json()["payload"]["data"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise IdentityFailed(f"no signing secret: Secret Manager's response for {name} cannot be parsed") from None
    try:
        return webhook_signature.parse_secrets(webhook_signature.text_of(content))
    except ValueError as exc:
        raise IdentityFailed(f"no signing secret: the content of {name} {exc}") from None
