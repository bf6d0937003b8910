"""Which URLs may be called, and how: the operator's rules, first match wins, no match is no."""

from __future__ import annotations

import posixpath
import re
from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from traced_relay.calls import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LABEL = re.compile(r"\*|[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_PORTS = {"http": 80, "https": 443}
MOST_STARS = 3  # what has to be looked at grows with their power


def _check_pattern(pattern: str) -> str:
    parts = urlsplit(pattern)
    if parts.scheme not in _PORTS:
        raise ValueError("must start with http:// or https://")
    host, port = _host_and_port(pattern)
    labels = [] if host.startswith("[") else host.split(".")
    if not host or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must have a host of whole labels, where * stands for one or more of them")
    if port and port != "*" and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
        raise ValueError("must have a port from 1 to 65535, or * for any")
    if "@" in parts.netloc or parts.query or parts.fragment or "*" in parts.path:
        raise ValueError("must be scheme, host, port and path only; * stands in the host or for the port")
    return pattern


Pattern = Annotated[str, AfterValidator(_check_pattern)]


class Place(Model):
    """
    Where requests may go: to *url*, a pattern.

    `*` in its host stands for one or more whole labels, its port must be the
    call's (the scheme's if it names none, any if it is `*`), and its path is
    matched by whole segments.
    """

    url: Pattern
    allow_private: bool = False

    def matches(self, url: str) -> bool:
        rule, call = urlsplit(self.url), urlsplit(url)
        host, port = _host_and_port(self.url)
        return (
            rule.scheme == call.scheme
            and (port == "*" or int(port or _PORTS[rule.scheme]) == (call.port or _PORTS[call.scheme]))
            and _host_matches(host, _host_of(call))
            and _path_matches(rule.path, call.path)
        )

    def covers(self, other: Place) -> bool:
        """Whether every URL that *other* matches matches here, too; of more stars than anybody writes: no."""
        mine, its = urlsplit(self.url), urlsplit(other.url)
        (host, port), (its_host, its_port) = _host_and_port(self.url), _host_and_port(other.url)
        wanted = _segments(_plain(mine.path))
        return (
            mine.scheme == its.scheme
            and its_host.count("*") <= MOST_STARS
            and (port == "*" or (port or str(_PORTS[mine.scheme])) == (its_port or str(_PORTS[its.scheme])))
            and all(_host_matches(host, example) for example in _examples(its_host, host.count(".") + 2))
            and _segments(_plain(its.path))[: len(wanted)] == wanted
        )


P = TypeVar("P", bound=Place)


class Downstream(Place):
    """One rule for calls."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
    auth: Literal["id_token", "none"]
    audience: str | None = None
    trace: Literal["w3c", "none"] = "w3c"

    @field_validator("auth")
    @classmethod
    def _tokens_need_tls(cls, auth: str, info: ValidationInfo) -> str:
        if auth == "id_token" and str(info.data.get("url")).startswith("http:"):
            raise ValueError("must be none for http://: an ID token never goes out in the clear")
        return auth

    def audience_of(self, url: str) -> str:
        """What an ID token for *url* must name: the origin; Cloud Functions want their name behind it."""
        if self.audience is not None:
            return self.audience
        parts = urlsplit(url)
        host = _host_of(parts)
        port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
        origin = f"{parts.scheme}://{host}{port}"
        if host.endswith(".cloudfunctions.net"):
            return f"{origin}/{next(iter(_segments(_as_sent(parts.path))), '')}"
        return origin


def find(rules: Iterable[P], url: str) -> P | None:
    return next((rule for rule in rules if rule.matches(url)), None)


def _host_and_port(pattern: str) -> tuple[str, str]:
    netloc = urlsplit(pattern).netloc.lower()
    if netloc.startswith("["):
        host, _, port = netloc.partition("]")
        return host + "]", port.removeprefix(":")
    host, _, port = netloc.partition(":")
    return host.rstrip("."), port


def _host_of(call: SplitResult) -> str:
    host = (call.hostname or "").rstrip(".")
    return f"[{host}]" if ":" in host else host


def _host_matches(pattern: str, host: str) -> bool:
    labels = (r"[^.]+(\.[^.]+)*" if label == "*" else re.escape(label) for label in pattern.split("."))
    return re.fullmatch(r"\.".join(labels), host) is not None


def _examples(pattern: str, most: int) -> Iterator[str]:
    """Hosts that stand for all of *pattern*: for each `*` one to *most* labels that no rule can name."""
    labels = pattern.split(".")
    for lengths in product(range(1, most + 1), repeat=labels.count("*")):
        left = iter(lengths)
        yield ".".join(".".join(["?"] * next(left)) if label == "*" else label for label in labels)


def _path_matches(pattern: str, path: str) -> bool:
    """Whether *path* lies under *pattern* whichever way the server reads it: `/private/..%2fpublic` is two places."""
    wanted = _segments(_plain(pattern))
    as_sent = [unquote(part) for part in _segments(_as_sent(path))]
    return all(reading[: len(wanted)] == wanted for reading in (_segments(_plain(path)), as_sent))


def _segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _plain(path: str) -> str:
    """The path as a server reads it that undoes escapes first."""
    return _undotted(unquote(path).replace("\\", "/"))


def _as_sent(path: str) -> str:
    """The path as it leaves: without dot segments, whatever else is escaped."""
    return _undotted(re.sub("%2e", ".", path, flags=re.IGNORECASE))


def _undotted(path: str) -> str:
    """The path without dot segments (RFC 3986, section 5.2.4)."""
    return posixpath.normpath("/" + path.lstrip("/"))
