from __future__ import annotations

import io
import json
import socket
from typing import TYPE_CHECKING

import pytest
import urllib3

from support.asking import ask, get, post
from support.house import ROOT
from support.surroundings import surroundings
from support.trace_service import TraceService
from traced_relay.dev.environment import Dev
from traced_relay.emulator.methods import METHODS
from traced_relay.errors import InvalidSettings, PortTaken
from traced_relay.testing import Downstream
from traced_relay.tracing.span_tree import FinishedSpan

if TYPE_CHECKING:
    from pathlib import Path

QUEUE = "projects/local/locations/us-central1/queues/relay"


RULES = """
location: us-central1
queues: [{name: relay}]
worker: {app_engine: default}
audience: https://relay.example.com
callers:
  - {email: caller@example.com, queues: [relay], downstreams: [local]}
  - {email: oncall@example.com, role: operator}
downstreams: [{name: local, url: URL/, auth: none, allow_private: true}]
"""


def text_of(url: str, **headers: str) -> tuple[int, str]:
    answer = urllib3.request("GET", url, headers=headers, retries=False)
    return answer.status, answer.data.decode()


def test_dev_relays_to_its_sample_and_tells_the_story() -> None:
    with Dev(stream=io.StringIO()) as dev:
        (command,) = (line for line in dev.greeting().splitlines() if "curl" in line)
        assert f"{dev.url}/v1/tasks" in command
        call = json.loads(command.rpartition("-d ")[2].strip("'"))
        receipt = post(f"{dev.url}/v1/tasks", call | {"retry": {"min_backoff": "0.01s"}}).document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
        assert receipt["links"]["trace"] == f"{dev.url}/console/tasks/{receipt['task_id']}"
        status, story = text_of(receipt["links"]["trace"])
        assert (status, "attempt 3" in story, "succeeded" in story) == (200, True, True)
        assert receipt["task_id"] in text_of(f"{dev.url}/console/")[1]
        assert text_of(f"{dev.url}/console/tasks/{'0' * 32}")[0] == 404
        assert text_of(f"{dev.url}/console/", Host="rebound.example")[0] == 403
        assert {span.trace_id for span in dev.spans.spans()} == {receipt["trace_id"]}  # who looks on leaves no span


def test_the_sample_downstream_keeps_its_port_unless_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        with Dev(sample_port=port, stream=io.StringIO()) as dev:
            assert not dev.sample_url.endswith(f":{port}")
    with Dev(sample_port=port, stream=io.StringIO()) as dev:
        assert dev.sample_url == f"http://127.0.0.1:{port}"
        assert text_of(f"{dev.sample_url}/ok") == (200, "ok")


def test_devs_console_hands_out_records_and_spans_as_json() -> None:
    with Dev(stream=io.StringIO()) as dev:
        receipt = post(f"{dev.url}/v1/tasks", {"url": f"{dev.sample_url}/ok"}).document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
        dev.spans.wait_for(6)
        life = get(f"{receipt['links']['logs']}/life").document
        assert [record["event"] for record in life["records"]] == [
            *("task.enqueued", "attempt.started", "attempt.finished", "task.finished"),
        ]
        assert life["records"] == sorted(dev.records.records(receipt["task_id"]), key=lambda record: record["time"])
        spans = [FinishedSpan(**span) for span in life["spans"]]
        assert {span.trace_id for span in spans} == {receipt["trace_id"]}
        assert {span.name for span in spans} >= {"POST /v1/tasks", "send relay", "POST /dispatch", "process relay"}
        told = get(f"{dev.url}/console/records?after=0").document
        assert life["records"][0] in told["records"]
        assert get(f"{dev.url}/console/records?after={told['next']}").document["records"] == []
        nothing = get(f"{dev.url}/console/tasks/{'0' * 32}/life").document
        assert (nothing["records"], nothing["spans"]) == ([], [])
        assert nothing["whole_since"] < life["records"][0]["time"]


@pytest.mark.whole
def test_dev_with_data_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    with Downstream() as downstream:
        with Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
            dev.queue.service.call("PauseQueue", METHODS["PauseQueue"].request(name=QUEUE))
            receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url, "body": "kept"}).document
        assert downstream.arrived == []
        with Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
            status = f"{dev.url}/v1/tasks/{receipt['task_id']}"
            assert get(status).document["state"] == "queued"
            dev.queue.service.call("ResumeQueue", METHODS["ResumeQueue"].request(name=QUEUE))
            assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
            assert get(status).document["state"] == "succeeded"
            assert downstream.arrived[0].body == b"kept"


