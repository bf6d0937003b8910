from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import traced_relay
from traced_relay.config import relay_yaml, settings
from traced_relay.config.settings import Settings
from traced_relay.dev import default_rules
from traced_relay.downstream.rules import find
from traced_relay.downstream.webhook_signature import parse_secrets
from traced_relay.errors import InvalidSettings

RULES = "location: us-central1\nqueues: [{name: relay}, {name: back, for: callbacks}]\nworker: {app_engine: default}\n"
HTTP_WORKER = "{url: https://relay-x.a.run.app, service_account: queue@p.iam.gserviceaccount.com}"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "relay.yaml").write_text(RULES)
    return {
        "RELAY_CONFIG": str(tmp_path / "relay.yaml"),
        "GOOGLE_CLOUD_PROJECT": "p",
        "RELAY_LEDGER": "memory",
        "CLOUD_TASKS_EMULATOR_HOST": "127.0.0.1:8123",
    }


def rewrite(environ: dict[str, str], text: str) -> None:
    Path(environ["RELAY_CONFIG"]).write_text(text)


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(InvalidSettings) as refused:
        settings.from_environment(environ)
    return str(refused.value)


def test_a_local_relay_is_read_whole(environ: dict[str, str]) -> None:
    read = settings.from_environment(environ)
    assert read == Settings(
        project="p",
        location="us-central1",
        rules=relay_yaml.load(Path(environ["RELAY_CONFIG"])),
        ledger="memory",
        platform="local",
        emulator="127.0.0.1:8123",
        port=8080,
        threads=100,
        version=traced_relay.__version__,
        instance=read.instance,
    )
    assert read.instance
    assert not read.open_on_loopback
    assert (read.is_local, read.host, read.max_timeout) == (True, "127.0.0.1", 86_400.0)
    assert (read.call_queues, read.callback_queue) == (["relay"], "back")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PORT": "0"}, {"port": 0}),
        ({"PORT": ""}, {"port": 8080}),
        ({"PORT": "9000", "RELAY_THREADS": "9"}, {"port": 9000, "threads": 9, "max_running": 1}),
        ({"RELAY_LEDGER": "sqlite:/data/ledger"}, {"ledger": "sqlite:/data/ledger"}),
        ({"CLOUD_TASKS_EMULATOR_HOST": "[::1]:1"}, {"emulator": "[::1]:1"}),
        ({"CLOUD_TASKS_EMULATOR_HOST": "localhost:1"}, {"emulator": "localhost:1"}),
        ({"CLOUD_TASKS_EMULATOR_HOST": ""}, {"emulator": None, "platform": "other", "host": "0.0.0.0"}),
        ({"K_REVISION": "relay-00007", "GAE_INSTANCE": "i-1"}, {"version": "relay-00007", "instance": "i-1"}),
        ({"RELAY_LOCATION": "europe-west1"}, {"location": "us-central1"}),
    ],
)
def test_the_environment_says_what_differs_by_deployment(
    environ: dict[str, str], changes: dict[str, str], expected: dict[str, Any]
) -> None:
    read = settings.from_environment(environ | changes)
    assert {name: getattr(read, name) for name in expected} == expected


