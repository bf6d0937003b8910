"""`traced-relay serve` without its records, to measure their cost."""

from __future__ import annotations

from traced_relay.config.settings import from_environment
from traced_relay.logs import writer
from traced_relay.server.production import serve


def _write_nothing(*_: object, **__: object) -> None: ...


if __name__ == "__main__":
    writer.Log.write = _write_nothing  # type: ignore[method-assign]
    serve(from_environment())
