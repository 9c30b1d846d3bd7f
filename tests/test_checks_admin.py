"""Checks of the admin role and of the keys of seals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import connections

from tenantry.checks.admin import inspect_admin
from tenantry.checks.inspection import inspect_database
from tenantry.checks.models import inspect_models
from tests import settings as test_settings
from tests.app.models import Note, Tenant

Tenants = tuple[Tenant, Tenant]


def found() -> dict[str, str]:
    return {each.id: f"{each.subject} {each.message}; {each.fix}" for each in findings()}


def findings() -> list[Any]:
    return list(inspect_database(connections["default"]))


@contextmanager
def broken(postgres: Any, how: str, back: str) -> Iterator[None]:
    dsn = postgres.dsn("postgres", "tenantry")
    with psycopg.connect(dsn, autocommit=True) as superuser:
        superuser.execute(how.encode())
        try:
            yield
        finally:
            superuser.execute(back.encode())


@pytest.mark.role_shape
@pytest.mark.parametrize(
    ("id_", "how", "back", "message"),
    [
        (
            "tenantry.W102",
            "REVOKE app_admin FROM app",
            "GRANT app_admin TO app WITH INHERIT FALSE, SET TRUE",
            "role app_admin is the ADMIN_ROLE, which the role that logs in cannot become",
        ),
        (
            "tenantry.W102",
            "GRANT app_admin TO app WITH SET FALSE",
            "GRANT app_admin TO app WITH SET TRUE",
            "run GRANT app_admin TO the role that serves requests WITH INHERIT FALSE, SET TRUE",
        ),
        (
            "tenantry.E105",
            "GRANT app_admin TO app WITH INHERIT TRUE",
            "GRANT app_admin TO app WITH INHERIT FALSE, SET TRUE",
            "from which app inherits, which so sees every tenant's rows",
        ),
        (
            "tenantry.W103",
            "REVOKE UPDATE ON app_tag, app_shared FROM app_admin",
            "GRANT UPDATE ON app_tag, app_shared TO app_admin",
            'may not use "app_shared", "app_tag"; run migrate',
        ),
    ],
)
def test_what_is_wrong_with_the_admin_role_is_found(
    id_: str, how: str, back: str, message: str, tenants: Tenants, postgres: Any
) -> None:
    assert findings() == []
    with broken(postgres, how, back):
        assert message in found()[id_]
    assert findings() == []


@pytest.mark.role_shape
def test_an_admin_role_that_does_not_exist_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": "nobody"}
    connection = connections["default"]
    connection.close()
    # Every statement would want to be the app role, which is there.
    assert "as a superuser, run CREATE ROLE nobody NOLOGIN" in found()["tenantry.E104"]
    # Nor can a policy for it be made, of which no table tells.
    assert list(found()) == ["tenantry.E104"]


@pytest.mark.parametrize("role", ["nobody", "owner"])
def test_an_admin_role_on_an_old_server_is_one_finding(
    role: str, tenants: Tenants, settings: Any
) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": role}
    with connections["default"].cursor() as cursor:
        (one,) = inspect_admin(cursor, 150018, ["app_note"])
    assert (one.id, one.subject) == ("tenantry.E108", f"role {role}")
    assert one.message.endswith("needs PostgreSQL 16 or newer; this server is PostgreSQL 15")
    assert one.fix == "leave ADMIN_ROLE out of RLS_TENANTS, or upgrade the server"


@pytest.mark.sealed_shape
@pytest.mark.parametrize("privilege", ["SELECT", "INSERT", "UPDATE (inside)"])
def test_who_reads_or_changes_a_key_is_found(
    privilege: str, tenants: Tenants, postgres: Any
) -> None:
    assert findings() == []
    with broken(
        postgres,
        f"GRANT {privilege} ON tenantry.seal_keys TO app",
        f"REVOKE {privilege} ON tenantry.seal_keys FROM app",
    ):
        message = "table tenantry.seal_keys is open to the role app; who reads a key can be any"
        assert message in found()["tenantry.E106"]
    assert findings() == []


@pytest.mark.role_shape
def test_sealing_without_a_table_of_keys_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | test_settings.SHAPES["sealed"]
    assert "does not exist, so that nothing that is sealed" in found()["tenantry.E107"]
    assert list(found()) == ["tenantry.E107"]


@pytest.mark.guc_shape
def test_no_table_tells_what_the_admin_role_has_told(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": "nobody"}
    old = connections["default"].pg_version < 160000  # type: ignore[attr-defined]
    assert list(found()) == ["tenantry.E108" if old else "tenantry.E104"]


@pytest.mark.guc_shape
def test_no_table_tells_that_its_key_has_another_type(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "TENANT_PK_TYPE": "uuid"}
    assert "tenantry.E153" in {each.id for each in inspect_models([Note])}
    assert findings() == []
