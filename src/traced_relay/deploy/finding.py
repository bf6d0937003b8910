"""One difference between a project and its files, as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SETUP, DEPLOY = "run ./setup-env.sh", "run ./deploy.sh"


@dataclass(frozen=True)
class Finding:
    """*where* names the file and key, *fix* the remedy. Only a problem makes `check` fail."""

    where: str
    wanted: str
    there: str
    fix: str = SETUP
    severity: Literal["problem", "warning"] = "problem"

    def __str__(self) -> str:
        prefix = "" if self.severity == "problem" else "warning: "
        return f"{prefix}{self.where}: expected {self.wanted}, found {self.there}; {self.fix}"


def output_lines(findings: Iterable[str | Finding], *, as_json: bool) -> Iterator[tuple[str, bool]]:
    """Each finding as a line, and whether it is a problem."""
    for finding in findings:
        fields = asdict(finding) if isinstance(finding, Finding) else {"severity": "problem"}
        line = json.dumps({"message": str(finding)} | fields, ensure_ascii=False) if as_json else str(finding)
        yield line, fields["severity"] == "problem"
