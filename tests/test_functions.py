"""The functions for raw SQL, which are those of whatever made them last."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import connections
from django.db.models.signals import post_migrate

from tenantry import admin_context, current_tenant_sql, tenant_context
from tenantry.checks.inspection import inspect_database
from tenantry.checks.policies import shape_for
from tenantry.functions import chosen
from tenantry.lifecycle.export import export
from tenantry.policies.ddl import Shape
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_checks import broken
from tests.fix_migrations import migration_of

Tenants = tuple[Tenant, Tenant]
FUNCTION = "tenantry.rls_current_tenant_bigint"
# Another shape than that of the tables, as a migration of before may have it.
OTHER = Shape("rls", "bigint", admin_role="nobody" if test_settings.SHAPE == "guc" else None)


def run(sql: str) -> list[Any]:
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@contextmanager
def of_another_shape(arrange: psycopg.Connection[Any]) -> Iterator[None]:
    """Let the functions be those that a migration of another shape makes."""
    model: Any = Note
    with broken(arrange, OTHER.functions(), shape_for(model).functions()):
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


def definitions() -> list[Any]:
    return run(
        "SELECT pg_get_functiondef(oid) FROM pg_proc"
        " WHERE pronamespace = 'tenantry'::regnamespace AND starts_with(proname, 'rls_')"
        " ORDER BY proname"
    )


def done(*plan: tuple[Any, bool]) -> None:
    """Do what ``migrate`` does last, after the migrations of `plan`."""
    config = apps.get_app_config("tenantry")
    post_migrate.send(config, app_config=config, using="owner", apps=apps, plan=plan)


RUN = (migration_of(), False)


def test_migrate_makes_the_functions_of_the_policies(
    arrange: psycopg.Connection[Any], tenants: Tenants
) -> None:
    before = definitions()
    sql = f"SELECT {FUNCTION}(), tenantry.rls_is_admin()"
    with of_another_shape(arrange):
        assert definitions() != before
        done(RUN)
        assert definitions() == before
        assert [*inspect_database(connections["default"])] == []
        with tenant_context(tenants[0].pk):
            assert run(sql) == [(tenants[0].pk, False)]
        with admin_context():
            assert run(sql) == [(None, True)]
        # In a session that nobody has bound, where the parameters are not even empty.
        assert arrange.execute(sql).fetchall() == [(None, False)]


def test_nothing_is_made_where_no_migration_has_run(arrange: psycopg.Connection[Any]) -> None:
    with of_another_shape(arrange):
        before = definitions()
        done()
        assert definitions() == before


def test_a_function_of_another_owner_stays(arrange: psycopg.Connection[Any]) -> None:
    owner = f"ALTER FUNCTION {FUNCTION} OWNER TO {{}}"
    with (
        of_another_shape(arrange),
        broken(arrange, owner.format("postgres"), owner.format("owner")),
    ):
        before = definitions()
        done(RUN)
        assert definitions() == before


GUC, SEALED = Shape("rls", "bigint"), Shape("rls", "bigint", sealed=True)


@pytest.mark.parametrize(
    ("shape", "found", "wanted"),
    [
        ({}, [GUC], [GUC]),
        ({}, [GUC, SEALED], [GUC]),
        (test_settings.SEAL, [GUC, SEALED], [SEALED]),
        # The settings of tomorrow, which no migration has followed.
        (test_settings.SEAL, [GUC], [GUC]),
        ({"GUC_PREFIX": "next"}, [GUC], [GUC]),
        # Nobody can say.
        ({"GUC_PREFIX": "next"}, [GUC, SEALED], []),
        (
            {},
            [GUC, Shape("next", "bigint", sealed=True)],
            [GUC, Shape("next", "bigint", sealed=True)],
        ),
        ({}, [], []),
    ],
)
def test_of_several_shapes_that_of_the_settings_is_chosen(
    shape: dict[str, Any], found: list[Shape], wanted: list[Shape], settings: Any
) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", **shape}
    assert [*chosen(found)] == wanted


def test_who_else_a_policy_is_for_makes_no_difference(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant"}
    [shape] = chosen([GUC, Shape("rls", "bigint", app_role="app")])
    assert shape.functions() == GUC.functions()
