"""What is measured, and how it is compared: always with a baseline of the same round."""

from __future__ import annotations

import gc
import math
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from bench.progress import Progress

Cell = str | int | float | None


@dataclass(frozen=True)
class Scale:
    """How much to measure: everything in full, or quickly."""

    rounds: int
    seconds: float  # one variant, one round
    tasks: int  # to work off at once
    singles: int  # one after the other, for latency
    hold: int  # seconds that one queue must hold its limit
    few_rounds: int  # of what takes long
    steady: float  # seconds at a steady pace, one round
    held: tuple[int, ...]  # calls that one relay holds at once
    idle: float  # seconds for which it holds them
    listed: tuple[int, ...]  # tasks in a console's list
    rows: tuple[int, ...]  # in a ledger whose lists are asked for
    spans: int  # through one outbox, for its memory


FULL = Scale(
    rounds=5,
    seconds=0.9,
    tasks=1600,
    singles=100,
    hold=10,
    few_rounds=3,
    steady=6.0,
    held=(1000, 2000),
    idle=30.0,
    listed=(200, 10_000),
    rows=(100_000, 1_000_000),
    spans=100_000,
)
QUICK = Scale(
    rounds=2,
    seconds=0.2,
    tasks=160,
    singles=10,
    hold=2,
    few_rounds=2,
    steady=1.0,
    held=(100, 200),
    idle=2.0,
    listed=(200, 1000),
    rows=(10_000,),
    spans=5_000,
)


@dataclass(frozen=True)
class Sample:
    """One variant in one round; latencies in milliseconds, and the server's processor time of one request too."""

    per_second: float | None = None
    p50: float | None = None
    p99: float | None = None
    cpu_ms: float | None = None
    failed: str = ""  # why it was not measured


@dataclass(frozen=True)
class Variant:
    """Something to measure for about so many seconds, with so many *clients* at once."""

    name: str
    clients: int
    measure: Callable[[float], Sample]


@dataclass(frozen=True)
class Table:
    title: str
    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()  # what should have been measured and was not, and why


def failures_of(variants: Sequence[Variant], samples: Sequence[Sequence[Sample]]) -> tuple[str, ...]:
    return tuple(
        f"{variant.name}, {variant.clients}: {found[-1].failed}"
        for variant, found in zip(variants, samples, strict=True)
        if found[-1].failed
    )


def sample(latencies: Sequence[float], *, seconds: float | None = None, cpu: float | None = None) -> Sample:
    """
    The sample of so many *latencies* (in seconds) that together took *seconds*; without: one after the other.

    *cpu* is the processor time, in seconds, that the server took for all of them.
    """
    assert latencies, "nothing was measured"
    rate = None if seconds is None else len(latencies) / seconds
    ordered = sorted(latencies)
    cpu_ms = None if cpu is None else cpu * 1000 / len(latencies)
    return Sample(rate, percentile(ordered, 50) * 1000, percentile(ordered, 99) * 1000, cpu_ms)


def percentile(ordered: Sequence[float], per_cent: float) -> float:
    """The least value that so many per cent do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * per_cent / 100) - 1)]


def alternate(variants: Sequence[Variant], *, rounds: int, seconds: float, progress: Progress) -> list[list[Sample]]:
    """
    The samples of each variant, one a round.

    Every second round goes backwards, so that nobody always follows the same
    neighbour; a short round before the first warms everything up. A variant
    that fails is left out from then on, and its last sample says why.
    """
    samples: list[list[Sample]] = [[] for _ in variants]
    failed: dict[int, Sample] = {}
    for number in range(rounds + 1):
        places = list(range(len(variants)))
        for place in places if number % 2 else reversed(places):
            variant = variants[place]
            progress.say(f"round {number} of {rounds}: {variant.name}, {variant.clients}")
            found = failed.get(place) or measured(variant, seconds if number else seconds / 4)
            if found.failed:
                failed[place] = found
            if number:
                samples[place].append(found)
    return samples


def measured(variant: Variant, seconds: float) -> Sample:
    try:
        with undisturbed():
            return variant.measure(seconds)
    except Exception as exc:  # noqa: BLE001  whatever it is, the other variants are measured
        return Sample(failed=f"{type(exc).__name__}: {exc}"[:200])


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep this process's garbage collection out of the way."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def ratio(values: Iterable[float | None], floors: Iterable[float | None]) -> float | None:
    """The median of the rounds' ratios: what slowed a whole round down slowed both."""
    pairs = zip(values, floors, strict=True)
    return middle(value / floor if value is not None and floor is not None else None for value, floor in pairs)


