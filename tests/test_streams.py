"""Event streams that last: each in its request's binding, and no connection held between events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections
from django.db.models.signals import post_init, post_save, pre_delete
from django.dispatch import Signal
from django.http import HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from tenantry import tenant_context
from tenantry.binding import UNBOUND, Binding, current_binding
from tests.app.models import Note, Tenant, User

Tenants = tuple[Tenant, Tenant]
ALIAS = "pool"
STREAMS, EVENTS = 20, 5
urlpatterns: list[Any] = []


class Beat:
    """Let every stream send its next event, once all wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self.next = asyncio.Event()

    async def wait(self) -> None:
        self.waiting += 1
        if self.waiting == STREAMS:
            self.all_wait.set()
        await self.next.wait()

    async def strike(self) -> None:
        self.waiting = 0
        self.all_wait.clear()
        self.next.set()
        self.next = asyncio.Event()
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def pool(tenants: Tenants, settings: Any) -> Iterator[Any]:
    settings.ROOT_URLCONF = __name__
    connection: Any = connections[ALIAS]
    connection.pool.open(wait=True)
    # A connection that is being added counts as one in use.
    connection.pool.resize(2)
    connection.pool.wait()
    yield connection
    connection.close()
    connection.close_pool()


def titles() -> list[str]:
    return [note.title for note in Note.objects.using(ALIAS).order_by("id")]


def stats(pool: Any) -> tuple[int, int]:
    """Return how many connections are in use, and how many wait for one."""
    found = pool.pool_stats()
    return found["pool_size"] - found["pool_available"], found["requests_waiting"]


async def test_streams_hold_no_connection_between_events(
    pool: Any, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Beat()

    async def events(request: HttpRequest) -> StreamingHttpResponse:
        async def body() -> AsyncIterator[str]:
            for _ in range(EVENTS):
                await beat.wait()
                yield f"data: {'|'.join(await sync_to_async(titles)())}\n\n"

        return StreamingHttpResponse(body(), content_type="text/event-stream")

    monkeypatch.setattr("tests.test_streams.urlpatterns", [path("", events)])
    users = [
        await User.objects.acreate(username=str(number), tenant=tenants[number % 2])
        for number in range(STREAMS)
    ]

    async def listen(user: User) -> list[str]:
        client = AsyncClient()
        await client.aforce_login(user)
        response: Any = await client.get("/")
        return [part.decode() async for part in response.streaming_content]

    listeners = [asyncio.create_task(listen(user)) for user in users]
    for _ in range(EVENTS):
        async with asyncio.timeout(30):
            await beat.all_wait.wait()
        assert stats(pool) == (0, 0)
        # Whoever else comes finds a connection at once.
        async with tenant_context(tenants[0].pk):
            assert await sync_to_async(titles)() == ["A 1", "A 2"]
        await beat.strike()
    for number, heard in enumerate(await asyncio.gather(*listeners)):
        name = tenants[number % 2].name
        assert heard == [f"data: {name} 1|{name} 2\n\n"] * EVENTS
    assert stats(pool) == (0, 0)


def test_sync_streams_hold_no_connection_between_events(
    pool: Any, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under WSGI each stream has a thread, and may share the connections."""
    beats = threading.Barrier(STREAMS, timeout=30)
    between: list[tuple[int, int]] = []

    def events(request: HttpRequest) -> StreamingHttpResponse:
        def body() -> Iterator[str]:
            for _ in range(EVENTS):
                if beats.wait() == 0:
                    between.append(stats(pool))
                beats.wait()
                yield f"data: {'|'.join(titles())}\n\n"

        return StreamingHttpResponse(body(), content_type="text/event-stream")

    monkeypatch.setattr("tests.test_streams.urlpatterns", [path("", events)])
    heard: dict[int, Any] = {}

    def listen(number: int, user: User) -> None:
        client = Client()
        client.force_login(user)
        response: Any = client.get("/")
        heard[number] = [part.decode() for part in response.streaming_content]
        connections.close_all()

    threads = [
        threading.Thread(
            target=listen,
            args=(number, User.objects.create(username=str(number), tenant=tenants[number % 2])),
        )
        for number in range(STREAMS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert between == [(0, 0)] * EVENTS
    for number in range(STREAMS):
        name = tenants[number % 2].name
        assert heard[number] == [f"data: {name} 1|{name} 2\n\n"] * EVENTS


# Signals.


@pytest.fixture
def received() -> Iterator[list[tuple[str, Binding]]]:
    found: list[tuple[str, Binding]] = []
    receivers = {}
    for name, signal in (("init", post_init), ("save", post_save), ("delete", pre_delete)):

        def receive(name: str = name, **kwargs: Any) -> None:
            found.append((name, current_binding()))

        receivers[signal] = receive
        signal.connect(receive, sender=Note)
    yield found
    for signal, receive in receivers.items():
        signal.disconnect(receive, sender=Note)


def test_signals_of_models_run_as_whoever_sends_them(
    received: list[tuple[str, Binding]], tenants: Tenants
) -> None:
    bound = Binding(tenants[0].pk)
    with tenant_context(tenants[0].pk):
        note = Note.objects.create(title="signalled")
        note.delete()
    assert received == [("init", bound), ("save", bound), ("delete", bound)]
    Note(title="made by nobody")
    assert received[-1] == ("init", UNBOUND)


async def test_receivers_sync_and_async_run_as_whoever_sends(tenants: Tenants) -> None:
    """Also where Django runs the async ones at the same time, in one context."""
    signal = Signal()
    found: list[tuple[str, Binding, list[str]]] = []

    async def look(name: str) -> None:
        await asyncio.sleep(0)
        titles = [note.title async for note in Note.objects.order_by("id")]
        found.append((name, current_binding(), titles))

    async def receive(**kwargs: Any) -> None:
        await look("async")

    async def receive_as_another(**kwargs: Any) -> None:
        async def work() -> None:
            async with tenant_context(tenants[1].pk):
                await look("another")

        # A task has a context of its own.
        await asyncio.create_task(work())

    def receive_sync(**kwargs: Any) -> None:
        found.append(("sync", current_binding(), [n.title for n in Note.objects.order_by("id")]))

    for receiver in (receive, receive_as_another, receive_sync):
        signal.connect(receiver)
    another = ("another", Binding(tenants[1].pk), ["B 1", "B 2"])
    # As in a request: without it the ORM has one thread, which asgiref keeps tasks from sharing.
    async with ThreadSensitiveContext():
        async with tenant_context(tenants[0].pk):
            await signal.asend(sender=None)
            assert current_binding() == Binding(tenants[0].pk)
        bound = (Binding(tenants[0].pk), ["A 1", "A 2"])
        assert sorted(found) == [another, ("async", *bound), ("sync", *bound)]
        found.clear()
        await signal.asend(sender=None)
        assert sorted(found) == [another, ("async", UNBOUND, []), ("sync", UNBOUND, [])]
        await sync_to_async(connections.close_all)()
