"""asgiref's hops: a cancelled one leaves its caller's binding alone, and inheritance works.

asgiref copies ContextVars back from a hop, also when it is cancelled while its thread is inside a
scope. The tests hold the thread there by an event.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient
from django.urls import path

from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding

A, B = Binding(1), Binding(2)
SECONDS = 10
Scope = Callable[[], AbstractContextManager[Any]]


class Held:
    """A function that opens a scope in a hop, and stays inside until it is released."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.entered, self.released, self.left = (threading.Event() for _ in range(3))
        self.inside: list[Binding] = []

    def __call__(self) -> None:
        with self.scope():
            self.entered.set()
            assert self.released.wait(SECONDS)
            self.inside.append(current_binding())
        self.left.set()

    async def wait(self, event: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(waiters, event.wait, SECONDS)


waiters = ThreadPoolExecutor(4)


@pytest.fixture(params=["thread-sensitive", "any thread"])
def sensitive(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "thread-sensitive")


async def cancelled(hop: Awaitable[Any]) -> None:
    """Await `hop` in this very task, and cancel it from outside."""
    with pytest.raises(asyncio.CancelledError):
        await hop
    task = asyncio.current_task()
    assert task
    task.uncancel()


async def timed_out(hop: Awaitable[Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await hop


def everywhere() -> Any:
    async def look() -> Binding:
        return current_binding()

    async def looks() -> list[Binding]:
        seen = [current_binding(), await asyncio.create_task(look())]
        # A thread-sensitive hop would wait for the one that is held.
        seen.append(await sync_to_async(current_binding, thread_sensitive=False)())
        return seen

    return looks()


OUTER: list[tuple[Scope, Binding]] = [
    (nullcontext, UNBOUND),
    (lambda: tenant_context(1), A),
    (admin_context, ADMIN),
]
INNER: list[tuple[Scope, Binding]] = [(admin_context, ADMIN), (lambda: tenant_context(2), B)]


async def scenario(
    outer: Scope, expected: Binding, inner: Scope, within: Binding, sensitive: bool, by: str
) -> None:
    held = Held(inner)
    hop = sync_to_async(held, thread_sensitive=sensitive)
    with outer():
        if by == "cancelled":
            task = asyncio.current_task()
            assert task

            async def cancel() -> None:
                await held.wait(held.entered)
                task.cancel()

            canceller = asyncio.create_task(cancel())
            await cancelled(hop())
            await canceller
        else:
            entering = asyncio.create_task(held.wait(held.entered))
            await timed_out(hop())
            await entering
        # The worker is still inside its scope.
        assert await everywhere() == [expected] * 3
        with tenant_context(3):
            assert current_binding() == Binding(3)
        assert current_binding() == expected
    assert current_binding() == UNBOUND
    with outer():
        held.released.set()
        await held.wait(held.left)
        assert await everywhere() == [expected] * 3
        assert await sync_to_async(current_binding, thread_sensitive=sensitive)() == expected
    assert current_binding() == UNBOUND
    # The worker has kept its own binding, also after its caller had left the scope around it.
    assert held.inside == [within]


@pytest.mark.parametrize("by", ["cancelled", "timed out"])
@pytest.mark.parametrize(("outer", "expected"), OUTER, ids=["unbound", "tenant", "admin"])
@pytest.mark.parametrize(("inner", "within"), INNER, ids=["into admin", "into tenant"])
def test_a_hop_that_is_given_up_leaves_its_callers_binding(
    outer: Scope, expected: Binding, inner: Scope, within: Binding, sensitive: bool, by: str
) -> None:
    asyncio.run(scenario(outer, expected, inner, within, sensitive, by))
    assert current_binding() == UNBOUND


async def given_up_view(request: HttpRequest) -> HttpResponse:
    for outer, expected in OUTER:
        await scenario(outer, expected, admin_context, ADMIN, True, "timed out")
    return HttpResponse("fine")


urlpatterns = [path("", given_up_view)]


async def test_it_holds_in_a_request(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    assert (await AsyncClient().get("/")).content == b"fine"


def test_a_sync_caller_is_left_alone_too() -> None:
    held = Held(admin_context)

    async def give_up() -> None:
        # A thread of our own, for which asyncio.run() does not wait.
        entering = asyncio.create_task(held.wait(held.entered))
        await timed_out(sync_to_async(held, thread_sensitive=False, executor=waiters)())
        await entering

    with tenant_context(1):
        async_to_sync(give_up)()
        assert current_binding() == A
        held.released.set()
        assert held.left.wait(SECONDS)
        assert current_binding() == A
    assert current_binding() == UNBOUND


# Inheritance that must keep working.


async def test_a_hop_inherits_and_gives_nothing_back(sensitive: bool) -> None:
    def change() -> Binding:
        before = current_binding()
        tenant_context(2).__enter__()
        assert current_binding() == B
        return before

    async with tenant_context(1):
        assert await sync_to_async(change, thread_sensitive=sensitive)() == A
        assert current_binding() == A
    assert current_binding() == UNBOUND


def test_a_sync_scope_reaches_async_code_also_on_a_thread_that_served_hops() -> None:
    async def look() -> list[Binding]:
        hop = await sync_to_async(current_binding)()
        return [current_binding(), hop, await asyncio.create_task(in_task())]

    async def in_task() -> Binding:
        return current_binding()

    for _ in range(2):
        with tenant_context(1):
            assert async_to_sync(look)() == [A, A, A]
        assert async_to_sync(look)() == [UNBOUND] * 3


def test_a_scope_of_a_worker_thread_reaches_its_async_view() -> None:
    async def view() -> Binding:
        assert await sync_to_async(current_binding)() == A
        return current_binding()

    def serve() -> Binding:
        with tenant_context(1):
            return async_to_sync(view)()

    with ThreadPoolExecutor(1) as executor:
        assert [executor.submit(serve).result(SECONDS) for _ in range(2)] == [A, A]


async def test_a_scope_of_a_hop_counts_on_its_thread_only() -> None:
    """Async code under the hop runs in the binding around it, its hops back in the scope."""
    seen: list[Binding] = []

    async def under() -> None:
        seen.append(current_binding())
        seen.append(await sync_to_async(current_binding)())

    def hop() -> None:
        with tenant_context(2):
            async_to_sync(under)()
            assert current_binding() == B

    async with tenant_context(1):
        await sync_to_async(hop)()
    assert seen == [A, B]


@pytest.mark.parametrize("outer", [nullcontext, admin_context])
async def test_a_thread_that_a_hop_starts_does_not_fall_back_on_what_is_around(
    outer: Scope,
) -> None:
    executor = ThreadPoolExecutor(1)

    def hop() -> Binding:
        with tenant_context(2):
            return executor.submit(copy_context().run, current_binding).result(SECONDS)

    with outer():
        assert await sync_to_async(hop)() == UNBOUND
    executor.shutdown()


@pytest.fixture(autouse=True, scope="module")
def end_waiters() -> Iterator[None]:
    yield
    waiters.shutdown()
