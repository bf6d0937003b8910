"""
otel.yaml, read: what of OpenTelemetry's declarative configuration the relay does, and nothing else.

The library takes much in silence that then has no effect; here whatever is not understood is refused by its key.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from opentelemetry.configuration import ConfigurationError, load_config_file

from traced_relay.errors import InvalidSettings
from traced_relay.formats.yaml_file import document_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CLOUD_TRACE, OTLP = "relay_cloud_trace", "otlp_http"


_KEYS = {
    CLOUD_TRACE: ("endpoint", "timeout", "resource_regex"),
    OTLP: ("endpoint", "headers", "headers_list", "timeout", "compression"),
}


TIMEOUT = 3000  # milliseconds, where none is given


_TIMEOUTS = range(100, 30_001)


def option_problems(exporter: str, options: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(options) - set(_KEYS[exporter])):
        yield f"{exporter} must not have {name}: the relay knows {', '.join(_KEYS[exporter])} there"
    timeout = options.get("timeout", TIMEOUT)
    if type(timeout) is not int or timeout not in _TIMEOUTS:
        yield f"{exporter}.timeout must be {_TIMEOUTS[0]} to {_TIMEOUTS[-1]} milliseconds, got {timeout!r}"
    yield from _of_cloud_trace(options) if exporter == CLOUD_TRACE else _of_otlp(options)


def _of_cloud_trace(options: Mapping[str, Any]) -> Iterator[str]:
    endpoint, regex = options.get("endpoint"), options.get("resource_regex")
    found = re.fullmatch(r"(?:127\.0\.0\.1|localhost|\[::1\]):([0-9]{1,5})", str(endpoint))
    if endpoint is not None and not (found and 0 < int(found[1]) < 65_536):
        yield f"relay_cloud_trace.endpoint must be on loopback, 127.0.0.1:PORT, got {endpoint!r}"
    try:
        re.compile("" if regex is None else regex)
    except (re.error, TypeError) as exc:
        yield f"relay_cloud_trace.resource_regex must be a pattern: {exc}"


def _of_otlp(options: Mapping[str, Any]) -> Iterator[str]:
    endpoint = options.get("endpoint")
    if endpoint is not None and not _is_url(str(endpoint)):
        yield "otlp_http.endpoint must be an http or https URL"
    for name, value in otlp_headers(options):
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[^\t -~]", value):
            yield "otlp_http.headers_list must be name=value, with commas between, without odd characters"
            return


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def otlp_headers(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values, as they are listed and then as they are given one by one."""
    for item in (options.get("headers_list") or "").split(","):
        name, equals, value = item.partition("=")
        if item.strip():
            yield (name.strip() if equals else ""), value.strip()
    for one in options.get("headers", ()):
        yield one.name, one.value or ""


MOST_ATTRIBUTES, LONGEST_VALUE = 32, 256  # Cloud Trace's limits
_FORMATS = ("1.0", "1.1")
_DETECTOR = "gcp_resource_detector"
_PROPAGATORS = ["tracecontext", "relay_origin"]
_EXPORTERS = (CLOUD_TRACE, OTLP)
_MOST_TEXTS = 5_000  # in the whole file; one that repeats itself by references has no end

logging.getLogger("opentelemetry.configuration").setLevel(logging.CRITICAL)  # what it logs it raises as well


@dataclass(frozen=True)
class Batch:
    """An exporter by its key, with what is set for it, and how its spans are gathered; *delay* in seconds."""

    exporter: str
    options: Mapping[str, Any]
    delay: float = 5.0
    size: int = 512
    room: int = 2048

    @property
    def leaves_this_machine(self) -> bool:
        """Whether it goes to Google; an endpoint, which tests set, is on loopback."""
        return self.exporter == CLOUD_TRACE and not self.options.get("endpoint")


@dataclass(frozen=True)
class OtelFile:
    """*ratio* of all traces is recorded; *detects* asks Google's metadata server where this is."""

    disabled: bool
    attributes: Mapping[str, Any]
    detects: bool
    attribute_count: int
    value_length: int
    ratio: float
    batches: tuple[Batch, ...] = field(default=())


def read(path: Path) -> OtelFile:
    """What the file says, with the variables that it names; InvalidSettings names file and key."""
    document_of(path)  # which refuses what the library lets pass: a key that stands twice, bytes that are no text
    try:
        return _read(load_config_file(path))
    except (ConfigurationError, _Wrong, OSError, ValueError, RecursionError) as exc:  # bytes, and brackets, without end
        raise InvalidSettings(f"{path}: {' '.join(str(exc).split())[:500]}") from exc


class _Wrong(Exception):
    """A key, and what it must be."""


def _read(model: Any) -> OtelFile:
    for number, (where, text) in enumerate(_texts(model)):
        if number == _MOST_TEXTS:
            raise _Wrong(f"the file has more than {_MOST_TEXTS} values")
        if "${" in text:
            raise _Wrong(f"{where} names a variable in a form that is not one, such as ${{env:NAME}}: {text[:80]!r}")
    known = ("file_format", "disabled", "resource", "attribute_limits", "propagator", "tracer_provider")
    root = _only(model, "the file", *known)
    if root["file_format"] not in _FORMATS:
        raise _Wrong(f"file_format must be {' or '.join(_FORMATS)}, got {root['file_format']!r}")
    attributes, detects = _resource(root.get("resource"))
    limits = _only(root.get("attribute_limits"), "attribute_limits", "attribute_count_limit", _LENGTH)
    _check_propagator(root.get("propagator"))
    provider = _only(root.get("tracer_provider"), "tracer_provider", "sampler", "processors")
    return OtelFile(
        disabled=root.get("disabled", False),
        attributes=attributes,
        detects=detects,
        attribute_count=_number(limits, "attribute_limits", "attribute_count_limit", 1, MOST_ATTRIBUTES),
        value_length=_number(limits, "attribute_limits", _LENGTH, 1, LONGEST_VALUE),
        ratio=_ratio(provider.get("sampler")),
        batches=tuple(_batches(provider.get("processors") or ())),
    )


