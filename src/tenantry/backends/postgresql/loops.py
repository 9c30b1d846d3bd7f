"""The async pools of event loops: each loop has its own, and they end with it.

A loop may serve for days or, under WSGI, for one request. Nobody has to close its pools: they hang
on an async generator, and ``asyncio.run()`` closes those of a loop before the loop itself. What is
left by a loop that was closed without is dropped when another loop asks for its first pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from psycopg_pool import AsyncConnectionPool

from .exhaustion import AsyncRememberingPool
from .finishing import finish


def is_cancelled() -> bool:
    """Return whether somebody has cancelled the current task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class CancellableTasks:
    """The queue of a pool's worker, which ends the worker that was cancelled."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue

    async def get(self) -> Any:
        """Return the next task."""
        if is_cancelled():
            raise asyncio.CancelledError
        return await self.queue.get()


class LoopPool(AsyncRememberingPool):
    """A pool of psycopg_pool that can be left to the end of its event loop."""

    def __init__(self, **options: Any) -> None:
        # The connections that may be open.
        self.made: WeakSet[Any] = WeakSet()
        super().__init__(open=False, **options)

    @classmethod
    async def worker(cls, q: Any) -> None:
        """Run tasks; see ``AsyncConnectionPool.worker``.

        That one goes on when it is cancelled while it connects, and the loop would wait for it
        forever.
        """
        tasks: Any = CancellableTasks(q)
        await super().worker(tasks)

    async def schedule_task(self, task: Any, delay: float) -> None:
        """Run a task later; see ``AsyncConnectionPool.schedule_task``."""
        # The scheduler is cancelled too. In Python 3.11 it would go on if this woke it just before.
        if not is_cancelled():
            await super().schedule_task(task, delay)

    def drop(self, *, lent: bool) -> None:
        """Close connections without an event loop; those that somebody holds only if `lent`."""
        for connection in list(self.made):
            if lent or not connection.lent:
                connection.pgconn.finish()


@dataclass
class Loop:
    """What an event loop has."""

    # Whether it is there for many requests, so that connections may be made ahead.
    lasts: bool = False
    pools: dict[str, LoopPool] = field(default_factory=dict)
    # Those of an async ORM. Their connections are in autocommit, and so are not to be shared.
    orm_pools: dict[str, AsyncConnectionPool[Any]] = field(default_factory=dict)
    end: AsyncGenerator[None] | None = None


_loops: dict[asyncio.AbstractEventLoop, Loop] = {}


def running_loop() -> Loop:
    """Return what the running event loop has, and see to its end."""
    running = asyncio.get_running_loop()
    loop = _loops.get(running)
    if loop is None:
        forget_closed_loops()
        loop = _loops[running] = Loop()
        loop.end = close_at_the_end()
        # The loop hears of a generator when that starts, which it does without waiting.
        with suppress(StopIteration):
            loop.end.__anext__().__await__().send(None)
    return loop


async def close_at_the_end() -> AsyncGenerator[None]:
    """Close the pools when the event loop closes its async generators."""
    try:
        yield
    finally:
        await aclose_pools()
        _loops.pop(asyncio.get_running_loop(), None)


def forget_closed_loops() -> None:
    """Close the connections of loops that were closed without their async generators."""
    for running in list(_loops):
        if running.is_closed() and (loop := _loops.pop(running, None)):
            for pool in loop.pools.values():
                pool.drop(lent=True)


def expect_requests() -> None:
    """Let the pools of the running event loop connect ahead: it will serve many requests."""
    running_loop().lasts = True


async def aclose_pools() -> None:
    """Close the pools of the running event loop; the next connection makes a new one.

    The end of the loop does that too, if ``asyncio.run()`` or an ASGI server runs it. Raises
    RuntimeError without a running event loop of asyncio.
    """
    loop = _loops.get(asyncio.get_running_loop(), Loop())
    while loop.pools:
        pool = loop.pools.popitem()[1]
        await finish(close(pool))
        pool.drop(lent=False)
    while loop.orm_pools:
        await finish(close(loop.orm_pools.popitem()[1]))


async def close(pool: AsyncConnectionPool[Any]) -> None:
    """Close a pool, also one whose tasks have been cancelled with all others of the loop."""
    try:
        await pool.close()
    except asyncio.CancelledError:
        if is_cancelled():
            raise


def apool_stats(using: str = "default") -> dict[str, int]:
    """Return psycopg_pool's statistics of the pool that `using` has in the running event loop.

    Empty when there is none yet. ``connections["default"].pool_stats()`` is about the pool of sync
    code. Raises RuntimeError without a running event loop.
    """
    pool = running_loop().pools.get(using)
    return pool.get_stats() if pool else {}
