"""asgiref copies ContextVars of an interrupted hop, whose thread is still inside a scope, back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware

from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.context import RequestScope, Scope
from tests.app.models import Note, Tenant

ONE, TWO, THREE = Binding(1), Binding(2), Binding(3)
each_around = pytest.mark.parametrize(
    "around", [UNBOUND, ONE, ADMIN], ids=["in-no-scope", "in-tenant", "in-admin"]
)
each_inside = pytest.mark.parametrize("inside", [TWO, ADMIN], ids=["tenant-hop", "admin-hop"])
each_sensitivity = pytest.mark.parametrize(
    "thread_sensitive", [True, False], ids=["thread-sensitive", "any-thread"]
)


pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time can be put forward, so that a timeout fires when a test says so."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def put_forward(self) -> None:
        self.ahead += 3600


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(main)


class Work:
    """A sync function that stays inside a scope until it may finish, and notes what it sees."""

    def __init__(self, binding: Binding, look: Callable[[], Any] = current_binding) -> None:
        self.binding = binding
        self.look = look
        self.loop = asyncio.get_running_loop()
        self.interrupt: Callable[[], object] = bool
        self.may_finish, self.finished = threading.Event(), threading.Event()
        self.seen: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.may_finish.set()

    def __call__(self) -> None:
        try:
            with Scope(self.binding):
                self.seen.append(self.look())
                self.loop.call_soon_threadsafe(self.interrupt)
                assert self.may_finish.wait(10)
                self.seen.append(self.look())
            self.seen.append(self.look())
        finally:
            self.finished.set()

    async def finish(self) -> None:
        assert not self.finished.is_set()
        self.may_finish.set()
        assert await self.loop.run_in_executor(None, self.finished.wait, 10)


async def cancelled(work: Work, hop: Awaitable[None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    work.interrupt = task.cancel
    with pytest.raises(asyncio.CancelledError):
        await hop
    task.uncancel()


async def in_timeout(work: Work, hop: Awaitable[None]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            work.interrupt = put_forward
            await hop


async def in_wait_for(work: Work, hop: Awaitable[None]) -> None:
    work.interrupt = put_forward
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hop, 60)


async def in_cancel_scope(work: Work, hop: Awaitable[None]) -> None:
    """Interrupt by anyio, which cancels again and again until the scope is left."""
    with anyio.CancelScope() as scope:
        work.interrupt = scope.cancel
        await hop
    assert scope.cancelled_caught


def put_forward() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.put_forward()


Interrupted = Callable[[Work, Awaitable[None]], Awaitable[None]]
INTERRUPTIONS = [cancelled, in_timeout, in_wait_for, in_cancel_scope]
each_interruption = pytest.mark.parametrize("interrupted", INTERRUPTIONS)


async def read() -> Binding:
    await asyncio.sleep(0)
    return current_binding()


async def read_in_hop(thread_sensitive: bool) -> Binding:
    return await sync_to_async(current_binding, thread_sensitive=thread_sensitive)()


async def bindings(*sensitivities: bool) -> set[Binding]:
    """Return whom the caller runs as, the tasks that it starts, and the hops that it makes."""
    seen = {current_binding(), await read(), *await asyncio.gather(read(), read())}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read_in_hop(sensitive)) for sensitive in sensitivities]
    seen |= {task.result() for task in tasks}
    seen |= {await read_in_hop(sensitive) for sensitive in sensitivities}
    return seen | {current_binding()}


@each_interruption
@each_sensitivity
@each_inside
@each_around
def test_the_caller_of_an_interrupted_hop_runs_as_before(
    around: Binding, inside: Binding, thread_sensitive: bool, interrupted: Interrupted
) -> None:
    async def main() -> None:
        with Work(inside) as work:
            async with Scope(around):
                hop = sync_to_async(work, thread_sensitive=thread_sensitive)
                await interrupted(work, hop())
                assert await bindings(False) == {around}
                # It may have to wait for the thread that the work has.
                queued = asyncio.create_task(read_in_hop(thread_sensitive=True))
                await asyncio.sleep(0)
                await work.finish()
                assert await queued == around
                assert await bindings(True, False) == {around}
            assert await bindings(True, False) == {UNBOUND}
            assert work.seen == [inside, inside, around]

    run(main())


async def give_up(thread_sensitive: bool) -> set[Binding]:
    """Return whom the caller of a hop runs as after that was cancelled."""
    with Work(TWO) as work:
        await cancelled(work, sync_to_async(work, thread_sensitive=thread_sensitive)())
        seen = await bindings(False)
        await work.finish()
        return seen | await bindings(True, False)


@each_sensitivity
def test_so_does_one_in_no_scope(thread_sensitive: bool) -> None:
    assert run(give_up(thread_sensitive)) == {UNBOUND}


@each_sensitivity
@each_around
def test_so_does_one_whose_scope_was_opened_on_another_thread(
    around: Binding, thread_sensitive: bool
) -> None:
    with Scope(around), ThreadPoolExecutor(1) as executor:
        seen = executor.submit(copy_context().run, run, give_up(thread_sensitive))
        assert seen.result(10) == {around}


@each_around
def test_sync_code_that_has_waited_for_it_goes_on_as_nobody(around: Binding) -> None:
    """A limit that is documented: it cannot be told from what the hop runs."""
    with Scope(around):
        assert async_to_sync(give_up)(False) == {around}
        assert current_binding() == UNBOUND
        with Scope(THREE):
            assert current_binding() == THREE
    with Scope(THREE):
        assert current_binding() == THREE


@each_interruption
@each_sensitivity
@each_around
def test_the_caller_leaves_and_opens_scopes_while_the_interrupted_hop_goes_on(
    around: Binding, thread_sensitive: bool, interrupted: Interrupted
) -> None:
    async def main() -> None:
        with Work(TWO) as work:
            async with Scope(THREE):
                async with Scope(around):
                    hop = sync_to_async(work, thread_sensitive=thread_sensitive)
                    await interrupted(work, hop())
                    async with Scope(THREE):
                        assert await bindings(False) == {THREE}
                    assert await bindings(False) == {around}
                assert await bindings(False) == {THREE}
            assert await bindings(False) == {UNBOUND}
            async with Scope(THREE):
                await work.finish()
                assert await bindings(True, False) == {THREE}
            assert await bindings(True, False) == {UNBOUND}
            assert work.seen == [TWO, TWO, around]

    run(main())


@pytest.mark.parametrize("around", [UNBOUND, ONE, TWO])
def test_a_plain_thread_after_an_interrupted_hop_never_runs_as_the_hop(around: Binding) -> None:
    """It cannot be told from a thread that the hop started, and may run as nobody."""

    async def main() -> None:
        with Work(ADMIN) as work:
            async with Scope(around):
                await cancelled(work, sync_to_async(work)())
                for _ in range(2):
                    for thread in (asyncio.to_thread, anyio.to_thread.run_sync):
                        assert await thread(current_binding) in {around, UNBOUND}
                    if not work.finished.is_set():
                        await work.finish()

    run(main())


def test_the_work_of_an_interrupted_hop_keeps_its_binding_when_its_loop_has_ended() -> None:
    kept: list[Work] = []

    async def main() -> None:
        async with Scope(ONE):
            work = Work(ADMIN)
            kept.append(work)
            await cancelled(work, sync_to_async(work)())

    run(main())
    (work,) = kept
    work.may_finish.set()
    assert work.finished.wait(10)
    assert work.seen == [ADMIN, ADMIN, ONE]


@each_interruption
@each_sensitivity
@each_inside
@each_around
def test_the_work_of_an_interrupted_hop_keeps_its_binding_when_its_request_has_ended(
    around: Binding, inside: Binding, thread_sensitive: bool, interrupted: Interrupted
) -> None:
    async def main() -> None:
        with Work(inside) as work:
            # It ends without an error: the scope is the work's, and not left open by a view.
            with RequestScope(around):
                await interrupted(work, sync_to_async(work, thread_sensitive=thread_sensitive)())
                with Scope(THREE):
                    assert await bindings(False) == {THREE}
            assert await bindings(False) == {UNBOUND}
            await work.finish()
            assert work.seen == [inside, inside, around]
            assert await bindings(True, False) == {UNBOUND}

    run(main())


@each_sensitivity
@each_around
def test_a_hop_in_async_to_sync_in_a_hop_is_cancelled(
    around: Binding, thread_sensitive: bool
) -> None:
    async def main() -> None:
        with Work(TWO) as work:

            async def inner() -> None:
                try:
                    await sync_to_async(work)()
                finally:
                    # asgiref lets the caller go on when the outer hop has finished.
                    work.may_finish.set()

            def hop() -> None:
                with Scope(ADMIN):
                    async_to_sync(inner)()

            async with Scope(around):
                await cancelled(work, sync_to_async(hop, thread_sensitive=thread_sensitive)())
                assert await bindings(True, False) == {around}
            assert await bindings(True, False) == {UNBOUND}

    run(main())


@each_sensitivity
@each_around
def test_a_hop_in_async_to_sync_in_a_hop_is_interrupted_until_the_caller_goes_on(
    around: Binding, thread_sensitive: bool
) -> None:
    """asgiref refuses thread-sensitive hops of the caller from here on, which may run as nobody.

    It cannot be told from what the hop's async_to_sync() runs.
    """

    async def main() -> None:
        with Work(TWO) as work:

            def hop() -> None:
                with Scope(ADMIN):
                    async_to_sync(sync_to_async(work))()

            async with Scope(around):
                outer = sync_to_async(hop, thread_sensitive=thread_sensitive)
                await in_cancel_scope(work, outer())
                for _ in range(2):
                    assert await bindings(False) <= {around, UNBOUND}
                    if not work.finished.is_set():
                        await work.finish()
            assert await bindings(False) == {UNBOUND}
            assert work.seen == [TWO, TWO, ADMIN]

    run(main())


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="asgiref does not cancel a second async_to_sync() of a hop, and then sends the caller's"
    " thread-sensitive hops into the midst of the hop, where its scope counts",
)
@each_sensitivity
def test_the_second_async_to_sync_of_a_hop_is_cancelled(thread_sensitive: bool) -> None:
    async def main() -> None:
        async with Scope(ONE):
            caller = asyncio.current_task()
            assert caller is not None

            async def cancel_caller() -> None:
                caller.cancel()
                await asyncio.Event().wait()

            def hop() -> None:
                with Scope(ADMIN):
                    async_to_sync(read_in_hop)(thread_sensitive=True)
                    async_to_sync(cancel_caller)()

            with pytest.raises(asyncio.CancelledError):
                await sync_to_async(hop, thread_sensitive=thread_sensitive)()
            caller.uncancel()
            assert await bindings(True, False) == {ONE}

    run(main())


async def view(request: HttpRequest, interruption: str) -> HttpResponse:
    """Give up hops; answer with whom the view ran as before they finished, after, and outside."""
    interrupted = next(one for one in INTERRUPTIONS if one.__name__ == interruption)
    seen: list[set[Binding]] = []
    for around in (UNBOUND, ONE, TWO):
        async with Scope(around):
            with Work(ADMIN) as work:
                await interrupted(work, sync_to_async(work)())
                seen.append(await bindings(False))
                await work.finish()
                seen.append(await bindings(True, False))
    return HttpResponse(repr([*seen, await bindings(True, False)]))


def sync_view(request: Any) -> HttpResponse:
    request.scope["work"]()
    return HttpResponse()


@async_only_middleware
def as_tenant(get_response: Callable[[Any], Awaitable[HttpResponse]]) -> Any:
    async def middleware(request: Any) -> HttpResponse:
        async with Scope(ONE):
            try:
                return await get_response(request)
            except asyncio.CancelledError:
                request.scope["seen"].append(await bindings(False))
                await request.scope["work"].finish()
                request.scope["seen"].append(await bindings(True, False))
                raise

    return middleware


def as_admin(request: HttpRequest) -> Binding:
    return ADMIN


def sync_only(get_response: Callable[[Any], HttpResponse]) -> Any:
    return lambda request: get_response(request)


urlpatterns = [path("view/<interruption>", view), path("sync", sync_view)]


async def get(path: str, disconnected: asyncio.Event, **scope: Any) -> bytes:
    """Return the body of Django's answer, as an ASGI server would ask for it."""
    body = b""
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in received:
            return message
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal body
        body += message.get("body", b"")

    scope |= {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    handler: Any = ASGIHandler()
    await handler(scope, receive, send)
    return body


@each_interruption
def test_an_async_view_that_gives_up_hops_runs_as_before(
    settings: Any, interrupted: Interrupted
) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []

    async def main() -> bytes:
        return await get(f"/view/{interrupted.__name__}", asyncio.Event())

    expected = [{UNBOUND}, {UNBOUND}, {ONE}, {ONE}, {TWO}, {TWO}, {UNBOUND}]
    assert run(main()).decode() == repr(expected)


def test_a_middleware_around_a_sync_view_that_a_client_left_runs_as_before(settings: Any) -> None:
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, [f"{__name__}.as_tenant"]

    async def main() -> None:
        seen: list[set[Binding]] = []
        left = asyncio.Event()
        with Work(ADMIN) as work:
            work.interrupt = left.set
            assert await get("/sync", left, work=work, seen=seen) == b""
            assert (seen, work.seen) == ([{ONE}, {ONE}], [ADMIN, ADMIN, ONE])
            assert await bindings(True, False) == {UNBOUND}

    run(main())


OURS = "tenantry.middleware.RLSTenantMiddleware"
SYNC = f"{__name__}.sync_only"


@pytest.mark.parametrize("middleware", [[OURS], [SYNC, OURS], [OURS, SYNC], [SYNC, OURS, SYNC]])
def test_a_sync_view_that_a_client_left_reads_what_it_read_before(
    settings: Any, tenants: tuple[Tenant, Tenant], middleware: list[str]
) -> None:
    """In a request of the admin, and with rows of both tenants."""
    settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, middleware
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": [f"{__name__}.as_admin"]}

    def titles() -> list[str]:
        try:
            return list(Note.objects.order_by("id").values_list("title", flat=True))
        finally:
            connections.close_all()

    async def main() -> None:
        left = asyncio.Event()
        with Work(Binding(tenants[1].pk), titles) as work:
            work.interrupt = left.set
            asked = asyncio.create_task(get("/sync", left, work=work))
            await left.wait()
            # Turns of the loop, in which the cancellation reaches whatever it can.
            for _ in range(50):
                await asyncio.sleep(0)
            await work.finish()
            assert await asked == b""
            assert work.seen == [["B 1", "B 2"]] * 2 + [["A 1", "A 2", "B 1", "B 2"]]
            assert await bindings(True, False) == {UNBOUND}

    run(main())
