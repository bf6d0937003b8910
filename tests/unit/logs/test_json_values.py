from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traced_relay.logs.record import MAX_TEXT_BYTES, as_json, as_text, truncate


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (2.5, 2.5),
        ("text", "text"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**70, "1180591620717411303424"),
        (b"\xff", "b'\\xff'"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ("\ud800", "?"),
        ((1, [2]), [1, [2]]),
        (MappingProxyType({1: {"a": float("inf")}}), {"1": {"a": "inf"}}),
        (Unspeakable(), "<Unspeakable>"),
        ({"a": Unspeakable()}, {"a": "<Unspeakable>"}),
        (LOOP, "<list>"),
    ],
)
def test_any_value_becomes_json(value: object, expected: object) -> None:
    assert as_json(value) == expected


def test_an_int_of_too_many_digits_becomes_its_class_name() -> None:
    assert as_json(10**5000) == "<int>"


@given(st.recursive(st.floats() | st.integers() | st.text() | st.binary() | st.none(), st.lists))
def test_any_result_survives_a_round_trip(value: object) -> None:
    made = as_json(value)
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_a_long_text_is_truncated_at_64_kib_and_marked() -> None:
    made = truncate("x" * 100_000)
    assert len(made) == MAX_TEXT_BYTES
    assert made.endswith("x [cut]")


def test_a_long_text_is_truncated_between_characters() -> None:
    made = truncate("é" * 40_000)
    assert len(made.encode()) <= MAX_TEXT_BYTES
    assert made == "é" * made.count("é") + " [cut]"


def test_a_text_of_exactly_64_kib_is_whole() -> None:
    assert truncate("é" * (MAX_TEXT_BYTES // 2)) == "é" * (MAX_TEXT_BYTES // 2)


def test_a_value_whose_str_raises_becomes_its_class_name() -> None:
    assert as_text(Unspeakable()) == "<Unspeakable>"
