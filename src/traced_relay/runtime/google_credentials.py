"""
Why google-auth has no credentials or no token, in a few words.

Its own messages hold whole answers of Google, over several lines; of these only the status is repeated. Pure.
"""

from __future__ import annotations

import re

from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, MalformedError

# What google-auth raises: its own errors, and whatever reading a file or an answer that is none leads to.
FAILURES = (GoogleAuthError, OSError, ValueError, LookupError, TypeError, AttributeError)

NOTHING_FOUND = "there is no metadata server, and no service account's credentials in GOOGLE_APPLICATION_CREDENTIALS"
_STATUS = re.compile(r"(?:['\"]code['\"]: |[Ss]tatus: ?)([45][0-9]{2})\b")
_IMPERSONATED = ("Error getting ID token", "Unable to acquire impersonated credentials")


def why_none(exc: BaseException) -> str:
    """The clause for what google-auth raised where credentials were to be found or refreshed."""
    if isinstance(exc, MalformedError) or not isinstance(exc, GoogleAuthError):
        return "the credentials or Google's answer cannot be read"
    told = " ".join(map(str, exc.args))
    found = _STATUS.search(told)
    status = f" ({found[1]})" if found else ""
    if isinstance(exc, DefaultCredentialsError):
        return _unfound(told)
    if told.startswith(_IMPERSONATED):
        return _IMPERSONATION.get(status, f"IAM refuses to impersonate the service account{status}")
    if "metadata" in told:
        return without_metadata(found[1] if found else "")
    if "invalid_grant" in told or "Reauthentication" in told:
        return "they have expired or were revoked; run: gcloud auth application-default login"
    return f"Google's token service gives no token{status}"


def _unfound(told: str) -> str:
    if told.startswith("GOOGLE_APPLICATION_CREDENTIALS path") or (told.startswith("File ") and "not found" in told):
        return "the file that GOOGLE_APPLICATION_CREDENTIALS names is not there"
    if "GOOGLE_APPLICATION_CREDENTIALS is not valid" in told:
        return "the file that GOOGLE_APPLICATION_CREDENTIALS names holds no service account's credentials"
    return NOTHING_FOUND


def without_metadata(status: str) -> str:
    """The clause for a metadata server that answers with that *status*, or not at all."""
    return _METADATA.get(status, f"the metadata server is out of reach{f' ({status})' if status else ''}")


_IMPERSONATION = {
    " (403)": "they may not impersonate the service account (403), which needs roles/iam.serviceAccountTokenCreator",
    " (404)": "the service account to impersonate does not exist (404)",
}
_METADATA = {
    "403": "the metadata server refuses them to this process (403)",
    "404": "the metadata server knows no service account for this process (404)",
}
