"""
The secrets that callbacks are signed with: given as text, or kept in Secret Manager and read over REST.

What Secret Manager says stays in here: no error, log or span repeats it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

import requests

from traced_relay.downstream import webhook_signature
from traced_relay.errors import IdentityFailed
from traced_relay.runtime.credentials import TIMEOUT, google_session
from traced_relay.runtime.google_credentials import FAILURES, why_none

if TYPE_CHECKING:
    from traced_relay.runtime.clock import Clock

Keys = tuple[bytes, ...]
Connect = Callable[[], requests.Session]

GOOGLE = "https://secretmanager.googleapis.com"
_NOT_OURS = (400, 403, 404)
_REFUSALS = {
    400: "is disabled or destroyed",
    401: "is not shown to these Google credentials",
    403: "may not be read by the relay's account, which needs roles/secretmanager.secretAccessor on it",
    404: "does not exist",
    429: "is out of reach, the project's quota is used up",
}
FRESH_FOR = 300.0
ASK_AGAIN_AFTER = 30.0
ASK_AGAIN_AFTER_NOTHING = 2.0  # so that all who wait for a source that is away do not wait one after another


class _Withdrawn(IdentityFailed):
    """Google says that there is no such secret, or not for us: what was known of it counts no more."""


@dataclass
class _Kept:
    """What was last read of one secret, or *why* it could not be; who reads it again holds *asking*."""

    asking: Lock = field(default_factory=Lock)
    keys: Keys = ()
    why: str = ""
    read_at: float = float("-inf")
    asked_at: float = float("-inf")


class SigningSecrets:
    """
    Hands out keys by where they are, text or a name in Secret Manager.

    A name is read again after five minutes; old keys serve on while that is
    being done, and while Google is away, but not once it says no.
    """

    def __init__(self, clock: Clock, *, connect: Connect = google_session, url: str = GOOGLE) -> None:
        self._clock = clock
        self._connect = connect
        self._url = url
        self._session: requests.Session | None = None
        self._kept: dict[str, _Kept] = {}
        self._lock, self._connecting = Lock(), Lock()

    def of(self, source: str) -> Keys:
        """The keys of *source*, as settings and relay.yaml let it through; IdentityFailed if none can be had."""
        if not webhook_signature.SECRET_NAME.fullmatch(source):
            return webhook_signature.parse_secrets(source)
        with self._lock:
            kept = self._kept.setdefault(source, _Kept())
        if kept.asking.acquire(blocking=not kept.keys):
            try:
                self._refresh(source, kept)
            finally:
                kept.asking.release()
        return kept.keys

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _refresh(self, name: str, kept: _Kept) -> None:
        """Read the secret again if it is time; IdentityFailed only where there are no old keys to go on with."""
        now = self._clock.monotonic()
        pause = ASK_AGAIN_AFTER if kept.keys else ASK_AGAIN_AFTER_NOTHING
        if now - kept.read_at < FRESH_FOR:
            return
        if now - kept.asked_at < pause:
            if not kept.keys:
                raise IdentityFailed(kept.why)
            return
        try:
            kept.keys = self._read(name)
            kept.read_at = self._clock.monotonic()
        except IdentityFailed as exc:
            kept.why = str(exc)
            if isinstance(exc, _Withdrawn):
                kept.keys = ()
            if not kept.keys:
                raise
        finally:
            kept.asked_at = self._clock.monotonic()

    def _read(self, name: str) -> Keys:
        version = name if "/versions/" in name else f"{name}/versions/latest"
        try:
            answer = self._connected().get(f"{self._url}/v1/{version}:access", timeout=TIMEOUT, allow_redirects=False)
        except requests.Timeout as exc:
            raise IdentityFailed(f"no signing secret: {name} was not read within {TIMEOUT:g} s") from exc
        except requests.RequestException as exc:
            raise IdentityFailed(f"no signing secret: {name} is out of reach, Secret Manager gives no answer") from exc
        except FAILURES as exc:
            raise IdentityFailed(f"no signing secret: {name} needs Google credentials, {why_none(exc)}") from exc
        if answer.status_code != requests.codes.ok:
            kind = _Withdrawn if answer.status_code in _NOT_OURS else IdentityFailed
            why = _REFUSALS.get(answer.status_code, "is out of reach")
            raise kind(f"no signing secret: {version} {why} (Secret Manager answers {answer.status_code})")
        return _keys_in(answer, name)

    def _connected(self) -> requests.Session:
        with self._connecting:
            if self._session is None:
                self._session = self._connect()
            return self._session


def _keys_in(answer: requests.Response, name: str) -> Keys:
    # Not `from` the causes, which may hold the payload.
    try:
        content = base64.b64decode(answer.json()["payload"]["data"], validate=True)
    except (ValueError, KeyError, TypeError):
        raise IdentityFailed(f"no signing secret: Secret Manager's answer for {name} is unreadable") from None
    try:
        return webhook_signature.parse_secrets(webhook_signature.text_of(content))
    except ValueError as exc:
        raise IdentityFailed(f"no signing secret: the content of {name} {exc}") from None
