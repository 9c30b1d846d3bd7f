"""What PostgreSQL does beside the policies, or because of them, as the documentation says."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, connections, transaction

from tenantry import admin_context, tenant_context
from tests.app.models import Tenant
from tests.fix_checks import broken
from tests.settings import HAS_ADMIN_ROLE
from tests.sql import run

Tenants = tuple[Tenant, Tenant]

# A table of the owner, to whose only row each note refers, and one of notes' authors.
PARTED = """
CREATE TABLE parted (id bigint PRIMARY KEY) PARTITION BY LIST (id);
CREATE TABLE first PARTITION OF parted FOR VALUES IN (1);
INSERT INTO parted VALUES (1);
ALTER TABLE app_note ADD COLUMN parted_id bigint REFERENCES parted;
UPDATE app_note SET parted_id = 1;
CREATE TABLE line (id bigint, author_id bigint REFERENCES app_author) PARTITION BY LIST (id);
CREATE TABLE lines (id bigint, author_id bigint);
INSERT INTO lines SELECT 1, id FROM app_author;
ALTER TABLE parted OWNER TO owner; ALTER TABLE first OWNER TO owner;
ALTER TABLE line OWNER TO owner; ALTER TABLE lines OWNER TO owner;
"""
GONE = """
ALTER TABLE app_note DROP COLUMN parted_id;
DROP TABLE parted; DROP TABLE IF EXISTS first; DROP TABLE line; DROP TABLE IF EXISTS lines
"""
DETACH = "ALTER TABLE parted DETACH PARTITION first"
ATTACH = "ALTER TABLE line ATTACH PARTITION lines FOR VALUES IN (1)"
REFERRING = "update or delete on table .* violates foreign key constraint|still referenced"


def unforced(table: str, statement: str) -> None:
    """Run a statement of the owner that looks at all rows of a table."""
    with transaction.atomic(using="owner"):
        run(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY", alias="owner")
        run(statement, alias="owner")
        run(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY", alias="owner")


@pytest.fixture
def parted(arrange: psycopg.Connection[Any], tenants: Tenants) -> Any:
    with broken(arrange, PARTED, GONE):
        yield
        connections["owner"].close()


def test_a_partition_to_which_hidden_rows_refer_is_detached(
    parted: None, arrange: psycopg.Connection[Any]
) -> None:
    with pytest.raises(IntegrityError, match=REFERRING):
        unforced("app_note", DETACH)
    run(DETACH, alias="owner")
    lost = "SELECT count(*) FROM app_note WHERE parted_id NOT IN (SELECT id FROM parted)"
    assert arrange.execute(lost).fetchone() == (4,)


def test_one_that_refers_to_hidden_rows_is_not_attached(parted: None) -> None:
    with pytest.raises(IntegrityError, match="violates foreign key constraint"):
        run(ATTACH, alias="owner")
    unforced("app_author", ATTACH)
    assert run("SELECT count(*) FROM line", alias="owner") == [(2,)]


def test_a_large_object_is_everybodys(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        [(key,)] = run("SELECT lo_from_bytea(0, 'of A')")
    with tenant_context(b.pk):
        assert run("SELECT oid FROM pg_largeobject_metadata") == [(key,)]
        assert run("SELECT convert_from(lo_get(%s), 'UTF8')", [key]) == [("of A",)]
        run("SELECT lo_unlink(%s)", [key])


def test_a_materialized_view_is_refreshed_in_a_scope_as_its_owner(
    tenants: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    owner = "app_admin" if HAS_ADMIN_ROLE else "owner"
    how = (
        "CREATE MATERIALIZED VIEW seen AS SELECT title FROM app_note WITH NO DATA;"
        f" ALTER MATERIALIZED VIEW seen OWNER TO {owner}"
    )
    with broken(arrange, how, "DROP MATERIALIZED VIEW seen"):
        with admin_context():
            run("REFRESH MATERIALIZED VIEW seen", alias="owner")
        assert arrange.execute("SELECT count(*) FROM seen").fetchone() == (4,)
        arrange.execute("ALTER MATERIALIZED VIEW seen OWNER TO owner")
        for scope, rows in ((tenant_context(tenants[0].pk), 2), (nullcontext(), 0)):
            with scope:
                run("REFRESH MATERIALIZED VIEW seen", alias="owner")
            assert arrange.execute("SELECT count(*) FROM seen").fetchone() == (rows,)
        connections["owner"].close()


LEAKPROOF = {
    "bigint": "5",
    "double precision": "5",
    "text": "'x'",
    "date": "'2026-01-01'",
    "timestamp with time zone": "'2026-01-01'",
    "uuid": "'00000000-0000-0000-0000-00000000000a'",
}
LEAKING = {
    "numeric(9, 2)": "5",
    "jsonb": "'{}'",
    "bigint[]": "'{5}'",
    "int4range": "'[1,5)'",
    "mood": "'good'",
}


@pytest.mark.parametrize("kind", [*LEAKPROOF, *LEAKING])
@pytest.mark.parametrize("operator", ["=", ">"])
def test_comparisons_that_are_leakproof_find_rows_by_the_index(
    operator: str, kind: str, tenants: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    how = (
        f"CREATE TYPE mood AS ENUM ('good'); ALTER TABLE app_tag ADD COLUMN looked_for {kind};"
        " CREATE INDEX ON app_tag (tenant_id, looked_for)"
    )
    back = "ALTER TABLE app_tag DROP COLUMN looked_for; DROP TYPE mood"
    value = (LEAKPROOF | LEAKING)[kind]
    condition = f"tenant_id = {tenants[0].pk} AND looked_for {operator} {value}"
    with broken(arrange, how, back), tenant_context(tenants[0].pk), transaction.atomic():
        run("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        # Only the new index has this order. What the table's statistics say, others have left.
        run("SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off")
        query = f"SELECT FROM app_tag WHERE {condition} ORDER BY looked_for"
        plan = [line.strip() for (line,) in run(f"EXPLAIN (COSTS OFF) {query}")]
        by_index = next(line for line in plan if line.startswith("Index Cond"))
        transaction.set_rollback(True)
        assert ("looked_for" in by_index) == (kind in LEAKPROOF)
