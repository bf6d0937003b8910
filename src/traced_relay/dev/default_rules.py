"""The rules that `dev` and `demo` run with where no file gives any: whoever is on loopback may call loopback."""

from __future__ import annotations

DEV_RULES = {
    "queues": [
        {"name": "relay", "max_dispatches_per_second": 500, "max_concurrent_dispatches": 1000},
        {"name": "relay-callbacks", "for": "callbacks"},
    ],
    "worker": {"app_engine": "default"},
    "downstreams": [
        {"name": "loopback", "url": "http://127.0.0.1:*/", "auth": "none", "allow_private": True},
        {"name": "localhost", "url": "http://localhost:*/", "auth": "none", "allow_private": True},
        {"name": "loopback6", "url": "http://[::1]:*/", "auth": "none", "allow_private": True},
    ],
    "callbacks": [
        {"url": "http://127.0.0.1:*/", "allow_private": True},
        {"url": "http://localhost:*/", "allow_private": True},
        {"url": "http://[::1]:*/", "allow_private": True},
    ],
    "callback_first_wait": "1s",
}
