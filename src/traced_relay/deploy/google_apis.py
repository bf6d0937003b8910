"""
Read-only access to Google's REST APIs: one resource, a list, the bindings of a policy.

A missing resource is None or empty; one that the caller may not read raises AccessDenied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from google.auth.exceptions import GoogleAuthError

from traced_relay.errors import AccessDenied, IdentityFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERYWHERE = "https://{api}.googleapis.com"
LOG_IN = "run: gcloud auth application-default login"
_REQUIRED = ("serviceusage", "cloudresourcemanager")  # without them the state of the project is unknown
TIMEOUT = 20.0  # seconds for one request


class GoogleApis:
    """Requests with the *session*'s credentials; *endpoint* is a template of an API's URL."""

    def __init__(self, session: requests.Session, endpoint: str = EVERYWHERE) -> None:
        self._session = session
        self._endpoint = endpoint

    def get(self, api: str, path: str, **query: str) -> dict[str, Any] | None:
        return self._request("GET", api, path, params=query)

    def listed(self, api: str, path: str, **query: str) -> list[dict[str, Any]]:
        """All pages of a collection; the response names its items by the last part of the *path*."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self._request("GET", api, path, params=query | ({"pageToken": token} if token else {})) or {}
            found += page.get(path.rpartition("/")[2], [])
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def bindings(self, api: str, path: str) -> list[dict[str, Any]]:
        """The bindings on a resource, with their conditions, which only version 3 of a policy includes."""
        # The APIs take the version in different places.
        if api in ("secretmanager", "iam"):
            method, version = "GET" if api == "secretmanager" else "POST", {"options.requestedPolicyVersion": "3"}
            policy = self._request(method, api, f"{path}:getIamPolicy", params=version)
        else:
            body = {"options": {"requestedPolicyVersion": 3}}
            policy = self._request("POST", api, f"{path}:getIamPolicy", json=body)
        found: list[dict[str, Any]] = (policy or {}).get("bindings", [])
        return found

    def _request(self, method: str, api: str, path: str, **parts: Any) -> dict[str, Any] | None:
        url = f"{self._endpoint.format(api=api)}/{path}"
        try:
            response = self._session.request(method, url, timeout=TIMEOUT, **parts)
            document = response.json() if response.content else {}
        except GoogleAuthError as exc:
            raise IdentityFailed(f"Google credentials cannot be refreshed ({_line(exc)}); {LOG_IN}") from exc
        except requests.RequestException as exc:
            raise Unavailable(f"no response from {url.split('/')[2]}: {type(exc).__name__}") from exc
        if response.ok:
            return dict(document)
        if response.status_code == requests.codes.unauthorized:
            raise IdentityFailed(f"Google rejects these credentials; {LOG_IN}")
        error = document.get("error", {}) if isinstance(document, dict) else {}
        if response.status_code == requests.codes.not_found or (_is_disabled(error) and api not in _REQUIRED):
            return None
        raise AccessDenied(f"{response.status_code} {_line(error.get('message', ''))}".strip())


def _is_disabled(error: Mapping[str, Any]) -> bool:
    """Whether the API is disabled in the project, so that none of its resources can exist."""
    return any(detail.get("reason") == "SERVICE_DISABLED" for detail in error.get("details", []))


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
