"""One indexed read of 20 rows through the ORM: tenantry, and stock Django with a filter.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import data, program
from benchmarks.program import ROWS_READ, Workload, check
from benchmarks.rounds import Candidate
from tenantry import tenant_context


def workloads(route: str) -> Iterator[Workload]:
    """Yield the ways to read the newest notes of a tenant over `route`, stock Django first."""
    plain = data.rows("PlainNote", f"{route} stock")
    protected = data.rows("ProtectedNote", f"{route} tenantry")

    def stock(tenant: int) -> list[Any]:
        return list(plain.filter(tenant_id=tenant).order_by("-created_at")[:ROWS_READ])

    def tenantry(tenant: int) -> list[Any]:
        with tenant_context(tenant):
            return list(protected.order_by("-created_at")[:ROWS_READ])

    def tenantry_and_filter(tenant: int) -> list[Any]:
        with tenant_context(tenant):
            return list(protected.filter(tenant_id=tenant).order_by("-created_at")[:ROWS_READ])

    candidates = [
        Candidate("stock, with a filter", stock, check),
        Candidate("tenantry", tenantry, check),
        Candidate("tenantry, with the filter", tenantry_and_filter, check),
    ]
    yield Workload("ORM read", candidates, {"tenantry": 1.02 if route == "1 ms" else 1.05})


if __name__ == "__main__":
    program.run("orm_read", __doc__, workloads)
