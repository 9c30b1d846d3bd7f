"""Whom tasks, threads and hops run as: children in their parent's binding, nobody in another's."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding, pop, push
from tenantry.context import Scope
from tenantry.hops import loop_of_hop

T = TypeVar("T")
Reader = Callable[[], Awaitable[Binding]]

ONE, TWO = Binding(1), Binding(2)
each_binding = pytest.mark.parametrize(
    "binding", [UNBOUND, ONE, ADMIN], ids=["unbound", "tenant", "admin"]
)
each_sensitivity = pytest.mark.parametrize(
    "thread_sensitive", [True, False], ids=["thread-sensitive", "any-thread"]
)


pytestmark = pytest.mark.usefixtures("nothing_is_left")


def in_new_thread(function: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result(10)


async def read() -> Binding:
    await asyncio.sleep(0)
    return current_binding()


async def read_in_task_group() -> Binding:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(read())
    return task.result()


async def read_in_anyio_task_group() -> Binding:
    seen: list[Binding] = []

    async def child() -> None:
        seen.append(await read())

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return seen[0]


async def read_in_gather() -> Binding:
    first, second = await asyncio.gather(read(), read())
    assert first == second
    return first


async def read_in_thread_with_copied_context() -> Binding:
    # What threads do where Python runs with thread_inherit_context.
    return in_new_thread(partial(copy_context().run, current_binding))


read_in_hop = sync_to_async(current_binding)
read_on_any_thread = sync_to_async(current_binding, thread_sensitive=False)

WAYS: dict[str, Reader] = {
    "await": read,
    "task": lambda: asyncio.create_task(read()),
    "gather": read_in_gather,
    "task group": read_in_task_group,
    "anyio task group": read_in_anyio_task_group,
    "hop": read_in_hop,
    "hop on any thread": read_on_any_thread,
    "async_to_sync in a hop": sync_to_async(async_to_sync(read)),
    "hop in async_to_sync in a hop": sync_to_async(async_to_sync(read_in_hop)),
    "to_thread": lambda: asyncio.to_thread(current_binding),
    "async_to_sync in to_thread": lambda: asyncio.to_thread(async_to_sync(read)),
    "loop in to_thread": lambda: asyncio.to_thread(lambda: asyncio.run(read())),
    "anyio to_thread": lambda: anyio.to_thread.run_sync(current_binding),
    "thread with a copied context": read_in_thread_with_copied_context,
}
each_way = pytest.mark.parametrize("way", WAYS)


async def read_by(way: str) -> Binding:
    return await WAYS[way]()


async def read_everywhere() -> set[Binding]:
    return {await read_by(way) for way in WAYS}


@each_binding
@each_way
async def test_what_a_scope_starts_runs_in_its_binding(way: str, binding: Binding) -> None:
    async with Scope(binding):
        assert await read_by(way) == binding
    assert await read_by(way) == UNBOUND


@each_binding
@each_way
def test_what_sync_code_starts_runs_in_its_binding(way: str, binding: Binding) -> None:
    with Scope(binding):
        assert async_to_sync(read_by)(way) == binding
        assert current_binding() == binding
        assert asyncio.run(read_by(way)) == binding
    assert async_to_sync(read_by)(way) == UNBOUND


@each_way
def test_tasks_in_scopes_at_the_same_time_see_only_their_own(way: str) -> None:
    async def request(binding: Binding, everybody_inside: asyncio.Barrier) -> list[Binding]:
        async with Scope(binding):
            await everybody_inside.wait()
            seen = [await read_by(way), await read_by(way)]
            await everybody_inside.wait()
        return [*seen, await read_by(way)]

    async def main() -> list[list[Binding]]:
        everybody_inside = asyncio.Barrier(3)
        async with asyncio.timeout(10):
            return await asyncio.gather(
                *(request(binding, everybody_inside) for binding in (ONE, TWO, ADMIN))
            )

    # In a new thread, whose context is empty: asgiref 3.8 mixes up the threads of tasks that share
    # what an async_to_sync() in the context around them has left.
    answers = in_new_thread(lambda: asyncio.run(main()))
    assert answers == [[ONE, ONE, UNBOUND], [TWO, TWO, UNBOUND], [ADMIN, ADMIN, UNBOUND]]


def test_threads_in_scopes_at_the_same_time_see_only_their_own() -> None:
    everybody_inside = threading.Barrier(3)

    def request(binding: Binding) -> list[Binding]:
        with Scope(binding):
            everybody_inside.wait(10)
            seen = [current_binding(), async_to_sync(read_in_hop)()]
            everybody_inside.wait(10)
        return [*seen, current_binding()]

    with tenant_context(3), ThreadPoolExecutor(3) as executor:
        answers = list(executor.map(request, (ONE, TWO, ADMIN), timeout=10))
    assert answers == [[ONE, ONE, UNBOUND], [TWO, TWO, UNBOUND], [ADMIN, ADMIN, UNBOUND]]


async def test_a_scope_of_a_task_is_not_its_parents_or_its_siblings() -> None:
    inside, finish = asyncio.Event(), asyncio.Event()

    async def child() -> Binding:
        async with admin_context():
            inside.set()
            await finish.wait()
            return current_binding()

    async with tenant_context(1), asyncio.timeout(10):
        task = asyncio.create_task(child())
        await inside.wait()
        assert await read_everywhere() == {ONE}
        finish.set()
        assert await task == ADMIN
        assert await read() == ONE


@pytest.mark.parametrize(
    "start",
    [
        lambda function: sync_to_async(function)(),
        lambda function: sync_to_async(function, thread_sensitive=False)(),
        asyncio.to_thread,
        anyio.to_thread.run_sync,
        lambda function: asyncio.to_thread(in_new_thread, partial(copy_context().run, function)),
    ],
    ids=["hop", "hop-on-any-thread", "to_thread", "anyio-to_thread", "copied-context"],
)
async def test_a_scope_of_a_thread_is_not_its_parents_or_its_siblings(
    start: Callable[[Callable[[], None]], Awaitable[None]],
) -> None:
    inside, finish = threading.Event(), threading.Event()
    seen: list[Binding] = []

    def child() -> None:
        with admin_context():
            inside.set()
            assert finish.wait(10)
            seen.append(current_binding())
        seen.append(current_binding())

    async with tenant_context(1), asyncio.timeout(10):
        task: asyncio.Future[None] = asyncio.ensure_future(start(child))
        assert await asyncio.to_thread(inside.wait, 10)
        assert await read_in_gather() == await read_on_any_thread() == ONE
        finish.set()
        await task
        assert seen == [ADMIN, ONE]
        assert await read_everywhere() == {ONE}


@each_sensitivity
async def test_a_hop_that_opened_scopes_leaves_its_caller_as_it_was(thread_sensitive: bool) -> None:
    def work(error: Exception | None) -> None:
        with admin_context(), tenant_context(2):
            if error:
                raise error

    hop = sync_to_async(work, thread_sensitive=thread_sensitive)
    async with tenant_context(1):
        await hop(None)
        assert await read_in_gather() == ONE
        with pytest.raises(LookupError):
            await hop(LookupError())
        assert await read_in_gather() == ONE


async def test_a_thread_without_a_copied_context_starts_unbound() -> None:
    inherits = getattr(sys.flags, "thread_inherit_context", 0)
    async with tenant_context(1):
        assert in_new_thread(current_binding) == (ONE if inherits else UNBOUND)


async def test_a_task_keeps_the_binding_it_started_in_after_the_scope_has_ended() -> None:
    ended = asyncio.Event()

    async def background() -> set[Binding]:
        await ended.wait()
        return await read_everywhere()

    async with admin_context():
        async with tenant_context(1):
            task = asyncio.create_task(background())
        async with tenant_context(2):
            ended.set()
            assert await asyncio.wait_for(task, 10) == {ONE}


@each_sensitivity
@each_binding
async def test_a_scope_in_a_hop_is_seen_by_orm_calls_of_async_code_that_it_runs(
    binding: Binding, thread_sensitive: bool
) -> None:
    def work() -> list[Binding]:
        with tenant_context(2):
            return [async_to_sync(read_in_hop)(), async_to_sync(read_in_hop)(), current_binding()]

    async with Scope(binding):
        hop = sync_to_async(work, thread_sensitive=thread_sensitive)
        assert await hop() == [TWO, TWO, TWO]
        assert await read() == binding


async def read_after_a_hop() -> Binding:
    # Which gives its thread back to those that to_thread() chooses from.
    await read_on_any_thread()
    return await asyncio.to_thread(current_binding)


NATIVE: dict[str, Reader] = {
    way: WAYS[way] for way in ("await", "task", "gather", "task group", "hop on any thread")
} | {"to_thread": read_after_a_hop}


@each_sensitivity
@each_binding
@pytest.mark.parametrize("way", NATIVE)
async def test_native_async_code_that_a_scope_in_a_hop_runs_is_nobody(
    way: str, binding: Binding, thread_sensitive: bool
) -> None:
    """A scope that is opened inside a hop holds on its thread: a limit that is documented."""

    async def native() -> Binding:
        return await NATIVE[way]()

    def work() -> list[Binding]:
        with tenant_context(2):
            first = async_to_sync(native)()
            # asgiref loses track of the second one, if a hop came back to the thread before.
            orm = async_to_sync(read_in_hop)()
            return [first, orm, async_to_sync(native)(), current_binding()]

    async with Scope(binding):
        hop = sync_to_async(work, thread_sensitive=thread_sensitive)
        first, *others = await hop()
        assert first == UNBOUND
        if way == "to_thread":
            # On a thread that was a hop's before, it cannot be told from the caller's hops.
            assert others.pop(1) in {UNBOUND, binding}
            assert others == [TWO, TWO]
        else:
            assert others == [TWO, UNBOUND, TWO]
        assert await read() == binding


async def test_a_task_that_native_code_of_a_hop_leaves_behind_is_nobody() -> None:
    ended = asyncio.Event()

    async def background() -> set[Binding]:
        await ended.wait()
        return {await read(), await read_in_gather(), await read_on_any_thread()}

    async def native() -> asyncio.Task[set[Binding]]:
        return asyncio.create_task(background())

    def work() -> asyncio.Task[set[Binding]]:
        with tenant_context(2):
            return async_to_sync(native)()

    async with admin_context():
        task = await sync_to_async(work)()
        ended.set()
        assert await asyncio.wait_for(task, 10) == {UNBOUND}


async def test_native_code_of_a_hop_that_may_not_write_still_may_not() -> None:
    async def native() -> Binding:
        async with tenant_context(3):
            return current_binding()

    def work() -> Binding:
        with tenant_context(2):
            return async_to_sync(native)()

    async with Scope(ONE._replace(read_only=True)):
        assert await sync_to_async(work)() == Binding(3, read_only=True)


@each_sensitivity
async def test_a_thread_that_a_scope_in_a_hop_starts_runs_as_nobody(thread_sensitive: bool) -> None:
    def work() -> Binding:
        with tenant_context(2):
            return in_new_thread(partial(copy_context().run, current_binding))

    async with admin_context():
        assert await sync_to_async(work, thread_sensitive=thread_sensitive)() == UNBOUND


@each_sensitivity
@each_binding
async def test_a_loop_that_a_scope_in_a_hop_starts_in_a_thread_runs_as_nobody(
    binding: Binding, thread_sensitive: bool
) -> None:
    def work() -> list[Binding]:
        with tenant_context(2):
            return [
                in_new_thread(partial(copy_context().run, asyncio.run, native()))
                for native in (read, read_in_gather, read_on_any_thread)
            ]

    async with Scope(binding):
        hop = sync_to_async(work, thread_sensitive=thread_sensitive)
        assert await hop() == [UNBOUND, UNBOUND, UNBOUND]
        assert await read() == binding


@each_sensitivity
@each_binding
async def test_a_loop_that_a_scope_in_a_hop_starts_is_in_it_on_its_thread(
    binding: Binding, thread_sensitive: bool
) -> None:
    def work() -> list[Binding]:
        with tenant_context(2):
            return [asyncio.run(read()), asyncio.run(read_on_any_thread()), current_binding()]

    async with Scope(binding):
        hop = sync_to_async(work, thread_sensitive=thread_sensitive)
        assert await hop() == [TWO, UNBOUND, TWO]
        assert await read() == binding


async def test_what_a_scope_in_a_hop_hands_to_its_callers_loop_is_not_in_it() -> None:
    """It cannot be told from the caller's own code: a limit that is documented."""
    loop = asyncio.get_running_loop()
    called: asyncio.Future[Binding] = loop.create_future()

    def work() -> Binding:
        with tenant_context(2):
            loop.call_soon_threadsafe(lambda: called.set_result(current_binding()))
            return asyncio.run_coroutine_threadsafe(read(), loop).result(10)

    async with tenant_context(1):
        assert await sync_to_async(work)() in {ONE, UNBOUND}
        assert await called in {ONE, UNBOUND}


