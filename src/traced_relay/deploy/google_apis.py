"""
Google's REST APIs, as far as looking goes: what is there, what is listed, who may do what. Nothing is changed.

What is not there is None or empty; what may not be looked at is an error of its own, so that both are never mixed up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from google.auth.exceptions import GoogleAuthError

from traced_relay.errors import IdentityFailed, NotLookedAt, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERYWHERE = "https://{api}.googleapis.com"
LOG_IN = "run: gcloud auth application-default login"
_ABOUT_OTHERS = ("serviceusage", "cloudresourcemanager")  # without them nothing is known of the rest
TIMEOUT = 20.0  # seconds for one request


class GoogleApis:
    """Asks with the *session*'s identity; *endpoint* says where an API is, by its name."""

    def __init__(self, session: requests.Session, endpoint: str = EVERYWHERE) -> None:
        self._session = session
        self._endpoint = endpoint

    def get(self, api: str, path: str, **query: str) -> dict[str, Any] | None:
        return self._asked("GET", api, path, params=query)

    def listed(self, api: str, path: str, **query: str) -> list[dict[str, Any]]:
        """All of a collection, page by page; the answer names its items by the last part of the *path*."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self._asked("GET", api, path, params=query | ({"pageToken": token} if token else {})) or {}
            found += page.get(path.rpartition("/")[2], [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def bindings(self, api: str, path: str) -> list[dict[str, Any]]:
        """Who has which role on a resource; with conditions, which older forms of a policy leave out."""
        # Each API has its own way to be asked for version 3.
        if api in ("secretmanager", "iam"):
            method, version = "GET" if api == "secretmanager" else "POST", {"options.requestedPolicyVersion": "3"}
            policy = self._asked(method, api, f"{path}:getIamPolicy", params=version)
        else:
            body = {"options": {"requestedPolicyVersion": 3}}
            policy = self._asked("POST", api, f"{path}:getIamPolicy", json=body)
        found: list[dict[str, Any]] = (policy or {}).get("bindings", [])
        return found

    def _asked(self, method: str, api: str, path: str, **parts: Any) -> dict[str, Any] | None:
        url = f"{self._endpoint.format(api=api)}/{path}"
        try:
            answer = self._session.request(method, url, timeout=TIMEOUT, **parts)
            document = answer.json() if answer.content else {}
        except GoogleAuthError as exc:
            raise IdentityFailed(f"Google does not know who is asking ({_line(exc)}); {LOG_IN}") from exc
        except requests.RequestException as exc:
            raise Unavailable(f"{url.split('/')[2]} gave no answer: {type(exc).__name__}") from exc
        if answer.ok:
            return dict(document)
        if answer.status_code == requests.codes.unauthorized:
            raise IdentityFailed(f"Google does not take these credentials; {LOG_IN}")
        error = document.get("error", {}) if isinstance(document, dict) else {}
        if answer.status_code == requests.codes.not_found or (_is_disabled(error) and api not in _ABOUT_OTHERS):
            return None
        raise NotLookedAt(f"{answer.status_code} {_line(error.get('message', ''))}".strip())


def _is_disabled(error: Mapping[str, Any]) -> bool:
    """Whether the API is not enabled in the project: what it would have made cannot be there."""
    return any(detail.get("reason") == "SERVICE_DISABLED" for detail in error.get("details", []))


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
