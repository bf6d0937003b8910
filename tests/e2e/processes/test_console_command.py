"""`traced-relay console` for a relay that requires a token."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import pytest
import urllib3

from support.asking import ask
from support.command import command, complaint, run, surroundings
from support.relay_stand_in import RelayStandIn, answer, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.whole


@contextmanager
def console(*arguments: str) -> Iterator[str]:
    """URL of the console; SIGTERM ends it with status 0."""
    process = subprocess.Popen(
        command("console", "--port=0", *arguments), env=surroundings(), stderr=subprocess.PIPE, text=True
    )
    stderr: IO[str] = process.stderr  # type: ignore[assignment]
    try:
        greeting = stderr.readline()
        found = re.search(r"http://localhost:\d+/", greeting)
        assert found, greeting + stderr.read()
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert (process.returncode, "Traceback" in rest) == (0, False), rest


def test_only_the_relay_gets_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("ey.secret.token\n")
    with RelayStandIn([document()]) as relay:
        with console(f"--relay={relay.url}", f"--token-file={tmp_path / 'token'}") as url:
            pages = [urllib3.request("GET", url + path).data.decode() for path in ("", f"tasks/{0:032x}", "queues")]
            assert "https://reports.example.com/build?month=7" in pages[0]
            assert [page for page in pages if "secret" in page] == []
            relay.instead = lambda: answer({"status": 401, "detail": "the ID token is not valid"}, 401)
            assert ask("GET", f"{url}rows").document == {"trouble": "the ID token is not valid"}
        assert set(relay.tokens) == {"Bearer ey.secret.token"}


def test_token_is_sent_over_tls_only() -> None:
    assert "https://" in complaint(run("console", "--relay", "http://relay.example.com", "--port=0"), 2)


def test_production_server_does_not_import_the_console() -> None:
    module = "traced_relay.server.production"
    loaded = f"import sys, {module}; print([name for name in sys.modules if 'traced_relay.console' in name])"
    ran = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, env=os.environ)
    assert ran.stdout.strip() == "[]"