async def test_a_scope_in_to_thread_may_hold_on_its_thread_as_in_a_hop() -> None:
    """Where a hop had the thread before, it cannot be told from one: a limit, documented."""

    def work() -> tuple[Binding, Binding]:
        with tenant_context(2):
            return current_binding(), in_new_thread(partial(copy_context().run, current_binding))

    async with tenant_context(1):
        for _ in range(2):
            here, in_thread = await asyncio.to_thread(work)
            assert here == TWO
            assert in_thread in {TWO, UNBOUND}
            await read_on_any_thread()


def test_scopes_nest_over_hops_and_async_to_sync() -> None:
    def innermost() -> list[Binding]:
        with tenant_context(2):
            return [current_binding(), async_to_sync(read_in_hop)()]

    async def inner() -> list[Binding]:
        async with admin_context():
            return [*await sync_to_async(innermost)(), current_binding()]

    def hop() -> list[Binding]:
        return [*async_to_sync(inner)(), current_binding()]

    async def outer() -> list[Binding]:
        async with tenant_context(1):
            return [*await sync_to_async(hop)(), current_binding()]

    with tenant_context(3):
        seen = [*async_to_sync(outer)(), current_binding()]
    assert seen == [TWO, TWO, ADMIN, ONE, ONE, Binding(3)]


