"""Rows to read: the same in both tables, in the same order on disk."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db import connections, transaction
from django.db.models import QuerySet

from tenantry import admin_context, tenant_context

MODELS = ("Tenant", "PlainNote", "ProtectedNote")

# Each tenant's notes lie scattered over the table, as they do when tenants write at the same time.
FILL = """
INSERT INTO benchmarks_tenant (id, name)
SELECT i, format('tenant %%s', i) FROM generate_series(1, %(tenants)s) i;
INSERT INTO benchmarks_plainnote (id, tenant_id, title, body, created_at)
SELECT i, 1 + i %% %(tenants)s, format('note %%s', i), repeat(md5(i::text), 4),
    '2026-01-01Z'::timestamptz + i * interval '1 second'
FROM generate_series(1, %(rows)s) i;
INSERT INTO benchmarks_protectednote SELECT * FROM benchmarks_plainnote ORDER BY id;
"""


def create(*, rows: int, tenants: int) -> None:
    """Create the tables and fill them."""
    connection = connections["owner"]
    with connection.schema_editor() as editor:
        for name in MODELS:
            editor.create_model(apps.get_model("benchmarks", name))
    with (
        admin_context(),
        transaction.atomic(using="owner"),
        connection.cursor() as cursor,
    ):
        cursor.execute(FILL, {"rows": rows, "tenants": tenants})
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")


def rows(model: str, alias: str) -> QuerySet[Any]:
    """Return the rows of `model` on the database `alias`."""
    queryset: QuerySet[Any] = apps.get_model("benchmarks", model).objects.using(alias)
    return queryset


def require_isolation(alias: str) -> None:
    """Raise RuntimeError unless raw SQL on `alias` sees the rows of one tenant, or none at all."""
    query = "SELECT count(DISTINCT tenant_id) FROM benchmarks_protectednote"
    seen = []
    with connections[alias].cursor() as cursor:
        cursor.execute(query)
        seen += cursor.fetchone()
        with tenant_context(1):
            cursor.execute(query)
            seen += cursor.fetchone()
    if seen != [0, 1]:
        raise RuntimeError(f"{alias!r} is not isolated: {seen!r} tenants seen, not [0, 1]")