DATABASES = (
    "RELAY_LEDGER: the Firestore database must be (default), or 4 to 63 characters of a-z, 0-9 and -"
    " that start with a letter and do not end with -"
)
COLLECTIONS = (
    "RELAY_LEDGER: the Firestore collection must be 1 to 100 characters of A-Z, a-z, 0-9, _ and -"
    " that do not start and end with __"
)
WHY_NINE = "8 threads always stay free for health checks, cancels and new tasks"
VARIABLES = ", ".join(settings.VARIABLES)
LEDGERS = "memory, sqlite:FILE or firestore:[DATABASE/]COLLECTION"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"RELAY_CONFIG": "/nowhere/relay.yaml"}, "/nowhere/relay.yaml: cannot be read: No such file or directory"),
        ({"GOOGLE_CLOUD_PROJECT": "My Project"}, "GOOGLE_CLOUD_PROJECT must be a project id, got 'My Project'"),
        (
            {"RELAY_THREDS": "8"},
            f"RELAY_THREDS is not a variable of the relay; the closest is RELAY_THREADS; the variables are {VARIABLES}",
        ),
        ({"RELAY_X": "8"}, f"RELAY_X is not a variable of the relay; the variables are {VARIABLES}"),
        ({"PORT": "tcp://10.0.0.1:80"}, "PORT must be a number from 0 to 65535, got 'tcp://10.0.0.1:80'"),
        ({"GOOGLE_CLOUD_PROJECT": ""}, "GOOGLE_CLOUD_PROJECT must be set: the project whose queues are used"),
        ({"RELAY_LEDGER": ""}, f"RELAY_LEDGER must be set: where tasks are kept: {LEDGERS}"),
        *(
            ({"RELAY_LEDGER": name}, f"RELAY_LEDGER must be {LEDGERS}, got {name!r}")
            for name in ("redis:x", "sqlite:", "x", "sqlite::memory:", "sqlite:file:x?mode=memory")
        ),
        *(
            (
                {"RELAY_LEDGER": f"firestore:{name}/calls"},
                f"{DATABASES}, got {name!r}",
            )
            for name in ("abc", "Relay", "1relay", "relay-", "a" * 64, "(Default)", "a/relay", "relé")
        ),
        *(
            (
                {"RELAY_LEDGER": f"firestore:relay/{name}"},
                f"{COLLECTIONS}, got {name!r}",
            )
            for name in ("", ".", "..", "a b", "__calls__", "é")
        ),
        *(
            ({"PORT": text}, f"PORT must be a number from 0 to 65535, got {text!r}")
            for text in ("65536", "-1", "http", " 80", "8080x", "1e3", "٨٠")
        ),
        *(
            (
                {"RELAY_THREADS": text},
                f"RELAY_THREADS must be a number from 9 to 10000, got {text!r}: {WHY_NINE}",
            )
            for text in ("0", "1", "8", "-9", "+9", "9.0", "many", "10001", "9" * 30, " 9")
        ),
        *(
            (
                {"CLOUD_TASKS_EMULATOR_HOST": address},
                f"CLOUD_TASKS_EMULATOR_HOST must be a loopback address such as 127.0.0.1:8123, got {address!r}",
            )
            for address in (
                "10.0.0.1:8123",
                "127.0.0.1",
                "emulator:8123",
                "127.0.0.1.evil.test:1",
                "localhost:",
                ":8123",
                "127.0.0.1:0",
                "127.0.0.1:65536",
                "localhost:٨",
            )
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(environ: dict[str, str], changes: dict[str, str], why: str) -> None:
    assert refusal(environ | changes) == why


@pytest.mark.parametrize("ledger", ["calls", "(default)/calls", "relay/calls", "traced-relay/My_calls-2", "a123/__a"])
@pytest.mark.parametrize("platform", [{}, {"GAE_ENV": "standard"}, {"K_SERVICE": "relay"}], ids=str)
def test_firestore_holds_the_ledger_everywhere(environ: dict[str, str], ledger: str, platform: dict[str, str]) -> None:
    without = {name: value for name, value in environ.items() if name != "CLOUD_TASKS_EMULATOR_HOST"}
    named = f"firestore:{ledger}"
    assert settings.from_environment(without | platform | {"RELAY_LEDGER": named}).ledger == named


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.mark.parametrize(
    "source",
    [SECRET, f"{SECRET} {OTHER_SECRET}", f"\n {SECRET}\n", "projects/p/secrets/s", "projects/p/secrets/s/versions/3"],
)
def test_a_callback_secret_is_text_or_a_name_and_is_not_shown(environ: dict[str, str], source: str) -> None:
    read = settings.from_environment(environ | {"RELAY_CALLBACK_SECRET": source})
    assert read.callback_secret == source.strip()
    assert source.strip() not in repr(read)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("hunter2", "it does not start with whsec_"),
        (f"{SECRET},{OTHER_SECRET}", "it is not base64 with its padding after whsec_"),
        (f"{SECRET} hunter2", "secret 2 does not start with whsec_"),
        ("whsec_c2hvcnQ=", "it has 5 bytes"),
        ("projects/p/secrets/s/", "it does not start with whsec_"),
        (SECRET[6:], "it does not start with whsec_"),
    ],
)
def test_a_malformed_callback_secret_fails_the_start(environ: dict[str, str], source: str, fault: str) -> None:
    assert refusal(environ | {"RELAY_CALLBACK_SECRET": source}) == (
        "RELAY_CALLBACK_SECRET must be whsec_ and the base64 of 24 to 64 bytes, or several of these with spaces"
        f" between; {fault}; or give the name of a secret in Secret Manager, projects/P/secrets/S"
    )


