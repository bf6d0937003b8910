"""Two relays on one ledger: what one of them learns, the other has to heed."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from place import Place, free_port

from asking import ask, get, post

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.whole

CUT_WITHIN = 10.0


def test_a_call_that_another_process_runs_is_cut_within_ten_seconds(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.settimeout(10)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        place = Place(tmp_path, url)
        with place.queue, place.relay() as working, place.relay(port := free_port()) as asked:
            caller = place.bearer("other@p.iam.gserviceaccount.com")
            receipt = post(f"{place.url}/v1/tasks", {"url": f"{url}/slow"}, **caller).document
            with silent.accept()[0] as call:
                call.settimeout(CUT_WITHIN)
                assert call.recv(65_536)
                verb = f"http://127.0.0.1:{port}/v1/tasks/{receipt['task_id']}:cancel"
                answer = ask("POST", verb, headers=caller)
                asked_at = time.monotonic()
                assert (answer.status, answer.document["state"]) == (202, "cancelled")
                while call.recv(65_536):
                    pass
                assert time.monotonic() - asked_at < CUT_WITHIN
            asked.wait_for("task.finished", task_id=receipt["task_id"], state="cancelled")
            assert get(receipt["links"]["status"], **caller).document["state"] == "cancelled"
            assert working.said("attempt.finished") == []  # whoever cancelled it has said that already
