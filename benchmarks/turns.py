"""Workers that take turns, so that a noisy machine disturbs all candidates alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .pipes import Pipe, WorkerError
from .stats import LEAST, Spread, spread


@dataclass(slots=True)
class Samples:
    """What one candidate took: all times of a workload, the median of each round, the CPU."""

    times: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    cpu: float = 0

    def add(self, answers: list[dict[str, Any]]) -> None:
        """Add the answers of a round, in microseconds."""
        times = [each / 1000 for answer in answers for each in answer["ns"]]
        self.times += times
        self.rounds.append(statistics.median(times))
        self.cpu += sum(answer["cpu_ns"] for answer in answers) / 1e9

    def p99(self) -> float:
        """Return what 99 of 100 requests took at most."""
        return statistics.quantiles(self.times, n=100, method="inclusive")[98]

    def outcome(self, floor: Samples) -> dict[str, Any]:
        """Return the figures, with ratios to those of `floor`.

        The ratio of medians is taken round by round: what slows the machine down for a while slows
        down all candidates of that round, and cancels out.
        """
        ratios = [own / least for own, least in zip(self.rounds, floor.rounds, strict=True)]
        return {
            "p50_us": round(statistics.median(self.times), 1),
            "p99_us": round(self.p99(), 1),
            "p50_ratio": quartiles(spread(ratios)),
            "p99_ratio": round(self.p99() / floor.p99(), 3),
            "cpu_s_per_1000": round(1000 * self.cpu / len(self.times), 3),
            "requests": len(self.times),
            "rounds": len(self.rounds),
        }


def quartiles(numbers: Spread) -> list[float]:
    """Return the lower quartile, the median and the upper one."""
    return [numbers.low, numbers.median, numbers.high]


@dataclass(frozen=True, slots=True)
class Effort:
    """For how many rounds, and for about how many seconds at most, a workload is measured.

    However long they take, there are :data:`~benchmarks.stats.LEAST` rounds, or all that were asked
    for.
    """

    rounds: int
    seconds: float
    batch: int
    tenants: int


def try_out(workers: Mapping[str, Pipe], workload: str, effort: Effort) -> dict[str, str]:
    """Warm up; return why candidates cannot do the workload."""
    reasons = {}
    chance = random.Random(0)
    for name, worker in workers.items():
        try:
            for _ in range(3):
                chosen = chance.choices(range(1, effort.tenants + 1), k=effort.batch)
                worker.ask("run", workload=workload, tenants=chosen)
        except WorkerError as error:
            reasons[name] = str(error)
    return reasons


def measure(
    workers: Mapping[str, Pipe], workload: str, effort: Effort
) -> Iterator[dict[str, Samples]]:
    """Yield the samples so far after each round.

    A round goes through the candidates forwards and then backwards (ABBA), a batch each, and the
    next one begins at the other end. In one round all have the same tenants; the second half has
    others than the first.
    """
    chance = random.Random(1)
    everyone = range(1, effort.tenants + 1)
    deadline = time.monotonic() + effort.seconds
    samples = {name: Samples() for name in workers}
    order = list(workers)
    for number in range(effort.rounds):
        if number >= LEAST and time.monotonic() > deadline:
            return
        answers: dict[str, list[Any]] = {name: [] for name in workers}
        for half in (order, order[::-1]):
            chosen = chance.choices(everyone, k=effort.batch)
            for name in half:
                answers[name].append(workers[name].ask("run", workload=workload, tenants=chosen))
        for name, given in answers.items():
            samples[name].add(given)
        order.reverse()
        yield samples
