"""``REFUSE_EXEMPT_ROLE``: nothing is served to a role that no policy binds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from tenantry import aclose_pools, aconnection, admin_context
from tenantry.exceptions import RLSConfigurationError
from tests.app.models import Note
from tests.fix_checks import broken
from tests.fix_wire import Wire

EXEMPT = [
    ("ALTER ROLE app SUPERUSER", "ALTER ROLE app NOSUPERUSER"),
    ("ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"),
    ("CREATE ROLE seesall BYPASSRLS; GRANT seesall TO app", "DROP ROLE seesall"),
]
# To be the admin without a scope, as its role or as an heir of that.
ADMINS = [
    ("app", "SELECT", "SELECT"),
    ("boss", "CREATE ROLE boss; GRANT boss TO app", "DROP ROLE boss"),
]
REFUSING = {"TENANT_MODEL": "app.Tenant", "REFUSE_EXEMPT_ROLE": True}
IS_ADMIN = "the role .* is the ADMIN_ROLE, .*REFUSE_EXEMPT_ROLE"
REFUSAL = r"the database '\w+' is refused, because the role app .*REFUSE_EXEMPT_ROLE"


@pytest.fixture
def refusing(arrange: Any) -> Iterator[None]:
    connections.close_all()
    connections["pool"].close_pool()  # type: ignore[attr-defined]
    with override_settings(RLS_TENANTS=REFUSING):
        yield
    connections.close_all()
    connections["pool"].close_pool()  # type: ignore[attr-defined]


@pytest.mark.parametrize("alias", ["default", "pooled", "pool"])
@pytest.mark.parametrize(("how", "back"), EXEMPT)
def test_an_exempt_role_gets_no_connection(
    how: str, back: str, alias: str, refusing: None, arrange: psycopg.Connection[Any]
) -> None:
    connections[alias].close()
    with broken(arrange, how, back):
        # More than once: a connection that was refused is not used by who comes next.
        for _ in range(2):
            with pytest.raises(RLSConfigurationError, match=REFUSAL):
                Note.objects.using(alias).count()
            assert connections[alias].connection is None
    assert Note.objects.using(alias).count() == 0


@pytest.mark.parametrize("alias", ["default", "pooled", "pool", "wire_server_side"])
@pytest.mark.parametrize(("role", "how", "back"), ADMINS)
def test_who_is_always_the_admin_gets_no_connection(
    role: str, how: str, back: str, alias: str, refusing: None, arrange: psycopg.Connection[Any]
) -> None:
    connection: Any = connections[alias]
    connection.close()
    with (
        broken(arrange, how, back),
        override_settings(RLS_TENANTS={**REFUSING, "ADMIN_ROLE": role}),
        pytest.raises(RLSConfigurationError, match=IS_ADMIN),
    ):
        connection.ensure_connection()


@pytest.mark.role_shape
def test_who_is_the_admin_for_a_while_connects(refusing: None) -> None:
    connections["default"].close()
    with override_settings(RLS_TENANTS={**REFUSING, "ADMIN_ROLE": "app_admin"}), admin_context():
        connections["default"].ensure_connection()


@pytest.mark.parametrize(("role", "how", "back"), ADMINS)
async def test_who_is_always_the_admin_gets_no_async_connection(
    role: str, how: str, back: str, refusing: None, arrange: psycopg.Connection[Any]
) -> None:
    with (
        broken(arrange, how, back),
        override_settings(RLS_TENANTS={**REFUSING, "ADMIN_ROLE": role}),
        pytest.raises(RLSConfigurationError, match=IS_ADMIN),
    ):
        async with aconnection():
            pytest.fail("it was accepted")
    await aclose_pools()


@pytest.mark.parametrize(("how", "back"), EXEMPT)
async def test_an_exempt_role_gets_no_async_connection(
    how: str, back: str, refusing: None, arrange: psycopg.Connection[Any]
) -> None:
    with broken(arrange, how, back):
        for _ in range(2):
            with pytest.raises(RLSConfigurationError, match=REFUSAL):
                async with aconnection():
                    pytest.fail("it was accepted")
    async with aconnection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM app_note")
        assert await cursor.fetchone() == (0,)
    async with aconnection():
        pass
    await aclose_pools()


def test_one_statement_for_a_connection_and_none_when_off(wire: Wire, refusing: None) -> None:
    def statements() -> int:
        connections["wire"].close()
        wire.clear()
        connections["wire"].ensure_connection()
        return wire.kinds.count("Q")

    refused = statements()
    with override_settings(RLS_TENANTS={"TENANT_MODEL": "app.Tenant"}):
        assert statements() == refused - 1


def test_a_pool_is_asked_once(refusing: None, arrange: psycopg.Connection[Any]) -> None:
    assert Note.objects.using("pool").count() == 0
    connections["pool"].close()
    # Of the same pool, so nobody asks; a new process does.
    with broken(arrange, *EXEMPT[1]), connections["pool"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM app_note")
        assert cursor.fetchone() == (4,)


def test_a_manual_transaction_is_not_left_open(refusing: None, tenants: Any) -> None:
    connection: Any = connections["default"].copy(alias="manual")
    connection.settings_dict = {**connection.settings_dict, "AUTOCOMMIT": False}
    connection.ensure_connection()
    assert connection.connection.info.transaction_status == 0
    connection.close()


def test_the_owner_may_migrate(refusing: None) -> None:
    call_command("migrate", database="owner", verbosity=0, skip_checks=False)
