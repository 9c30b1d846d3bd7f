"""Candidates that take turns, so that a noisy machine disturbs all of them alike.

Each has a process, and so connections, of its own.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from .forks import forked
from .stats import LEAST, Round

# Rounds before those that count.
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to read rows of a tenant; `check` raises an error when they are not the right ones."""

    name: str
    read: Callable[[int], Any]
    check: Callable[[int, Any], None]


def measure(
    candidates: Sequence[Candidate], *, tenants: int, rounds: int, batch: int, seconds: float
) -> Iterator[Round]:
    """Yield the median microseconds of each candidate, for `rounds` rounds or about `seconds`.

    However long they take, there are :data:`~benchmarks.stats.LEAST` rounds, or all that were asked
    for.

    A round goes through the candidates forwards and then backwards (ABBA), `batch` times each, and
    the next one begins at the other end. Each batch draws tenants of its own, so that no candidate
    finds the rows of another still in the processor's cache.
    """
    chance = random.Random(1)
    everyone = range(1, tenants + 1)
    deadline = 0.0
    with forked({each.name: partial(time_reads, each) for each in candidates}) as timed:
        order = list(timed)
        for number in range(-WARM_UP, rounds):
            if number == 0:
                deadline = time.monotonic() + seconds
            if number >= LEAST and time.monotonic() > deadline:
                return
            times: dict[str, list[float]] = {name: [] for name in order}
            for name in (*order, *reversed(order)):
                times[name] += timed[name](chance.choices(everyone, k=batch))
            if number >= 0:
                yield {each.name: statistics.median(times[each.name]) for each in candidates}
            order.reverse()


def time_reads(candidate: Candidate, tenants: Sequence[int]) -> list[float]:
    """Return the microseconds of one checked read for each of `tenants`."""
    times = []
    with no_collection():
        for tenant in tenants:
            start = time.perf_counter()
            rows = candidate.read(tenant)
            times.append(1e6 * (time.perf_counter() - start))
            candidate.check(tenant, rows)
    return times


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage before the block and not inside it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
