"""Keeps pages of other sites away from a console on loopback, and its own from loading anything from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, request

from traced_relay.runtime.loopback import is_cross_site, is_local_host

if TYPE_CHECKING:
    from flask import Flask

OWN_PAGE = "X-Relay-Console"  # a form cannot send it, nor a script of another site without being asked first

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
    app.before_request(_refuse)
    app.after_request(_harden)


def _refuse() -> Response | None:
    if not is_local_host(request.headers.get("Host", "")):
        return _refusal("the console answers on localhost only")
    if request.method not in ("GET", "HEAD") and not _is_from_own_page():
        return _refusal("only the console's own pages may ask for this")
    return None


def _is_from_own_page() -> bool:
    says_so = "Origin" in request.headers and request.headers.get(OWN_PAGE) == "1"
    return says_so and not is_cross_site(request.headers)


def _refusal(text: str) -> Response:
    return Response(text + "\n", 403, content_type="text/plain; charset=utf-8")


def _harden(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response
