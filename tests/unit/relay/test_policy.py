from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from traced_relay.config import relay_yaml
from traced_relay.dev import default_rules
from traced_relay.downstream.rules import Downstream
from traced_relay.relay.policy import (
    AMBIGUOUS_PATH,
    MAX_DECISIONS,
    NO_RULE,
    OWN_URL,
    UNSIGNED,
    Decision,
    Policy,
    Receiver,
)

if TYPE_CHECKING:
    from traced_relay.config.settings import Settings

ANYWHERE = Downstream(name="any", url="https://*/", auth="none")
REPORTS = Downstream(name="reports", url="https://reports.example.com/", auth="none")


def given(worker: dict[str, str], audience: str = "https://relay.example.com") -> Settings:
    document = {"queues": [{"name": "relay"}], "worker": worker, "audience": audience}
    return replace(default_rules.for_dev(rules=relay_yaml.parse(document, "rules"), environ={}), project="my-project")


def decision(url: str, worker: dict[str, str]) -> Decision:
    read = given(worker)
    return Policy(read.call_queues, [REPORTS, ANYWHERE], read.rules.retry, 600.0, read.own_hosts).decide_call(url)


ON_RUN = {"url": "https://Relay-x.a.run.app/", "service_account": "queue@p.iam.gserviceaccount.com"}


@pytest.mark.parametrize(
    ("host", "worker"),
    [
        ("relay-x.a.run.app", ON_RUN),
        ("RELAY-X.a.run.app.:443", ON_RUN),
        ("relay.example.com", ON_RUN),
        ("relay.example.com:8443", {"app_engine": "default"}),
        ("my-project.appspot.com", {"app_engine": "default"}),
        ("my-project.uc.r.appspot.com", {"app_engine": "default"}),
        ("default-dot-my-project.uc.r.appspot.com", {"app_engine": "default"}),
        ("v7-dot-default-dot-my-project.appspot.com", {"app_engine": "default"}),
        ("relay-dot-my-project.ew.r.appspot.com", {"app_engine": "relay"}),
        ("0-dot-v7-dot-relay-dot-my-project.ew.r.appspot.com", {"app_engine": "relay"}),
        ("MY-PROJECT.uc.r.AppSpot.com.", {"app_engine": "relay"}),
    ],
)
def test_no_rule_lets_the_relay_call_itself(host: str, worker: dict[str, str]) -> None:
    assert decision(f"https://{host}/dispatch", worker) == Decision(None, OWN_URL)


@pytest.mark.parametrize(
    ("host", "worker", "rule"),
    [
        ("reports.example.com", ON_RUN, REPORTS),
        ("relay.example.com.evil.example", ON_RUN, ANYWHERE),
        ("other-x.a.run.app", ON_RUN, ANYWHERE),
        ("my-project.appspot.com", ON_RUN, ANYWHERE),
        ("reports-dot-my-project.uc.r.appspot.com", {"app_engine": "default"}, ANYWHERE),
        ("norelay-dot-my-project.uc.r.appspot.com", {"app_engine": "relay"}, ANYWHERE),
        ("not-my-project.appspot.com", {"app_engine": "default"}, ANYWHERE),
        ("my-project.evilappspot.com", {"app_engine": "default"}, ANYWHERE),
    ],
)
def test_neighbours_of_the_relay_may_be_called(host: str, worker: dict[str, str], rule: Downstream) -> None:
    assert decision(f"https://{host}/", worker) == Decision(rule)


def test_loopback_is_never_an_own_host() -> None:
    worker = {"url": "http://127.0.0.1:8080", "service_account": "queue@p.iam.gserviceaccount.com"}
    assert given(worker).own_hosts == ["relay.example.com"]


@pytest.mark.parametrize("audience", ["/projects/7/apps/my-project", "relay", "https://"])
def test_an_audience_that_names_no_host_is_no_own_host(audience: str) -> None:
    assert given(ON_RUN, audience).own_hosts == ["relay-x.a.run.app"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://hooks.example.com/in/7", None),
        ("https://unsigned.example.com/", UNSIGNED),
        ("https://elsewhere.example.com/", NO_RULE),
        ("https://hooks.example.com/in/%2e%2e/7", AMBIGUOUS_PATH),
        ("https://relay.example.com/", OWN_URL),
    ],
)
def test_a_refused_callback_has_one_of_four_reasons(url: str, reason: str | None) -> None:
    read = given(ON_RUN)
    hooks, unsigned = (
        Downstream(name="callback", url=f"https://{host}", auth="none")
        for host in ("hooks.example.com/in/", "unsigned.example.com/")
    )
    receivers = [Receiver(hooks, "whsec_secret"), Receiver(unsigned, None)]
    policy = Policy(["relay"], [], read.rules.retry, 600.0, read.own_hosts, receivers)
    decision = policy.decide_callback(url)
    assert decision == (Decision(None, reason) if reason else Decision(hooks, secret="whsec_secret"))
    assert "whsec" not in repr(decision)


def test_a_decision_is_made_once_for_a_url_and_then_cached() -> None:
    read = given(ON_RUN)
    policy = Policy(["relay"], [REPORTS], read.rules.retry, 600.0, receivers=[Receiver(REPORTS, "whsec_secret")])
    url = "https://reports.example.com/7"
    for decide, expected in (
        (policy.decide_call, Decision(REPORTS)),
        (policy.decide_callback, Decision(REPORTS, secret="whsec_secret")),
    ):
        first = decide(url)
        assert first == expected
        assert decide(url) is first
        others = [decide(f"{url}/{number}") for number in range(MAX_DECISIONS)]
        assert others == [expected] * MAX_DECISIONS
        assert decide(url) == first
        assert decide(url) is not first  # of the cached ones it was the oldest


def test_decisions_of_two_policies_are_apart() -> None:
    read = given(ON_RUN)
    allowing, denying = (Policy(["relay"], rules, read.rules.retry, 600.0) for rules in ([REPORTS], []))
    assert allowing.decide_call(REPORTS.url).rule is REPORTS
    assert denying.decide_call(REPORTS.url) == Decision(None, NO_RULE)
