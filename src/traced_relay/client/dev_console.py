"""Records and spans that `dev` keeps, read from its console on loopback."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from traced_relay.errors import InvalidSettings, NotFound, Unavailable, UnexpectedResponse
from traced_relay.runtime.bounded_fetch import IDENTITY, fetch
from traced_relay.runtime.loopback import is_local_host
from traced_relay.tracing.span_tree import FinishedSpan

TIMEOUT = 10.0  # seconds
LARGEST = 256 * 1024 * 1024  # bytes; more than `dev` keeps in all


class DevConsole:
    """Client for the console of the relay at *relay_url*, which must be `traced-relay dev`."""

    def __init__(self, relay_url: str) -> None:
        self.relay = relay_url.rstrip("/")
        if not _is_local(self.relay):
            raise InvalidSettings(f"{self.relay} is not on loopback; --project reads a deployed relay's records")
        self._session = requests.Session()
        self._session.trust_env = False

    def records_and_spans(self, task_id: str) -> tuple[list[dict[str, Any]], list[FinishedSpan], str]:
        """Records of a task and its callbacks, spans of its traces, and the time since when `dev` has kept all."""
        kept = self._get(f"/tasks/{quote(task_id, safe='')}/life", "spans", list)
        try:
            return kept["records"], [FinishedSpan(**span) for span in kept["spans"]], str(kept.get("whole_since", ""))
        except TypeError as exc:
            raise self._unexpected() from exc

    def records(self, after: int) -> tuple[list[dict[str, Any]], int]:
        """The records after the first *after* ones, and the number of all records so far."""
        page = self._get(f"/records?after={after}", "next", int)
        return page["records"], page["next"]

    def _get(self, path: str, field: str, kind: type) -> Any:
        """The document at *path*, which must have `records` and a *field* of this type."""
        try:
            response = fetch(lambda: self._send(path), TIMEOUT, LARGEST)
        except requests.RequestException as exc:
            raise Unavailable(f"no `traced-relay dev` answers at {self.relay}") from exc
        if response.status == requests.codes.not_found:
            raise NotFound(f"the relay at {self.relay} keeps no records: only `traced-relay dev` does")
        try:
            document = json.loads(response.content)
        except (ValueError, RecursionError) as exc:
            raise self._unexpected() from exc
        match document:
            case {"records": list(records)} if isinstance(document.get(field), kind):
                if all(isinstance(record, dict) for record in records):
                    return document
        raise self._unexpected()

    def _send(self, path: str) -> requests.Response:
        return self._session.get(
            f"{self.relay}/console{path}", timeout=TIMEOUT, allow_redirects=False, stream=True, headers=IDENTITY
        )

    def _unexpected(self) -> UnexpectedResponse:
        return UnexpectedResponse(f"the server at {self.relay} is not `traced-relay dev`")


def _is_local(url: str) -> bool:
    try:
        return is_local_host(urlsplit(url).netloc)
    except ValueError:
        return False
