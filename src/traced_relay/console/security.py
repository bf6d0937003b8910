"""Blocks requests of other sites to a console on loopback, and its own pages from loading anything external."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request

from traced_relay.runtime.loopback import is_cross_site, is_local_host

if TYPE_CHECKING:
    from flask import Flask

OWN_PAGE = "X-Relay-Console"  # neither a form nor a script of another site can send it without a CORS preflight

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def protect(app: Flask) -> None:
    app.before_request(_refusal)
    app.after_request(_add_security_headers)


def _refusal() -> Response | None:
    if not is_local_host(request.headers.get("Host", "")):
        return _forbidden("the console accepts requests to localhost only")
    if request.method not in ("GET", "HEAD") and not _is_from_own_page():
        return _forbidden("only the console's own pages may send this request")
    return None


def _is_from_own_page() -> bool:
    has_own_header = "Origin" in request.headers and request.headers.get(OWN_PAGE) == "1"
    return has_own_header and not is_cross_site(request.headers)


def _forbidden(text: str) -> Response:
    return Response(text + "\n", 403, content_type="text/plain; charset=utf-8")


def _add_security_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response
