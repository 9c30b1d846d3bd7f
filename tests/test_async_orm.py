"""Connections of django-async-backend: ORM, cursors and transactions are bound like Django's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, ProgrammingError, connections
from django.db.models import Count, Exists, OuterRef
from django.test import override_settings
from django_async_backend.db import async_connections, async_new_connection
from django_async_backend.db.backends.postgresql import async_base
from django_async_backend.db.models.patch import _patch_model
from django_async_backend.db.models.query import QuerySet
from django_async_backend.db.transaction import async_atomic

from tenantry import aclose_pools, admin_context, tenant_context
from tenantry.backends.postgresql import aio, async_orm, base, loops
from tenantry.exceptions import RLSConfigurationError
from tests.app.models import Author, Note, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import broken
from tests.fix_docs import table
from tests.fix_faults import wait_for
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
ALIASES = ["wire", "wire_server_side", "pool", "pooled"]
TITLES = "SELECT title FROM app_note WHERE id > %s ORDER BY id"


@pytest.fixture(autouse=True)
def patched(tenants: Tenants) -> None:
    """Give models their async methods, as the package's app does."""
    _patch_model()


@asynccontextmanager
async def session(alias: str) -> AsyncIterator[Any]:
    """Yield an async connection of this task, and close it and its pool."""
    try:
        async with async_new_connection():
            yield async_connections[alias]
    finally:
        await aclose_pools()


def notes(alias: str) -> Any:
    return QuerySet(Note, using=alias).order_by("id")


async def titles(alias: str) -> list[str]:
    return [note.title async for note in notes(alias)]


async def raw(connection: Any) -> list[str]:
    async with await connection.cursor() as cursor:
        await cursor.execute(TITLES, [0])
        return [title for (title,) in await cursor.fetchall()]


@pytest.mark.parametrize("alias", ALIASES)
async def test_reads_are_those_of_the_binding(alias: str, tenants: Tenants) -> None:
    async with session(alias) as connection:
        assert await titles(alias) == await raw(connection) == []
        for tenant in tenants:
            async with tenant_context(tenant.pk):
                expected = [f"{tenant.name} 1", f"{tenant.name} 2"]
                assert await titles(alias) == expected
                assert await raw(connection) == expected
                assert await notes(alias).acount() == 2
                async with async_atomic(alias):
                    assert await titles(alias) == await raw(connection) == expected
        async with admin_context():
            assert len(await titles(alias)) == len(await raw(connection)) == 4
        assert await titles(alias) == await raw(connection) == []


@pytest.mark.parametrize("alias", ALIASES)
async def test_scopes_and_savepoints_nest(alias: str, tenants: Tenants) -> None:
    a, b = tenants
    async with session(alias) as connection, tenant_context(a.pk), async_atomic(alias):
        assert await notes(alias).filter(title__endswith=1).aupdate(title="changed") == 1
        async with tenant_context(b.pk), async_atomic(alias):
            assert await titles(alias) == ["B 1", "B 2"]
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with async_atomic(alias):
                await QuerySet(Note, using=alias).acreate(title="x", tenant_id=b.pk)
        assert await raw(connection) == ["changed", "A 2"]
        connection.set_rollback(True)


@pytest.mark.parametrize("alias", ALIASES)
async def test_writes_reach_rows_of_the_binding(alias: str, tenants: Tenants) -> None:
    a, b = tenants
    async with session(alias) as connection:
        async with tenant_context(a.pk):
            created = await QuerySet(Note, using=alias).acreate(title="A 3", tenant_id=a.pk)
            created.title = "A three"
            await created.async_save(using=alias)
            assert await titles(alias) == ["A 1", "A 2", "A three"]
            assert await notes(alias).filter(title__contains="t").aupdate(title="A 3") == 1
            with pytest.raises(ProgrammingError, match="row-level security"):
                await QuerySet(Note, using=alias).acreate(title="x", tenant_id=b.pk)
            async with await connection.cursor() as cursor:
                await cursor.executemany("UPDATE app_note SET title = title || %s", [["!"], ["?"]])
            assert await titles(alias) == ["A 1!?", "A 2!?", "A 3!?"]
            assert (await notes(alias).order_by().adelete())[0] == 3
        assert (await notes(alias).order_by().adelete())[0] == 0
        async with admin_context():
            assert await titles(alias) == ["B 1", "B 2"]


