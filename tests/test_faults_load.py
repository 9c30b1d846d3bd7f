"""Many threads and tasks of two tenants through PgBouncer, while somebody breaks everything."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import (
    DatabaseError,
    Error,
    InterfaceError,
    InternalError,
    OperationalError,
    close_old_connections,
    connections,
)
from django.db import transaction as transactions

from tenantry import aclose_pools, aconnection, tenant_context
from tenantry.backends.postgresql import loops
from tests.app.models import Tenant
from tests.fix_faults import SIZE, Site, assert_no_guc_behind, assert_whole, titles, wait_for

Tenants = tuple[Tenant, Tenant]
THREADS, TASKS = 8, 8
TITLES = "SELECT title FROM app_note ORDER BY id"


def pause(site: Site) -> None:
    # It waits for those who have a server; KILL does not.
    site.bouncer.admin("PAUSE tenantry")
    site.bouncer.admin("RESUME tenantry")


def drop(site: Site) -> None:
    site.bouncer.admin("KILL tenantry")
    site.bouncer.admin("RESUME tenantry")


def restart(site: Site) -> None:
    site.bouncer.kill()
    site.bouncer.start()


def terminate(site: Site) -> None:
    site.superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'"
    )


def cut(site: Site) -> None:
    site.paths["bounced"].cut()


def deafen(site: Site) -> None:
    # Until both connections wait for an answer. Nothing but the path ends that here: its kernel
    # takes what is sent, which is what tcp_user_timeout is about.
    try:
        site.paths["bounced"].deafen(SIZE)
    finally:
        site.paths["bounced"].cut()


SABOTAGE: list[Callable[[Site], None]] = [
    terminate,
    pause,
    cut,
    deafen,
    drop,
    terminate,
    restart,
    cut,
]


class Visits:
    """What the visitors saw: counted, and the errors kept."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.progress = threading.Condition()
        self.good = 0
        self.errors: list[BaseException] = []
        self.wrong: list[tuple[str, list[str]]] = []

    def saw(self, tenant: Tenant, rows: list[str]) -> None:
        with self.progress:
            self.good += 1
            if rows != [f"{tenant.name} 1", f"{tenant.name} 2"]:
                self.wrong.append((tenant.name, rows))
            self.progress.notify_all()

    def wait_for_more(self, count: int) -> None:
        with self.progress:
            target = self.good + count
            assert self.progress.wait_for(lambda: self.good >= target, 20)

    def sabotage(self, site: Site) -> None:
        """Break one thing after the other, each when things work again."""
        try:
            for happen in SABOTAGE:
                self.wait_for_more(20)
                happen(site)
            self.wait_for_more(20)
        finally:
            self.over.set()


def visit(visits: Visits, alias: str, tenant: Tenant) -> None:
    while not visits.over.is_set():
        try:
            with tenant_context(tenant.pk):
                visits.saw(tenant, titles(alias))
                with transactions.atomic(using=alias):
                    visits.saw(tenant, titles(alias))
                    with transactions.atomic(using=alias):
                        visits.saw(tenant, titles(alias))
        except Error as error:
            visits.errors.append(error)
        close_old_connections()
    connections.close_all()


@pytest.mark.parametrize("kind", ["session", "transaction"])
def test_threads_under_sabotage(kind: str, site: Site, tenants: Tenants) -> None:
    visits, alias = Visits(), f"bounced_{kind}"
    with ThreadPoolExecutor(THREADS + 1) as executor:
        saboteur = executor.submit(visits.sabotage, site)
        done = [executor.submit(visit, visits, alias, tenants[n % 2]) for n in range(THREADS)]
        for future in [saboteur, *done]:
            future.result(60)
    assert visits.wrong == []
    # Whatever psycopg makes of the end of a connection that gave no reason has no SQLSTATE.
    strange = [
        error
        for error in visits.errors
        if type(error) not in (OperationalError, InterfaceError)
        and not (
            type(error) in (DatabaseError, InternalError)
            and getattr(error.__cause__, "sqlstate", "") is None
        )
    ]
    assert [(type(error), error.__cause__, str(error)) for error in strange] == []
    assert visits.errors
    assert_whole(site, alias, tenants)


async def avisit(visits: Visits, alias: str, tenant: Tenant) -> None:
    for turn in itertools.count():
        if visits.over.is_set():
            break
        try:
            # Every second time, it is cancelled somewhere.
            async with asyncio.timeout(5 if turn % 2 else 0.003):
                async with tenant_context(tenant.pk), aconnection(alias) as connection:
                    for _ in range(3):
                        cursor = await connection.execute(TITLES)
                        visits.saw(tenant, [row[0] for row in await cursor.fetchall()])
        except TimeoutError:
            pass
        except (psycopg.Error, Error) as error:
            visits.errors.append(error)


async def test_tasks_under_sabotage(site: Site, tenants: Tenants) -> None:
    visits, alias = Visits(), "bounced_transaction"
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(visits.sabotage, site))
        for number in range(TASKS):
            group.create_task(avisit(visits, alias, tenants[number % 2]))
    assert visits.wrong == []
    allowed = (psycopg.OperationalError, psycopg.InterfaceError, OperationalError)
    # psycopg loses the reason that PgBouncer gives for a COMMIT.
    assert all(isinstance(e, allowed) or getattr(e, "sqlstate", "") is None for e in visits.errors)
    assert visits.errors
    pool: Any = loops.running_loop().pools[alias]
    async with asyncio.timeout(20):
        await pool.check()
        await asyncio.to_thread(wait_for, lambda: pool.get_stats()["pool_available"] == SIZE)
        for tenant in tenants:
            async with tenant_context(tenant.pk), aconnection(alias) as connection:
                rows = await (await connection.execute(TITLES)).fetchall()
                assert rows == [(f"{tenant.name} 1",), (f"{tenant.name} 2",)]
    assert pool.get_stats()["pool_size"] == SIZE
    await aclose_pools()
    assert_no_guc_behind(site.bouncer)


@pytest.mark.parametrize("kind", ["plain", "session", "transaction"])
def test_a_paused_pooler_makes_wait(kind: str, site: Site, tenants: Tenants) -> None:
    """It is served once the pooler goes on."""
    alias = f"bounced_{kind}"
    assert_whole(site, alias, tenants)
    connections[alias].ensure_connection()

    def resume() -> None:
        wait_for(lambda: any(row["cl_waiting"] for row in site.bouncer.admin("SHOW POOLS")))
        site.bouncer.admin("RESUME tenantry")

    site.bouncer.admin("PAUSE tenantry")
    thread = threading.Thread(target=resume)
    thread.start()
    with tenant_context(tenants[0].pk):
        assert titles(alias) == ["A 1", "A 2"]
    thread.join()
    assert_whole(site, alias, tenants)


@pytest.mark.parametrize("path", ["direct", "bounced"])
def test_a_deaf_path_is_bounded(path: str, site: Site, tenants: Tenants) -> None:
    """By ``tcp_user_timeout`` for what is sent, and ``connect_timeout`` for who comes new."""
    for alias in (f"{path}_stock", f"{path}_plain"):
        connection: Any = connections[alias]
        with pytest.raises(OperationalError), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            site.paths[path].deafen()
            # More than the buffers between here and there hold.
            cursor.execute(f"SELECT '{'x' * (1 << 24)}'")
        connection.close()
        with pytest.raises(OperationalError) as caught:
            connection.ensure_connection()
        assert isinstance(caught.value.__cause__, psycopg.errors.ConnectionTimeout)
        site.settle()
    assert_whole(site, f"{path}_plain", tenants)
