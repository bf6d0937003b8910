"""A relay that exports its spans, as processes."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Self

import yaml

from support.asking import post
from support.house import ROOT
from support.place import QUEUE, Place

if TYPE_CHECKING:
    from pathlib import Path


REPORTS = "reports@p.iam.gserviceaccount.com"


SECRET = "whsec_" + "B" * 32


QUICKLY = {"max_attempts": 3, "min_backoff": "0.1s", "max_backoff": "0.2s", "jitter": "none"}


class Traced(Place):
    """A place with otel.yaml beside its rules."""

    def __init__(self, directory: Path, url: str, endpoint: str) -> None:
        super().__init__(directory, url)
        shutil.copy(ROOT / "otel.yaml", directory)
        self._surroundings |= {"RELAY_TRACE_ENDPOINT": endpoint}

    def set(self, **variables: str) -> None:
        """For the relays that start from now on."""
        self._surroundings |= variables

    def with_callbacks(self, url: str) -> Self:
        """And with a queue for callbacks, and a receiver of them."""
        rules = yaml.safe_load(self._config.read_text())
        rules["queues"].append({"name": "relay-callbacks", "for": "callbacks"})
        rules |= {"callbacks": [{"url": f"{url}/", "allow_private": True}], "callback_first_wait": "0.1s"}
        self._config.write_text(yaml.safe_dump(rules))
        parent = QUEUE.removesuffix("/queues/relay")
        assert (
            post(f"{self.queue.rest_url}/v2/{parent}/queues", {"name": f"{parent}/queues/relay-callbacks"}).status
            == 200
        )
        self.set(RELAY_CALLBACK_SECRET=SECRET)
        return self

    def enqueue(self, who: dict[str, str], **call: Any) -> dict[str, Any]:
        answer = post(f"{self.url}/v1/tasks", {"retry": QUICKLY} | call, **who)
        assert answer.status == 202, answer.document
        receipt: dict[str, Any] = answer.document
        return receipt
