"""What a policy adds to one indexed read by SQL, by how the policy finds out the tenant.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import connections

from benchmarks import program
from benchmarks.program import ROWS_READ, Workload
from benchmarks.rounds import Candidate
from tenantry import tenant_context
from tenantry.policies.predicates import tenant_sql

# A policy with a constant in it is one for a single tenant, so all read the rows of the same one.
TENANT = 1
FILTERED = f"WHERE tenant_id = {TENANT}"
SETTING = tenant_sql("rls", "bigint")
# What tenant_id is compared with, by the name of the table.
POLICIES = {
    "constant": str(TENANT),
    "selected constant": f"(SELECT {TENANT}::bigint)",
    "setting": SETTING,
    "selected setting": f"(SELECT {SETTING})",
    "selected function": "(SELECT public.asked())",
}
FUNCTION = f"""
CREATE FUNCTION public.asked() RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN {SETTING}; END $$;
"""
TABLE = """
CREATE TABLE "{name}" (LIKE benchmarks_plainnote INCLUDING ALL);
INSERT INTO "{name}" SELECT * FROM benchmarks_plainnote ORDER BY id;
ALTER TABLE "{name}" ENABLE ROW LEVEL SECURITY;
CREATE POLICY isolation ON "{name}" USING (tenant_id = {tenant});
GRANT SELECT ON "{name}" TO PUBLIC;
"""


def make_tables() -> None:
    """Make a table for each policy, of the same rows."""
    with connections["owner"].cursor() as cursor:
        cursor.execute("SELECT to_regproc('public.asked')")
        if cursor.fetchone() == (None,):
            cursor.execute(FUNCTION)
            for name, tenant in POLICIES.items():
                cursor.execute(TABLE.format(name=name, tenant=tenant))
            cursor.execute("VACUUM (ANALYZE)")


def workloads(route: str) -> Iterator[Workload]:
    """Yield the read without a filter, which is the policy's then, and with one besides."""
    make_tables()
    for name, where in (("without a filter", ""), ("with a filter", FILTERED)):
        yield Workload(
            name,
            [
                Candidate("no binding, no RLS", plain(f"{route} stock"), check),
                Candidate(
                    "binding, no RLS",
                    bound(f"{route} tenantry", "benchmarks_plainnote", FILTERED),
                    check,
                ),
                *(
                    Candidate(f"binding, {table}", bound(f"{route} tenantry", table, where), check)
                    for table in POLICIES
                ),
            ],
            {},
        )


def read(alias: str, table: str, where: str) -> list[Any]:
    """Return the tenants of the newest rows."""
    with connections[alias].cursor() as cursor:
        cursor.execute(
            f'SELECT tenant_id, id, title, body, created_at FROM "{table}" {where}'
            f" ORDER BY tenant_id, created_at DESC LIMIT {ROWS_READ}"
        )
        return [row[0] for row in cursor.fetchall()]


def plain(alias: str) -> Callable[[int], list[Any]]:
    """Return how the plain table is read by Django's own backend."""
    return lambda tenant: read(alias, "benchmarks_plainnote", FILTERED)


def bound(alias: str, table: str, where: str) -> Callable[[int], list[Any]]:
    """Return how a table is read in a scope."""

    def run(tenant: int) -> list[Any]:
        with tenant_context(TENANT):
            return read(alias, table, where)

    return run


def check(tenant: int, notes: Sequence[object]) -> None:
    """Raise RuntimeError unless `notes` are the tenant's, as many as were asked for."""
    if list(notes) != [TENANT] * ROWS_READ:
        raise RuntimeError(f"tenant {TENANT} was given the wrong notes: {notes!r}")


if __name__ == "__main__":
    # The seal has no setting that a policy could read.
    program.run("policy_cost", __doc__, workloads, shapes=["guc", "role"])
