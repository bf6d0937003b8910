from __future__ import annotations

import re

import pytest

from support.lives import BEGINNING, BUSY, FLAKY, OK, TASK_ID, at, attempt, document, record, records, spans
from traced_relay.formats.durations import readable, tick_label
from traced_relay.timeline.build import build
from traced_relay.timeline.waterfall import render

WHOLE = build(FLAKY, records(FLAKY), spans(FLAKY))

EXPECTED = """\
task   4f0c4f0c4f0c4f0c4f0c4f0c4f0c4f0c
state  succeeded, 3 attempts in 3.40 s
call   POST http://127.0.0.1:9000/flaky
trace  0af7651916cd43dd8448eb211c80319c  queue relay

                      0          1 s        2 s        3 s
                      ┬──────────┬──────────┬──────────┬────
enqueue         8 ms  ▏
  send          4 ms  ▏
queued         15 ms  ·
attempt 1     210 ms  ██▌                                     503 retry, downstream
  127.0.0.1   203 ms  ▒▒                                      connect 1 ms, answer 199 ms, body 3 ms
backoff       435 ms    ·····                                 420 ms + queue 15 ms
attempt 2     240 ms         ███▏                             503 retry, downstream
  127.0.0.1   233 ms         ▒▒▒                              connect 1 ms, answer 229 ms, body 3 ms
Retry-After   1.91 s            ·····················         1.90 s + queue 10 ms
attempt 3     590 ms                                 ███████  200 succeeded
  127.0.0.1   583 ms                                 ▒▒▒▒▒▒▒  connect 1 ms, answer 579 ms, body 3 ms
"""


def test_waterfall_shows_a_complete_timeline() -> None:
    assert render(WHOLE, width=100) == EXPECTED


@pytest.mark.parametrize("width", [1, 40, 60, 80, 100, 120, 200])
def test_lines_are_at_most_as_long_as_the_width(width: int) -> None:
    missing = build(FLAKY, [], spans(FLAKY)[:1])
    for timeline in (WHOLE, missing):
        assert max(len(line) for line in render(timeline, width=width).splitlines()) <= max(width, 54)


def test_colour_changes_nothing_but_the_colour() -> None:
    coloured = render(WHOLE, width=100, colour=True)
    assert "\x1b[32m" in coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in plain.splitlines()] == EXPECTED.splitlines()


def test_colour_is_off_by_default() -> None:
    assert "\x1b" not in render(WHOLE)


def test_open_bar_ends_with_an_arrow() -> None:
    life = document("running", attempt(1, 1, None, {}), url="http://127.0.0.1:9000/slow")
    drawn = render(build(life, records(life), now=BEGINNING + 5), width=80).splitlines()
    assert drawn[1] == "state  running, 1 attempt in 5.00 s so far"
    assert re.fullmatch(r"attempt 1 +4\.00 s  +█+▶  running", drawn[-1])


def test_failed_task_shows_its_reason() -> None:
    life = document("failed", attempt(1, 1, 2, BUSY | {"verdict": "gave_up"}))
    lines = render(build(life, records(life)), width=80).splitlines()
    assert lines[1] == "state  failed (http_503, downstream), 1 attempt in 2.00 s"


def test_missing_records_are_listed_below_the_bars() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    lines = render(build(life, records(life)[:2]), width=80).splitlines()
    assert lines[-3:] == [
        "",
        "missing: no record task.finished of round 1",
        "missing: attempt 1: no record attempt.finished",
    ]


def test_deferred_dispatch_is_a_marker_without_length() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK))
    deferred = record("dispatch.deferred", at(0.5), reason="no_capacity")
    [line] = [line for line in render(build(life, [deferred]), width=80).splitlines() if line.startswith("deferred")]
    assert re.fullmatch(r"deferred +◆ +no_capacity", line)


def test_exchange_shows_its_phases() -> None:
    life = document("succeeded", attempt(1, 0, 1, OK))
    known = records(life)
    parts = {"token_ms": 100, "connect_ms": 100, "tls_ms": 100, "first_byte_ms": 400, "body_ms": 300}
    known[2]["timing"] = parts
    [line] = [line for line in render(build(life, known), width=200).splitlines() if "127.0.0.1 " in line]
    shades = [line.count(shade) for shade in "░▒▓"]
    assert shades[0] * 4 == pytest.approx(shades[1] * 3, abs=4)
    assert shades[2] == pytest.approx(shades[0], abs=1)


def test_timeline_of_zero_length_is_drawn() -> None:
    life = document("queued")
    assert "queued" in render(build(life, [], now=BEGINNING), width=80)


def test_foreign_text_cannot_move_the_cursor() -> None:
    life = document("succeeded", attempt(1, 1, 2, OK), url="http://x/\x1b[2J")
    known = records(life)
    known[2]["downstream"] = "\x1b[2Jhost"
    assert "\x1b" not in render(build(life, known), width=80)


def test_axis_of_weeks_has_ticks_in_days() -> None:
    life = document("queued", schedule_time=at(86_400 * 30))
    scale = render(build(life, [], now=BEGINNING + 86_400 * 25), width=80).splitlines()[5]
    assert scale.split() == ["0", "5", "d", "10", "d", "15", "d", "20", "d", "25", "d"]


def test_task_id_is_never_truncated() -> None:
    assert TASK_ID in render(WHOLE, width=60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.00996, "10 ms"),
        (0.21, "210 ms"),
        (0.9996, "1.00 s"),
        (1.909, "1.91 s"),
        (9.999, "10.0 s"),
        (59.96, "1m 00s"),
        (185, "3m 05s"),
        (3599.7, "1h 00m"),
        (7800, "2h 10m"),
        (100_800, "1d 04h"),
    ],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert readable(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0"), (0.2, "200 ms"), (5, "5 s"), (90, "90 s"), (600, "10 m"), (7200, "2 h"), (172_800, "2 d")],
)
def test_ticks_have_round_names(seconds: float, text: str) -> None:
    assert tick_label(seconds) == text
