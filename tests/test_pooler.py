"""Behind PgBouncer in transaction mode: nothing stays on a server session, nothing is inherited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from example_asgi.servers import PgBouncer
from tenantry import admin_context, tenant_context
from tests import settings
from tests.app.models import Note, Tenant
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
SESSIONS = 2
GUCS = f"SELECT pg_backend_pid(), current_setting('rls.current_tenant', true), {settings.IS_ADMIN}"


def titles() -> list[str]:
    return [note.title for note in Note.objects.using("pooled").order_by("id")]


def raw_titles() -> list[str]:
    with connections["pooled"].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


@pytest.fixture
def sessions(pgbouncer: PgBouncer, project: None) -> Iterator[list[psycopg.Connection[Any]]]:
    """Return foreign clients of the same role, one for each server session of the pool."""
    clients = [
        psycopg.connect(pgbouncer.dsn("app", "tenantry"), autocommit=True) for _ in range(SESSIONS)
    ]
    yield clients
    for client in clients:
        client.close()


def on_every_session(clients: list[psycopg.Connection[Any]], statement: str) -> list[Any]:
    """Run `statement` on all server sessions: open transactions pin one to each client."""
    rows = []
    for client in clients:
        client.execute("BEGIN")
    for client in clients:
        cursor = client.execute(statement)
        rows += cursor.fetchall() if cursor.description else []
    for client in clients:
        client.execute("COMMIT")
    return rows


def test_gucs_are_empty_after_every_way_to_end_a_statement(
    tenants: Tenants, sessions: list[psycopg.Connection[Any]]
) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        assert titles() == raw_titles() == ["A 1", "A 2"]
        with transaction.atomic(using="pooled"), tenant_context(b.pk):
            assert titles() == ["B 1", "B 2"]
        with transaction.atomic(using="pooled"):
            assert titles() == ["A 1", "A 2"]
            transaction.set_rollback(True, using="pooled")
    with admin_context():
        assert len(titles()) == 4
    rows = on_every_session(sessions, GUCS)
    assert len({pid for pid, _, _ in rows}) == SESSIONS
    assert {(tenant or "", admin or "") for _, tenant, admin in rows} == {("", "")}


@pytest.mark.unsealed
def test_what_a_foreign_client_left_on_the_session_is_not_inherited(
    tenants: Tenants, sessions: list[psycopg.Connection[Any]]
) -> None:
    a, b = tenants
    on_every_session(sessions, f"SET rls.current_tenant = '{b.pk}'")
    on_every_session(sessions, f"SET {settings.ADMIN_PARAMETER} = '{settings.ADMIN_VALUE}'")
    try:
        # The pollution is there, for whoever does not say who they are.
        assert len(on_every_session(sessions, "SELECT title FROM app_note")) == 4 * SESSIONS
        for read in (titles, raw_titles):
            for _ in range(2 * SESSIONS):
                assert read() == []
                with tenant_context(a.pk):
                    assert read() == ["A 1", "A 2"]
        with transaction.atomic(using="pooled"):
            assert raw_titles() == []
        with connections["pooled"].cursor() as cursor:
            cursor.executemany("UPDATE app_note SET title = %s", [["x"], ["y"]])
            assert cursor.rowcount == 0
    finally:
        on_every_session(sessions, "RESET rls.current_tenant")
        on_every_session(sessions, f"RESET {settings.ADMIN_PARAMETER}")


async def test_many_tasks_share_two_sessions_and_see_their_own_rows(tenants: Tenants) -> None:
    async def visit(tenant: Tenant | None) -> None:
        expected = [f"{tenant.name} 1", f"{tenant.name} 2"] if tenant else []
        for _ in range(10):
            notes = Note.objects.using("pooled").select_related("author").order_by("id")
            if tenant is None:
                assert [note.title async for note in notes] == expected
            else:
                async with tenant_context(tenant.pk):
                    assert [note.title async for note in notes] == expected
                    await asyncio.sleep(0)
                    assert [note.title async for note in notes] == expected

    await asyncio.gather(*(visit(tenant) for tenant in [*tenants, None] * 10))


@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_nothing_follows_the_sync_of_a_pipeline(alias: str, wire: Wire) -> None:
    """A pooler has taken the server back by then, and lends out another one for good."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        cursor.executemany("UPDATE app_note SET title = %s", [["x"], ["y"]])
    assert wire.kinds.endswith("S")
    assert "SH" not in wire.kinds
