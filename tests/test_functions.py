"""The functions for raw SQL, which are those of whatever made them last."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connections

from tenantry import current_tenant_sql, tenant_context
from tenantry.checks.policies import policy_for
from tenantry.lifecycle.export import export
from tenantry.policies.ddl import Policy
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_checks import broken

Tenants = tuple[Tenant, Tenant]
FUNCTION = "tenantry.rls_current_tenant_bigint"
# Another shape than that of the tables, as a migration of before may have it.
OTHER = Policy("rls", "bigint", admin_role="nobody" if test_settings.SHAPE == "guc" else None)


def run(sql: str) -> list[Any]:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@contextmanager
def of_another_shape(arrange: psycopg.Connection[Any]) -> Iterator[None]:
    """Let the functions be those that a migration of another shape makes."""
    model: Any = Note
    with broken(arrange, OTHER.functions(), policy_for(model).functions()):
        yield
    # What a session has compiled is not for the next test.
    connections["default"].close()


def test_the_current_tenant_is_read_without_a_function(
    arrange: psycopg.Connection[Any], tenants: Tenants
) -> None:
    sql = f"SELECT title FROM app_note WHERE tenant_id = {current_tenant_sql()} ORDER BY id"
    rename, back = f"ALTER FUNCTION {FUNCTION} RENAME TO gone", "ALTER FUNCTION tenantry.gone"
    with (
        broken(arrange, rename, f"{back} RENAME TO rls_current_tenant_bigint"),
        tenant_context(tenants[1].pk),
    ):
        assert run(sql) == [("B 1",), ("B 2",)]


@pytest.mark.sealed_shape
def test_a_tenant_is_exported_whatever_migration_ran_last(
    arrange: psycopg.Connection[Any], tenants: Tenants
) -> None:
    with of_another_shape(arrange):
        rows = export(connections["default"], tenants[0], io.BytesIO())
    assert rows["app_note"] == 2