async def test_every_shape_of_query_has_the_predicate(wire: Wire, tenants: Tenants) -> None:
    tenant = tenants[1]
    authors = QuerySet(Author, using="wire")
    async with session("wire"), tenant_context(tenant.pk):
        written = Note.objects.filter(author=OuterRef("pk"))
        wire.clear()
        rows = authors.annotate(written=Count("note")).values_list("name", "written")
        assert [row async for row in rows] == [("author of B", 2)]
        assert [row.name async for row in authors.filter(Exists(written))] == ["author of B"]
        assert [n.author.name async for n in notes("wire").select_related("author")]
        assert await notes("wire").aexists()
        await notes("wire").aupdate(parent=None)
        await notes("wire").filter(title="no").order_by().adelete()
    # Sealed, the binding is a statement of its own.
    queries = [query for query in wire.queries if '"app_' in query]
    counts = [query.count(f'"tenant_id" = {tenant.pk}') for query in queries[-6:]]
    assert counts[:5] == [2, 2, 2, 1, 1]
    assert counts[5] >= 1


@pytest.mark.unsealed
async def test_the_binding_costs_no_round_trip(wire: Wire, tenants: Tenants) -> None:
    async with session("wire") as connection, tenant_context(tenants[0].pk):
        await titles("wire")
        wire.clear()
        assert await titles("wire") == ["A 1", "A 2"]
        assert await raw(connection) == ["A 1", "A 2"]
        assert (wire.kinds, wire.round_trips) == ("QQ", 2)
        assert all(f"'{tenants[0].pk}'" in query for query in wire.queries)
        assert all("rls.current_tenant" in query for query in wire.queries)
        wire.clear()
        async with async_atomic("wire"):
            await titles("wire")
        assert (wire.kinds, wire.round_trips) == ("QQ", 2)
        assert wire.queries[0].startswith("BEGIN;")
        assert wire.queries[1] == "COMMIT"
        wire.clear()
        async with async_atomic("wire"), async_atomic("wire"):
            await titles("wire")
        assert wire.round_trips == 4


async def test_server_side_parameters_go_in_one_pipeline(wire: Wire, tenants: Tenants) -> None:
    async with session("wire_server_side") as connection, tenant_context(tenants[0].pk):
        await raw(connection)
        wire.clear()
        assert await raw(connection) == ["A 1", "A 2"]
        assert wire.round_trips == 1
        assert "set_config" in wire.queries[0]


@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
async def test_named_cursors_are_bound(alias: str, tenants: Tenants) -> None:
    async with (
        session(alias) as connection,
        tenant_context(tenants[0].pk),
        async_atomic(alias),
        await connection.chunked_cursor() as cursor,
    ):
        await cursor.execute(TITLES, [0])
        async with tenant_context(tenants[1].pk):
            assert await raw(connection) == ["B 1", "B 2"]
            assert await cursor.fetchall() == [("A 1",), ("A 2",)]


@pytest.mark.sealed_shape
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
async def test_an_injection_finds_no_open_cursor_of_somebody_else(
    alias: str, tenants: Tenants
) -> None:
    async with (
        session(alias) as connection,
        admin_context(),
        async_atomic(alias),
        await connection.chunked_cursor() as cursor,
    ):
        await cursor.execute(TITLES, [0])
        async with tenant_context(tenants[0].pk), await connection.cursor() as another:
            await another.execute("SELECT name FROM pg_cursors WHERE name <> ''")
            assert await another.fetchall() == []
        assert await cursor.fetchall() == [("A 1",), ("A 2",), ("B 1",), ("B 2",)]


async def test_a_role_is_assumed_in_a_pool(assumed: str, alias: Add, tenants: Tenants) -> None:
    pool = {"min_size": 1, "max_size": 1, "timeout": 5}
    using = alias(options={"pool": pool, "assume_role": assumed})
    async with session(using) as connection, tenant_context(tenants[0].pk):
        async with await connection.cursor() as cursor:
            await cursor.execute("SELECT current_user::text, current_setting('timezone')")
            assert await cursor.fetchall() == [(assumed, "UTC")]
        assert await titles(using) == ["A 1", "A 2"]


async def test_begin_may_be_a_message_of_its_own(
    wire: Wire, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings["wire"]["OPTIONS"], "ride_along", False)
    async with session("wire"), tenant_context(tenants[0].pk):
        await titles("wire")
        wire.clear()
        async with async_atomic("wire"):
            assert await titles("wire") == ["A 1", "A 2"]
    assert wire.queries[0] == "BEGIN"


