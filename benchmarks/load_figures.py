"""What was measured under load."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field

# What is told of all turns: their medians, or the most that there was in any.
MEDIANS = ("rps", "p50_ms", "p99_ms", "in_use", "cpu_s_per_1000")
MOST = ("connections", "most_in_use", "memory_mib")


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured while so many clients asked at once, in one turn or in all.

    Rates and times of all turns are medians; `turns` has the rate of each, and `ratios` how it
    compares with that of stock Django in the same turn. Of the `connections` that were open,
    `in_use` on average, and `most_in_use` at a time, were in a statement or a transaction.
    """

    clients: int
    rps: float = 0
    p50_ms: float = 0
    p99_ms: float = 0
    connections: int = 0
    in_use: float = 0
    most_in_use: int = 0
    cpu_s_per_1000: float = 0
    memory_mib: float = 0
    errors: dict[str, int] = field(default_factory=dict)
    turns: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios or [float("nan")])


def merged(turns: list[Figures], floor: list[Figures]) -> Figures:
    """Return what all turns of a candidate make; ratios are to the floor's of the same turn."""
    errors: Counter[str] = Counter()
    for each in turns:
        errors.update(each.errors)
    return Figures(
        clients=turns[0].clients,
        **{
            name: round(statistics.median(getattr(each, name) for each in turns), 3)
            for name in MEDIANS
        },
        **{name: max(getattr(each, name) for each in turns) for name in MOST},
        errors=dict(errors),
        turns=[each.rps for each in turns],
        ratios=[
            round(each.rps / least.rps, 3)
            for each, least in zip(turns, floor, strict=True)
            if least.rps
        ],
    )