def test_a_receiver_without_a_secret_starts(environ: dict[str, str]) -> None:
    rewrite(environ, RULES + "callbacks: [{url: https://a.example.com/}]")
    read = settings.from_environment(environ | {"RELAY_CALLBACK_SECRET": ""})
    assert (read.callback_secret, read.rules.callbacks[0].secret) == (None, None)


def test_the_environment_names_a_location_missing_in_the_file(environ: dict[str, str]) -> None:
    rewrite(environ, RULES.replace("location: us-central1\n", ""))
    assert refusal(environ).startswith("RELAY_LOCATION must be set: the region of the queues")
    assert settings.from_environment(environ | {"RELAY_LOCATION": "europe-west1"}).location == "europe-west1"


@pytest.mark.parametrize(
    ("google", "platform"), [({"GAE_ENV": "standard"}, "app_engine"), ({"K_SERVICE": "r"}, "cloud_run")]
)
def test_google_refuses_the_emulator_and_a_ledger_in_memory(
    environ: dict[str, str], google: dict[str, str], platform: str
) -> None:
    without = {name: value for name, value in environ.items() if name != "CLOUD_TASKS_EMULATOR_HOST"} | google
    for ledger in ("memory", "sqlite:/tmp/ledger"):
        assert refusal(without | {"RELAY_LEDGER": ledger}) == (
            f"RELAY_LEDGER must not be {ledger} on {platform}: its disk is in memory and is lost;"
            " use firestore:[DATABASE/]COLLECTION"
        )
    assert "must not be" in refusal(environ | google)


def test_the_flexible_environment_refuses_an_emulator(environ: dict[str, str]) -> None:
    flexible = environ | {"GAE_ENV": "flex"}
    assert refusal(flexible) == (
        "CLOUD_TASKS_EMULATOR_HOST must not be set on Google Cloud: it would let every process on the host enqueue"
    )
    del flexible["CLOUD_TASKS_EMULATOR_HOST"]
    assert settings.from_environment(flexible).platform == "other"


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("169.254.169.254", "169.254.0.0/16 (link-local, metadata server)"),
        ("2852039166", "169.254.0.0/16 (link-local, metadata server)"),
        ("[fd20:ce::254]", "fd20:ce::254/128 (Google Cloud's metadata server)"),
        ("224.0.0.1:*", "224.0.0.0/4 (multicast)"),
        ("0.0.0.0", "0.0.0.0/8 (this network)"),
        ("255.255.255.255", "255.255.255.255/32 (broadcast)"),
        ("[fe80::1]", "fe80::/10 (link-local)"),
    ],
)
def test_a_rule_for_a_forbidden_address_fails_the_start(environ: dict[str, str], host: str, found: str) -> None:
    url = f"http://{host}/"
    rule = f"{{name: a, url: '{url}', auth: none, allow_private: true}}"
    rewrite(environ, f"{RULES}downstreams: [{rule}]\ncallbacks: [{{url: '{url}', allow_private: true}}]\n")
    assert refusal(environ).split("; ") == [
        f"the rules: {key} must not be in {found}, which no rule can allow, got {url}"
        for key in ("downstreams.a.url", "callbacks.url")
    ]


