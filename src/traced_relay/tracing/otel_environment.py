"""
OpenTelemetry settings that this process inherits, for example from a cluster that sets them for every pod.

The relay's spans are a contract, and otel.yaml decides where they go; variables for instrumentations change neither.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from traced_relay.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_IGNORED = (
    "OTEL_EXPERIMENTAL_",
    "OTEL_EXPORTER_GCP_TRACE_",
    "OTEL_INSTRUMENTATION_",
    "OTEL_PROPAGATORS",
    "OTEL_PYTHON_",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
    "OTEL_SPAN_",
)
_KEPT = "OTEL_PYTHON_EXPORTER_"  # credentials for the OTLP exporter


def ignore_instrumentation_settings(environ: MutableMapping[str, str] = os.environ) -> None:
    """
    Remove the variables that change what the instrumentations write or how trace context is propagated.

    Call it before the first import of OpenTelemetry: most of them are read there, and an invalid value raises.
    """
    for name in [name for name in environ if name.startswith(_IGNORED) and not name.startswith(_KEPT)]:
        del environ[name]


def refuse_other_instrumentation() -> None:
    """
    Raise InvalidSettings if another instrumentation is active in this process.

    It would export query strings and refused requests through a provider of its own. Call it before `tracing` is
    imported: an instrumentation is active only if its module is loaded.
    """
    loaded = (found for found in entry_points(group="opentelemetry_instrumentor") if found.module in sys.modules)
    active = {found.name for found in loaded if found.load()().is_instrumented_by_opentelemetry}
    if active:
        raise InvalidSettings(
            f"OpenTelemetry auto-instrumentation is active for {', '.join(sorted(active))}: the relay creates its own"
            " spans; start it without opentelemetry-instrument, or set OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=*"
        )
