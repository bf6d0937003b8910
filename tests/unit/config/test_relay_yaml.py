from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.config import relay_yaml
from traced_relay.config.relay_yaml import CallbackReceiver, Caller, QueueRule, RelayFile, TaskTarget
from traced_relay.downstream.rules import Downstream, find
from traced_relay.errors import InvalidSettings
from traced_relay.tasks.call import RetryPolicy

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST: dict[str, Any] = {"queues": [{"name": "relay"}], "worker": {"app_engine": "default"}}

WHOLE = """\
location: us-central1
queues:
  - {name: relay, max_dispatches_per_second: 100, max_concurrent_dispatches: 80}
  - {name: relay-callbacks, for: callbacks}
worker: {url: https://relay-x.a.run.app, service_account: queue@p.iam.gserviceaccount.com}
audience: https://relay.example.com
callers:
  - {email: reports@p.iam.gserviceaccount.com, queues: [relay], downstreams: [reports]}
  - {email: oncall@example.com, role: operator, queues: "*", downstreams: "*"}
downstreams:
  - name: reports
    url: https://*.run.app/
    auth: id_token
  - {name: partner, url: https://hooks.partner.example/, auth: none, trace: none}
callbacks:
  - {url: https://*.example.com/, secret: projects/P/secrets/S}
  - {url: "http://hooks.internal:8080/", secret: projects/P/secrets/S/versions/7, allow_private: true}
callback_first_wait: 2s
retry: {max_attempts: 3}
heartbeat: 30s
max_timeout: 29m
retention: 30d
sweep_every: 5m
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "relay.yaml").write_text(WHOLE)
    assert relay_yaml.load(tmp_path / "relay.yaml") == RelayFile(
        location="us-central1",
        queues=[QueueRule(name="relay"), QueueRule.model_validate({"name": "relay-callbacks", "for": "callbacks"})],
        worker=TaskTarget(url="https://relay-x.a.run.app", service_account="queue@p.iam.gserviceaccount.com"),
        audience="https://relay.example.com",
        callers=[
            Caller(email="reports@p.iam.gserviceaccount.com", queues=["relay"], downstreams=["reports"]),
            Caller(email="oncall@example.com", role="operator", queues="*", downstreams="*"),
        ],
        downstreams=[
            Downstream(name="reports", url="https://*.run.app/", auth="id_token"),
            Downstream(name="partner", url="https://hooks.partner.example/", auth="none", trace="none"),
        ],
        callbacks=[
            CallbackReceiver(url="https://*.example.com/", secret="projects/P/secrets/S"),
            CallbackReceiver(
                url="http://hooks.internal:8080/", secret="projects/P/secrets/S/versions/7", allow_private=True
            ),
        ],
        callback_first_wait="2s",
        retry=RetryPolicy(max_attempts=3),
        heartbeat="30s",
        max_timeout="29m",
        retention="30d",
        sweep_every="5m",
    )


def test_absent_fields_have_the_contracts_defaults() -> None:
    read = relay_yaml.parse(SMALLEST, "rules")
    assert read.model_dump(exclude={"queues", "worker", "retry"}) == {
        "location": None,
        "audience": None,
        "callers": [],
        "downstreams": [],
        "callbacks": [],
        "callback_first_wait": "5s",
        "heartbeat": "1m",
        "max_timeout": None,
        "retention": "7d",
        "sweep_every": "1m",
    }
    assert read.queues == [QueueRule(name="relay", max_dispatches_per_second=100, max_concurrent_dispatches=80)]
    assert read.retry == RetryPolicy()


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"queues": None}, ["queues must be a list, got null"]),
        ({"queues": []}, ["queues must be at least 1 long, got 0"]),
        (
            {"queues": [{"name": "a_b"}]},
            ["queues.0.name is not valid: String should match pattern '^[A-Za-z0-9-]{1,100}$'"],
        ),
        ({"queues": [{"name": "a"}, {"name": "a"}]}, ["queues must not name a twice"]),
        ({"queues": [{"name": "a", "for": "callbacks"}]}, ["queues must have one that is not for callbacks"]),
        ({"queues": [{"name": "a", "use": "callbacks"}]}, ["queues.0.use is not a known field"]),
        (
            {"queues": [{"name": "a", "max_dispatches_per_second": 501, "max_concurrent_dispatches": 0}]},
            [
                "queues.0.max_dispatches_per_second must be at most 500.0, got 501",
                "queues.0.max_concurrent_dispatches must be at least 1, got 0",
            ],
        ),
        ({"worker": {}}, ["worker must have either app_engine or url"]),
        ({"worker": {"app_engine": "default", "url": "https://a/"}}, ["worker must have either app_engine or url"]),
        ({"worker": {"url": "https://a/"}}, ["worker must have service_account together with url"]),
        (
            {"worker": {"app_engine": "default", "service_account": "a@p.iam.gserviceaccount.com"}},
            ["worker must have service_account together with url"],
        ),
        (
            {"callers": [{"email": "nobody"}]},
            ["callers.0.email must be an email address in lower case, as in Google's ID tokens"],
        ),
        (
            {"callers": [{"email": "a@b", "role": "king"}]},
            ["callers.0.role must be one of 'caller' or 'operator', got 'king'"],
        ),
        (
            {"callers": [{"email": "a@b", "role": "operator"}, {"email": "a@b", "queues": [], "downstreams": "*"}]},
            ["callers must not name a@b twice"],
        ),
        *(
            (
                {"callers": [{"email": "a@b"} | lists]},
                ['callers.0 must have queues and downstreams, each a list of names or "*"'],
            )
            for lists in ({}, {"queues": "*"}, {"downstreams": []})
        ),
        (
            {"location": "us-central1/x"},
            ["location must be one region such as us-central1, because queues exist only in regions"],
        ),
        (
            {"worker": {"url": "relay.example.com", "service_account": "a@p.iam.gserviceaccount.com"}},
            ["worker.url must start with http:// or https://, got ''"],
        ),
        (
            {"downstreams": [{"name": "a", "url": "http://a/", "auth": "id_token"}]},
            ["downstreams.0.auth must be none for http://: ID tokens are never sent unencrypted"],
        ),
        (
            {"downstreams": [{"name": "a", "url": "https://a/"}]},
            ["downstreams.0.auth must be one of 'id_token' or 'none', got null"],
        ),
        ({"callbacks": [{"url": "example.com"}]}, ["callbacks.0.url must start with http:// or https://"]),
        (
            {"callbacks": [{"url": "https://a/"}]},
            ["queues must have one with `for: callbacks`, because callbacks are listed"],
        ),
        ({"callback_first_wait": "2h"}, ["callback_first_wait must be at most 1h, got 2h"]),
        ({"retry": {"max_attempts": 0}}, ["retry.max_attempts must be at least 1, got 0"]),
        (
            {"retry": {"min_backoff": "2m", "jitter": "none", "max_retry_duration": "1m"}},
            ["retry.max_retry_duration must be 0s or at least the shortest first wait, 2m, got 1m"],
        ),
        ({"heartbeat": 60}, ['heartbeat must be a duration such as "30s", "1.5s", "5m", "24h" or "7d", got a number']),
        ({"heartbeat": "0.5s"}, ["heartbeat must be at least 1s, got 0.5s"]),
        (
            {"retention": "1s", "sweep_every": "2h"},
            [
                "retention must be at least 1m, got 1s",
                "sweep_every must be at most 1h, got 2h",
            ],
        ),
        ({"retention": "4000d"}, ["retention must be at most 3650d, got 4000d"]),
        ({"colour": "red"}, ["colour is not a known field"]),
        ({1: 2}, ["1 is not valid: Keys should be strings"]),
    ],
)
def test_every_mistake_is_named_with_file_and_key(changes: dict[Any, Any], errors: list[str]) -> None:
    with pytest.raises(InvalidSettings) as refused:
        relay_yaml.parse(SMALLEST | changes, "relay.yaml")
    assert str(refused.value) == "; ".join(f"relay.yaml: {error}" for error in errors)


@pytest.mark.parametrize(
    "secret",
    [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "hunter2",
        "",
        "projects/P/secrets/S/versions/",
        "projects/P/secrets/S ",
        "projects/P/locations/us/secrets/S",
        "//secretmanager.googleapis.com/projects/P/secrets/S",
        "projects/P/secrets/../../x",
    ],
)
def test_a_secret_in_relay_yaml_is_refused_unshown(secret: str) -> None:
    queues = [{"name": "relay"}, {"name": "back", "for": "callbacks"}]
    receivers = [{"url": "https://a/", "secret": secret}]
    with pytest.raises(InvalidSettings) as refused:
        relay_yaml.parse(SMALLEST | {"queues": queues, "callbacks": receivers}, "relay.yaml")
    assert str(refused.value) == (
        "relay.yaml: callbacks.0.secret must be the name of a secret in Secret Manager, projects/P/secrets/S with or"
        " without /versions/V; the secret itself must not be in this file"
    )


def test_the_first_receiver_that_matches_gets_the_callback() -> None:
    rules = relay_yaml.parse(yaml.safe_load(WHOLE), "rules")
    found = [
        find(rules.callbacks, url) for url in ("https://a.example.com/x", "http://hooks.internal:8080/", "http://b/")
    ]
    assert found == [*rules.callbacks, None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "queues is required"),
        ("- relay", "must be a mapping of keys to values"),
        ("queues: [", "is not YAML: while parsing a flow node"),
        ("\tqueues: []", "is not YAML: while scanning for the next token"),
        ("queues: []\nworker: {}\nqueues: []", "is not YAML: the key queues is given twice"),
        ("worker: {url: a, url: b}", "is not YAML: the key url is given twice"),
        ("? [a]\n: b", "is not YAML: while constructing a mapping"),
        ("location: 2026-13-45", "is not YAML: month must be in 1..12"),
        ("location: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("location: !!python/object/apply:os.system [id]", "is not YAML: could not determine a constructor"),
        ("queues: &a [*a]", "queues.0 "),
        ("[" * 1000, "is not YAML: "),
        ("\0", "is not YAML: "),
    ],
    ids=range(13),
)
def test_a_malformed_relay_yaml_is_reported_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "relay.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettings) as refused:
        relay_yaml.load(file)
    assert str(refused.value).startswith(f"{file}: {why}")
    assert "\n" not in str(refused.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"missing.yaml: cannot be read: No such file or directory$"):
        relay_yaml.load(tmp_path / "missing.yaml")
    (tmp_path / "latin").write_bytes(b"location: \xff")
    with pytest.raises(InvalidSettings, match=r"latin: is not UTF-8, at byte 10"):
        relay_yaml.load(tmp_path / "latin")


KEYS = st.sampled_from([*RelayFile.model_fields, "name", "url", "email", "auth", "for"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["*", "1m", "https://a/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(DOCUMENTS)
def test_no_document_raises_anything_but_invalid_settings(document: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"^rules: "):
        relay_yaml.parse({"worker": {}, "more": document} if isinstance(document, dict) else document, "rules")
    if isinstance(document, dict):
        with pytest.raises(InvalidSettings, match=r"^rules: "):
            relay_yaml.parse(document | {"worker": {}}, "rules")
