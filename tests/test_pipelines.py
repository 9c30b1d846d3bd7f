"""A psycopg pipeline that is opened while another statement has the connection."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from typing import Any

import pytest
from django.db import connections

from tenantry import aclose_pools, aconnection, tenant_context
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.fix_faults import wait_for

Tenants = tuple[Tenant, Tenant]
TITLES = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
ON_SERVER = {"server_side_binding": True}


class Interrupted(Exception):
    """Be what a signal's handler raises."""


async def titles(connection: Any) -> list[str]:
    async with asyncio.timeout(10):
        cursor = await connection.execute(TITLES, [0])
        return [title async for (title,) in cursor]


async def open_and_read(connection: Any) -> list[str]:
    async with connection.pipeline():
        cursor = await connection.execute(TITLES, [0])
    return [title async for (title,) in cursor]


def test_an_exception_while_it_waits_leaves_none(tenants: Tenants) -> None:
    connection: Any = connections["default"]
    connection.ensure_connection()
    driver = connection.connection
    me = threading.get_ident()

    def handle(*args: Any) -> None:
        raise Interrupted

    def interrupt() -> None:
        wait_for(lambda: sys._current_frames()[me].f_code.co_name == "pipeline")
        signal.pthread_kill(me, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(Interrupted), driver.lock:
            thread.start()
            with driver.pipeline():
                pass
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    with tenant_context(tenants[0].pk):
        assert Note.objects.count() == 2


@pytest.mark.parametrize("options", [{}, ON_SERVER], ids=["merged", "on the server"])
async def test_nor_does_a_task_that_is_cancelled(
    options: dict[str, bool], alias: Add, tenants: Tenants
) -> None:
    async with tenant_context(tenants[0].pk), aconnection(alias(options=options)) as connection:
        for others in (0, 1):
            async with connection.lock:
                task, *rest = [
                    asyncio.create_task(open_and_read(connection)) for _ in range(1 + others)
                ]
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            # Those who wait too have a pipeline still.
            for each in rest:
                assert await asyncio.wait_for(each, 10) == ["A 1", "A 2"]
            assert await titles(connection) == ["A 1", "A 2"]
    await aclose_pools()


@pytest.mark.parametrize("options", [{}, ON_SERVER], ids=["merged", "on the server"])
async def test_what_has_the_connection_is_in_none(
    options: dict[str, bool], alias: Add, tenants: Tenants
) -> None:
    async with tenant_context(tenants[0].pk), aconnection(alias(options=options)) as connection:
        rows = connection.cursor().stream(TITLES, [0])
        read = [await anext(rows)]
        task = asyncio.create_task(open_and_read(connection))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert read + [row async for row in rows] == [("A 1",), ("A 2",)]
            assert await task == ["A 1", "A 2"]
    await aclose_pools()
