"""Errors of PostgreSQL that say what to do about the binding."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import pytest
from django.db import DataError, ProgrammingError, connections

from tenantry import aclose_pools, aconnection, tenant_context
from tests.app.models import Note, Tenant

Tenants = tuple[Tenant, Tenant]
SQL = "INSERT INTO app_note (tenant_id, title) VALUES (%s, 'x')"
REFUSED = 'new row violates row-level security policy for table "app_note"'
ADVICE = "No tenant is current; open tenant_context() around what writes the row"


def create(tenant: int) -> None:
    Note.objects.create(tenant_id=tenant, title="x")


def stamp(tenant: int) -> None:
    Note.objects.create(title="x")


def execute(tenant: int, alias: str = "default") -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(SQL, [tenant])


def execute_on_server(tenant: int) -> None:
    execute(tenant, "wire_server_side")


def execute_many(tenant: int) -> None:
    with connections["default"].cursor() as cursor:
        cursor.executemany(SQL, [[tenant], [tenant]])


def stream(tenant: int) -> None:
    with connections["default"].cursor() as cursor:
        list(cursor.stream(f"{SQL} RETURNING id", [tenant]))


def execute_async(tenant: int) -> None:
    async def write() -> None:
        try:
            async with aconnection() as connection:
                await connection.execute(SQL, [tenant])
        finally:
            await aclose_pools()

    asyncio.run(write())


WRITES = [create, execute, execute_on_server, execute_many, stream, execute_async]
Write = Callable[[int], None]


@pytest.mark.parametrize("write", [*WRITES, stamp])
def test_a_row_that_is_written_in_no_scope_is_told_of_it(write: Write, tenants: Tenants) -> None:
    connections["wire_server_side"].close()
    with pytest.raises((ProgrammingError, psycopg.ProgrammingError)) as raised:
        write(tenants[0].pk)
    connections.close_all()
    assert str(raised.value) == f"{REFUSED}\n{ADVICE}"
    error = raised.value.__cause__ or raised.value
    assert isinstance(error, psycopg.errors.InsufficientPrivilege)
    assert error.diag.message_primary == REFUSED


@pytest.mark.parametrize("write", WRITES)
def test_a_row_of_another_tenant_is_refused_in_postgresqls_own_words(
    write: Write, tenants: Tenants
) -> None:
    with (
        tenant_context(tenants[0].pk),
        pytest.raises((ProgrammingError, psycopg.ProgrammingError)) as raised,
    ):
        write(tenants[1].pk)
    connections.close_all()
    assert str(raised.value) == REFUSED


def test_other_refusals_are_postgresqls_own(tenants: Tenants) -> None:
    with connections["default"].cursor() as cursor:
        with pytest.raises(ProgrammingError) as raised:
            cursor.execute("SELECT * FROM pg_authid")
        assert str(raised.value) == "permission denied for table pg_authid"
        with pytest.raises(DataError) as raised_:
            cursor.execute("SELECT 'x'::bigint")
        assert ADVICE not in str(raised_.value)
