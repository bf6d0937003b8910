"""The records and spans that `dev` keeps for whoever is on this machine, over its console's JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import requests

from traced_relay.addresses import is_local_host
from traced_relay.errors import InvalidSettings, NotFound, Unavailable, UnexpectedAnswer
from traced_relay.span_tree import FinishedSpan

TIMEOUT = 10.0  # seconds


class DevConsole:
    """That of the relay at this URL; only `dev` has one."""

    def __init__(self, relay_url: str) -> None:
        self.relay = relay_url.rstrip("/")
        if not is_local_host(urlsplit(self.relay).netloc):
            raise InvalidSettings(f"{self.relay} is not on this machine: --project names where its records are")
        self._session = requests.Session()
        self._session.trust_env = False

    def life(self, task_id: str) -> tuple[list[dict[str, Any]], list[FinishedSpan], str]:
        """The records of a task and of its callbacks, all spans of its traces, and since when all of them are kept."""
        told = self._get(f"/tasks/{quote(task_id, safe='')}/life", "spans")
        return told["records"], [FinishedSpan(**span) for span in told["spans"]], told.get("whole_since", "")

    def records(self, after: int) -> tuple[list[dict[str, Any]], int]:
        """What was said after the first so many records, and how many there are by now."""
        told = self._get(f"/records?after={after}", "next")
        return told["records"], told["next"]

    def _get(self, path: str, awaited: str) -> Any:
        try:
            answer = self._session.get(f"{self.relay}/console{path}", timeout=TIMEOUT, allow_redirects=False)
            if answer.status_code == requests.codes.not_found:
                raise NotFound(f"the relay at {self.relay} keeps no records: only `traced-relay dev` does")
            told = answer.json()
        except requests.JSONDecodeError as exc:
            raise UnexpectedAnswer(f"what answers at {self.relay} is no `traced-relay dev`") from exc
        except requests.RequestException as exc:
            raise Unavailable(f"no `traced-relay dev` answers at {self.relay}") from exc
        if not isinstance(told, dict) or awaited not in told:
            raise UnexpectedAnswer(f"what answers at {self.relay} is no `traced-relay dev`")
        return told
