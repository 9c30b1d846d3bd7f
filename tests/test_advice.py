"""Errors of PostgreSQL that say what to do about the binding, and keep a seal from sight."""

from __future__ import annotations

import asyncio
import re
import traceback
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DataError, ProgrammingError, connections, transaction

from tenantry import aclose_pools, aconnection, admin_context, tenant_context
from tenantry.seal import seal_keys
from tests import settings as test_settings
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


# A binding that is sealed, and policies that are not: SEALED is set, and nothing has migrated.


def read() -> None:
    list(Note.objects.all())


def read_raw() -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note")


def read_by_server() -> None:
    list(Note.objects.using("wire_server_side").filter(title="A 1"))


def read_in_transaction() -> None:
    with transaction.atomic(), transaction.atomic():
        read()


def read_stream() -> None:
    with connections["default"].cursor() as cursor:
        list(cursor.stream("SELECT title FROM app_note"))


def read_chunks() -> None:
    with transaction.atomic():
        list(Note.objects.iterator(chunk_size=1))


def scroll() -> None:
    driver: Any = connections["default"].connection
    with transaction.atomic(), driver.cursor("named") as cursor:
        cursor.execute("SELECT title FROM app_note")
        cursor.scroll(1)


def copy() -> None:
    with (
        transaction.atomic(),
        connections["default"].cursor() as cursor,
        cursor.copy("COPY (SELECT title FROM app_note) TO STDOUT") as rows,
    ):
        list(rows)


def copy_handled() -> None:
    with (
        transaction.atomic(),
        connections["default"].cursor() as cursor,
        cursor.copy("COPY (SELECT title FROM app_note) TO STDOUT") as rows,
    ):
        # What the block itself sees.
        with pytest.raises(psycopg.DataError) as raised:
            rows.read_row()
        raise raised.value


def copy_by_server() -> None:
    with (
        transaction.atomic(using="wire_server_side"),
        connections["wire_server_side"].cursor() as cursor,
        cursor.copy("COPY (SELECT title FROM app_note) TO STDOUT (FORMAT binary)") as rows,
    ):
        list(rows.rows())


COPIED = """\
CREATE TEMPORARY TABLE copied (
  title text, tenant_id bigint DEFAULT nullif(current_setting('rls.current_tenant'), '')::bigint
) ON COMMIT DROP"""


def copy_to_server() -> None:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute(COPIED)
        with cursor.copy("COPY copied (title) FROM STDIN") as rows:
            rows.write_row(["x"])


def read_async() -> None:
    async def read() -> None:
        try:
            async with aconnection() as connection:
                await connection.execute("SELECT title FROM app_note")
        finally:
            await aclose_pools()

    asyncio.run(read())


def copy_async() -> None:
    async def read() -> None:
        try:
            async with (
                aconnection() as connection,
                connection.cursor() as cursor,
                cursor.copy("COPY (SELECT title FROM app_note) TO STDOUT") as rows,
            ):
                [row async for row in rows.rows()]
        finally:
            await aclose_pools()

    asyncio.run(read())


def copy_to_server_async() -> None:
    async def write() -> None:
        try:
            async with aconnection() as connection, connection.cursor() as cursor:
                await cursor.execute(COPIED)
                async with cursor.copy("COPY copied (title) FROM STDIN") as rows:
                    await rows.write_row(["x"])
        finally:
            await aclose_pools()

    asyncio.run(write())


@pytest.mark.unsealed
@pytest.mark.parametrize(
    "reading",
    [
        read,
        read_raw,
        read_by_server,
        read_in_transaction,
        read_stream,
        read_chunks,
        scroll,
        copy,
        copy_handled,
        copy_by_server,
        copy_to_server,
        read_async,
        copy_async,
        copy_to_server_async,
        lambda: create(1),
    ],
)
def test_a_seal_that_no_policy_knows_is_not_shown(
    reading: Callable[[], None], tenants: Tenants, settings: Any
) -> None:
    sealed = {"SEALED": True, "SEAL_KEYS": ["a secret that is long enough for a test"]}
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | sealed
    connections["default"].ensure_connection()
    with (
        tenant_context(tenants[0].pk),
        pytest.raises((DataError, psycopg.DataError)) as raised,
    ):
        reading()
    connections.close_all()
    text = str(raised.value)
    assert text.startswith(f'invalid input syntax for type bigint: "<seal>:{tenants[0].pk}"')
    assert text.endswith("\nThe policies are not sealed yet; run makemigrations and migrate")
    cause = raised.value.__cause__ or raised.value
    assert isinstance(cause, psycopg.errors.InvalidTextRepresentation)
    assert cause.sqlstate == "22P02"
    # Not in what a page of Django's or a collector of errors shows either.
    shown = traceback.TracebackException.from_exception(
        raised.value, capture_locals=True, max_group_width=99
    )
    assert seal_keys()[0].name not in "".join(shown.format())
    error: BaseException | None = raised.value
    while error is not None:
        assert seal_keys()[0].name not in f"{error!r} {getattr(error, 'diag', None)}"
        error = error.__context__


@pytest.mark.parametrize(("name", "is_sealed"), [("new_sealed", True), ("old_sealed", False)])
def test_a_function_that_verifies_seals_may_not_be_there_yet(
    name: str, *, is_sealed: bool, tenants: Tenants, settings: Any
) -> None:
    sealed = {**test_settings.SEAL, "GUC_PREFIX": "new"}
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | sealed
    unknown = f"function tenantry.{name}(unknown) does not exist"
    with (
        connections["default"].cursor() as cursor,
        pytest.raises(ProgrammingError, match=re.escape(unknown)) as raised,
    ):
        cursor.execute(f"SELECT tenantry.{name}('tenant')")
    assert ("are not sealed yet; run makemigrations" in str(raised.value)) == is_sealed


@pytest.mark.guc_shape
def test_the_admin_is_not_shown_either(tenants: Tenants, settings: Any) -> None:
    sealed = {"SEALED": True, "SEAL_KEYS": ["a secret that is long enough for a test"]}
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | sealed
    with admin_context(), pytest.raises(DataError, match='bigint: "<seal>:"\n') as raised:
        read()
    assert "are not sealed yet" in str(raised.value)
