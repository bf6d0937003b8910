"""`python -m traced_relay` is the `traced-relay` command."""

from traced_relay.cli.main import main

main()
