"""The `traced-relay` command."""
