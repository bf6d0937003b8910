"""
Redaction of spans: only known attributes remain.

No header, query string or exception text gets into a span, whatever the environment configures. The instrumentations
have no setting for this, but they use the tracer provider that they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes

from traced_relay.tracing.attributes import ATTRIBUTES, MAX_VALUE_LENGTH, OWN_PREFIXES, URL_FULL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.util.types import AttributeValue


def redacted(attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {
        name: shown
        for name, value in attributes.items()
        if (name in ATTRIBUTES or name.startswith(OWN_PREFIXES)) and (shown := _value(name, value)) is not None
    }


def _value(name: str, value: AttributeValue) -> AttributeValue | None:
    if not isinstance(value, str):
        return value if isinstance(value, int | float) else _other(name, value)
    shown = value.partition("?")[0].partition("#")[0] if name == URL_FULL else value
    if shown.isascii() and len(shown) <= MAX_VALUE_LENGTH:
        return shown
    return shown.encode(errors="replace")[:MAX_VALUE_LENGTH].decode(errors="ignore")


def _other(name: str, value: Any) -> AttributeValue | None:
    """*value*, for example a list, as the SDK keeps it; None for what is no attribute, which it logs."""
    kept: AttributeValue | None = BoundedAttributes(None, {name: value}, max_value_len=MAX_VALUE_LENGTH).get(name)
    return kept
