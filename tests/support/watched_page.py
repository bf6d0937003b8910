"""A page of a real browser, and what must not happen in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Page


PATIENCE = 30_000  # milliseconds


@dataclass
class Watched:
    """A page, what it said, but for what a test *expects* it to complain of, and whom it asked."""

    page: Page
    expects: str = "(nothing)"
    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._see)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and self.expects not in message.text:
            self.complaints.append(message.text)

    def _see(self, request: Any) -> None:
        self.asked.append(request.url)
        self.hosts.add(urlsplit(request.url).hostname)

    def requests(self, path: str) -> int:
        """Number of requests so far whose URL contains *path*."""
        return len([url for url in self.asked if path in url])

    def axe(self) -> list[str]:
        """What axe-core finds that is serious or worse."""
        self.page.evaluate(_axe())
        found = self.page.evaluate("() => axe.run()")["violations"]
        return [
            f"{one['id']}: {[node['html'] for node in one['nodes'][:3]]}"
            for one in found
            if one["impact"] in ("serious", "critical")
        ]


def _axe() -> str:
    package = files("axe_playwright_python")
    (script,) = (path for path in Path(str(package)).rglob("axe.min.js"))
    return script.read_text()
