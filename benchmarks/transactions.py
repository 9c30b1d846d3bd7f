"""Reads and writes in ``atomic()`` blocks: tenantry, and stock Django with a filter.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import transaction
from django.db.models import QuerySet

from benchmarks import data, program
from benchmarks.program import ROWS_READ, Workload, check
from benchmarks.rounds import Candidate
from tenantry import tenant_context

Work = Callable[[QuerySet[Any]], list[Any]]


def read(notes: QuerySet[Any]) -> list[Any]:
    """Read the newest notes."""
    return list(notes.order_by("-created_at")[:ROWS_READ])


def atomic_read(notes: QuerySet[Any]) -> list[Any]:
    """Read in a transaction."""
    with transaction.atomic(using=notes.db):
        return read(notes)


def nested_read(notes: QuerySet[Any]) -> list[Any]:
    """Read in a block inside a transaction."""
    with transaction.atomic(using=notes.db):
        return atomic_read(notes)


def three_nested_reads(notes: QuerySet[Any]) -> list[Any]:
    """Read in three blocks, one after the other, inside a transaction."""
    with transaction.atomic(using=notes.db):
        return [atomic_read(notes) for _ in range(3)][-1]


def three_nested_writes(notes: QuerySet[Any]) -> list[Any]:
    """Read, and save three rows, each in a block of its own, as an admin's formset does."""
    with transaction.atomic(using=notes.db):
        found = read(notes)
        for note in found[:3]:
            with transaction.atomic(using=notes.db):
                note.save(update_fields=["title"])
        return found


# What the ratios should be at most: on the loopback address, and with 1 ms for a round trip.
WORKS: dict[str, tuple[Work, float, float]] = {
    "atomic(read)": (atomic_read, 1.00, 0.80),
    "atomic(atomic(read))": (nested_read, 0.85, 0.55),
    "atomic(3 x atomic(read))": (three_nested_reads, 0.85, 0.55),
    "atomic(read, 3 x atomic(save))": (three_nested_writes, 1.00, 0.80),
}


def workloads(route: str) -> Iterator[Workload]:
    """Yield what is done in transactions over `route`, by stock Django first."""
    for name, (work, near, far) in WORKS.items():
        yield Workload(
            name,
            [
                Candidate("stock, with a filter", stock(work, route), check),
                Candidate("tenantry", tenantry(work, route), check),
            ],
            {"tenantry": far if route == "1 ms" else near},
        )


def stock(work: Work, route: str) -> Callable[[int], list[Any]]:
    """Return how stock Django does `work` for a tenant."""
    plain = data.rows("PlainNote", f"{route} stock")
    return lambda tenant: work(plain.filter(tenant_id=tenant))


def tenantry(work: Work, route: str) -> Callable[[int], list[Any]]:
    """Return how tenantry does `work` for a tenant."""
    protected = data.rows("ProtectedNote", f"{route} tenantry")

    def run(tenant: int) -> list[Any]:
        with tenant_context(tenant):
            return work(protected.all())

    return run


if __name__ == "__main__":
    program.run("transactions", __doc__, workloads)
