"""What relay.yaml has as an example, and nobody may deploy: strangers own some of it, or could."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traced_relay.config.relay_yaml import RelayFile

_EXAMPLE = re.compile(r"\bexample\.(com|net|org)\b|\bmy-project\b|\b(NUMBER|PROJECT)\b")
# `*` stands for whole labels, and whoever has a project of Google's has a label here.
_EVERYBODYS = re.compile(r"\*(\.appspot\.com)?|.*\*.*\.(run\.app|cloudfunctions\.net)")


def placeholders(rules: RelayFile) -> Iterator[str]:
    """Each begins with its key."""
    for key, value in _named(rules):
        if value and _EXAMPLE.search(value):
            yield f"{key} is still the example {value}: name your own"
    for rule in rules.downstreams:
        if rule.auth == "id_token" and _EVERYBODYS.fullmatch(urlsplit(rule.url).netloc):
            yield (
                f"downstreams.{rule.name}.url {rule.url} takes the services of everybody's projects, which would get"
                " the relay's ID token: name the hosts of yours"
            )


def _named(rules: RelayFile) -> Iterator[tuple[str, str | None]]:
    yield "audience", rules.audience
    yield "worker.url", rules.worker.url
    yield "worker.service_account", rules.worker.service_account
    for caller in rules.callers:
        yield "callers.email", caller.email
    for rule in rules.downstreams:
        yield f"downstreams.{rule.name}.url", rule.url
    for receiver in rules.callbacks:
        yield "callbacks.url", receiver.url
