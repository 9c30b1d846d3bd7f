"""Medians and quartiles of repeated measurements."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Quartiles of fewer rounds than these say little.
LEAST = 10

# What each candidate took, by its name.
Round = dict[str, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some numbers, and the quartiles around it."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one candidate took, in microseconds, and as a ratio to the first candidate."""

    microseconds: Spread
    ratio: Spread
    rounds: int


def spread(numbers: Iterable[float]) -> Spread:
    """Return median and quartiles of at least two `numbers`."""
    quartiles = statistics.quantiles(numbers, n=4, method="inclusive")
    return Spread(*(round(number, 3) for number in quartiles))


def outcomes(rounds: Sequence[Round]) -> dict[str, Outcome]:
    """Return the outcome of each candidate.

    Ratios are taken round by round: what slows the machine down for a while slows down all
    candidates of that round, and cancels out.
    """
    first = next(iter(rounds[0]))
    return {
        name: Outcome(
            spread(each[name] for each in rounds),
            spread(each[name] / each[first] for each in rounds),
            len(rounds),
        )
        for name in rounds[0]
    }
