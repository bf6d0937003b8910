"""On Google Cloud every line of stdout and stderr is one JSON object with a severity, whatever goes wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from support.schema import validate

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole

RULES = """
location: us-central1
queues: [{name: relay}]
worker: {url: https://relay-x.a.run.app, service_account: q@p.iam.gserviceaccount.com}
audience: https://relay.example.com
"""
SERVE = ("-m", "traced_relay", "serve")
SET = {"K_SERVICE": "relay", "GOOGLE_CLOUD_PROJECT": "p", "RELAY_LEDGER": "firestore:calls"}


def entries(directory: Path, *command: str, status: int, **environ: str) -> list[dict[str, Any]]:
    """Every line of both streams; the process ends with *status*."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, *command],
        env=kept | SET | environ,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == status, (ran.stdout, ran.stderr)
    found = [json.loads(line) for line in (ran.stdout + ran.stderr).splitlines()]
    for entry in found:
        validate(entry)
        assert entry.keys() <= {"severity", "time", "message", "logger", "stack_trace"}, entry
    return found


def credentials(directory: Path) -> str:
    file = directory / "credentials.json"
    parts = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "t"}
    file.write_text(json.dumps(parts))
    return str(file)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PORT": "tcp://10.0.0.1:80"}, "PORT must be a number"),
        ({"RELAY_LEDGER": "memory"}, "RELAY_LEDGER must not be memory on cloud_run"),
        ({"RELAY_THREADS": "3"}, "RELAY_THREADS must be a number from 9"),
        ({"RELAY_LEGER": "x"}, "RELAY_LEGER is no variable of the relay; the closest is RELAY_LEDGER"),
        ({"RELAY_CONFIG": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "nowhere.json"}, "the ledger cannot be used: "),
        ({"GAE_ENV": "standard", "K_SERVICE": "", "PORT": "x"}, "PORT must be a number"),
    ],
    ids=str,
)
def test_a_start_that_settings_forbid_is_one_entry(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    last = entries(tmp_path, *SERVE, status=1, **({"PORT": "0"} | environ))[-1]
    assert (last["severity"], last["message"].startswith(f"traced-relay: {said}")) == ("ERROR", True), last


def test_a_wrong_option_is_one_entry(tmp_path: Path) -> None:
    (entry,) = entries(tmp_path, *SERVE, "--bogus", status=2)
    assert entry["message"].startswith("traced-relay: No such option")


def test_a_taken_port_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        (entry,) = entries(tmp_path, *SERVE, status=1, PORT=str(taken.getsockname()[1]))
    assert "is taken by another process" in entry["message"]


_BROKEN = """
from dataclasses import replace
from traced_relay.config import settings
from traced_relay.server import production
from traced_relay.server.captured_output import CapturedOutput

with CapturedOutput() as captured:
    production.serve(replace(settings.from_environment(), otel_file=5), stream=captured.stream)
"""


def test_a_worker_that_fails_to_boot_is_told_in_entries(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    given = {"PORT": "0", "GOOGLE_APPLICATION_CREDENTIALS": credentials(tmp_path)}
    found = entries(tmp_path, "-c", _BROKEN, status=3, **given)
    (failure,) = [entry for entry in found if "stack_trace" in entry]
    assert failure["severity"] == "ERROR"
    assert "Traceback (most recent call last):" in failure["stack_trace"]
    assert any("Worker failed to boot" in entry["message"] for entry in found)


def test_an_import_that_fails_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ValueError('nothing to import')")
    (entry,) = entries(tmp_path, *SERVE, status=1, PYTHONPATH=str(tmp_path))
    assert entry["severity"] == "CRITICAL"
    assert entry["stack_trace"].endswith("ValueError: nothing to import\n")


_ODD = """
import faulthandler, gc, logging, os, signal, sys, threading, time, warnings
from traced_relay.logs import writer
from traced_relay.server.captured_output import CapturedOutput, log_uncaught

class Odd:
    def __del__(self):
        raise KeyError("unraisable")

log_uncaught()
with CapturedOutput() as captured:
    writer.configure(writer.Identity("p", "v", "i"), stream=captured.stream)
    child = os.fork()
    if child == 0:
        print("of a child")
        sys.stdout.flush()
        faulthandler.enable()
        os.kill(os.getpid(), signal.SIGSEGV)
    os.waitpid(child, 0)
    time.sleep(0.5)
    warnings.warn("a warning\\nof two lines")
    thread = threading.Thread(target=lambda: 1 / 0, name="t1")
    thread.start()
    thread.join()
    odd = Odd()
    del odd
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.flush()
    os.write(2, b"E0000 00:00:00.000000 1 ssl.cc:1] Handshake failed\\nW1130 x\\n\\n")
    os.write(2, b"WARNING: before InitializeLog\\n\\xff\\n")
    time.sleep(0.5)
    os.write(2, b"Traceback (most recent call last):\\n  File x\\nValueError: raw\\n")
    logging.getLogger("some.library").error("two\\nlines")
    time.sleep(0.5)
    raise ValueError("the end")
"""


def test_whatever_is_printed_becomes_an_entry_with_its_severity(tmp_path: Path) -> None:
    found = entries(tmp_path, "-c", _ODD.replace("\\\\", "\\"), status=1)
    told = [(entry["severity"], entry["message"], "stack_trace" in entry) for entry in found]
    for expected in [
        ("WARNING", "of a child", False),
        ("ERROR", "Fatal Python error: Segmentation fault", True),
        ("ERROR", "thread t1 ended with an uncaught exception", True),
        ("WARNING", "to stdout", False),
        ("WARNING", "to stderr", False),
        ("ERROR", "E0000 00:00:00.000000 1 ssl.cc:1] Handshake failed", False),
        ("WARNING", "W1130 x", False),
        ("WARNING", "WARNING: before InitializeLog", False),
        ("WARNING", "\ufffd", False),
        ("ERROR", "ValueError: raw", True),
        ("ERROR", "two\nlines", False),
        ("CRITICAL", "the process ended with an uncaught exception", True),
    ]:
        assert told.count(expected) == 1, (expected, told)
    (warned,) = [entry for entry in found if entry["logger"] == "py.warnings"]
    assert (warned["severity"], "UserWarning: a warning\nof two lines" in warned["message"]) == ("WARNING", True)
    (ignored,) = [entry for entry in found if "KeyError: 'unraisable'" in entry.get("stack_trace", "")]
    assert (ignored["severity"], ignored["message"]) == ("ERROR", "Exception ignored in: Odd.__del__")
    assert len(found) == 14, told
