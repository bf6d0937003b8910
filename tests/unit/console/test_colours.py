from __future__ import annotations

import re
from importlib.resources import files


def test_bars_contrast_with_their_background() -> None:
    style = files("traced_relay.console").joinpath("static/console.css").read_text()
    schemes = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", part)) for part in style.split("@media")[:2]]
    faint = [
        (name, behind)
        for colours in schemes
        for name in colours
        for behind in ("sheet", "hover")
        if name.startswith(("bar", "wait", "part")) and contrast(colours[name], colours[behind]) < 3
    ]
    assert faint == []


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [part / 255 for part in bytes.fromhex(colour[1:])]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