def compared(
    title: str,
    variants: Sequence[Variant],
    samples: Sequence[Sequence[Sample]],
    floors: Sequence[str],
    notes: tuple[str, ...] = (),
    *,
    cpu_floor: str | None = None,
) -> Table:
    """
    One line a variant: rate, latency, and its rate as a part of each floor's with as many clients.

    With a *cpu_floor* also the processor time of a request, and the floor's as a part of it.
    """
    rates = {(v.name, v.clients): [s.per_second for s in found] for v, found in zip(variants, samples, strict=True)}
    costs = {(v.name, v.clients): [s.cpu_ms for s in found] for v, found in zip(variants, samples, strict=True)}
    has_latencies = any(s.p50 is not None for found in samples for s in found)
    rows: list[tuple[Cell, ...]] = []
    for variant, found in zip(variants, samples, strict=True):
        own = rates[variant.name, variant.clients]
        latencies = (middle(s.p50 for s in found), middle(s.p99 for s in found)) if has_latencies else ()
        parts = [ratio(own, rates[floor, variant.clients]) for floor in floors]
        if cpu_floor is not None:
            cost = costs[variant.name, variant.clients]
            parts += [middle(cost), ratio(costs[cpu_floor, variant.clients], cost)]
        rows.append((variant.name, variant.clients, middle(own), *latencies, *parts))
    named = ("p50 ms", "p99 ms") if has_latencies else ()
    of_cpu = () if cpu_floor is None else ("CPU ms", f"of {cpu_floor} by CPU")
    headings = ("", "clients", "per second", *named, *(f"of {floor}" for floor in floors), *of_cpu)
    return Table(title, headings, rows, notes, failures_of(variants, samples))


def compared_latencies(
    title: str,
    variants: Sequence[Variant],
    samples: Sequence[Sequence[Sample]],
    floor: str,
    notes: tuple[str, ...] = (),
) -> Table:
    """One line a variant: how long one takes, how much longer than the floor's, and CPU time where it was measured."""
    floors = next([s.p50 for s in found] for v, found in zip(variants, samples, strict=True) if v.name == floor)
    has_cpu = any(s.cpu_ms is not None for found in samples for s in found)
    rows: list[tuple[Cell, ...]] = []
    for variant, found in zip(variants, samples, strict=True):
        times = [s.p50 for s in found]
        cpu = (middle(s.cpu_ms for s in found),) if has_cpu else ()
        rows.append((variant.name, middle(times), middle(s.p99 for s in found), ratio(times, floors), *cpu))
    headings = ("", "p50 ms", "p99 ms", f"times {floor}", *(("CPU ms",) if has_cpu else ()))
    return Table(title, headings, rows, notes, failures_of(variants, samples))


def compared_additions(
    title: str, variants: Sequence[Variant], samples: Sequence[Sequence[Sample]], floor: str, notes: tuple[str, ...]
) -> Table:
    """One line a variant: what it takes, and how many milliseconds that is more than the floor of the same rounds."""
    floors = next(found for v, found in zip(variants, samples, strict=True) if v.name == floor)
    rows: list[tuple[Cell, ...]] = []
    for variant, found in zip(variants, samples, strict=True):
        own = (middle(s.p50 for s in found), middle(s.p99 for s in found))
        more = (None, None) if found is floors else (_more(found, floors, "p50"), _more(found, floors, "p99"))
        rows.append((variant.name, *own, *more))
    headings = ("", "p50 ms", "p99 ms", "p50 more", "p99 more")
    return Table(title, headings, rows, notes, failures_of(variants, samples))


def _more(found: Sequence[Sample], floors: Sequence[Sample], name: str) -> float | None:
    pairs = zip((getattr(s, name) for s in found), (getattr(s, name) for s in floors), strict=True)
    return middle(None if value is None or floor is None else value - floor for value, floor in pairs)
