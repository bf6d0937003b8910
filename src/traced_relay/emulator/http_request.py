"""The HTTP request of a dispatch: its origin and its bytes. Pure, except that *mint* signs a token."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from traced_relay.emulator import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from traced_relay.emulator.attempts import Dispatch

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UP_TO_TARGET = re.compile(r"^[^/?]*//[^/?]*")
_SAFE = "!#$%&'()*+,/:;=?@[]~"
_EVERY_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class NoSuchTarget(Exception):
    """The task has no valid URL, or its App Engine service no known address."""


class Origin(NamedTuple):
    is_tls: bool
    host: str
    port: int


class Request(NamedTuple):
    origin: Origin
    method: str
    message: bytes


class _Address(NamedTuple):
    origin: Origin
    host_header: str
    path: str


def request_for(dispatch: Dispatch, app_engine: Mapping[str, str], mint: Callable[[str, str], str]) -> Request:
    if dispatch.task.HasField("http_request"):
        content = dispatch.task.http_request
        address = _address(content.url)
        authorization = _authorization(content, mint)
    else:
        content = dispatch.task.app_engine_http_request
        address = _address(_app_engine_url(dispatch, content, app_engine))
        authorization = {}
    method = m.HTTP_METHODS[content.http_method]
    replaced = {"content-length"} | {name.lower() for name in authorization}
    sent = {name: value for name, value in content.headers.items() if name.lower() not in replaced}
    sent |= authorization | dispatch.headers
    if content.body or method in ("POST", "PUT", "PATCH"):
        sent["Content-Length"] = str(len(content.body))
    lines = [f"{method} {address.path} HTTP/1.1", f"Host: {address.host_header}"]
    lines += [f"{name}: {value}" for name, value in sent.items()]
    head = "\r\n".join(lines) + "\r\n\r\n"
    return Request(address.origin, method, head.encode() + content.body)


def _authorization(content: m.HttpRequest, mint: Callable[[str, str], str]) -> dict[str, str]:
    """
    The token that the task requests, signed by the queue's own key.

    For `oauth_token` it is an ID token for the scope, since an access token is opaque to a worker.
    """
    if content.HasField("oidc_token"):
        token = content.oidc_token
        return {"Authorization": f"Bearer {mint(token.service_account_email, token.audience or content.url)}"}
    if content.HasField("oauth_token"):
        access = content.oauth_token
        return {"Authorization": f"Bearer {mint(access.service_account_email, access.scope or _EVERY_SCOPE)}"}
    return {}


def _app_engine_url(dispatch: Dispatch, content: m.AppEngineHttpRequest, app_engine: Mapping[str, str]) -> str:
    routing = dispatch.routing or content.app_engine_routing
    base = app_engine.get(routing.service or "default") or app_engine.get("default")
    if base is None:
        raise NoSuchTarget(f"no address for App Engine service {routing.service or 'default'}")
    return f"{base.rstrip('/')}{content.relative_uri}"


@lru_cache(maxsize=1024)
def _address(url: str) -> _Address:
    if _BAD_ESCAPE.search(url):
        raise NoSuchTarget(f"bad percent escape in {url}")
    try:
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
    except ValueError as exc:
        raise NoSuchTarget(f"not a URL: {url}") from exc
    if not parts.hostname:
        raise NoSuchTarget(f"no host in {url}")
    target = quote(_UP_TO_TARGET.sub("", url.partition("#")[0]), safe=_SAFE)
    host_header = parts.netloc.rpartition("@")[2]
    path = target if target.startswith("/") else f"/{target}"
    return _Address(Origin(is_tls, parts.hostname, port), host_header, path)
