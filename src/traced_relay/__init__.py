"""Hand slow HTTP calls to Cloud Tasks and keep sight of them. `traced_relay.Client` is the Python client."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from traced_relay.version import __version__

if TYPE_CHECKING:
    from traced_relay.client.client import Client as Client

__all__ = ["Client", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the client on first use, since every module imports this package."""
    if name == "Client":
        return import_module("traced_relay.client.client").Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
