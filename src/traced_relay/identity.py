"""ID tokens, one credential an audience, from wherever this process has its identity; never shown to anybody."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import Any

import google.auth.transport.requests
import requests
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import id_token

from traced_relay.errors import IdentityFailed

AUDIENCES_KEPT = 256
TIMEOUT = 5.0  # seconds for one request to whoever mints tokens


class IdTokens:
    """Hands out ID tokens; google-auth refreshes each shortly before it expires."""

    def __init__(self) -> None:
        self._credentials: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()
        request: Any = google.auth.transport.requests.Request(session=requests.Session())
        self._request = partial(request, timeout=TIMEOUT)

    def token(self, audience: str) -> str:
        with self._lock:
            try:
                return self._token(audience)
            except (GoogleAuthError, OSError, ValueError, LookupError) as exc:  # google-auth lets a KeyError through
                raise IdentityFailed(f"no ID token for {audience}") from exc

    def _token(self, audience: str) -> str:
        credentials = self._credentials.get(audience)
        if credentials is None:
            fetch: Any = id_token.fetch_id_token_credentials
            credentials = fetch(audience, request=self._request)
            self._credentials[audience] = credentials
            if len(self._credentials) > AUDIENCES_KEPT:
                self._credentials.popitem(last=False)
        self._credentials.move_to_end(audience)
        if not credentials.valid:
            credentials.refresh(self._request)
        return str(credentials.token)
