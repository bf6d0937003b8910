from __future__ import annotations

import pytest

from support.herd import Herd

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def herds() -> dict[str, Herd]:
    found = {jitter: Herd(jitter) for jitter in ("none", "equal", "full")}
    for herd in found.values():
        herd.run()
    return found


def test_more_jitter_spreads_retries_after_an_outage(
    herds: dict[str, Herd], capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        for jitter, herd in herds.items():
            print(f"\n{jitter}: at most {herd.peak()}/s, {herd.arrivals.total()} arrivals, last {herd.last()} s")  # noqa: T201
    peaks = {jitter: herd.peak() for jitter, herd in herds.items()}
    assert peaks["none"] == 2000
    assert peaks["full"] < peaks["equal"] < peaks["none"] / 10


@pytest.mark.parametrize("jitter", ["none", "equal", "full"])
def test_of_a_herd_none_is_lost(herds: dict[str, Herd], jitter: str) -> None:
    rows = herds[jitter].rows
    assert {row.state for row in rows} == {"succeeded"}
    assert sum(len(row.attempts) for row in rows) == herds[jitter].arrivals.total()
