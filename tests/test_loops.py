"""The async pools of event loops: they end with the loop, whoever runs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

from tenantry import aclose_pools, aconnection, apool_stats
from tenantry.asgi import PoolLifespan
from tenantry.backends.postgresql import aio, finishing, loops
from tests.app.models import Tenant
from tests.fix_aliases import Add

Tenants = tuple[Tenant, Tenant]
Run = Callable[[Coroutine[Any, Any, Any]], Any]


async def visit(using: str = "pool") -> Any:
    """Return a connection that has been returned to its pool."""
    async with aconnection(using) as connection:
        await connection.execute("SELECT 1")
    assert not connection.closed
    return connection


def with_async_to_sync(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def run() -> Any:
        return await coroutine

    return async_to_sync(run)()


@pytest.mark.parametrize("run", [asyncio.run, with_async_to_sync])
def test_a_loop_that_ends_closes_its_pools(run: Run, tenants: Tenants) -> None:
    known = set(loops._loops)
    for _ in range(3):
        assert run(visit()).closed
        assert set(loops._loops) <= known


def test_what_a_loop_left_open_the_next_one_closes(tenants: Tenants) -> None:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(visit())
    # Its async generators are forgotten, and so it does not close its pools.
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    assert not connection.closed
    assert loop in loops._loops
    assert asyncio.run(visit()).closed
    assert connection.closed
    assert loop not in loops._loops


# Whose tasks are cancelled at once, or the one that connects shortly before the others.
@pytest.mark.parametrize("early", [False, True])
def test_a_loop_ends_while_its_pool_connects(
    early: bool, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leave() -> None:
        connecting = asyncio.Event()

        async def connect(*args: Any, **kwargs: Any) -> None:
            connecting.set()
            await asyncio.Event().wait()

        async with aconnection("pool"):
            monkeypatch.setattr(aio.AsyncBoundConnection, "connect", connect)
            task = asyncio.create_task(visit())
            await connecting.wait()
        # It got the connection that came back; the pool goes on to make another one.
        await task
        for each in asyncio.all_tasks() if early else ():
            if "worker" in each.get_name():
                each.cancel()
        for _ in range(2 * early):
            await asyncio.sleep(0)

    thread = threading.Thread(target=lambda: asyncio.run(leave()), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_a_connection_that_is_held_at_the_end_is_closed_when_it_is_returned(
    tenants: Tenants,
) -> None:
    class Held:
        """Rows that somebody has begun to read."""

        async def rows(self) -> AsyncIterator[Any]:
            async with aconnection("pool") as connection:
                await connection.execute("SELECT 1")
                yield connection

    held: list[Any] = []

    async def leave() -> Any:
        held.append(Held().rows())
        return await anext(held[0])

    assert asyncio.run(leave()).closed


async def view(request: HttpRequest) -> HttpResponse:
    using = request.GET["using"]
    await visit(using)
    return HttpResponse(str(apool_stats(using)["connections_num"]))


urlpatterns = [path("", view)]


def test_under_wsgi_each_request_has_one_connection(alias: Add, tenants: Tenants) -> None:
    using = alias(options={"pool": {"min_size": 3, "timeout": 5}})
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[]):
        for _ in range(5):
            assert Client().get("/", {"using": using}).content == b"1"
    assert not [loop for loop in loops._loops if loop.is_closed()]


async def test_a_pool_connects_ahead_where_the_server_speaks_lifespan(
    alias: Add, tenants: Tenants
) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 3, "timeout": 5}})
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sizes: list[tuple[int, int]] = []

    async def size() -> None:
        await visit(using)
        pool = loops.running_loop().pools[using]
        sizes.append((pool.min_size, pool.max_size))

    async def receive() -> dict[str, str]:
        if (message := next(messages)) == "lifespan.shutdown":
            await size()
        return {"type": message}

    async def send(message: Any) -> None:
        assert message["type"].endswith("complete")

    await asyncio.to_thread(asyncio.run, size())
    application: Any = None
    await PoolLifespan(application)({"type": "lifespan"}, receive, send)
    assert sizes == [(0, 3), (1, 3)]


async def test_statistics_of_this_loops_pool(tenants: Tenants) -> None:
    await aclose_pools()
    assert apool_stats("pool") == {}
    async with aconnection("pool"):
        assert apool_stats("pool")["pool_available"] == 0
    found = apool_stats("pool")
    assert (found["pool_size"], found["pool_available"], found["pool_max"]) == (1, 1, 2)
    await asyncio.to_thread(asyncio.run, visit())
    assert apool_stats("pool")["requests_num"] == 1
    await aclose_pools()
    assert apool_stats("pool") == {}


async def test_a_block_goes_on_though_its_pool_is_closed(tenants: Tenants) -> None:
    async with aconnection("pool") as connection:
        await aclose_pools()
        await connection.execute("SELECT 1")
    assert connection.closed


async def test_a_cancellation_waits_for_a_pool_to_be_closed() -> None:
    closing = asyncio.Event()
    done: list[str] = []

    async def close() -> None:
        closing.set()
        await asyncio.sleep(0)
        done.append("closed")

    pool: Any = SimpleNamespace(close=close)
    loops.running_loop().pools["pool"] = pool
    task = asyncio.create_task(aclose_pools())
    await closing.wait()
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert done == ["closed"]


async def test_closing_a_pool_ends_soon_after_a_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finishing, "GRACE", 0.01)
    closing = asyncio.Event()

    async def close() -> None:
        closing.set()
        await asyncio.Event().wait()

    pool: Any = SimpleNamespace(close=close)
    loops.running_loop().orm_pools["pool"] = pool
    task = asyncio.create_task(aclose_pools())
    await closing.wait()
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
