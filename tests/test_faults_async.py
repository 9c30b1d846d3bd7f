"""Faults under native async connections and under ORM calls of async code.

What an async connection raises is compared with psycopg's own, in the same place.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connections, transaction

from tenantry import aclose_pools, aconnection, tenant_context
from tenantry.backends.postgresql import finishing, loops
from tests.app.models import Note, Tenant
from tests.fix_faults import (
    KINDS,
    PATIENCE,
    SIZE,
    STOCK_OF,
    Site,
    assert_no_guc_behind,
    assert_whole,
    forget,
    wait_for,
)
from tests.fix_faults import outcome_of as outcome_of_sync

Tenants = tuple[Tenant, Tenant]
TITLES = "SELECT title FROM app_note ORDER BY id"
SLEEP = "SELECT pg_sleep(60)"
Fault = Callable[[Site], Awaitable[None]]
Outcome = tuple[type[BaseException], str | None] | None


async def terminate(site: Site) -> None:
    await asyncio.to_thread(site.terminate)


async def cut(site: Site) -> None:
    for path in site.paths.values():
        await asyncio.to_thread(path.cut)


async def kill(site: Site) -> None:
    await asyncio.to_thread(site.lose_clients, site.bouncer.kill)
    await asyncio.to_thread(site.bouncer.start)


async def restart(site: Site) -> None:
    await asyncio.to_thread(site.lose_clients, site.bouncer.stop)
    await asyncio.to_thread(site.bouncer.start)


async def at_the_start(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    await fail()
    await connection.execute(TITLES)


async def after_a_statement(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    await connection.execute(TITLES)
    await fail()
    await connection.execute(TITLES)


async def at_commit(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    await connection.execute(TITLES)
    await fail()


async def in_a_cursor(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    async with connection.cursor("c") as cursor:
        await cursor.execute(TITLES)
        await cursor.fetchmany(1)
        await fail()
        await cursor.fetchmany(1)


async def in_a_stream(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    async for number, _ in connection.cursor().stream(
        "SELECT i, repeat('x', 1000) FROM generate_series(1, 100) i"
    ):
        if number == 1:
            await fail()


async def while_it_runs(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    running = asyncio.ensure_future(connection.execute(SLEEP))
    await asyncio.sleep(0)
    await fail()
    await running


async def in_a_pipeline(connection: Any, fail: Callable[[], Awaitable[None]]) -> None:
    async with connection.pipeline() as pipeline:
        await connection.execute(TITLES)
        await pipeline.sync()
        await fail()
        await connection.execute(TITLES)


PLACES = [
    at_the_start,
    after_a_statement,
    at_commit,
    in_a_cursor,
    in_a_stream,
    in_a_pipeline,
    while_it_runs,
]


@asynccontextmanager
async def psycopgs(alias: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Open psycopg's own connection where `alias` connects to."""
    wrapper: Any = connections[alias]
    params = wrapper.get_connection_params() | {"cursor_factory": psycopg.AsyncClientCursor}
    connection = await psycopg.AsyncConnection.connect(**params)
    try:
        async with connection:
            yield connection
    finally:
        await connection.close()


async def outcome_of(
    place: Callable[[Any, Callable[[], Awaitable[None]]], Awaitable[None]],
    opened: AbstractAsyncContextManager[Any],
    site: Site,
    fault: Fault,
) -> Outcome:
    async def fail() -> None:
        if place is while_it_runs:
            await asyncio.to_thread(site.wait_for_activity, SLEEP)
        await fault(site)

    try:
        async with opened as connection:
            await place(connection, fail)
    except psycopg.Error as error:
        return type(error), error.sqlstate
    return None


async def assert_tasks_see_their_rows(alias: str, tenants: Tenants) -> None:
    """Let the next tasks run; every connection is back, and shows its tenant's rows only."""
    pool: Any = loops.running_loop().pools[alias]
    async with asyncio.timeout(20):
        await pool.check()
        await asyncio.to_thread(wait_for, lambda: pool.get_stats()["pool_available"] == SIZE)
        for tenant in tenants:
            async with (
                tenant_context(tenant.pk),
                aconnection(alias) as one,
                aconnection(alias) as two,
            ):
                for connection in (one, two):
                    rows = await (await connection.execute(TITLES)).fetchall()
                    assert rows == [(f"{tenant.name} 1",), (f"{tenant.name} 2",)]


@pytest.fixture(autouse=True)
async def pools(site: Site) -> AsyncIterator[None]:
    yield
    await aclose_pools()


