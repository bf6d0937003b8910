"""
Redaction of spans: only known attributes remain.

No header, query string or exception text gets into a span, whatever the environment configures. The instrumentations
have no setting for this, but they use the tracer provider that they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from traced_relay.tracing.attributes import ATTRIBUTES, OWN_PREFIXES, URL_FULL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue

_MAX_VALUE_BYTES = 256  # Cloud Trace's limit; the SDK counts characters


def redacted(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {
        name: _value(name, value)
        for name, value in attributes.items()
        if name in ATTRIBUTES or name.startswith(OWN_PREFIXES)
    }


def _value(name: str, value: AttributeValue) -> AttributeValue:
    if not isinstance(value, str):
        return value
    shown = value.partition("?")[0].partition("#")[0] if name == URL_FULL else value
    if shown.isascii() and len(shown) <= _MAX_VALUE_BYTES:
        return shown
    return shown.encode(errors="replace")[:_MAX_VALUE_BYTES].decode(errors="ignore")
