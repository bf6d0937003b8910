"""What may be set for the exporters of otel.yaml. Pure; each problem is a sentence that begins with its key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
