"""A read of 20 rows through the ORM in autocommit, in an atomic block, and in nested ones.

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

from benchmarks import data, program
from benchmarks.program import ROWS_READ, Workload, check
from benchmarks.rounds import Candidate
from tenantry import tenant_context

FLOOR, OURS = "stock, with a filter", "tenantry"
INNER = 3
Read = Callable[[], list[Any]]
# What is done with a read, given the alias that it is on.
Block = Callable[[str, Read], list[Any]]


def alone(alias: str, read: Read) -> list[Any]:
    """Read in autocommit."""
    return read()


def atomic(alias: str, read: Read) -> list[Any]:
    """Read in a transaction."""
    with transaction.atomic(using=alias):
        return read()


def nested(alias: str, read: Read) -> list[Any]:
    """Read after a savepoint."""
    with transaction.atomic(using=alias):
        return atomic(alias, read)


def nested_thrice(alias: str, read: Read) -> list[Any]:
    """Read after each of three savepoints, as an admin's formset saves."""
    with transaction.atomic(using=alias):
        return [atomic(alias, read) for _ in range(INNER)][-1]


BLOCKS: dict[str, Block] = {
    "read": alone,
    "atomic(read)": atomic,
    "atomic(atomic(read))": nested,
    f"atomic({INNER} x atomic(read))": nested_thrice,
}
# What the ratio to stock Django should be at most, by route.
TARGETS: dict[str, list[float]] = {
    "direct": [1.05, 1.00, 0.85, 0.85],
    "pgbouncer": [1.05],
    "1 ms": [1.02, 0.80, 0.55, 0.55],
}


def workloads(route: str) -> Iterator[Workload]:
    """Yield the blocks over `route`, each by stock Django first."""
    targets = dict(zip(BLOCKS, TARGETS[route], strict=False))
    for name, block in BLOCKS.items():
        yield Workload(
            name,
            [
                Candidate(FLOOR, plain(block, f"{route} stock"), check),
                Candidate(OURS, bound(block, f"{route} tenantry"), check),
            ],
            {OURS: targets[name]} if name in targets else {},
        )


def plain(block: Block, alias: str) -> Callable[[int], list[Any]]:
    """Return how the plain table is read, with a filter, by Django's own backend."""
    notes = data.rows("PlainNote", alias)

    def run(tenant: int) -> list[Any]:
        mine = notes.filter(tenant_id=tenant).order_by("-created_at")
        return block(alias, lambda: list(mine[:ROWS_READ]))

    return run


def bound(block: Block, alias: str) -> Callable[[int], list[Any]]:
    """Return how the protected table is read in a scope."""
    notes = data.rows("ProtectedNote", alias)

    def run(tenant: int) -> list[Any]:
        with tenant_context(tenant):
            mine = notes.order_by("-created_at")
            return block(alias, lambda: list(mine[:ROWS_READ]))

    return run


if __name__ == "__main__":
    program.run("blocks", __doc__, workloads)