@pytest.mark.parametrize(
    ("alias", "fault"),
    [
        ("direct_transaction", terminate),
        ("direct_transaction", cut),
        ("bounced_transaction", terminate),
        ("bounced_transaction", kill),
        ("bounced_transaction", restart),
    ],
)
@pytest.mark.parametrize("place", PLACES)
async def test_what_breaks_is_raised_as_psycopg_raises_it(
    place: Any, alias: str, fault: Fault, site: Site, tenants: Tenants
) -> None:
    async with tenant_context(tenants[0].pk):
        async with aconnection(alias):
            pass
        # A connection that is only being made is not among those that are broken.
        await loops.running_loop().pools[alias].wait()
        expected = await outcome_of(place, psycopgs(alias), site, fault)
        found = await outcome_of(place, aconnection(alias), site, fault)
    if alias.startswith("direct") and fault is not terminate:
        assert expected is not None
        assert found == expected
    else:
        # Who hears the server's or the pooler's reason, and who only the end, is a race; a COMMIT
        # that is answered by both is an InternalError to psycopg.
        assert (found is None) == (expected is None)
        assert found is None or issubclass(
            found[0], psycopg.OperationalError | psycopg.InternalError
        )
    await assert_tasks_see_their_rows(alias, tenants)
    if alias.startswith("bounced"):
        assert_no_guc_behind(site.bouncer)


async def test_a_cancelled_task_does_not_wait_for_a_path_that_is_deaf(
    site: Site, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "GRACE", 0.1)
    alias = "direct_transaction"
    opened = asyncio.Event()

    async def idle() -> None:
        async with aconnection(alias) as connection:
            await connection.execute(TITLES)
            opened.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(idle())
    await opened.wait()
    site.paths["direct"].deafen()
    task.cancel()
    # psycopg tries for up to 5 s to have the server cancel what it waits for.
    done, _ = await asyncio.wait([task], timeout=20)
    site.settle()
    assert done
    assert task.cancelled()
    await assert_tasks_see_their_rows(alias, tenants)


@pytest.mark.parametrize("alias", ["bounced_plain", "bounced_session", "bounced_transaction"])
async def test_a_cancelled_orm_call_leaves_nothing_behind(
    alias: str, site: Site, tenants: Tenants
) -> None:
    a, b = tenants

    def read_slowly() -> None:
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            cursor.execute(SLEEP)

    async with tenant_context(a.pk):
        task = asyncio.create_task(sync_to_async(read_slowly)())
        await asyncio.to_thread(site.wait_for_activity, SLEEP)
        task.cancel()
        # A thread cannot be cancelled: it ends when its statement does.
        await asyncio.to_thread(
            site.superuser.execute,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
            " AND usename = 'app'",
        )
        with pytest.raises((asyncio.CancelledError, OperationalError)):
            await task
        async with tenant_context(b.pk):
            found = [note.title async for note in Note.objects.using(alias).order_by("id")]
            assert found == ["B 1", "B 2"]

    def assert_whole_here() -> None:
        assert_whole(site, alias, tenants)
        forget(connections[alias])

    await sync_to_async(assert_whole_here)()


@pytest.mark.parametrize("kind", KINDS)
def test_who_waits_too_long_for_a_paused_pooler_is_told(
    kind: str, site: Site, tenants: Tenants
) -> None:
    def ask(alias: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")

    outcomes = []
    for alias in (f"bounced_{STOCK_OF[kind]}", f"bounced_{kind}"):
        ask(alias)
        if kind == "transaction":
            # Ours is back in the pool, which looks before it lends one.
            connections[alias].close()
        site.bouncer.admin("SET query_wait_timeout = 1")
        site.bouncer.admin("PAUSE tenantry")
        try:
            outcomes.append(outcome_of_sync(partial(ask, alias)))
        finally:
            site.bouncer.admin("RESUME tenantry")
            site.bouncer.admin(f"SET query_wait_timeout = {PATIENCE}")
        forget(connections[alias])
    stock, ours = outcomes
    assert ours == stock
    assert ours
    assert ours[0] is OperationalError
    assert_whole(site, f"bounced_{kind}", tenants)


async def test_a_paused_pooler_makes_an_async_block_wait(site: Site, tenants: Tenants) -> None:
    """It is served once the pooler goes on."""
    alias = "bounced_transaction"

    async def visit(tenant: Tenant) -> list[Any]:
        async with tenant_context(tenant.pk), aconnection(alias) as connection:
            return await (await connection.execute(TITLES)).fetchall()

    def waiting() -> int:
        return sum(row["cl_waiting"] for row in site.bouncer.admin("SHOW POOLS"))

    async with aconnection(alias), aconnection(alias):
        pass
    await asyncio.to_thread(site.bouncer.admin, "PAUSE tenantry")
    visits = [asyncio.create_task(visit(tenant)) for tenant in tenants]
    await asyncio.to_thread(wait_for, lambda: waiting() == len(visits))
    await asyncio.to_thread(site.bouncer.admin, "RESUME tenantry")
    for tenant, rows in zip(tenants, await asyncio.gather(*visits), strict=True):
        assert rows == [(f"{tenant.name} 1",), (f"{tenant.name} 2",)]
    await assert_tasks_see_their_rows(alias, tenants)
    assert_no_guc_behind(site.bouncer)