@pytest.mark.parametrize("alias", ALIASES)
async def test_a_cancelled_task_leaves_nothing(
    alias: str, tenants: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    a, b = tenants

    async def sleep() -> None:
        async with async_new_connection(), tenant_context(a.pk), async_atomic(alias):
            await notes(alias).filter(title__endswith=1).aupdate(title="changed")
            async with await async_connections[alias].cursor() as cursor:
                await cursor.execute("SELECT pg_sleep(20)")

    def is_asleep() -> bool:
        query = (
            "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(20)%'"
            " AND pid <> pg_backend_pid()"
        )
        return superuser.execute(query).fetchone() is not None

    try:
        task = asyncio.create_task(sleep())
        await asyncio.to_thread(wait_for, is_asleep)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        async with session(alias) as connection:
            assert await raw(connection) == []
            async with tenant_context(b.pk):
                assert await titles(alias) == ["B 1", "B 2"]
            async with tenant_context(a.pk):
                assert await titles(alias) == ["A 1", "A 2"]
    finally:
        await aclose_pools()


async def test_tasks_have_bindings_of_their_own(tenants: Tenants) -> None:
    async def visit(tenant: Tenant) -> list[str]:
        async with tenant_context(tenant.pk), async_new_connection():
            await titles("pooled")
            await asyncio.sleep(0)
            return await titles("pooled")

    found = await asyncio.gather(*(visit(tenants[number % 2]) for number in range(10)))
    assert found == [[f"{tenant.name} 1", f"{tenant.name} 2"] for tenant in tenants] * 5


async def test_a_statement_that_cannot_be_parsed_ends_its_transaction(tenants: Tenants) -> None:
    async with session("wire") as connection, tenant_context(tenants[0].pk):
        with pytest.raises(ProgrammingError):
            async with async_atomic("wire"), await connection.cursor() as cursor:
                await cursor.execute("SELEC 1")
        assert await titles("wire") == ["A 1", "A 2"]


async def test_pools_belong_to_the_event_loop_and_are_closed(tenants: Tenants) -> None:
    async with async_new_connection(), tenant_context(tenants[0].pk):
        assert await titles("pool") == ["A 1", "A 2"]
        [pool] = loops.running_loop().orm_pools.values()
        assert not pool.closed
        assert isinstance(async_connections["pool"].connection, aio.AsyncBoundConnection)
    await aclose_pools()
    assert pool.closed
    assert loops.running_loop().orm_pools == {}


async def one() -> None:
    await titles("wire")


async def many() -> None:
    async with await async_connections["wire"].cursor() as cursor:
        await cursor.executemany("UPDATE app_note SET title = title || %s", [["!"], ["?"]])


async def atomic() -> None:
    async with async_atomic("wire"):
        await one()


async def nested() -> None:
    async with async_atomic("wire"), async_atomic("wire"):
        await one()


async def failing() -> None:
    async with async_atomic("wire"):
        with pytest.raises(DataError):
            async with async_atomic("wire"), await async_connections["wire"].cursor() as cursor:
                await cursor.execute("SELECT 1/0")
        await one()


@pytest.mark.parametrize("column", [1, 2], ids=["tenantry", "package"])
async def test_round_trips_are_those_of_the_guide(
    column: int, wire: Wire, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    if column == 2:
        engine = async_base.__name__.removesuffix(".async_base")
        monkeypatch.setitem(connections.settings["wire"], "ENGINE", engine)
    documented = [int(row[column]) for row in table("how-to/async-orm.md", "What it costs")]
    measured = []
    async with session("wire"), tenant_context(tenants[0].pk):
        await one()
        for work in (one, many, atomic, nested, failing):
            wire.clear()
            await work()
            measured.append(wire.round_trips)
    assert measured == documented


@pytest.mark.parametrize("found", ["", "5.2.9", "6.1.4", "6.2.0", "7.0"])
def test_other_versions_are_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if not found:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(async_orm, "version", version)
    with pytest.raises(ImproperlyConfigured, match=f"found {found or 'none'}; install it with"):
        async_orm.require_package()


def test_names_of_the_package() -> None:
    wrapper = async_base.AsyncDatabaseWrapper
    assert wrapper._connection_pools == {}
    for name in ("_configure_connection", "get_connection_params", "create_cursor"):
        assert callable(getattr(wrapper, name))
    assert base.AsyncDatabaseWrapper is async_orm.AsyncDatabaseWrapper


@pytest.mark.parametrize("alias", ["default", "pool"])
async def test_an_exempt_role_is_refused(alias: str, arrange: Any) -> None:
    settings = {"TENANT_MODEL": "app.Tenant", "REFUSE_EXEMPT_ROLE": True}
    with override_settings(RLS_TENANTS=settings):
        with broken(arrange, "ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"):
            async with session(alias) as connection:
                for _ in range(2):
                    with pytest.raises(RLSConfigurationError, match="has BYPASSRLS"):
                        await raw(connection)
        async with session(alias) as connection:
            assert await raw(connection) == []
