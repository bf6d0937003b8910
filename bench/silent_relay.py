"""`traced-relay serve` without its records, to see what they cost."""

from __future__ import annotations

from traced_relay import logs
from traced_relay.serve import serve
from traced_relay.settings import from_environment


def _say_nothing(*_: object, **__: object) -> None: ...


if __name__ == "__main__":
    logs.Log.say = _say_nothing  # type: ignore[method-assign]
    serve(from_environment())
