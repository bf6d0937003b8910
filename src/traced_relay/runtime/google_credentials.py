"""
Short reasons for google-auth's errors.

Its own messages contain whole responses over several lines; of these only the status is repeated.
"""

from __future__ import annotations

import re

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError

# What google-auth raises: its own errors, and those of parsing a malformed file or response.
FAILURES = (GoogleAuthError, OSError, ValueError, LookupError, TypeError, AttributeError)

NOTHING_FOUND = "no metadata server and no service account credentials in GOOGLE_APPLICATION_CREDENTIALS"
_STATUS = re.compile(r"(?:['\"]code['\"]: |[Ss]tatus: ?)([45][0-9]{2})\b")
_IMPERSONATED = ("Error getting ID token", "Unable to acquire impersonated credentials")


def why_none(exc: BaseException) -> str:
    """The clause for an error that google-auth raised while it loaded or refreshed credentials."""
    if isinstance(exc, MalformedError) or not isinstance(exc, GoogleAuthError):
        return "the credentials or Google's response cannot be parsed"
    text = " ".join(map(str, exc.args))
    found = _STATUS.search(text)
    status = f" ({found[1]})" if found else ""
    if isinstance(exc, DefaultCredentialsError):
        return _why_not_found(text)
    if text.startswith(_IMPERSONATED):
        return _IMPERSONATION.get(status, f"IAM refuses to impersonate the service account{status}")
    if "metadata" in text:
        return without_metadata(found[1] if found else "")
    if "invalid_grant" in text or "Reauthentication" in text:
        return "the credentials expired or were revoked; run: gcloud auth application-default login"
    return f"Google's token service returned no token{status}"


def _why_not_found(text: str) -> str:
    if text.startswith("GOOGLE_APPLICATION_CREDENTIALS path") or (text.startswith("File ") and "not found" in text):
        return "the file in GOOGLE_APPLICATION_CREDENTIALS does not exist"
    if "GOOGLE_APPLICATION_CREDENTIALS is not valid" in text:
        return "the file in GOOGLE_APPLICATION_CREDENTIALS contains no service account credentials"
    return NOTHING_FOUND


def without_metadata(status: str) -> str:
    """The clause for a metadata server that responds with *status*, or with none."""
    return _METADATA.get(status, f"the metadata server cannot be reached{f' ({status})' if status else ''}")


_IMPERSONATION = {
    " (403)": "no right to impersonate the service account (403): grant roles/iam.serviceAccountTokenCreator",
    " (404)": "the service account to impersonate does not exist (404)",
}
_METADATA = {
    "403": "the metadata server denies credentials to this process (403)",
    "404": "the metadata server has no service account for this process (404)",
}
