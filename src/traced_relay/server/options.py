"""The settings of gunicorn that the worker requires."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


def options(threads: int) -> dict[str, Any]:
    return {
        "threads": threads,
        "timeout": 0,
        "graceful_timeout": 1,
        "keepalive": 620,  # longer than Google's front ends, so that they close first
        "logger_class": _PropagatingLogger,
    }


class _PropagatingLogger(Logger):  # type: ignore[misc]
    """Sends gunicorn's log to the root logger; has no access log."""

    def setup(self, cfg: Any) -> None:  # noqa: ARG002  (the signature is gunicorn's)
        self.error_log.propagate = True
        self.error_log.handlers.clear()
