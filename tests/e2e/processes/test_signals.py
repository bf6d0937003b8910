"""What a signal does to a call that is out, and what the next delivery makes of it."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from support.asking import get, post
from support.hanging import Hanging
from support.place import Place
from support.schema import validate
from traced_relay.testing import Downstream

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole

# gunicorn's master, which gets the signal, tells its workers in its own way.
PASSED_ON = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGQUIT"}
REPORTS = "reports@p.iam.gserviceaccount.com"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_aborts_the_call_and_the_next_delivery_repeats_it(tmp_path: Path, number: signal.Signals) -> None:
    hang = Hanging(60)
    with Downstream(hang, hang) as downstream:
        place = Place(tmp_path, downstream.url)
        with place.queue:
            who = place.bearer(REPORTS)
            with place.relay() as relay:
                receipts = {
                    idempotent: post(
                        f"{place.url}/v1/tasks", {"url": f"{downstream.url}/reports", "idempotent": idempotent}, **who
                    ).document
                    for idempotent in (True, False)
                }
                downstream.wait_for(2)
                asked = time.monotonic()
                assert relay.end(number) == 0
                assert time.monotonic() - asked < 8  # under two; how long it is, the benches tell
                events = [record["event"] for record in relay.records if "event" in record]
                assert events.count("attempt.interrupted") == 2
                (stopping,) = relay.said("relay.stopping")
                assert (stopping["signal"], stopping["running"]) == (PASSED_ON[number], 2)
                assert "attempt.finished" not in events
                for record in relay.records:
                    validate(record)
            with place.relay() as relay:
                finished = {
                    idempotent: relay.wait_for("task.finished", 40, task_id=receipt["task_id"])
                    for idempotent, receipt in receipts.items()
                }
                documents = {key: get(r["links"]["status"], **who).document for key, r in receipts.items()}
        hang.release()
    assert (finished[True]["state"], finished[True]["attempt_count"]) == ("succeeded", 2)
    assert (finished[False]["state"], finished[False]["reason"]) == ("failed", "interrupted")
    assert [attempt["reason"] for attempt in documents[True]["attempts"]] == ["interrupted", None]
