"""The `traced-relay` command as a user meets it: real processes, their words and how they end."""

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
    ("arguments", "told"),
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
            ["--relay", "--port", "--audience", "--impersonate-service-account", "--token-file", "Ends with 0"],
        ),
        (("queue",), ["--host", "--port", "--rest-port", "--data", "--queue", "--app-engine", "token"]),
        (("queue", "token"), ["EMAIL", "--audience"]),
        (("verify-callback",), ["BODY", "--secret", "--header ", "--headers", "--tolerance", "webhook-signature: v1,"]),
        (
            ("enqueue",),
            ["URL", "--relay", "--audience", "--impersonate-service-account", "--token-file", "Ends with 0"],
        ),
        (("list",), ["--state", "--queue", "--rule", "--reason", "--version", "--since", "--json", "with 1", "with 2"]),
        (("resend-callback",), ["ID...", "--rate", "--json", "Ends with 0"]),
        (("explain",), ["--records", "--project", "--json", "Ends with 0"]),
        (
            ("tail",),
            ["--relay", "--project", "--since", "--event", "--severity", "--queue", "--task", "--json", "with 130"],
        ),
        (("serve",), ["PORT", "relay.yaml", "CLOUD_TASKS_EMULATOR_HOST"]),
    ],
    ids=lambda value: "-".join(value) or "all" if isinstance(value, tuple) else "",
)
def test_every_command_explains_itself(arguments: tuple[str, ...], told: list[str]) -> None:
    ran = run(*arguments, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [word for word in told if word not in ran.stdout] == []


def test_it_says_its_version() -> None:
    assert re.fullmatch(r"traced-relay, version \d+\.\d+\.\d+\n", run("--version").stdout)


def test_a_relay_that_cannot_be_asked_is_one_line() -> None:
    assert complaint(run("cancel", "a", "--relay=relay.example.com"), 2).startswith("the relay's URL must be")
    nowhere = {"GOOGLE_APPLICATION_CREDENTIALS": "/nowhere"}
    for account in ((), ("--impersonate-service-account=a@p.iam.gserviceaccount.com",)):
        said = complaint(run("status", "a", "--relay=https://relay.example.com", *account, **nowhere))
        why = "the file that GOOGLE_APPLICATION_CREDENTIALS names is not there"
        assert said == f"no ID token for https://relay.example.com: {why}"


def test_a_log_without_credentials_for_it_is_one_line() -> None:
    said = complaint(run("tail", "--project=p", GOOGLE_APPLICATION_CREDENTIALS="/nowhere"))
    assert said == "the log of project p cannot be read: no Google credentials; `gcloud auth application-default login`"


def test_importing_the_package_brings_nothing_else_along() -> None:
    program = "import sys, traced_relay; print('requests' in sys.modules, traced_relay.Client.__name__)"
    ran = subprocess.run(
        [sys.executable, "-c", program], env=surroundings(), capture_output=True, text=True, timeout=50, check=True
    )
    assert ran.stdout == "False Client\n"


@pytest.mark.parametrize("arguments", ["nonsense", "dev --nonsense", "dev --port=nonsense", "queue token"])
def test_what_it_does_not_understand_is_one_line_that_points_to_the_help(arguments: str) -> None:
    ran = run(*arguments.split())
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line.startswith("traced-relay: ")
    assert "--help" in line


def test_a_taken_port_is_said_in_one_line(taken: int, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    said = [
        complaint(run("dev", f"--port={taken}", "--tasks-port=0")),
        complaint(run("queue", f"--port={taken}", "--rest-port=0")),
        complaint(run("queue", "--port=0", f"--rest-port={taken}")),
        complaint(run("serve", directory=tmp_path, PORT=str(taken), **SERVING)),
    ]
    assert {line.partition(" is taken")[0] for line in said} == {f"port {taken} on 127.0.0.1"}
    # Of dev's two ports for the queue the second, one up, may be somebody's too.
    dev = complaint(run("dev", "--port=0", f"--tasks-port={taken}"))
    assert re.match(rf"port ({taken}|{taken + 1}) on 127.0.0.1 is taken by another process", dev)


@pytest.mark.parametrize("missing", ["GOOGLE_CLOUD_PROJECT", "RELAY_LEDGER", "RELAY_LOCATION"])
def test_a_variable_that_is_missing_is_named(missing: str, tmp_path: Path) -> None:
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
def test_a_variable_that_makes_no_sense_is_named_with_its_value(name: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    said = complaint(run("serve", directory=tmp_path, **(SERVING | {name: value})))
    assert said.startswith(f"{name} must be ")
    assert value in said


def test_what_opens_a_relay_to_its_host_is_refused_on_google_cloud(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    ran = run("serve", directory=tmp_path, **SERVING, K_SERVICE="relay")
    (line,) = (ran.stdout + ran.stderr).splitlines()
    said = json.loads(line)["message"].removeprefix("traced-relay: ")
    assert said.startswith(("CLOUD_TASKS_EMULATOR_HOST must not be set", "RELAY_LEDGER must not be memory"))


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("queues: [{name: relay, speed: 3}]\nworker: {app_engine: default}\n", "queues.0.speed is not a known field"),
        ("queues: [{name: relay}]\n", "worker is required"),
        ("queues: [{name: relay}]\nworker: {}\n", "worker must have either app_engine or url"),
        (RULES + "heartbeat: often\n", "heartbeat must be a duration"),
        (RULES + "queues: []\n", "is not YAML: the key queues stands twice"),
        (RULES + "}\n", "is not YAML: "),
    ],
    ids=["unknown", "missing", "either", "duration", "twice", "syntax"],
)
def test_a_bad_file_of_rules_is_said_by_file_and_key(rules: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(rules)
    said = complaint(run("serve", RELAY_CONFIG=str(file), **SERVING))
    assert said.startswith(f"{file}: ")
    assert told in said


def test_dev_reads_a_file_of_rules_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RULES + "speed: 3\n")
    said = complaint(run("dev", "--config=mine.yaml", "--port=0", "--tasks-port=0", directory=tmp_path))
    assert said == "mine.yaml: speed is not a known field"


def test_files_that_cannot_be_used_are_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("neither a directory nor a database, and long enough to tell")
    (tmp_path / "relay.yaml").write_text(RULES)
    free = ("--port=0", "--tasks-port=0")
    assert "no-such.yaml: cannot be read" in complaint(run("dev", "--config=no-such.yaml", *free))
    assert "cannot be made" in complaint(run("dev", f"--data={tmp_path / 'file'}", *free))
    assert str(tmp_path / "file") in complaint(run("queue", f"--data={tmp_path / 'file'}", "--port=0", "--rest-port=0"))
    ledger = {"RELAY_LEDGER": f"sqlite:{tmp_path / 'file'}", "PORT": "0"}
    complaint(run("serve", directory=tmp_path, **(SERVING | ledger)))


def test_a_token_needs_a_queue_that_runs() -> None:
    said = complaint(run("queue", "token", "a@example.com", "--audience=x", "--port=1"))
    assert said == "no queue answers on 127.0.0.1:1; `traced-relay queue` starts one"


class Running:
    """A command that serves until it is told to end; what it says is there once *sign* has been seen."""

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
        self.said = ""
        while sign not in self.said:
            line = self._lines.readline()
            assert line, self.said
            self.said += line

    def end(self, number: int) -> tuple[int, str]:
        """Its exit status, and what it said last."""
        self._process.send_signal(number)
        with self._lines:
            last = self._lines.read()
        return self._process.wait(5), last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["dev", "queue", "serve"])
def test_a_signal_ends_it_cleanly(name: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(RULES)
    arguments, sign = {
        "dev": (["dev", "--port=0", "--tasks-port=0", f"--data={tmp_path}"], "Ctrl-C ends it"),
        "queue": (["queue", "--port=0", "--rest-port=0", f"--data={tmp_path / 'queue.db'}"], "gRPC on "),
        "serve": (["serve"], "relay.started"),
    }[name]
    given = SERVING | {"PORT": "0"} if name == "serve" else {}
    status, last = Running(arguments, sign, tmp_path, **given).end(number)
    assert status == 0
    assert "Traceback" not in last


def test_a_second_queue_on_the_same_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "queue.db"
    with QueueProcess(f"--data={file}"):
        assert str(file) in complaint(run("queue", f"--data={file}", "--port=0", "--rest-port=0"))


@pytest.mark.parametrize("options", [(), ("--records",)], ids=["waterfalls", "records"])
def test_the_demo_ends_well_and_shows_three_waterfalls(options: tuple[str, ...]) -> None:
    ran = run("demo", *options)
    assert ran.returncode == 0, ran.stderr
    assert "all three ended as they should" in ran.stderr
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
