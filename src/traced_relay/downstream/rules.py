"""Which URLs may be called, and how: the operator's rules. The first match wins; no match denies the call."""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from traced_relay.downstream import url_paths
from traced_relay.formats.validation import Model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LABEL = re.compile(r"\*|[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_PATH = re.compile(r"(/([!-$&-.0-~]|%[0-9A-Fa-f]{2})+)*/?")
_PORTS = {"http": 80, "https": 443}
_FUNCTIONS = ".cloudfunctions.net"
MAX_STARS = 3  # the number of hosts to check grows exponentially with them


def _check_pattern(pattern: str) -> str:
    parts = urlsplit(pattern)
    if parts.scheme not in _PORTS:
        raise ValueError("must start with http:// or https://")
    host, port = _host_and_port(pattern)
    labels = [] if host.startswith("[") else host.split(".")
    if not host or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must have a host of whole labels; * stands for one or more of them")
    if port and port != "*" and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
        raise ValueError("must have a port from 1 to 65535, or * for any")
    if "@" in parts.netloc or parts.query or parts.fragment or "*" in parts.path:
        raise ValueError(
            "must contain only scheme, host, port and path, with * only as a label of the host or as the port"
        )
    if not _PATH.fullmatch(parts.path) or not url_paths.is_clear(parts.path):
        raise ValueError("must have a path of printable ASCII without an empty segment, . or ..")
    return pattern


Pattern = Annotated[str, AfterValidator(_check_pattern)]


class UrlPattern(Model):
    """
    A pattern of URLs that requests may go to.

    In the host, `*` stands for one or more whole labels. The port must be equal; without one it is the scheme's, and
    `*` matches any. A call's path must start with the segments of the pattern's path, byte for byte, and no server may
    read it as leaving them. A pattern without a path matches every path.
    """

    url: Pattern
    allow_private: bool = False

    def matches(self, url: str) -> bool:
        path = urlsplit(url).path
        return self._has_origin_of(url) and url_paths.is_below(path, self._segments)

    def may_match(self, url: str) -> bool:
        """Whether some server could read *url* as one that matches."""
        path = urlsplit(url).path
        return self._has_origin_of(url) and url_paths.may_be_below(path, self._segments)

    @property
    def _segments(self) -> tuple[str, ...]:
        return url_paths.segments(urlsplit(self.url).path)

    def _has_origin_of(self, url: str) -> bool:
        rule, call = urlsplit(self.url), urlsplit(url)
        host, port = _host_and_port(self.url)
        return (
            rule.scheme == call.scheme
            and (port == "*" or int(port or _PORTS[rule.scheme]) == (call.port or _PORTS[call.scheme]))
            and _host_matches(host, _host_of(call))
        )

    def covers(self, other: UrlPattern) -> bool:
        """Whether every URL that *other* matches also matches here; False if *other* has more than 3 stars."""
        mine, its = urlsplit(self.url), urlsplit(other.url)
        (host, port), (its_host, its_port) = _host_and_port(self.url), _host_and_port(other.url)
        wanted = self._segments
        return (
            mine.scheme == its.scheme
            and its_host.count("*") <= MAX_STARS
            and (port == "*" or (port or str(_PORTS[mine.scheme])) == (its_port or str(_PORTS[its.scheme])))
            and all(_host_matches(host, example) for example in _examples(its_host, host.count(".") + 2))
            and other._segments[: len(wanted)] == wanted
        )


P = TypeVar("P", bound=UrlPattern)


class Downstream(UrlPattern):
    """The rule for calls to one downstream."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]
    auth: Literal["id_token", "none"] = Field(default=None, validate_default=True)  # missing: its choices are named
    audience: str | None = None
    trace: Literal["w3c", "none"] = "w3c"

    @field_validator("auth")
    @classmethod
    def _tokens_need_tls(cls, auth: str, info: ValidationInfo) -> str:
        if auth == "id_token" and str(info.data.get("url")).startswith("http:"):
            raise ValueError("must be none for http://: ID tokens are never sent unencrypted")
        return auth

    def matches(self, url: str) -> bool:
        """Also checks that the path is unambiguous if it decides the audience of the ID token."""
        return super().matches(url) and (not self._names_function(url) or url_paths.is_clear(urlsplit(url).path))

    def _names_function(self, url: str) -> bool:
        return self.auth == "id_token" and self.audience is None and _host_of(urlsplit(url)).endswith(_FUNCTIONS)

    def audience_of(self, url: str) -> str:
        """The audience of an ID token for *url*: its origin; for Cloud Functions followed by the function's name."""
        if self.audience is not None:
            return self.audience
        parts = urlsplit(url)
        host = _host_of(parts)
        port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
        origin = f"{parts.scheme}://{host}{port}"
        if host.endswith(_FUNCTIONS):
            return f"{origin}/{next(iter(url_paths.segments(parts.path)), '')}"
        return origin


def find(rules: Iterable[P], url: str) -> P | None:
    """The first rule that matches *url*; None if an earlier rule matches only in some server's reading of the path."""
    possible = next((rule for rule in rules if rule.may_match(url)), None)
    return possible if possible is not None and possible.matches(url) else None


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
    """Hosts that represent all of *pattern*: each `*` becomes one to *most* labels that no rule can name."""
    labels = pattern.split(".")
    for lengths in product(range(1, most + 1), repeat=labels.count("*")):
        left = iter(lengths)
        yield ".".join(".".join(["?"] * next(left)) if label == "*" else label for label in labels)
