"""The `traced-relay` command, also as `python -m traced_relay`; on Google Cloud its imports warn in JSON."""

from __future__ import annotations

import logging

from traced_relay.config.on_google import is_on_google
from traced_relay.logs.early_lines import EarlyLines
from traced_relay.server.captured_output import log_uncaught


def main() -> None:
    if is_on_google():
        logging.getLogger().addHandler(EarlyLines())
        log_uncaught()
    from traced_relay.cli.main import main as command

    command()


if __name__ == "__main__":
    main()