def test_a_thread_that_has_served_hops_opens_scopes_for_async_code_again() -> None:
    assert async_to_sync(read_in_hop)() == UNBOUND
    assert hasattr(SyncToAsync.threadlocal, "main_event_loop")
    assert loop_of_hop() is None
    with tenant_context(1):
        assert async_to_sync(read_in_hop)() == ONE
        assert async_to_sync(read)() == ONE
        with admin_context():
            assert async_to_sync(read)() == ADMIN


async def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(repr(await read_everywhere()))


urlpatterns = [path("view", view)]


@pytest.mark.parametrize("requests_before", [0, 2])
def test_an_async_view_under_wsgi_runs_in_the_binding_of_its_worker(
    settings: Any, requests_before: int
) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []

    def worker() -> bytes:
        for _ in range(requests_before):
            with admin_context():
                Client().get("/view")
        with tenant_context(1):
            return Client().get("/view").content

    assert in_new_thread(worker).decode() == repr({ONE})


async def test_asgiref_still_leaves_its_loop_on_the_threads_of_hops() -> None:
    def hop() -> tuple[object, object]:
        threadlocal = SyncToAsync.threadlocal
        return threadlocal.main_event_loop, threadlocal.main_event_loop_pid

    for thread_sensitive in (True, False):
        found = await sync_to_async(hop, thread_sensitive=thread_sensitive)()
        assert found == (asyncio.get_running_loop(), os.getpid())


@each_sensitivity
async def test_code_in_a_hop_knows_that_it_is(thread_sensitive: bool) -> None:
    def places() -> tuple[bool, bool]:
        return asyncio._get_running_loop() is not None, loop_of_hop() is not None

    async def async_places() -> tuple[bool, bool]:
        return places()

    assert places() == (True, False)
    assert await sync_to_async(places, thread_sensitive=thread_sensitive)() == (False, True)
    again = sync_to_async(async_to_sync(async_places), thread_sensitive=thread_sensitive)
    assert await again() == (True, False)
    assert await sync_to_async(lambda: asyncio.run(async_places()))() == (True, False)
    assert in_new_thread(places) == (False, False)


async def test_a_scope_of_a_hop_that_is_left_in_another_context_ends_as_it_began() -> None:
    def hop() -> Binding:
        frame = push(TWO)
        with pytest.raises(ValueError, match="different Context"):
            copy_context().run(pop, frame)
        return current_binding()

    async with tenant_context(1):
        assert await sync_to_async(hop)() == ONE
        assert await read_in_gather() == ONE
