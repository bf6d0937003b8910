from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.testing import CliRunner

from support.relay_stand_in import RelayStandIn, document
from traced_relay.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.client.client import Client


def test_token_file_is_read_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first.token.a\n")

    with RelayStandIn([document()]) as stand_in:

        @click.command()
        @options.client_options
        def ask(client: Client) -> None:
            for number, written in enumerate((None, "second.token.b", "", "third.token.c", "gone")):
                if written == "gone":
                    file.unlink()
                elif written is not None:
                    file.write_text(written)
                    os.utime(file, (number, number))
                client.status(f"{0:032x}")

        ran = CliRunner().invoke(ask, ["--relay", stand_in.url, "--token-file", str(file)], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        expected = ["first.token.a", "second.token.b", "second.token.b", "third.token.c", "third.token.c"]
        assert stand_in.tokens == [f"Bearer {token}" for token in expected]


def test_options_override_relay_and_token_of_environment(tmp_path: Path) -> None:
    file, other = tmp_path / "token", tmp_path / "other"
    file.write_text("first.token.a")
    other.write_text("second.token.b")

    @click.command()
    @options.client_options
    def ask(client: Client) -> None:
        client.status("0" * 32)

    with RelayStandIn([document()]) as stand_in:
        for arguments, url in (
            ([], stand_in.url),
            (["--relay", stand_in.url, "--token-file", str(other)], "http://127.0.0.1:9"),
        ):
            environ = {"RELAY_URL": url, "RELAY_TOKEN_FILE": str(file)}
            ran = CliRunner().invoke(ask, arguments, env=environ, catch_exceptions=False)
            assert ran.exit_code == 0, ran.output
        assert stand_in.tokens == ["Bearer first.token.a", "Bearer second.token.b"]
