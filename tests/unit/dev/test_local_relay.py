from __future__ import annotations

from support.asking import get
from traced_relay.dev import default_rules
from traced_relay.dev.local_relay import add_queues
from traced_relay.emulator.emulator import LocalQueue


def test_both_queues_retry_without_end() -> None:
    with LocalQueue() as queue:
        add_queues(queue, default_rules.for_dev(rules=None, environ={}))
        made = get(f"{queue.rest_url}/v2/projects/local/locations/us-central1/queues").document["queues"]
    assert [found["name"].rpartition("/")[2] for found in made] == ["relay", "relay-callbacks"]
    assert {found["retryConfig"]["maxAttempts"] for found in made} == {-1}
