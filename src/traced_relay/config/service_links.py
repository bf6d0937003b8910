"""
Variables that Kubernetes and Docker set in every container for a service whose name starts with `relay`.

Both the name and the value of a variable must have the documented form.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SERVICE = r"RELAY(?:_[A-Z0-9_]+)?"
_NUMBERED = rf"{_SERVICE}_PORT_[0-9]{{1,5}}_(TCP|UDP|SCTP)"
_URL = re.compile(r"(tcp|udp|sctp)://(.+):([0-9]{1,5})")


def is_service_link(name: str, environ: Mapping[str, str]) -> bool:
    """For example `RELAY_PORT=tcp://10.0.0.1:8080`, but not `RELAY_PORT=8080`."""
    if copied := re.fullmatch(rf"({_SERVICE})_ENV_[A-Za-z_][A-Za-z0-9_]*", name):
        # Any value: it comes from the linked container's environment. Docker always sets the name of the link as well.
        return _is_container(environ.get(f"{copied[1]}_NAME", ""))
    value = environ[name]
    if numbered := re.fullmatch(rf"{_NUMBERED}(_PROTO|_START|_END)?", name):
        protocol, scheme = numbered[1].lower(), value.partition("://")[0]
        return value == protocol if numbered[2] == "_PROTO" else scheme == protocol and _is_url(value)
    return any(re.fullmatch(shape, name) and has_shape(value) for shape, has_shape in _SHAPES)


def _is_container(value: str) -> bool:
    return re.fullmatch(r"(?:/[A-Za-z0-9][A-Za-z0-9_.-]*){2,}", value) is not None


def _is_url(value: str) -> bool:
    url = _URL.fullmatch(value)
    return url is not None and _is_address(url[2].removeprefix("[").removesuffix("]")) and _is_port(url[3])


def _is_port(value: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", value) is not None and 0 < int(value) < 65_536


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


_SHAPES: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (rf"{_SERVICE}_SERVICE_HOST", _is_address),
    (rf"{_SERVICE}_SERVICE_PORT(?:_[A-Z0-9_]+)?", _is_port),
    (rf"{_SERVICE}_PORT", _is_url),
    (rf"{_NUMBERED}_PORT(?:_START|_END)?", _is_port),
    (rf"{_NUMBERED}_ADDR", _is_address),
    (rf"{_SERVICE}_NAME", _is_container),
)
