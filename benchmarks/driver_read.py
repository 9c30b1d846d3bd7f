"""One indexed read of 20 rows by SQL on a cursor: with a binding and RLS, and with neither.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import connections

from benchmarks import program
from benchmarks.program import ROWS_READ, Workload, check
from benchmarks.rounds import Candidate
from tenantry import tenant_context

Read = Callable[[str, str, int], list[Any]]


def statement(table: str) -> str:
    """Return the SQL, which is the same for both tables."""
    return (
        f"SELECT tenant_id, id, title, body, created_at FROM benchmarks_{table}"
        f" WHERE tenant_id = %s ORDER BY created_at DESC LIMIT {ROWS_READ}"
    )


def execute(alias: str, table: str, tenant: int) -> list[Any]:
    """Read with Django's cursor."""
    with connections[alias].cursor() as cursor:
        cursor.execute(statement(table), [tenant])
        return [row[0] for row in cursor.fetchall()]


def pipeline(alias: str, table: str, tenant: int) -> list[Any]:
    """Read in a pipeline of psycopg's."""
    connections[alias].ensure_connection()
    with connections[alias].connection.pipeline():
        cursor = connections[alias].connection.execute(statement(table), [tenant])
    return [row[0] for row in cursor.fetchall()]


def workloads(route: str) -> Iterator[Workload]:
    """Yield the ways to send a statement over `route`, each by Django's own backend first."""
    ways: dict[str, tuple[Read, str]] = {
        "simple query": (execute, ""),
        "server-side binding": (execute, " on server"),
        "pipeline": (pipeline, ""),
    }
    for name, (read, mode) in ways.items():
        yield Workload(
            name,
            [
                Candidate("no binding, no RLS", plain(read, f"{route} stock{mode}"), check),
                Candidate(
                    "binding, no RLS", bound(read, f"{route} tenantry{mode}", "plainnote"), check
                ),
                Candidate(
                    "binding and RLS",
                    bound(read, f"{route} tenantry{mode}", "protectednote"),
                    check,
                ),
            ],
            {"binding and RLS": 1.06} if (route, name) == ("pgbouncer", "simple query") else {},
        )


def plain(read: Read, alias: str) -> Callable[[int], list[Any]]:
    """Return how the plain table is read by Django's own backend."""
    return lambda tenant: read(alias, "plainnote", tenant)


def bound(read: Read, alias: str, table: str) -> Callable[[int], list[Any]]:
    """Return how a table is read in a scope."""

    def run(tenant: int) -> list[Any]:
        with tenant_context(tenant):
            return read(alias, table, tenant)

    return run


if __name__ == "__main__":
    program.run("driver_read", __doc__, workloads)
