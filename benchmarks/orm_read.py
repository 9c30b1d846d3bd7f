"""One indexed read of 20 rows through the ORM: tenantry, and stock Django with a filter.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import data, report
from benchmarks.project import ROUTES, project
from benchmarks.rounds import BATCH, Candidate, measure
from benchmarks.stats import Outcome, outcomes
from tenantry import tenant_context

ROWS_READ = 20
WARM_UP = 3


def candidates(route: str) -> list[Candidate]:
    """Return the ways to read the newest notes of a tenant over `route`, stock Django first."""
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

    return [
        Candidate("stock, with a filter", stock, check),
        Candidate("tenantry", tenantry, check),
        Candidate("tenantry, with the filter", tenantry_and_filter, check),
    ]


def check(tenant: int, notes: list[Any]) -> None:
    """Raise RuntimeError unless `notes` are all that was asked for, and of `tenant`."""
    if [note.tenant_id for note in notes] != [tenant] * ROWS_READ:
        raise RuntimeError(f"tenant {tenant} was given the wrong notes: {notes!r}")


def run(route: str, tenants: int, rounds: int, seconds: float) -> dict[str, Outcome]:
    """Measure the candidates over `route`."""
    data.require_isolation(f"{route} tenantry")
    contenders = candidates(route)
    list(measure(contenders, tenants=tenants, rounds=WARM_UP, seconds=seconds))
    gc.freeze()
    results = measure(contenders, tenants=tenants, rounds=rounds, seconds=seconds)
    return outcomes(list(report.with_progress(route, results, rounds)))


def main() -> None:
    """Run the benchmark."""
    options = parse_arguments()
    print("starting PostgreSQL and PgBouncer", flush=True)
    with project() as facts:
        print(f"writing {options.rows} rows of {options.tenants} tenants, twice", flush=True)
        data.create(rows=options.rows, tenants=options.tenants)
        routes = {}
        for route in ROUTES:
            routes[route] = run(route, options.tenants, options.rounds, options.seconds)
            report.print_table(f"{route}, {2 * BATCH} reads a round", routes[route])
    report.write("orm_read", {"machine": facts, "options": vars(options), "routes": routes})


def parse_arguments() -> argparse.Namespace:
    """Return the options; exit when a tenant would have too few rows to read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="in each of the two tables")
    parser.add_argument("--tenants", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=100, help="for each route")
    parser.add_argument("--seconds", type=float, default=30, help="at most, for each route")
    options = parser.parse_args()
    if options.tenants < 1 or options.rounds < 2:
        parser.error("at least one tenant and two rounds are needed")
    if options.rows < ROWS_READ * options.tenants:
        parser.error(f"every tenant needs {ROWS_READ} rows or more")
    return options


if __name__ == "__main__":
    main()