@pytest.mark.parametrize(
    "host",
    [
        *("240.0.0.1", "198.19.0.1", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1"),
        *("100.64.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "[fd00::1]", "[::ffff:10.0.0.1]"),
    ],
)
def test_a_rule_for_an_address_of_a_vpc_starts(environ: dict[str, str], host: str) -> None:
    rule = f"{{name: a, url: 'http://{host}/', auth: none, allow_private: true}}"
    rewrite(environ, f"{RULES}downstreams: [{rule}]\n")
    assert settings.from_environment(environ).rules.downstreams[0].allow_private


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("max_timeout: 25h", "max_timeout must be at most 24h with this worker, got 25h"),
        (
            'callers: [{email: a@b, queues: "*", downstreams: "*"}]',
            "audience must be set, because ID tokens are checked against it",
        ),
        ("callers: [{email: a@b, role: operator}]", "audience must be set, because ID tokens are checked against it"),
        (
            "audience: a\ncallers: [{email: a@b, queues: [relay, slow], downstreams: []}]",
            "callers.queues of a@b refers to slow, which is not defined",
        ),
        (
            "audience: a\ncallers: [{email: a@b, queues: ['*'], downstreams: []}]",
            'callers.queues of a@b refers to *, which is not defined; for all of them, write "*" in place of the list',
        ),
        (
            "audience: a\ncallers: [{email: a@b, queues: [back], downstreams: []}]",
            "callers.queues of a@b refers to back, which is not defined",
        ),
        (
            "audience: a\ncallers: [{email: a@b, queues: [], downstreams: [reports]}]",
            "callers.downstreams of a@b refers to reports, which is not defined",
        ),
    ],
)
def test_contradictory_rules_are_named(environ: dict[str, str], more: str, why: str) -> None:
    rewrite(environ, RULES + more)
    assert refusal(environ) == f"the rules: {why}"


def test_an_http_worker_allows_less_time(environ: dict[str, str]) -> None:
    rules = RULES.replace("{app_engine: default}", HTTP_WORKER) + "audience: https://relay.example.com\n"
    rewrite(environ, rules)
    assert settings.from_environment(environ).max_timeout == 1785.0
    rewrite(environ, rules + "max_timeout: 10m")
    assert settings.from_environment(environ).max_timeout == 600.0
    rewrite(environ, rules + "max_timeout: 30m")
    assert refusal(environ) == "the rules: max_timeout must be at most 1785s with this worker, got 30m"


def test_an_endpoint_for_tests_is_on_loopback(environ: dict[str, str]) -> None:
    environ["RELAY_TRACE_ENDPOINT"] = "spans.example.com:443"
    said = "RELAY_TRACE_ENDPOINT is for tests and must be on loopback, got 'spans.example.com:443'"
    assert refusal(environ) == said


def test_a_location_in_the_environment_must_be_a_region(environ: dict[str, str]) -> None:
    path = Path(environ["RELAY_CONFIG"])
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("location:")))
    environ["RELAY_LOCATION"] = "global"
    assert refusal(environ) == "RELAY_LOCATION must be one region such as us-central1, got 'global'"


def test_an_http_worker_needs_an_audience(environ: dict[str, str]) -> None:
    rewrite(environ, RULES.replace("{app_engine: default}", HTTP_WORKER))
    assert refusal(environ) == "the rules: audience must be set, because ID tokens are checked against it"


