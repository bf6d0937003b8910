"""The `curl` that enqueues a task's call once more, as far as its document still tells. Pure."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEAST = ("url", "method", "queue", "labels", "retry")


def curl(document: Mapping[str, Any], relay: str, *, needs_token: bool) -> str:
    """
    A command for a POSIX shell, whatever a stranger wrote into the call.

    Headers, body, timeout and callback are not in a task's document, so they are not in the command either.
    """
    call = {name: document[name] for name in _LEAST if document[name]}
    words = ["curl", "-sS", f"{relay}/v1/tasks", "-H", "content-type: application/json"]
    command = " ".join(map(shlex.quote, words))
    if needs_token:
        command += ' -H "authorization: Bearer $ID_TOKEN"'
    return f"{command} -d {shlex.quote(json.dumps(call))}"
