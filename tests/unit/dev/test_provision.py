from __future__ import annotations

from support.asking import get
from traced_relay.dev import default_rules
from traced_relay.dev.environment import add_queues
from traced_relay.emulator.emulator import LocalQueue


def test_the_queues_of_calls_and_of_callbacks_are_made_without_retries_of_their_own() -> None:
    with LocalQueue() as queue:
        add_queues(queue, default_rules.for_dev(rules=None, environ={}))
        made = get(f"{queue.rest_url}/v2/projects/local/locations/us-central1/queues").document["queues"]
    assert [found["name"].rpartition("/")[2] for found in made] == ["relay", "relay-callbacks"]
    assert {found["retryConfig"]["maxAttempts"] for found in made} == {-1}