def test_the_dev_console_is_an_operator_where_a_file_lists_callers(tmp_path: Path) -> None:
    with Downstream() as downstream:
        file = tmp_path / "relay.yaml"
        file.write_text(RULES.replace("URL", downstream.url))
    with Dev(config=file, stream=io.StringIO()) as dev:
        token = dev.queue.token("caller@example.com", "https://relay.example.com")
        call = {"url": downstream.url, "delay": "1h"}
        made = post(f"{dev.url}/v1/tasks", call, Authorization=f"Bearer {token}")
        assert made.status == 202, made.document
        status, page = text_of(f"{dev.url}/console/")
        assert (status, made.document["task_id"] in page, token in page) == (200, True, False)
        assert "relay" in text_of(f"{dev.url}/console/queues")[1]


def test_a_task_of_an_earlier_process_lacks_nothing(tmp_path: Path) -> None:
    with Downstream() as downstream, Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
        receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url}).document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
    with Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
        page = text_of(f"{dev.url}/console/tasks/{receipt['task_id']}")[1]
        assert ("attempt 1" in page, "missing" in page) == (True, False)


def test_records_of_an_earlier_process_are_no_longer_kept(tmp_path: Path) -> None:
    with Downstream() as downstream:
        with Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
            dev.queue.call("PauseQueue", QUEUE)
            receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url}).document
        with Dev(data=tmp_path / "data", stream=io.StringIO()) as dev:
            dev.queue.call("ResumeQueue", QUEUE)
            assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
            page = text_of(f"{dev.url}/console/tasks/{receipt['task_id']}")[1]
            assert ("no longer kept here" in page, "no record" in page) == (True, False)


def test_a_purged_queues_tasks_are_seen_to_be_gone_at_once() -> None:
    with Dev(stream=io.StringIO()) as dev:
        for verb, state in (("pause", "queued"), ("purge", "cancelled")):
            own = {"X-Relay-Console": "1", "Origin": dev.url}
            assert ask("POST", f"{dev.url}/console/queues/relay/{verb}", headers=own).status == 200
            if verb == "pause":
                calls = [{"url": f"{dev.sample_url}/ok"} | more for more in ({}, {"delay": "1h"})]
                receipts = [post(f"{dev.url}/v1/tasks", call).document for call in calls]
            for receipt in receipts:
                assert get(receipt["links"]["status"]).document["state"] == state
                is_said = "its queue is paused" in text_of(receipt["links"]["trace"])[1]
                assert is_said is (state == "queued")


def test_whoever_opens_the_relays_address_is_led_to_the_console() -> None:
    with Dev(stream=io.StringIO()) as dev:
        answer = urllib3.request("GET", f"{dev.url}/", redirect=False, retries=False)
        assert (answer.status, answer.headers["Location"]) == (302, "/console/")


def test_dev_without_tracing_has_trace_ids_and_misses_no_spans() -> None:
    with surroundings(OTEL_SDK_DISABLED="true"), Dev(stream=io.StringIO()) as dev, Downstream() as downstream:
        receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url}).document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
        assert int(receipt["trace_id"], 16) != 0
        assert downstream.arrived[0].headers["traceparent"].split("-")[1] == receipt["trace_id"]
        assert "missing" not in text_of(receipt["links"]["trace"])[1]
        assert dev.spans.spans() == []


@pytest.mark.whole
def test_dev_sends_its_spans_where_a_file_says() -> None:
    with TraceService() as service:
        around = surroundings(OTEL_CONFIG_FILE=str(ROOT / "otel.yaml"), RELAY_TRACE_ENDPOINT=service.endpoint)
        with around, Dev(stream=io.StringIO()) as dev, Downstream() as downstream:
            receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url}).document
            assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
            service.wait_for("send relay", "process relay", "POST")
            assert {"send relay", "process relay"} <= {span.name for span in dev.spans.spans(receipt["trace_id"])}


@pytest.mark.whole
def test_dev_with_a_broken_file_says_so_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "otel.yaml").write_text("file_format: '1.0'\ntracer_provder: {}\n")
    said = io.StringIO()
    with (
        surroundings(OTEL_CONFIG_FILE=str(tmp_path / "otel.yaml")),
        Dev(stream=said) as dev,
        Downstream() as downstream,
    ):
        receipt = post(f"{dev.url}/v1/tasks", {"url": downstream.url}).document
        assert dev.records.wait_for("task.finished", receipt["task_id"], 20)
    assert said.getvalue().count("no spans are exported") == 1
    assert "tracer_provder" in said.getvalue()


def test_a_taken_port_is_said_before_anything_runs() -> None:
    with Downstream() as downstream, pytest.raises(PortTaken, match=downstream.url.rpartition(":")[2]):
        Dev(port=int(downstream.url.rpartition(":")[2]))


def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidSettings, match=r"--data .*file"):
        Dev(data=tmp_path / "file")
