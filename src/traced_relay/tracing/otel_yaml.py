"""otel.yaml: the part of OpenTelemetry's declarative configuration that the relay implements; no other key is valid."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticUseDefault

from traced_relay.errors import InvalidCall, InvalidSettings
from traced_relay.formats import validation
from traced_relay.formats.validation import Model
from traced_relay.formats.yaml_file import document_of
from traced_relay.tracing.attributes import MAX_ATTRIBUTES, MAX_VALUE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def _use_default(value: Any) -> Any:
    if value is None:
        raise PydanticUseDefault
    return value


_NullIsDefault = BeforeValidator(_use_default)  # null stands where a variable is not set


def _check_loopback(endpoint: str) -> str:
    match = re.fullmatch(r"(?:127\.0\.0\.1|localhost|\[::1\]):([0-9]{1,5})", endpoint)
    if not (match and 0 < int(match[1]) < 65_536):
        raise ValueError(f"must be on loopback, 127.0.0.1:PORT, got {endpoint!r}")
    return endpoint


def _check_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"must be a regular expression: {exc}") from None
    return pattern


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:
        pass
    raise ValueError("must be an http or https URL")  # without its value, which may contain a password


def _check_pairs(text: str) -> str:
    if not all(name and equals for name, equals, _ in _pairs(text)):
        raise ValueError("must be name=value, separated by commas")
    return text


def _pairs(text: str) -> Iterator[tuple[str, str, str]]:
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if item.strip():
            yield name.strip(), equals, value.strip()


def _check_attribute_value(value: Any) -> Any:
    kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
    if value is not None and kinds not in ({str}, {bool}, {int}, {float}, {int, float}):
        raise ValueError("must be a string, a number, true or false, or a list of one of these")
    return value


class NoOptions(Model):
    pass


_Named = dict[str, NoOptions | None]


def _exactly(*expected: str) -> AfterValidator:
    def check(items: list[_Named]) -> list[_Named]:
        if [list(item) for item in items] != [[name] for name in expected]:
            names = ", ".join(name for item in items for name in item) or "nothing"
            raise ValueError(f"must be {' and then '.join(expected)}, got {names}")
        return items

    return AfterValidator(check)


_AttributeType = Literal["string", "bool", "int", "double", "string_array", "bool_array", "int_array", "double_array"]


class Attribute(Model):
    name: str
    value: Annotated[Any, AfterValidator(_check_attribute_value)]
    type: _AttributeType | None = None


class Detection(Model):
    detectors: Annotated[list[_Named], _exactly("gcp_resource_detector")] = Field(default=[])


class Resource(Model):
    attributes: Annotated[list[Attribute], Field(min_length=1)] = Field(default=[])
    attributes_list: Annotated[str, AfterValidator(_check_pairs), _NullIsDefault] = ""
    detection: Annotated[Detection, Field(alias="detection/development")] = Detection()


class AttributeLimits(Model):
    attribute_count_limit: Annotated[int, Field(ge=1, le=MAX_ATTRIBUTES)]
    attribute_value_length_limit: Annotated[int, Field(ge=1, le=MAX_VALUE_LENGTH)]


class Propagator(Model):
    composite: Annotated[list[_Named], _exactly("tracecontext", "relay_origin")]


class TraceIdRatioBased(Model):
    ratio: Annotated[float, Field(ge=0, le=1)]


class RatioSampler(Model):
    trace_id_ratio_based: TraceIdRatioBased


class ParentBased(Model):
    root: RatioSampler
    remote_parent_not_sampled: RatioSampler

    @model_validator(mode="after")
    def _check_ratios(self) -> ParentBased:
        if self.root != self.remote_parent_not_sampled:
            raise ValueError("must have the same ratio in root and remote_parent_not_sampled")
        return self


class Sampler(Model):
    parent_based: ParentBased


def _check_timeout(milliseconds: int) -> int:
    if not 100 <= milliseconds <= 30_000:
        raise ValueError(f"must be 100 to 30000 milliseconds, got {milliseconds}")
    return milliseconds


_Timeout = Annotated[int, AfterValidator(_check_timeout)]


class CloudTraceOptions(Model):
    endpoint: Annotated[str, AfterValidator(_check_loopback)] | None = None  # of a test; None is Google's
    timeout: _Timeout = 3000
    resource_regex: Annotated[str, AfterValidator(_check_pattern)] | None = None


class Header(Model):
    name: str
    value: str | None


class OtlpOptions(Model):
    endpoint: Annotated[str, AfterValidator(_check_url)] | None = None
    headers: Annotated[list[Header], Field(min_length=1)] = Field(default=[])
    headers_list: Annotated[str, AfterValidator(_check_pairs), _NullIsDefault] = ""
    timeout: Annotated[_Timeout, _NullIsDefault] = 3000
    compression: Annotated[Literal["none", "gzip", "deflate"], _NullIsDefault] = "none"

    @property
    def all_headers(self) -> dict[str, str]:
        listed = {name: value for name, _, value in _pairs(self.headers_list)}
        return listed | {header.name: header.value or "" for header in self.headers}

    @model_validator(mode="after")
    def _check_headers(self) -> OtlpOptions:
        for name, value in self.all_headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or re.search(r"[^\t -~]", value):
                raise ValueError("must have headers of a valid name and printable ASCII")
        return self


_AlsoBare = BeforeValidator(lambda given: {} if given is None else given)  # a key without options


class Exporter(Model):
    relay_cloud_trace: Annotated[CloudTraceOptions | None, _AlsoBare] = None
    otlp_http: Annotated[OtlpOptions | None, _AlsoBare] = None

    @model_validator(mode="after")
    def _check_one(self) -> Exporter:
        if len(self.model_fields_set) != 1:
            raise ValueError("must be relay_cloud_trace or otlp_http")
        return self


class Batch(Model):
    schedule_delay: Annotated[int, Field(ge=1, le=3_600_000), _NullIsDefault] = 5000  # milliseconds
    max_queue_size: Annotated[int, Field(ge=1, le=1_000_000), _NullIsDefault] = 2048  # spans
    max_export_batch_size: Annotated[int, Field(ge=1)] | None = None  # None: 512, or less in a smaller queue
    exporter: Exporter

    @property
    def batch_size(self) -> int:
        return self.max_export_batch_size or min(512, self.max_queue_size)

    @property
    def sends_to_google(self) -> bool:
        cloud_trace = self.exporter.relay_cloud_trace
        return cloud_trace is not None and cloud_trace.endpoint is None

    @model_validator(mode="after")
    def _check_batch_size(self) -> Batch:
        if self.batch_size > self.max_queue_size:
            raise ValueError(f"must have a max_export_batch_size of at most max_queue_size, got {self.batch_size}")
        return self


class Processor(Model):
    batch: Batch


class Provider(Model):
    sampler: Sampler
    processors: Annotated[list[Processor], Field(min_length=1)]


class OtelFile(Model):
    file_format: Literal["1.0", "1.1"]
    disabled: Annotated[bool, _NullIsDefault] = False
    resource: Resource = Resource()
    attribute_limits: AttributeLimits
    propagator: Propagator
    tracer_provider: Provider

    @property
    def attributes(self) -> dict[str, Any]:
        """The resource's attributes, without those whose variable is not set."""
        listed = {name: unquote(value) for name, _, value in _pairs(self.resource.attributes_list)}
        return listed | {one.name: one.value for one in self.resource.attributes if one.value is not None}

    @property
    def ratio(self) -> float:
        """The share of all traces that is recorded."""
        return self.tracer_provider.sampler.parent_based.root.trace_id_ratio_based.ratio

    @property
    def batches(self) -> list[Batch]:
        return [processor.batch for processor in self.tracer_provider.processors]


def read(path: Path, environ: Mapping[str, str] = os.environ) -> OtelFile:
    """The configuration in *path*, with variables from *environ*; InvalidSettings names file and key."""
    try:
        document = document_of(path, variables=environ)
        if not isinstance(document, dict):
            raise InvalidSettings(f"{path}: must be a mapping of keys to values")
        return validation.read(OtelFile, document)
    except InvalidCall as exc:
        raise InvalidSettings(f"{path}: {' '.join(exc.detail.split())[:500]}") from None
