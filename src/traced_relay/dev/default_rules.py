"""The settings of `dev` and `demo`; without relay.yaml every caller on loopback may call loopback."""

from __future__ import annotations

import base64
import secrets
import socket
import uuid
from typing import TYPE_CHECKING

from traced_relay.config import relay_yaml
from traced_relay.config.settings import (
    Settings,
    check_names,
    check_rules,
    is_untraced,
    otel_file,
    own_environment,
    read_callback_secret,
    read_ledger,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from traced_relay.config.relay_yaml import RelayFile

_LOOPBACK = {"loopback": "http://127.0.0.1:*/", "localhost": "http://localhost:*/", "loopback6": "http://[::1]:*/"}
DEV_RULES = {
    "queues": [
        {"name": "relay", "max_dispatches_per_second": 500, "max_concurrent_dispatches": 1000},
        {"name": "relay-callbacks", "for": "callbacks"},
    ],
    "worker": {"app_engine": "default"},
    "downstreams": [
        {"name": name, "url": url, "auth": "none", "allow_private": True} for name, url in _LOOPBACK.items()
    ],
    "callbacks": [{"url": url, "allow_private": True} for url in _LOOPBACK.values()],
    "callback_first_wait": "1s",
}


def for_dev(*, rules: RelayFile | None, project: str = "local", environ: Mapping[str, str] | None = None) -> Settings:
    environ = own_environment() if environ is None else environ
    check_names(environ)
    resolved = rules or relay_yaml.parse(DEV_RULES, "built-in rules")
    ledger = environ.get("RELAY_LEDGER") or "memory"
    given_secret = read_callback_secret(environ)
    settings = Settings(
        project=environ.get("GOOGLE_CLOUD_PROJECT") or project,
        location=resolved.location or environ.get("RELAY_LOCATION") or "us-central1",
        rules=resolved,
        ledger=ledger if ledger == "memory" else read_ledger(environ, "local"),
        platform="local",
        instance=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}",
        otel_file=otel_file(environ) if environ.get("OTEL_CONFIG_FILE") else None,
        untraced=is_untraced(environ),
        open_on_loopback=rules is None,
        callback_secret=given_secret or f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
        made_callback_secret=given_secret is None,
    )
    check_rules(settings)
    return settings