def test_dev_needs_no_file_and_calls_only_loopback() -> None:
    made = default_rules.for_dev(rules=None, environ={})
    assert made == Settings(
        project="local",
        location="us-central1",
        rules=made.rules,
        ledger="memory",
        platform="local",
        instance=made.instance,
        open_on_loopback=True,
        callback_secret=made.callback_secret,
        made_callback_secret=True,
    )
    urls = {"http://127.0.0.1:9/x", "http://localhost/", "http://[::1]:9/", "http://10.0.0.1/", "https://127.0.0.1/"}
    assert all(rule.allow_private for rule in made.rules.downstreams)
    assert {url for url in urls if any(rule.matches(url) for rule in made.rules.downstreams)} == {
        "http://127.0.0.1:9/x",
        "http://localhost/",
        "http://[::1]:9/",
    }


def test_dev_sends_callbacks_only_to_loopback_with_a_new_secret() -> None:
    made, again = (default_rules.for_dev(rules=None, environ={}) for _ in range(2))
    urls = {"http://127.0.0.1:9/x", "http://localhost/", "http://[::1]:9/", "http://10.0.0.1/", "https://127.0.0.1/"}
    assert {url for url in urls if find(made.rules.callbacks, url)} == {
        "http://127.0.0.1:9/x",
        "http://localhost/",
        "http://[::1]:9/",
    }
    assert all(receiver.allow_private for receiver in made.rules.callbacks)
    assert (made.callback_queue, made.rules.callback_first_wait) == ("relay-callbacks", 1.0)
    assert made.callback_secret != again.callback_secret
    assert [len(key) for key in parse_secrets(made.callback_secret or "")] == [32]
    given = default_rules.for_dev(rules=None, environ={"RELAY_CALLBACK_SECRET": SECRET})
    assert given.callback_secret == SECRET


def test_dev_with_rules_keeps_them_and_is_not_open() -> None:
    rules = relay_yaml.parse({"queues": [{"name": "q"}], "worker": {"app_engine": "default"}}, "rules")
    environ = {"GOOGLE_CLOUD_PROJECT": "mine", "RELAY_LOCATION": "asia-east1", "RELAY_LEDGER": "sqlite:x"}
    made = default_rules.for_dev(rules=rules, environ=environ)
    assert (made.project, made.location, made.ledger, made.open_on_loopback) == (
        "mine",
        "asia-east1",
        "sqlite:x",
        False,
    )
    assert made.rules is rules


def test_otel_yaml_is_found_beside_the_rules_or_by_its_variable(environ: dict[str, str]) -> None:
    assert settings.from_environment(environ).otel_file is None
    beside = Path(environ["RELAY_CONFIG"]).with_name("otel.yaml")
    beside.touch()
    assert settings.from_environment(environ).otel_file == beside
    named = settings.from_environment(environ | {"OTEL_CONFIG_FILE": "elsewhere.yaml"})
    assert named.otel_file == Path("elsewhere.yaml")
    assert settings.from_environment(environ | {"OTEL_CONFIG_FILE": ""}).otel_file == beside


@pytest.mark.parametrize(
    ("value", "untraced"), [("true", True), ("TRUE", True), (" true ", True), ("false", False), ("", False)]
)
def test_spans_can_be_switched_off_in_the_standard_way(environ: dict[str, str], value: str, *, untraced: bool) -> None:
    assert settings.from_environment(environ | {"OTEL_SDK_DISABLED": value}).untraced is untraced


@pytest.mark.parametrize("read", ["serve", "dev", "check"])
def test_every_command_refuses_an_unknown_variable(environ: dict[str, str], read: str) -> None:
    given = environ | {"RELAY_LEGER": "memory", "RELAY_PORTS": "80", "RELAY_PORT": "tcp://10.0.0.1:8080"}
    if read == "check":
        said = list(settings.variable_problems(given, None))
    else:
        with pytest.raises(InvalidSettings) as refused:
            settings.from_environment(given) if read == "serve" else default_rules.for_dev(rules=None, environ=given)
        said = list(refused.value.problems)
    assert [line.split(";")[:2] for line in said] == [
        ["RELAY_LEGER is not a variable of the relay", " the closest is RELAY_LEDGER"],
        ["RELAY_PORTS is not a variable of the relay", " the closest is PORT"],
    ]
