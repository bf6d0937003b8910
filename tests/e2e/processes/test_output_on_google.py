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
        ({"RELAY_LEGER": "x"}, "RELAY_LEGER is not a variable of the relay; the closest is RELAY_LEDGER"),
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
    assert "is used by another process" in entry["message"]


_WARNS = """
import importlib.abc, logging, runpy, sys, warnings

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{library}":
            sys.meta_path.remove(self)
            warnings.warn("of an old library", FutureWarning)
            logging.getLogger("old").warning("said at\\nimport")

sys.meta_path.insert(0, Finder())
runpy.run_module("traced_relay", run_name="__main__")
"""

_BROKEN = """
from dataclasses import replace
from traced_relay.config.settings import from_environment
from traced_relay.server.captured_output import CapturedOutput
from traced_relay.server.production import serve

with CapturedOutput() as captured:
    serve(replace(from_environment(), otel_file=5), stream=captured.stream)
"""


def test_a_worker_that_fails_to_boot_is_told_in_entries(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    given = {"PORT": "0", "GOOGLE_APPLICATION_CREDENTIALS": credentials(tmp_path)}
    found = entries(tmp_path, "-c", _BROKEN, status=3, **given)
    (failure,) = [entry for entry in found if "stack_trace" in entry]
    assert failure["severity"] == "ERROR"
    assert "Traceback (most recent call last):" in failure["stack_trace"]
    assert any("Worker failed to boot" in entry["message"] for entry in found)


@pytest.mark.parametrize("library", ["click", "pydantic", "requests", "google.cloud.tasks_v2"])
def test_a_library_that_warns_at_import_is_told_in_entries(tmp_path: Path, library: str) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    found = entries(tmp_path, "-c", _WARNS.format(library=library), "serve", status=1, PORT="x")
    warned = [entry for entry in found if "FutureWarning: of an old library" in entry["message"]]
    assert [(entry["severity"], entry["logger"]) for entry in warned] == [("WARNING", "py.warnings")]
    assert [entry["message"] for entry in found if entry["logger"] == "old"] == ["said at\nimport"]


def test_an_import_that_fails_is_one_entry(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry.py").write_text("raise ValueError('nothing to import')")
    (entry,) = entries(tmp_path, *SERVE, status=1, PYTHONPATH=str(tmp_path))
    assert entry["severity"] == "CRITICAL"
    assert entry["stack_trace"].endswith("ValueError: nothing to import\n")


_ODD = """
import faulthandler, gc, logging, os, signal, sys, threading, warnings
from traced_relay.logs import writer
from traced_relay.server.captured_output import CapturedOutput, log_uncaught

seen, changed = [], threading.Condition()

class Seen(logging.Handler):
    def emit(self, record):
        with changed:
            seen.append(record.getMessage())
            changed.notify_all()

def wait_for(message):
    with changed:
        assert changed.wait_for(lambda: message in seen, 20), seen

class Odd:
    def __del__(self):
        raise KeyError("unraisable")

log_uncaught()
with CapturedOutput() as captured:
    writer.configure(writer.Log(writer.Identity("p", "v", "i"), stream=captured.stream))
    logging.getLogger().addHandler(Seen())
    child = os.fork()
    if child == 0:
        other = os.open(os.devnull, os.O_RDONLY)  # gets the number of the pipe's end that the fork has closed
        grandchild = os.fork()
        if grandchild == 0:
            os.fstat(other)
            os._exit(0)
        assert os.waitpid(grandchild, 0)[1] == 0
        print("of a child")
        sys.stdout.flush()
        faulthandler.enable()
        os.kill(os.getpid(), signal.SIGSEGV)
    os.waitpid(child, 0)
    wait_for("Fatal Python error: Segmentation fault")
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
    wait_for("\ufffd")
    os.write(2, b"Traceback (most recent call last):\\n  File x\\nValueError: raw\\n")
    logging.getLogger("some.library").error("two\\nlines")
    wait_for("ValueError: raw")
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
