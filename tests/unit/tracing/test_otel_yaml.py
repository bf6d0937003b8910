"""otel.yaml as it is shipped, and every way to get it wrong that OpenTelemetry's own reader lets pass."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from opentelemetry.configuration import ConfigurationError

from support.house import ROOT
from support.surroundings import surroundings
from traced_relay.errors import InvalidSettings
from traced_relay.tracing import otel_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.tracing.otel_yaml import OtelFile

TEXT = (ROOT / "otel.yaml").read_text()
UNSET = dict.fromkeys(
    [
        *("OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER_ARG", "OTEL_RESOURCE_ATTRIBUTES", "RELAY_TRACE_ENDPOINT"),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ]
)


def read(tmp_path: Path, text: str, **variables: str) -> OtelFile:
    path = tmp_path / "otel.yaml"
    path.write_text(text)
    with surroundings(**UNSET | variables):
        return otel_yaml.read(path)


def changed(old: str, new: str, text: str = TEXT) -> str:
    assert old in text
    return text.replace(old, new)


def without(first: str, after: str) -> str:
    """The text without what is from *first* up to *after*."""
    start = TEXT.index(first)
    return TEXT[:start] + TEXT[TEXT.index(after, start) :]


def test_the_file_that_is_shipped_says_what_it_should(tmp_path: Path) -> None:
    file = read(tmp_path, TEXT)
    assert (file.disabled, file.detects, file.ratio) == (False, True, 1.0)
    assert (file.attribute_count, file.value_length) == (28, 256)
    assert file.attributes == {"service.name": "traced-relay"}
    [batch] = file.batches
    assert (batch.exporter, batch.delay, batch.size, batch.room) == ("relay_cloud_trace", 2.0, 512, 2048)
    assert dict(batch.options) == {"timeout": 3000, "endpoint": None, "resource_regex": r"service\..*"}
    assert batch.leaves_this_machine


def test_the_file_for_otlp_says_the_same_but_for_the_exporter(tmp_path: Path) -> None:
    file = read(tmp_path, (ROOT / "otel-otlp.yaml").read_text())
    [batch] = file.batches
    assert (batch.exporter, batch.options["endpoint"]) == ("otlp_http", "http://127.0.0.1:4318/v1/traces")
    shipped = read(tmp_path, TEXT)
    assert (file.ratio, file.attributes, file.detects) == (shipped.ratio, shipped.attributes, shipped.detects)


def test_variables_fill_in_what_differs_by_deployment(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        TEXT,
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_RESOURCE_ATTRIBUTES="team=a%20b, service.name=other",
        RELAY_TRACE_ENDPOINT="127.0.0.1:9",
        OTEL_SDK_DISABLED="true",
    )
    assert (file.ratio, file.disabled) == (0.25, True)
    assert file.attributes == {"team": "a b", "service.name": "traced-relay"}
    assert file.batches[0].options["endpoint"] == "127.0.0.1:9"
    assert not file.batches[0].leaves_this_machine


def test_an_attribute_whose_variable_is_not_set_is_left_out(tmp_path: Path) -> None:
    text = changed("    - {name: service.name", "    - name: zone\n      value: ${ZONE}\n    - {name: service.name")
    assert read(tmp_path, text, ZONE="").attributes == {"service.name": "traced-relay"}
    assert read(tmp_path, text, ZONE="z").attributes["zone"] == "z"


# What the library's reader takes, and then does nothing with, or something else than is meant.
TAKEN_IN_SILENCE = {
    "no propagator": (without("propagator:", "tracer_provider:"), "propagator.composite"),
    "the copy is not read": (without("    - relay_origin:", "\ntracer_provider:"), "propagator.composite"),
    "propagators the other way round": (
        changed("    - tracecontext:\n    - relay_origin:", "    - relay_origin:\n    - tracecontext:"),
        "propagator.composite",
    ),
    "baggage": (changed("    - tracecontext:\n", "    - tracecontext:\n    - baggage:\n"), "propagator.composite"),
    "a typo at the root": (changed("\ntracer_provider:", "\ntracer_provder:"), "tracer_provder"),
    "a typo in a plug-in": (changed("relay_cloud_trace:", "relay_clod_trace:"), "relay_clod_trace"),
    "the exporter that blocks": (changed("relay_cloud_trace:", "gcp_trace:"), "gcp_trace"),
    "another detector": (changed("gcp_resource_detector:", "aws_detector:"), "aws_detector"),
    "a variable in the Collector's form": (changed("${RELAY_TRACE_ENDPOINT}", "${env:ENDPOINT}"), "endpoint"),
    "a variable that is no name": (changed("value: traced-relay", 'value: "${1}"'), "attributes[0].value"),
    "nothing is sampled by ratio": (without("  sampler:", "  processors:"), "root.trace_id_ratio_based.ratio"),
    "a front end's flag is believed": (
        without("      remote_parent_not_sampled:", "  processors:"),
        "remote_parent_not_sampled.trace_id_ratio_based.ratio",
    ),
    "two ratios": (
        changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}\n      remote", "ratio: 0.5\n      remote"),
        "the same ratio",
    ),
    "another sampler": (
        changed("      root:\n        trace_id_ratio_based:", "      root:\n        probability/development:"),
        "probability/development",
    ),
    "no limits": (without("attribute_limits:", "propagator:"), "attribute_count_limit"),
    "more attributes than Cloud Trace takes": (changed("_limit: 28", "_limit: 33"), "attribute_count_limit"),
    "longer values than Cloud Trace takes": (changed("_limit: 256", "_limit: 257"), "attribute_value_length_limit"),
    "spans one by one": (
        changed("    - batch:", "    - simple: {exporter: {console: }}\n    - batch:"),
        "processors[0] must not have simple",
    ),
    "a metric pipeline": (
        TEXT + "\nmeter_provider:\n  readers:\n    - periodic: {exporter: {console: {}}}\n",
        "meter_provider",
    ),
    "instrumentations": (TEXT + "\ninstrumentation/development: {general: {}}\n", "instrumentation/development"),
    "a format to come": (changed('file_format: "1.0"', 'file_format: "1.3"'), "file_format"),
    "a list that is none": (changed("${OTEL_RESOURCE_ATTRIBUTES}", "team"), "attributes_list"),
}


@pytest.mark.whole  # all together: the library checks its own schema at every reading
@pytest.mark.parametrize("trap", TAKEN_IN_SILENCE)
def test_what_the_library_would_take_in_silence_is_refused_by_its_key(tmp_path: Path, trap: str) -> None:
    text, key = TAKEN_IN_SILENCE[trap]
    with pytest.raises(InvalidSettings) as refused:
        read(tmp_path, text)
    assert key in str(refused.value)
    assert str(tmp_path / "otel.yaml") in str(refused.value)
    assert not isinstance(refused.value.__cause__, ConfigurationError)  # the library has nothing against it


def test_an_empty_variable_is_no_ratio(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"ratio must be a number from 0 to 1, got None"):
        read(tmp_path, TEXT, OTEL_TRACES_SAMPLER_ARG="")


@pytest.mark.whole
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("- a\n", "must be a mapping"),
        ("a: b: c\n", "is not YAML"),
        (changed('file_format: "1.0"\n', ""), "file_format"),
        (changed('"1.0"', '"0.4"'), "0.4"),
        (changed('"1.0"', '"2.0"'), "2.0"),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", 'ratio: "${OTEL_TRACES_SAMPLER_ARG:-1.0}"'), "ratio"),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", "{ratio: ${X}}"), "is not YAML"),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", "ratio: 1.5"), "1.5"),
        (changed("schedule_delay: 2000", "schedule_dely: 2000"), "schedule_dely"),
        (changed("schedule_delay: 2000", "schedule_delay: soon"), "soon"),
        (changed("    - batch:", "    - own_processor: {}\n    - batch:"), "own_processor"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        read(tmp_path, text)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidSettings, match="No such file"):
        otel_yaml.read(tmp_path / "otel.yaml")
    assert caplog.records == []


_WITHOUT_PLUG_INS = """
import importlib.metadata
from pathlib import Path
from traced_relay.tracing import exporters, otel_yaml, provider
asked = []
importlib.metadata.entry_points = lambda **group: asked.append(group) or []
file = otel_yaml.read(Path("otel.yaml"))
made = [type(exporters.exporter_of(batch, project="p")).__name__ for batch in file.batches]
provider.configure(version="v", instance="i", ratio=file.ratio)
print(made, [group for group in asked if "resource" not in str(group)])
"""


@pytest.mark.whole
def test_no_part_is_looked_for_among_what_is_installed() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "RELAY_TRACE_ENDPOINT": "127.0.0.1:9"}
    command = [sys.executable, "-c", _WITHOUT_PLUG_INS]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.split() == ["['CloudTrace']", "[]"], ran.stderr


OTLP_TEXT = (ROOT / "otel-otlp.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("${RELAY_TRACE_ENDPOINT}", "cloudtrace.example.com:443", "endpoint must be on loopback"),
        ("${RELAY_TRACE_ENDPOINT}", "127.0.0.1:99999", "endpoint must be on loopback"),
        ("${RELAY_TRACE_ENDPOINT}", "127.0.0.1:0", "endpoint must be on loopback"),
        ("timeout: 3000", "timeout: 3s", "timeout must be 100 to 30000"),
        ("timeout: 3000", "timeout: 3", "timeout must be 100 to 30000"),
        (r"service\..*", "(", "resource_regex must be a pattern"),
        (r"service\..*", "0", "resource_regex must be a pattern"),
        ("endpoint:", "endpiont:", "relay_cloud_trace must not have endpiont"),
        (
            "schedule_delay: 2000",
            "schedule_delay: 100000000000000",
            "schedule_delay must be a number from 1 to 3600000",
        ),
        ("max_queue_size: 2048", "max_queue_size: 0", "max_queue_size"),
        ("max_export_batch_size: 512", "max_export_batch_size: 4096", "max_export_batch_size must be a number from 1"),
        ("disabled: ${", "disabled: true\ndisabled: ${", "disabled is given twice"),
        ("attribute_count_limit: 28", "attribute_count_limit: 2026-02-30", "otel.yaml"),
    ],
)
def test_an_odd_value_is_refused_with_its_key(tmp_path: Path, old: str, new: str, why: str) -> None:
    with pytest.raises(InvalidSettings, match=why) as refused:
        read(tmp_path, changed(old, new))
    assert str(tmp_path / "otel.yaml") in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nonsense"}, "must be an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ftp://127.0.0.1/"}, "must be an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:99999/"}, "must be an http or https URL"),
        ({"KEYS": "secret"}, "headers_list must be name=value"),
        ({"KEYS": "key=secret\u0007"}, "without odd characters"),
    ],
)
def test_so_are_variables_of_the_one_for_otlp_without_their_text(
    tmp_path: Path, variables: dict[str, str], why: str
) -> None:
    with pytest.raises(InvalidSettings, match=why) as refused:
        read(
            tmp_path,
            OTLP_TEXT.replace("            endpoint:", "            headers_list: ${KEYS}\n            endpoint:"),
            **variables,
        )
    assert not any(value in str(refused.value) for value in variables.values() if len(value) > 1)


BOMB = "\n".join(["x0: &x0 [a, a, a, a]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9))])


@pytest.mark.parametrize(
    "content",
    [
        "# M\xfcller\n".encode("latin-1") + TEXT.encode(),
        TEXT.encode("utf-16"),
        b"\x00\xff\xfe" * 50,
        (TEXT + "x: &x {y: *x}\n").encode(),
        b"[" * 5000,
        (TEXT + BOMB).encode(),
        b"a: " + b"b" * 2_000_000,
        b"",
        b"[]",
    ],
    ids=["latin 1", "utf 16", "binary", "refers to itself", "brackets", "bomb", "huge", "empty", "a list"],
)
def test_what_is_no_configuration_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "otel.yaml"
    path.write_bytes(content)
    with surroundings(**UNSET), pytest.raises(InvalidSettings) as refused:
        otel_yaml.read(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["x" * 300, ".", "missing.yaml"])
def test_what_is_no_file_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSettings):
        otel_yaml.read(tmp_path / name)
