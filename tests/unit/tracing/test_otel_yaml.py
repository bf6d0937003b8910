"""The shipped otel.yaml files, variables in them, and every kind of mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.house import ROOT
from traced_relay.errors import InvalidSettings
from traced_relay.tracing import otel_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from traced_relay.tracing.otel_yaml import OtelFile

TEXT = (ROOT / "otel.yaml").read_text()
OTLP_TEXT = (ROOT / "otel-otlp.yaml").read_text()
NAME = "{name: service.name, value: traced-relay}"


def read(tmp_path: Path, text: str, **variables: str) -> OtelFile:
    path = tmp_path / "otel.yaml"
    path.write_text(text)
    return otel_yaml.read(path, variables)


def refused(tmp_path: Path, text: str, **variables: str) -> str:
    """The message, which is one line and names the file."""
    with pytest.raises(InvalidSettings) as error:
        read(tmp_path, text, **variables)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'otel.yaml'}: ")
    assert "\n" not in message
    return message


def changed(old: str, new: str, text: str = TEXT) -> str:
    assert old in text
    return text.replace(old, new)


def without(first: str, after: str) -> str:
    """The text without what is from *first* up to *after*."""
    start = TEXT.index(first)
    return TEXT[:start] + TEXT[TEXT.index(after, start) :]


def attribute(tmp_path: Path, value: str, **variables: str) -> object:
    """The value of an attribute that the file gives as *value*."""
    text = changed(NAME, f"name: service.name\n      value: {value}")
    return read(tmp_path, text, **variables).attributes.get("service.name")


def test_the_shipped_file_exports_to_cloud_trace(tmp_path: Path) -> None:
    file = read(tmp_path, TEXT)
    assert (file.disabled, bool(file.resource.detection.detectors), file.ratio) == (False, True, 1.0)
    assert file.attribute_limits.attribute_count_limit == 28
    assert file.attribute_limits.attribute_value_length_limit == 256
    assert file.attributes == {"service.name": "traced-relay"}
    [batch] = file.batches
    assert (batch.schedule_delay, batch.batch_size, batch.max_queue_size) == (2000, 512, 2048)
    assert batch.exporter.model_dump() == {
        "relay_cloud_trace": {"timeout": 3000, "endpoint": None, "resource_regex": r"service\..*"},
        "otlp_http": None,
    }
    assert batch.sends_to_google


def test_the_shipped_file_for_otlp_differs_in_the_exporter_only(tmp_path: Path) -> None:
    file = read(tmp_path, OTLP_TEXT)
    [batch] = file.batches
    assert batch.exporter.otlp_http is not None
    assert batch.exporter.otlp_http.endpoint == "http://127.0.0.1:4318/v1/traces"
    shipped = read(tmp_path, TEXT)
    assert (file.ratio, file.resource) == (shipped.ratio, shipped.resource)


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
    [batch] = file.batches
    assert batch.exporter.relay_cloud_trace is not None
    assert batch.exporter.relay_cloud_trace.endpoint == "127.0.0.1:9"
    assert not batch.sends_to_google


def test_an_attribute_without_its_variable_is_left_out(tmp_path: Path) -> None:
    text = changed("    - {name: service.name", "    - name: zone\n      value: ${ZONE}\n    - {name: service.name")
    assert read(tmp_path, text, ZONE="").attributes == {"service.name": "traced-relay"}
    assert read(tmp_path, text).attributes == {"service.name": "traced-relay"}
    assert read(tmp_path, text, ZONE="z").attributes["zone"] == "z"


# The examples of https://opentelemetry.io/docs/specs/otel/configuration/data-model/#environment-variable-substitution
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("${STRING}", "value"),
        ("${env:STRING}", "value"),
        ('"${STRING}"', "value"),
        ("${BOOL}", True),
        ("${INT}", 1),
        ("${FLOAT}", 1.1),
        ("${HEX}", 0xDEADBEEF),
        ('"${BOOL}"', "true"),
        ('"${INT}"', "1"),
        ("foo ${STRING} ${FLOAT}", "foo value 1.1"),
        ("${UNSET:-fallback}", "fallback"),
        ("${env:UNSET:-2}", 2),
        ("${STRING:-fallback}", "value"),
        ("${UNSET}", None),
        ("${EMPTY}", None),
        ('"${EMPTY}"', ""),
        ("a$$b", "a$b"),
        ("$${STRING}", "${STRING}"),
        ("$$${STRING}", "$value"),
        ("$$$${STRING}", "$${STRING}"),
        ("$STRING", "$STRING"),
        ("a $$ ${UNSET:-b}", "a $ b"),
    ],
)
def test_variables_are_replaced_by_the_specification(tmp_path: Path, value: str, expected: object) -> None:
    found = attribute(
        tmp_path, value, STRING="value", BOOL="true", INT="1", FLOAT="1.1", HEX="0xdeadbeef", EMPTY="", fallback="no"
    )
    assert (found, type(found)) == (expected, type(expected))


def test_a_variable_cannot_add_keys_or_items(tmp_path: Path) -> None:
    for text in ("a\nb: c", "[a, b]", "{a: b}", "- a", "a # b"):
        assert attribute(tmp_path, "${X}", X=text) == text


def test_an_alias_is_replaced_once_and_keys_are_not(tmp_path: Path) -> None:
    text = changed(NAME, "name: service.name\n      value: &v $${X}\n    - {name: other, value: *v}")
    assert read(tmp_path, text, X="x").attributes == {"service.name": "${X}", "other": "${X}"}
    assert "${X} is not a known field" in refused(tmp_path, TEXT + "${X}: 1\n", X="disabled")


@pytest.mark.parametrize("value", ['"${1}"', "${file:X}", "${X", "a ${X-b}", "${}", "${X?error}"])
def test_a_malformed_reference_is_refused_by_its_key(tmp_path: Path, value: str) -> None:
    message = refused(tmp_path, changed(NAME, f"name: n\n      value: {value}"))
    assert "resource.attributes.0.value must refer to variables as ${NAME} or ${NAME:-default}" in message


def test_a_variable_that_names_another_is_refused(tmp_path: Path) -> None:
    assert "attributes_list must refer to" in refused(tmp_path, TEXT, OTEL_RESOURCE_ATTRIBUTES="zone=${ZONE}")


# Each is valid for OpenTelemetry, but the relay would not do it.
NOT_IMPLEMENTED = {
    "no propagator": (without("propagator:", "tracer_provider:"), "propagator is required"),
    "the copy is not read": (without("    - relay_origin:", "\ntracer_provider:"), "propagator.composite"),
    "propagators the other way round": (
        changed("    - tracecontext:\n    - relay_origin:", "    - relay_origin:\n    - tracecontext:"),
        "propagator.composite",
    ),
    "baggage": (changed("    - tracecontext:\n", "    - tracecontext:\n    - baggage:\n"), "propagator.composite"),
    "an option of a propagator": (changed("relay_origin:", "relay_origin: {a: 1}"), "composite.1.relay_origin.a"),
    "a typo at the root": (changed("\ntracer_provider:", "\ntracer_provder:"), "tracer_provder"),
    "a typo in a plug-in": (changed("relay_cloud_trace:", "relay_clod_trace:"), "relay_clod_trace"),
    "the exporter that blocks": (changed("relay_cloud_trace:", "gcp_trace:"), "gcp_trace"),
    "another detector": (changed("gcp_resource_detector:", "aws_detector:"), "aws_detector"),
    "nothing is sampled by ratio": (without("  sampler:", "  processors:"), "tracer_provider.sampler is required"),
    "a front end's flag counts": (
        without("      remote_parent_not_sampled:", "  processors:"),
        "parent_based.remote_parent_not_sampled is required",
    ),
    "two ratios": (
        changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}\n      remote", "ratio: 0.5\n      remote"),
        "parent_based must have the same ratio",
    ),
    "another sampler": (
        changed("      root:\n        trace_id_ratio_based:", "      root:\n        probability/development:"),
        "probability/development",
    ),
    "no limits": (without("attribute_limits:", "propagator:"), "attribute_limits is required"),
    "more attributes than Cloud Trace takes": (changed("_limit: 28", "_limit: 33"), "attribute_count_limit"),
    "longer values than Cloud Trace takes": (changed("_limit: 256", "_limit: 257"), "attribute_value_length_limit"),
    "spans one by one": (
        changed("    - batch:", "    - simple: {exporter: {console: }}\n    - batch:"),
        "processors.0.simple is not a known field",
    ),
    "two exporters": (
        changed("exporter:", "exporter:\n          otlp_http:"),
        "must be relay_cloud_trace or otlp_http",
    ),
    "no exporter": (TEXT[: TEXT.index("        exporter:")], "batch.exporter is required"),
    "a metric pipeline": (
        TEXT + "\nmeter_provider:\n  readers:\n    - periodic: {exporter: {console: {}}}\n",
        "meter_provider",
    ),
    "instrumentations": (TEXT + "\ninstrumentation/development: {general: {}}\n", "instrumentation/development"),
    "a format to come": (changed('file_format: "1.0"', 'file_format: "1.3"'), "file_format"),
    "no list of attributes": (changed("${OTEL_RESOURCE_ATTRIBUTES}", "team"), "attributes_list must be name=value"),
}


@pytest.mark.parametrize("case", NOT_IMPLEMENTED)
def test_an_unimplemented_key_is_refused_by_its_name(tmp_path: Path, case: str) -> None:
    text, why = NOT_IMPLEMENTED[case]
    assert why in refused(tmp_path, text)


def test_an_empty_variable_is_no_ratio(tmp_path: Path) -> None:
    assert "ratio must be a number" in refused(tmp_path, TEXT, OTEL_TRACES_SAMPLER_ARG="")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be a mapping"),
        ("- a\n", "must be a mapping"),
        ("a: b: c\n", "is not YAML"),
        (changed('file_format: "1.0"\n', ""), "file_format is required"),
        (changed('"1.0"', '"0.4"'), "file_format must be one of '1.0' or '1.1'"),
        (changed('"1.0"', '"2.0"'), "file_format must be one of '1.0' or '1.1'"),
        (
            changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", 'ratio: "${OTEL_TRACES_SAMPLER_ARG:-1.0}"'),
            "ratio must be",
        ),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", "{ratio: ${X}}"), "is not YAML"),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", "ratio: 1.5"), "ratio must be at most 1.0, got 1.5"),
        (changed("ratio: ${OTEL_TRACES_SAMPLER_ARG:-1.0}", "ratio: .nan"), "ratio must be at most 1.0, got nan"),
        (changed("schedule_delay: 2000", "schedule_dely: 2000"), "schedule_dely is not a known field"),
        (changed("schedule_delay: 2000", "schedule_delay: soon"), "schedule_delay must be an integer"),
        (changed("schedule_delay: 2000", "schedule_delay: 100000000000000"), "schedule_delay must be at most 3600000"),
        (changed("max_queue_size: 2048", "max_queue_size: 0"), "max_queue_size must be at least 1, got 0"),
        (changed("_batch_size: 512", "_batch_size: 4096"), "max_export_batch_size of at most max_queue_size, got 4096"),
        (changed("    - batch:", "    - own_processor: {}\n    - batch:"), "own_processor"),
        (changed("${RELAY_TRACE_ENDPOINT}", "cloudtrace.example.com:443"), "endpoint must be on loopback"),
        (changed("${RELAY_TRACE_ENDPOINT}", "127.0.0.1:99999"), "endpoint must be on loopback"),
        (changed("${RELAY_TRACE_ENDPOINT}", "127.0.0.1:0"), "endpoint must be on loopback"),
        (changed("timeout: 3000", "timeout: 3s"), "timeout must be an integer"),
        (changed("timeout: 3000", "timeout: 3"), "timeout must be 100 to 30000 milliseconds, got 3"),
        (changed("timeout: 3000", "timeout: 30001"), "timeout must be 100 to 30000 milliseconds, got 30001"),
        (changed(r"service\..*", "("), "resource_regex must be a regular expression"),
        (changed(r"service\..*", "0"), "resource_regex must be a string"),
        (changed("endpoint:", "endpiont:"), "relay_cloud_trace.endpiont is not a known field"),
        (changed("disabled: ${", "disabled: true\ndisabled: ${"), "disabled is given twice"),
        (changed("attribute_count_limit: 28", "attribute_count_limit: 2026-02-30"), "is not YAML"),
        (changed("value: traced-relay", "value: {a: b}"), "attributes.0.value must be a string"),
        (changed("value: traced-relay", "value: [1, a]"), "attributes.0.value must be a string"),
        (changed("resource:", 'resource: null\n"a\\nb":'), "a b is not a known field"),
    ],
)
def test_a_mistake_is_refused_in_one_line_with_its_key(tmp_path: Path, text: str, why: str) -> None:
    assert why in refused(tmp_path, text)


def test_null_stands_for_the_default(tmp_path: Path) -> None:
    text = changed("schedule_delay: 2000", "schedule_delay: ${DELAY}")
    text = changed(
        "max_queue_size: 2048", "max_queue_size: 100", changed("_batch_size: 512", "_batch_size: ${SIZE}", text)
    )
    [batch] = read(tmp_path, text).batches
    assert (batch.schedule_delay, batch.batch_size) == (5000, 100)


def test_a_missing_file_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InvalidSettings, match="No such file"):
        otel_yaml.read(tmp_path / "otel.yaml")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nonsense"}, "endpoint must be an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ftp://127.0.0.1/"}, "endpoint must be an http or https URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:99999/"}, "endpoint must be an http or https URL"),
        ({"KEYS": "secret"}, "headers_list must be name=value"),
        ({"KEYS": "key=secret\u0007"}, "otlp_http must have headers of a valid name and printable ASCII"),
        ({"KEYS": "k y=secret"}, "otlp_http must have headers of a valid name and printable ASCII"),
    ],
)
def test_an_error_does_not_show_otlp_values(tmp_path: Path, variables: dict[str, str], why: str) -> None:
    text = changed("            endpoint:", "            headers_list: ${KEYS}\n            endpoint:", OTLP_TEXT)
    message = refused(tmp_path, text, **variables)
    assert why in message
    assert not any(value in message for value in variables.values())


def test_otlp_headers_come_from_both_keys(tmp_path: Path) -> None:
    text = changed(
        "            endpoint:",
        "            headers_list: a=1, b=${B}\n            headers: [{name: b, value: 3}, {name: c, value: null}]\n"
        "            compression: gzip\n            endpoint:",
        OTLP_TEXT,
    )
    [batch] = read(tmp_path, text.replace("value: 3", 'value: "3"'), B="2=").batches
    assert batch.exporter.otlp_http is not None
    assert batch.exporter.otlp_http.all_headers == {"a": "1", "b": "3", "c": ""}


BOMB = "\n".join(["x0: &x0 [a, a, a, a]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9))])


@pytest.mark.parametrize(
    "content",
    [
        "# M\xfcller\n".encode("latin-1") + TEXT.encode(),
        TEXT.encode("utf-16"),
        b"\x00\xff\xfe" * 50,
        (TEXT + "x: &x {y: *x}\n").encode(),
        changed("tracer_provider:", "tracer_provider: &x {processors: [*x]}\nx:").encode(),
        b"[" * 5000,
        (TEXT + BOMB).encode(),
        b"a: " + b"b" * 2_000_000,
        b"",
        b"[]",
    ],
    ids=["latin 1", "utf 16", "binary", "recursive", "recursive key", "brackets", "bomb", "huge", "empty", "a list"],
)
def test_a_file_without_configuration_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "otel.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidSettings) as error:
        otel_yaml.read(path, {})
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x" * 300, ".", "missing.yaml"])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSettings):
        otel_yaml.read(tmp_path / name)


_WITHOUT_PLUG_INS = """
import importlib.metadata
from pathlib import Path
from traced_relay.tracing import exporters, otel_yaml, provider
asked = []
importlib.metadata.entry_points = lambda **group: asked.append(group) or []
file = otel_yaml.read(Path("otel.yaml"))
created = [type(exporters.create_exporter(batch.exporter, project="p")).__name__ for batch in file.batches]
provider.create_provider(version="v", instance="i", ratio=file.ratio)
print(created, [group for group in asked if "resource" not in str(group)])
"""


@pytest.mark.whole
def test_no_plug_in_is_loaded() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "RELAY_TRACE_ENDPOINT": "127.0.0.1:9"}
    command = [sys.executable, "-c", _WITHOUT_PLUG_INS]
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.split() == ["['CloudTrace']", "[]"], ran.stderr


def test_an_exporter_that_is_not_selected_is_not_loaded() -> None:
    loaded = "print('google.cloud.trace_v2' in sys.modules)"
    command = [sys.executable, "-c", f"import sys; from traced_relay.tracing import exporters, pipeline; {loaded}"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.split() == ["False"], ran.stderr
