"""Pools are closed when the ASGI server shuts down, whoever speaks the lifespan protocol."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.asgi import get_asgi_application

from example_asgi.servers import LOOPBACK, Child, PgBouncer, free_port
from tenantry import aconnection, tenant_context
from tenantry.asgi import PoolLifespan, lifespan
from tenantry.asgi.types import Message, Receive, Send
from tenantry.backends.postgresql import loops, pool
from tests.app.models import Note, Tenant

Tenants = tuple[Tenant, Tenant]
ROOT = Path(__file__).resolve().parent.parent
STARTUP, SHUTDOWN = "lifespan.startup", "lifespan.shutdown"


async def live(application: Any, *events: str) -> list[Message]:
    """Send lifespan events to an application, and return its answers."""
    received, sent = iter(events), []

    async def receive() -> Message:
        return {"type": next(received)}

    async def send(message: Message) -> None:
        sent.append(message)

    await application({"type": "lifespan"}, receive, send)
    return sent


async def use_pools(tenants: Tenants) -> None:
    async with tenant_context(tenants[0].pk):
        async with aconnection("pooled") as connection:
            await connection.execute("SELECT 1")
        assert await sync_to_async(Note.objects.using("pool").count)() == 2
    assert opened() == (True, True)


def opened() -> tuple[bool, bool]:
    """Return whether async and sync pools are open."""
    return bool(loops.running_loop().pools), bool(pool._pools)


def answer(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url)
    except httpx.TransportError:
        return None


# Uvicorn sends itself the signal again once it has shut down; Ctrl-C it then ignores.
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_uvicorn_closes_the_pools(
    number: signal.Signals,
    status: int,
    pgbouncer: PgBouncer,
    tenants: Tenants,
    tmp_path: Path,
) -> None:
    port, log = free_port(), tmp_path / "uvicorn.log"
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "PGHOST": pgbouncer.host,
        "PGPORT": str(pgbouncer.port),
        "PGAPPNAME": f"served-{port}",
    }
    command = [sys.executable, "-X", "dev", "-m", "uvicorn", "tests.served:application"]
    command += ["--app-dir", str(ROOT), "--lifespan", "on", "--host", LOOPBACK]
    uvicorn = Child([*command, "--port", str(port)], log, env=environment)
    try:
        url = f"http://{LOOPBACK}:{port}/{tenants[0].pk}/"
        uvicorn.wait_until(lambda: answer(url) is not None)
        response = httpx.get(url)
        assert response.json() == {"async": ["A 1", "A 2"], "sync": ["A 1", "A 2"]}
        uvicorn.process.send_signal(number)
        assert uvicorn.process.wait(20) == status
    finally:
        uvicorn.stop()
    text = log.read_text()
    assert "connections before: 0" not in text
    assert "connections after: 0" in text
    assert "Application shutdown complete." in text
    assert "Finished server process" in text
    for word in ("Warning", "WARNING", "ERROR", "Traceback", "destroyed", "never"):
        assert word not in text, text


async def test_django_gets_requests_and_no_lifespan(tenants: Tenants) -> None:
    application = PoolLifespan(get_asgi_application())
    await use_pools(tenants)
    assert await live(application, STARTUP, SHUTDOWN) == [
        {"type": "lifespan.startup.complete"},
        {"type": "lifespan.shutdown.complete"},
    ]
    assert opened() == (False, False)
    # The next use makes new ones.
    await use_pools(tenants)
    await lifespan.closed({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize(
    "last", [f"{STARTUP}.failed", f"{SHUTDOWN}.failed", f"{SHUTDOWN}.complete"]
)
async def test_the_pools_are_open_until_the_application_has_ended(
    last: str, tenants: Tenants
) -> None:
    message = {"type": last, "message": "its own"} if last.endswith("failed") else {"type": last}

    async def inner(scope: Message, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == STARTUP
        if last.startswith(SHUTDOWN):
            await send({"type": f"{STARTUP}.complete"})
            assert (await receive())["type"] == SHUTDOWN
        await use_pools(tenants)
        await send(message)

    sent = await live(PoolLifespan(inner, forward=True), STARTUP, SHUTDOWN)
    assert sent[-1] == message
    assert opened() == (False, False)


@pytest.mark.parametrize("said", ["", "its own"])
async def test_what_does_not_close_is_reported_and_the_rest_is_closed(
    said: str, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise psycopg.OperationalError("no")

    async def inner(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": f"{SHUTDOWN}.failed", "message": said})

    await use_pools(tenants)
    monkeypatch.setattr(lifespan, "aclose_pools", fail)
    failed = "pools did not close: OperationalError: no"
    expected = f"{said}; {failed}" if said else failed
    application = PoolLifespan(inner, forward=True) if said else PoolLifespan(inner)
    sent = await live(application, STARTUP, SHUTDOWN)
    assert sent[-1] == {"type": f"{SHUTDOWN}.failed", "message": expected}
    assert opened() == (True, False)
    await loops.aclose_pools()


async def test_other_scopes_are_the_applications() -> None:
    seen: list[Any] = []

    async def inner(scope: Message, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    scope, receive, send = {"type": "websocket"}, object(), object()
    other: Any = PoolLifespan(inner)
    await other(scope, receive, send)
    assert seen == [(scope, receive, send)]
