"""Reads Cloud Logging's entries with the operator's credentials; Google's errors become the relay's."""

from __future__ import annotations

import warnings
from itertools import islice
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import LoggingServiceV2GrpcTransport
from google.protobuf.json_format import MessageToDict, SerializeToJsonError

from traced_relay.errors import IdentityFailed, NotAuthorized, Unavailable, UnexpectedResponse, map_exceptions
from traced_relay.logs.cloud_entries import with_whole_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import grpc

    from traced_relay.errors import RelayError

PAGE = 1000
MAX_PAGES = 1000
PAGE_TIMEOUT = 20.0  # seconds


class CloudLogging:
    """The log of one project; *channel* replaces Google's endpoint in tests."""

    def __init__(self, project: str, *, channel: grpc.Channel | None = None) -> None:
        self.project = project
        transport = None if channel is None else LoggingServiceV2GrpcTransport(channel=channel)
        with self._mapped_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns against user credentials, which are intended here
            self._client = LoggingServiceV2Client(transport=transport)

    def entries(self, log_filter: str) -> Iterator[dict[str, Any]]:
        """The entries that match, oldest first, in the API's JSON; pages are fetched as needed."""
        request = {
            "resource_names": [f"projects/{self.project}"],
            "filter": log_filter,
            "order_by": "timestamp asc",
            "page_size": PAGE,
        }
        with self._mapped_errors():
            pages = self._client.list_log_entries(request=request, retry=None, timeout=PAGE_TIMEOUT).pages
            for entry in (entry for page in islice(pages, MAX_PAGES) for entry in page.entries):
                message = type(entry).pb(entry)
                message.ClearField("proto_payload")  # its type may be unknown here
                yield with_whole_numbers(_as_json(message))

    def _mapped_errors(self) -> AbstractContextManager[None]:
        return map_exceptions(
            ((GoogleAuthError, exceptions.GoogleAPICallError, exceptions.RetryError), self._error_for)
        )

    def _error_for(self, exc: Exception) -> RelayError:
        where = f"the log of project {self.project} cannot be read: "
        match exc:
            case GoogleAuthError():
                return IdentityFailed(where + "no Google credentials; `gcloud auth application-default login`")
            case exceptions.Forbidden() | exceptions.Unauthorized():
                why = f"{where}roles/logging.viewer is needed ({_first_line(exc)})"
                return NotAuthorized(why, status=403, reason="refused")
            case exceptions.ResourceExhausted():
                return Unavailable(where + "its quota of reads is used up for this minute")
            case exceptions.ServerError() | exceptions.RetryError():
                return Unavailable(where + f"Cloud Logging does not answer ({_first_line(exc)})")
        return UnexpectedResponse(where + _first_line(exc))


def _as_json(message: Any) -> dict[str, Any]:
    try:
        return MessageToDict(message)
    except SerializeToJsonError:  # an infinity or a NaN
        message.text_payload = "(a payload with a number that JSON does not have)"  # replaces json_payload
        return MessageToDict(message)


def _first_line(error: Exception) -> str:
    text = str(getattr(error, "message", "")) or type(error).__name__
    return text.splitlines()[0][:200]
