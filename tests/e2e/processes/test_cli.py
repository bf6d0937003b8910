"""The `traced-relay` command as a real process: output and exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.command import command, complaint, run, surroundings
from support.queue_process import QueueProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.whole

RULES = "location: us-central1\nqueues: [{name: relay}]\nworker: {app_engine: default}\n"
SERVING = {"GOOGLE_CLOUD_PROJECT": "p", "RELAY_LEDGER": "memory", "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:1"}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            (),
            [
                "demo",
                "dev",
                "queue",
                "console",
                "serve",
                "verify-callback",
                "enqueue",
                "list",
                "redrive",
                "explain",
                "tail",
            ],
        ),
        (("demo",), ["waterfall"]),
        (("dev",), ["--port", "--tasks-port", "--data", "--config", "--log-format"]),
        (
            ("console",),
            ["--relay", "--port", "--audience", "--impersonate-service-account", "--token-file", "Exit status: 0"],
        ),
        (("queue",), ["--host", "--port", "--rest-port", "--data", "--queue", "--app-engine", "token"]),
        (("queue", "token"), ["EMAIL", "--audience"]),
        (("verify-callback",), ["BODY", "--secret", "--header ", "--headers", "--tolerance", "webhook-signature: v1,"]),
        (
            ("enqueue",),
            ["URL", "--relay", "--audience", "--impersonate-service-account", "--token-file", "Exit status: 0"],
        ),
        (
            ("list",),
            ["--state", "--queue", "--rule", "--reason", "--version", "--since", "--json", "1 if", "2 for invalid"],
        ),
        (("resend-callback",), ["ID...", "--rate", "--json", "Exit status: 0"]),
        (("explain",), ["--records", "--project", "--json", "Exit status: 0"]),
        (
            ("tail",),
            [
                "--relay",
                "--project",
                "--since",
                "--event",
                "--severity",
                "--queue",
                "--task",
                "--json",
                "130 on Ctrl-C",
            ],
        ),
        (("serve",), ["PORT", "relay.yaml", "CLOUD_TASKS_EMULATOR_HOST"]),
    ],
    ids=lambda value: "-".join(value) or "all" if isinstance(value, tuple) else "",
)
def test_help_lists_every_option(arguments: tuple[str, ...], expected: list[str]) -> None:
    ran = run(*arguments, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    text = " ".join(ran.stdout.split())
    assert [word for word in expected if word not in text] == []


def test_version_option_prints_the_version() -> None:
    assert re.fullmatch(r"traced-relay, version \d+\.\d+\.\d+\n", run("--version").stdout)


def test_missing_credentials_for_a_relay_are_one_line() -> None:
    assert complaint(run("cancel", "a", "--relay=relay.example.com"), 2).startswith("the relay's URL must be")
    nowhere = {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}
    for account in ((), ("--impersonate-service-account=a@p.iam.gserviceaccount.com",)):
        output = complaint(run("status", "a", "--relay=https://relay.example.com", *account, **nowhere))
        why = "the file in GOOGLE_APPLICATION_CREDENTIALS does not exist"
        assert output == f"no ID token for https://relay.example.com: {why}"


def test_missing_credentials_for_a_log_are_one_line() -> None:
    output = complaint(run("tail", "--project=p", GOOGLE_APPLICATION_CREDENTIALS="/nowhere"))
    assert (
        output == "the log of project p cannot be read: no Google credentials; `gcloud auth application-default login`"
    )


def test_importing_the_package_loads_no_dependency() -> None:
    program = "import sys, traced_relay; print('requests' in sys.modules, traced_relay.Client.__name__)"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=surroundings(), capture_output=True, text=True, timeout=50, check=True
    )
    assert ran.stdout == "False Client\n"


@pytest.mark.parametrize("arguments", ["nonsense", "dev --nonsense", "dev --port=nonsense", "queue token"])
def test_usage_error_is_one_line_and_names_the_help(arguments: str) -> None:
    ran = run(*arguments.split())
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("traced-relay: ")
    assert "--help" in line


def test_taken_port_is_one_line(taken: int, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    output = [
        complaint(run("dev", f"--port={taken}", "--tasks-port=0")),
        complaint(run("queue", f"--port={taken}", "--rest-port=0")),
        complaint(run("queue", "--port=0", f"--rest-port={taken}")),
        complaint(run("serve", directory=tmp_path, PORT=str(taken), **SERVING)),
    ]
    assert {line.partition(" is used")[0] for line in output} == {f"port {taken} on 127.0.0.1"}
    # The second of dev's two queue ports, one higher, may be taken as well.
    dev = complaint(run("dev", "--port=0", f"--tasks-port={taken}"))
    assert re.match(rf"port ({taken}|{taken + 1}) on 127.0.0.1 is used by another process", dev)


@pytest.mark.parametrize("missing", ["GOOGLE_CLOUD_PROJECT", "RELAY_LEDGER", "RELAY_LOCATION"])
def test_missing_variable_is_named(missing: str, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES.replace("location: us-central1\n", ""))
    given = SERVING | {"RELAY_LOCATION": "us-central1"}
    del given[missing]
    assert complaint(run("serve", directory=tmp_path, **given)).startswith(f"{missing} must be set: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("RELAY_THREADS", "0"),
        ("RELAY_LEDGER", "postgres:x"),
        ("CLOUD_TASKS_EMULATOR_HOST", "tasks.example.com:443"),
    ],
)
def test_invalid_variable_is_named_with_its_value(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    output = complaint(run("serve", directory=tmp_path, **(SERVING | {name: value})))
    assert output.startswith(f"{name} must be ")
    assert value in output


def test_local_settings_are_refused_on_google_cloud(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    ran = run("serve", directory=tmp_path, **SERVING, K_SERVICE="relay")
    (line,) = (ran.stdout + ran.stderr).splitlines()
    output = json.loads(line)["message"].removeprefix("traced-relay: ")
    assert output.startswith(("CLOUD_TASKS_EMULATOR_HOST must not be set", "RELAY_LEDGER must not be memory"))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("queues: [{name: relay, speed: 3}]\nworker: {app_engine: default}\n", "queues.0.speed is not a known field"),
        ("queues: [{name: relay}]\n", "worker is required"),
        ("queues: [{name: relay}]\nworker: {}\n", "worker must have either app_engine or url"),
        (RULES + "heartbeat: often\n", "heartbeat must be a duration"),
        (RULES + "queues: []\n", "is not YAML: the key queues is given twice"),
        (RULES + "}\n", "is not YAML: "),
    ],
    ids=["unknown", "missing", "either", "duration", "twice", "syntax"],
)
def test_invalid_relay_yaml_is_named_by_file_and_key(rules: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules)
    output = complaint(run("serve", RELAY_CONFIG=str(file), **SERVING))
    assert output.startswith(f"{file}: ")
    assert expected in output


def test_dev_validates_relay_yaml_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RULES + "speed: 3\n")
    output = complaint(run("dev", "--config=mine.yaml", "--port=0", "--tasks-port=0", directory=tmp_path))
    assert output == "mine.yaml: speed is not a known field"


def test_unusable_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("neither a directory nor a database, and long enough to tell")
    (tmp_path / "relay.yaml").write_text(RULES)
    free = ("--port=0", "--tasks-port=0")
    assert "no-such.yaml: cannot be read" in complaint(run("dev", "--config=no-such.yaml", *free))
    assert "cannot be created" in complaint(run("dev", f"--data={tmp_path / 'file'}", *free))
    assert str(tmp_path / "file") in complaint(run("queue", f"--data={tmp_path / 'file'}", "--port=0", "--rest-port=0"))
    ledger = {"RELAY_LEDGER": f"sqlite:{tmp_path / 'file'}", "PORT": "0"}
    complaint(run("serve", directory=tmp_path, **(SERVING | ledger)))


def test_token_requires_a_running_queue() -> None:
    output = complaint(run("queue", "token", "a@example.com", "--audience=x", "--port=1"))
    assert output == "no queue responds at 127.0.0.1:1; start one with `traced-relay queue`"


class Running:
    """A running server command; its output up to *sign* is in `output`."""

    def __init__(self, arguments: list[str], sign: str, directory: Path, **variables: str) -> None:
        self._process = subprocess.Popen(
            command(*arguments),
            cwd=directory,
            env=surroundings(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        self._lines = self._process.stdout
        self.output = ""
        while sign not in self.output:
            line = self._lines.readline()
            assert line, self.output
            self.output += line

    def end(self, number: int) -> tuple[int, str]:
        """Exit status and remaining output."""
        self._process.send_signal(number)
        with self._lines:
            last = self._lines.read()
        return self._process.wait(5), last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["dev", "queue", "serve"])
def test_signal_ends_each_server_cleanly(name: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    arguments, sign = {
        "dev": (["dev", "--port=0", "--tasks-port=0", f"--data={tmp_path}"], "Press Ctrl-C to stop"),
        "queue": (["queue", "--port=0", "--rest-port=0", f"--data={tmp_path / 'queue.db'}"], "gRPC on "),
        "serve": (["serve"], "relay.started"),
    }[name]
    given = SERVING | {"PORT": "0"} if name == "serve" else {}
    status, last = Running(arguments, sign, tmp_path, **given).end(number)
    assert status == 0
    assert "Traceback" not in last


def test_second_queue_on_the_same_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    with QueueProcess(f"--data={file}"):
        assert str(file) in complaint(run("queue", f"--data={file}", "--port=0", "--rest-port=0"))


@pytest.mark.parametrize("options", [(), ("--records",)], ids=["waterfalls", "records"])
def test_the_demo_ends_well_and_shows_three_waterfalls(options: tuple[str, ...]) -> None:
    ran = run("demo", *options)
    assert ran.returncode == 0, ran.stderr
    assert "all three calls ended as expected" in ran.stderr
    assert re.findall(r"^state +(\w+).*?, (\d) attempts?", ran.stdout, re.MULTILINE) == [
        ("succeeded", "1"),
        ("succeeded", "3"),
        ("failed", "3"),
    ]
    records = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    finished = [record["state"] for record in records if record["event"] == "task.finished"]
    assert finished == (["succeeded", "succeeded", "failed"] if options else [])


CLOSED = [
    ("serve", "<&-"),
    ("serve", ">&-"),
    ("serve", ">&- <&-"),
    ("serve", "2>&-"),
    ("queue", ">&-"),
    ("check", ">&-"),
]


@pytest.mark.parametrize(("command", "closed"), CLOSED)
def test_a_closed_stream_is_no_error(command: str, closed: str, taken: int, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    environ = os.environ | SERVING | {"PORT": str(taken)}
    words = [sys.executable, "-m", "traced_relay", command, *([f"--port={taken}"] if command == "queue" else [])]
    shell = ["sh", "-c", f'exec "$0" "$@" {closed}', *words]
    ran = subprocess.run(shell, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert (str(taken) in ran.stderr) == (command != "check" and "2" not in closed)
