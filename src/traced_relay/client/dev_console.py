"""The records and spans that `dev` keeps for whoever is on this machine, over its console's JSON."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from traced_relay.errors import InvalidSettings, NotFound, Unavailable, UnexpectedAnswer
from traced_relay.runtime.bounded_fetch import IDENTITY, fetch
from traced_relay.runtime.loopback import is_local_host
from traced_relay.tracing.span_tree import FinishedSpan

TIMEOUT = 10.0  # seconds
LARGEST = 256 * 1024 * 1024  # bytes; more than all that it keeps


class DevConsole:
    """That of the relay at this URL; only `dev` has one."""

    def __init__(self, relay_url: str) -> None:
        self.relay = relay_url.rstrip("/")
        if not _is_local(self.relay):
            raise InvalidSettings(f"{self.relay} is not on this machine: --project names where its records are")
        self._session = requests.Session()
        self._session.trust_env = False

    def life(self, task_id: str) -> tuple[list[dict[str, Any]], list[FinishedSpan], str]:
        """The records of a task and of its callbacks, all spans of its traces, and since when all of them are kept."""
        told = self._get(f"/tasks/{quote(task_id, safe='')}/life", "spans", list)
        try:
            return told["records"], [FinishedSpan(**span) for span in told["spans"]], str(told.get("whole_since", ""))
        except TypeError as exc:
            raise self._stranger() from exc

    def records(self, after: int) -> tuple[list[dict[str, Any]], int]:
        """What was said after the first so many records, and how many there are by now."""
        told = self._get(f"/records?after={after}", "next", int)
        return told["records"], told["next"]

    def _get(self, path: str, awaited: str, kind: type) -> Any:
        try:
            answer = fetch(lambda: self._sent(path), TIMEOUT, LARGEST)
        except requests.RequestException as exc:
            raise Unavailable(f"no `traced-relay dev` answers at {self.relay}") from exc
        if answer.status == requests.codes.not_found:
            raise NotFound(f"the relay at {self.relay} keeps no records: only `traced-relay dev` does")
        try:
            told = json.loads(answer.content)
        except (ValueError, RecursionError) as exc:
            raise self._stranger() from exc
        match told:
            case {"records": list(records)} if isinstance(told.get(awaited), kind):
                if all(isinstance(record, dict) for record in records):
                    return told
        raise self._stranger()

    def _sent(self, path: str) -> requests.Response:
        return self._session.get(
            f"{self.relay}/console{path}", timeout=TIMEOUT, allow_redirects=False, stream=True, headers=IDENTITY
        )

    def _stranger(self) -> UnexpectedAnswer:
        return UnexpectedAnswer(f"what answers at {self.relay} is no `traced-relay dev`")


def _is_local(url: str) -> bool:
    try:
        return is_local_host(urlsplit(url).netloc)
    except ValueError:
        return False