_LENGTH = "attribute_value_length_limit"


def _resource(model: Any) -> tuple[dict[str, Any], bool]:
    if model is None:
        return {}, False
    given = _only(model, "resource", "attributes", "attributes_list", "detection_development")
    pairs = [item.partition("=") for item in given.get("attributes_list", "").split(",") if item.strip()]
    if any(not (name.strip() and equals) for name, equals, _ in pairs):
        raise _Wrong("resource.attributes_list must be name=value, with commas between")
    listed = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    # Without a value are those whose variable is not set, as the specification has it.
    named = {one.name: one.value for one in given.get("attributes", ()) if one.value is not None}
    found = _only(given.get("detection_development"), "resource.detection/development", "detectors")
    detectors = [name for one in found.get("detectors", ()) for name in _given(one)]
    if detectors not in ([], [_DETECTOR]):
        raise _Wrong(f"resource.detection/development.detectors may have {_DETECTOR} and no other, got {detectors}")
    return listed | named, bool(detectors)


def _check_propagator(model: Any) -> None:
    composite = _only(model, "propagator", "composite").get("composite", ())
    names = [name for one in composite for name in _given(one)]
    if names != _PROPAGATORS:
        raise _Wrong(f"propagator.composite must be {' and then '.join(_PROPAGATORS)}, got {names or 'nothing'}")


def _ratio(model: Any) -> float:
    """The one share of all traces: whether a parent was "not sampled" makes no difference."""
    where = "tracer_provider.sampler"
    parent_based = _only(_only(model, where, "parent_based").get("parent_based"), f"{where}.parent_based", *_SAMPLED)
    ratios = []
    for name in _SAMPLED:
        by_ratio = _only(parent_based.get(name), f"{where}.parent_based.{name}", "trace_id_ratio_based")
        place = f"{where}.parent_based.{name}.trace_id_ratio_based"
        ratios.append(_number(_only(by_ratio.get("trace_id_ratio_based"), place, "ratio"), place, "ratio", 0, 1))
    if len(set(ratios)) > 1:
        raise _Wrong(f"{where}.parent_based: root and remote_parent_not_sampled must have the same ratio, got {ratios}")
    return float(ratios[0])


_SAMPLED = ("root", "remote_parent_not_sampled")


def _batches(models: Any) -> Iterator[Batch]:
    for number, model in enumerate(models):
        where = f"tracer_provider.processors[{number}]"
        batch = _only(
            _only(model, where, "batch").get("batch"),
            f"{where}.batch",
            *("schedule_delay", "max_queue_size", "max_export_batch_size", "exporter"),
        )
        exporter = _only(batch["exporter"], f"{where}.batch.exporter", *_EXPORTERS)
        if not exporter:
            raise _Wrong(f"{where}.batch.exporter must be {' or '.join(_EXPORTERS)}")
        (name, given) = next(iter(exporter.items()))
        options = (given or {}) if name == CLOUD_TRACE else _given(given)
        for problem in option_problems(name, options):
            raise _Wrong(f"{where}.batch.exporter.{problem}")
        room = _whole(batch, where, "max_queue_size", 2048, most=1_000_000)
        yield Batch(
            exporter=name,
            options=options,
            delay=_whole(batch, where, "schedule_delay", 5000, most=3_600_000) / 1000,
            size=_whole(batch, where, "max_export_batch_size", min(512, room), most=room),
            room=room,
        )


def _whole(batch: Mapping[str, Any], where: str, name: str, default: int, *, most: int) -> int:
    return int(_number({name: batch.get(name, default)}, f"{where}.batch", name, 1, most))


def _number(given: Mapping[str, Any], where: str, name: str, least: float, most: float) -> Any:
    value = given.get(name)
    if value is None or not least <= value <= most:
        raise _Wrong(f"{where}.{name} must be a number from {least} to {most}, got {value!r}")
    return value


def _only(model: Any, where: str, *known: str) -> dict[str, Any]:
    """What *model* gives, if it gives nothing but these."""
    given = _given(model)
    for name in given:
        if name not in known:
            shown = ", ".join(_as_written(one) for one in known)
            raise _Wrong(f"{where} must not have {_as_written(name)}: the relay knows {shown} there")
    return given


def _given(model: Any) -> dict[str, Any]:
    if model is None:
        return {}
    if not is_dataclass(model):
        return dict(model)
    set_here = {one.name: getattr(model, one.name) for one in fields(model)}
    # One that the library does not know is there even without a value.
    return {name: value for name, value in set_here.items() if value is not None} | _unknown(model)


def _unknown(model: Any) -> dict[str, Any]:
    return dict(vars(model).get("additional_properties") or {})


def _as_written(name: str) -> str:
    return name.replace("_development", "/development")


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in the file, with its key."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{where}[{number}]")
    elif is_dataclass(value) or isinstance(value, dict):
        for name, item in _given(value).items():
            yield from _texts(item, f"{where}.{_as_written(name)}".lstrip("."))
