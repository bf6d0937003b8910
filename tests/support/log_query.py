"""
The logging query language, and Monitoring's, as much of them as the commands and the files in monitoring/ speak.

Whatever it does not know it refuses: a filter that is not understood matches nothing and passes no test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Check = Callable[[Mapping[str, Any]], bool]

ENTRY = {
    *("severity", "jsonPayload.", "textPayload", "labels.", "resource.type", "resource.labels."),
    *("operation.id", "operation.producer", "trace", "spanId", "httpRequest.status"),
}
READING = ENTRY | {"logName", "timestamp"}  # what a question may ask beside that; a metric or an alert may not
SERIES = {"metric.type", "metric.labels.", "resource.type", "resource.labels."}  # what Monitoring's filters speak of
FULL_MATCH = "monitoring.regex.full_match"  # a function, of which Monitoring alone knows
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*)|(?P<mark>[()])|(?P<operator>!=|>=|<=|=~|!~|[=<>:])|"(?P<text>(?:[^"\\]|\\["\\])*)"
    |(?P<word>-?[A-Za-z0-9_./]+)""",
    re.VERBOSE,
)
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    ">": lambda found, wanted: found > wanted,
    ">=": lambda found, wanted: found >= wanted,
    "<": lambda found, wanted: found < wanted,
    "<=": lambda found, wanted: found <= wanted,
}


class NotUnderstood(Exception):
    """The filter says something that this reader does not know."""


@dataclass(frozen=True)
class Query:
    """A filter that was read: whether it *matches* an entry, and the *fields* it asks for."""

    matches: Check
    fields: tuple[str, ...]
    texts: tuple[str, ...]


def read(text: str, roots: set[str] = ENTRY) -> Query:
    return _Reader(text, roots).read()


def field_of(entry: Mapping[str, Any], path: str) -> Any:
    """What stands at a dotted path; None where nothing does."""
    found: Any = entry
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


class _Reader:
    def __init__(self, text: str, roots: set[str]) -> None:
        if len(text) > 20_000:
            raise NotUnderstood("a filter has at most 20,000 characters")
        self._tokens = [*_tokens(text)]
        self._roots = roots
        self._fields: list[str] = []
        self._texts: list[str] = []

    def read(self) -> Query:
        matches = self._all()
        if self._tokens:
            raise NotUnderstood(f"{self._tokens[0][1]} is more than there should be")
        return Query(matches, tuple(self._fields), tuple(self._texts))

    def _all(self) -> Check:
        checks = [self._any()]
        while self._tokens and self._tokens[0] != ("mark", ")"):
            self._skip("AND")  # which may be left out
            checks.append(self._any())
        return checks[0] if len(checks) == 1 else lambda entry: all(check(entry) for check in checks)

    def _any(self) -> Check:
        """OR binds closer than AND."""
        checks = [self._one()]
        while self._skip("OR"):
            checks.append(self._one())
        return checks[0] if len(checks) == 1 else lambda entry: any(check(entry) for check in checks)

    def _one(self) -> Check:
        if self._skip("NOT"):
            refused = self._one()
            return lambda entry: not refused(entry)
        if self._skip("(", "mark"):
            inner = self._all()
            self._expect(")")
            return inner
        return self._comparison()

    def _comparison(self) -> Check:
        kind, path = self._take()
        if kind != "word" or path in ("AND", "OR", "NOT"):
            raise NotUnderstood(f"{path!r} is no field")
        if path not in self._roots and not any(root.endswith(".") and path.startswith(root) for root in self._roots):
            raise NotUnderstood(f"{path} is no field that an entry has")
        kind, operator = self._take()
        if kind != "operator" or operator not in ("=", "!=", ":", *_ORDERED):
            raise NotUnderstood(f"{path} {operator}: this operator is not known")
        self._fields.append(path)
        if self._roots is SERIES and self._skip(FULL_MATCH):
            return self._full_match(path, operator)
        wanted = self._values()
        compare = _comparer(path, operator)
        if len(wanted) > 1 and operator not in ("=", ":"):
            raise NotUnderstood(f"{path}: a list goes with = and : alone")
        return lambda entry: any(compare(field_of(entry, path), value) for value in wanted)

    def _full_match(self, path: str, operator: str) -> Check:
        self._expect("(")
        _, pattern = self._take()
        self._expect(")")
        if operator not in ("=", "!=") or not re.fullmatch(r"[\w.|-]+", pattern):
            raise NotUnderstood(f"{path}: a pattern is of plain characters, dots and |, and goes with = and !=")

        def matches(entry: Mapping[str, Any]) -> bool:
            found = field_of(entry, path)
            return found is not None and _holds(operator, re.fullmatch(pattern, found) is not None, True)

        return matches

    def _values(self) -> list[str]:
        if not self._skip("(", "mark"):
            return [self._value()]
        values = [self._value()]
        while not self._skip(")", "mark"):
            if not self._skip("OR"):
                raise NotUnderstood("the values of a list have OR between them")
            values.append(self._value())
        return values

    def _value(self) -> str:
        kind, value = self._take()
        if kind == "text":
            self._texts.append(value)
        elif kind != "word" or not (re.fullmatch(r"-?\d+(\.\d+)?", value) or value in (*SEVERITIES, "true", "false")):
            raise NotUnderstood(f"{value!r} is no value: texts have quotes")
        return value

    def _take(self) -> tuple[str, str]:
        if not self._tokens:
            raise NotUnderstood("the filter ends too early")
        return self._tokens.pop(0)

    def _skip(self, wanted: str, kind: str = "word") -> bool:
        is_next = bool(self._tokens) and self._tokens[0] == (kind, wanted)
        if is_next:
            self._tokens.pop(0)
        return is_next

    def _expect(self, mark: str) -> None:
        if not self._skip(mark, "mark"):
            raise NotUnderstood(f"{mark} is missing")


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise NotUnderstood(f"{text[at : at + 20]!r} cannot be read")
        at, kind = found.end(), str(found.lastgroup)
        if kind != "space":
            tokens.append((kind, re.sub(r"\\(.)", r"\1", found[kind])))
    return tokens


def _comparer(path: str, operator: str) -> Callable[[Any, str], bool]:
    """What is not there, or cannot be turned into the number that is asked for, is neither equal nor unequal."""

    def compare(found: Any, wanted: str) -> bool:
        if path == "severity":
            if wanted not in SEVERITIES:
                raise NotUnderstood(f"{wanted} is no severity")
            found, wanted_rank = SEVERITIES.index(found or "DEFAULT"), SEVERITIES.index(wanted)
            return _holds(operator, found, wanted_rank)
        if found is None or isinstance(found, (Mapping, list)):
            return False
        if path == "timestamp":
            return _holds(operator, datetime.fromisoformat(found), datetime.fromisoformat(wanted))
        if operator == ":":
            return wanted.lower() in str(found).lower()
        if isinstance(found, bool):
            return _holds(operator, str(found).lower(), wanted.lower())
        if isinstance(found, (int, float)):
            return _is_number(wanted) and _holds(operator, float(found), float(wanted))
        if operator in _ORDERED:
            return _is_number(found) and _is_number(wanted) and _holds(operator, float(found), float(wanted))
        return _holds(operator, found.lower(), wanted.lower())

    return compare


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def _holds(operator: str, found: Any, wanted: Any) -> bool:
    if operator in _ORDERED:
        return _ORDERED[operator](found, wanted)
    return bool(found == wanted) == (operator == "=")
