from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from traced_relay.formats.durations import format_duration, format_time, parse_duration, parse_time

YEAR = 365 * 86_400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("0.000000001s", 1e-9),
        ("5m", 300.0),
        ("24h", 86_400.0),
        ("7d", 604_800.0),
        ("1h30m", 5400.0),
        ("1d2h3m4.5s", 93_784.5),
        ("90m", 5400.0),
        ("007s", 7.0),
    ],
)
def test_a_duration_is_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "s",
            "5",
            "-5s",
            "+5s",
            "5 s",
            " 5s",
            "5s ",
            "5s\n",
            "5S",
            "1,5s",
            ".5s",
            "5.s",
            "1.5m",
            "1e3s",
            "1.0000000001s",
        ),
        *("30m1h", "5s5s", "1w", "P1D", "inf", "nan", "nans", "٣s", "9" * 400 + "s"),
        *(None, 5, 5.0, True, [], {}, b"5s"),
    ],
)
def test_a_malformed_duration_is_refused_with_the_rule(text: object) -> None:
    with pytest.raises(ValueError, match=r'^must be a duration such as "30s", "1.5s", "5m", "24h" or "7d"$'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "0.25s"),
        (1, "1s"),
        (90, "90s"),
        (100, "100s"),
        (300, "5m"),
        (3600, "1h"),
        (5400, "90m"),
        (86_400, "24h"),
        (604_800, "7d"),
        (777_600, "9d"),
        (1785, "1785s"),
    ],
)
def test_a_duration_is_written_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 10 * YEAR * 1000))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text() | st.from_regex(r"(\d+[dhms. -]?){1,5}", fullmatch=True))
def test_no_text_raises_anything_but_value_error(text: str) -> None:
    for read in (parse_duration, parse_time):
        with suppress(ValueError):
            assert isfinite(read(text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-21T18:00:00Z", 1_795_284_000.0),
        ("2026-11-21t18:00:00z", 1_795_284_000.0),
        ("2026-11-21 18:00:00Z", 1_795_284_000.0),
        ("2026-11-21T19:30:00+01:30", 1_795_284_000.0),
        ("2026-11-21T18:00:00.25-00:00", 1_795_284_000.25),
        ("2026-11-21T18:00:00.123456789Z", 1_795_284_000.123456),
        ("1969-12-31T23:59:59Z", -1.0),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140.0),
    ],
)
def test_a_time_is_read_as_seconds_since_the_epoch(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        *("", "soon", "2026-11-21", "2026-11-21T18:00:00", "2026-11-21T18:00Z", "20261121T180000Z", "1795284000"),
        *("2026-02-31T00:00:00Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "2026-11-21T25:00:00Z"),
        *("2026-11-21T18:00:00+24:00", "2026-11-21T18:00:00.Z", "2026-11-21T18:00:00Z\n", "٢٠٢٦-11-21T18:00:00Z"),
        *(None, 1_795_284_000, True, []),
    ],
)
def test_a_malformed_time_is_refused_with_the_rule(text: object) -> None:
    with pytest.raises(ValueError, match=r'^must be an RFC 3339 time such as "2026-11-21T18:00:00Z"$'):
        parse_time(text)


def test_a_time_is_written_in_utc_with_microseconds() -> None:
    assert format_time(1_795_284_000.25) == "2026-11-21T18:00:00.250000Z"


@given(st.floats(-60_000_000_000, 250_000_000_000) | st.integers(0, 4_000_000_000))
@example(0.9999995)
@example(-0.0000005)
@example(1_795_284_000.9999996)
def test_a_time_has_the_text_of_a_datetime(seconds: float) -> None:
    expected = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert format_time(seconds) == expected


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_written_time_is_read_back(microseconds: int) -> None:
    assert parse_time(format_time(microseconds / 1e6)) == pytest.approx(microseconds / 1e6, abs=1e-6)
