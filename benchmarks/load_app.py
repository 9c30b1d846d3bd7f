"""The ASGI application of one candidate under load; ``BENCHMARK`` in the environment says which.

Every candidate answers the same requests with the same bytes: one read, a read before and one after
something slow, and a stream of events with a read for each.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import django
import psycopg
from django.apps import apps
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware
from psycopg_pool import AsyncConnectionPool

from benchmarks.identity import User
from tenantry import arows
from tenantry.asgi import PoolLifespan

# Empty in the program that starts the servers.
PLACE = json.loads(os.environ.get("BENCHMARK", "{}"))
ROWS_READ = 20
EVENTS = 5
# The model that each candidate's requests read, and how.
READS = {
    "stock": "PlainNote",
    "async_backend": "PlainNote",
    "tenantry": "ProtectedNote",
    "arows": "ProtectedNote",
}
SQL = f"""
SELECT id, tenant_id, title, body, created_at FROM benchmarks_plainnote
WHERE tenant_id = %s ORDER BY created_at DESC LIMIT {ROWS_READ}
"""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def application() -> Any:
    """Set the candidate up, and return its application."""
    if PLACE["candidate"] == "psycopg":
        return Psycopg(PLACE["conninfo"], PLACE["size"])
    middleware = [f"{__name__}.identify"]
    if READS[PLACE["candidate"]] == "ProtectedNote":
        middleware.append("tenantry.middleware.RLSTenantMiddleware")
    settings.configure(
        ALLOWED_HOSTS=["*"],
        # The models need tenantry, which needs a database with its ENGINE; nobody uses that one.
        DATABASES={
            "default": PLACE["database"],
            "unused": {"ENGINE": "tenantry.backends.postgresql"},
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["tenantry", "benchmarks", *PLACE["apps"]],
        LOGGING_CONFIG=None,
        MIDDLEWARE=middleware,
        RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
        ROOT_URLCONF=__name__,
        SECRET_KEY="benchmark",
        USE_TZ=True,
    )
    django.setup()
    return PoolLifespan(get_asgi_application())


@async_only_middleware
def identify(get_response: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Set ``request.user``, as ``AuthenticationMiddleware`` does, without SQL."""

    async def middleware(request: Any) -> Any:
        request.user = User(int(request.headers["X-User"]))
        return await get_response(request)

    return middleware


async def ids(request: Any) -> str:
    """Return the ids of the tenant's newest notes."""
    candidate = PLACE["candidate"]
    model: Any = apps.get_model("benchmarks", READS[candidate])
    notes = (model.async_objects if candidate == "async_backend" else model.objects).all()
    if READS[candidate] == "PlainNote":
        notes = notes.filter(tenant_id=request.user.tenant_id)
    notes = notes.order_by("-created_at")[:ROWS_READ]
    if candidate == "arows":
        return ",".join(str(row[0]) for row in await arows(notes))
    return ",".join([str(note.pk) async for note in notes])


async def read(request: Any) -> HttpResponse:
    """Read once."""
    return HttpResponse(await ids(request))


async def slow(request: Any) -> HttpResponse:
    """Read, await something slow, and read again."""
    first = await ids(request)
    await asyncio.sleep(float(request.GET["await"]))
    return HttpResponse(f"{first};{await ids(request)}")


async def events(request: Any) -> StreamingHttpResponse:
    """Send events, with a read for each and a wait after it."""

    async def stream() -> AsyncIterator[str]:
        for _ in range(EVENTS):
            yield f"data: {await ids(request)}\n\n"
            await asyncio.sleep(float(request.GET["await"]) / EVENTS)

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


urlpatterns = [path(f"{view.__name__}/", view) for view in (read, slow, events)]


class Psycopg:
    """Do the same without Django: psycopg's async pool, and a connection for each statement."""

    def __init__(self, conninfo: str, size: int) -> None:
        self.pool: Any = AsyncConnectionPool(
            conninfo,
            min_size=size,
            max_size=size,
            timeout=120,
            open=False,
            kwargs={"autocommit": True, "cursor_factory": psycopg.AsyncClientCursor},
        )

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        seconds = float(scope["query_string"].rpartition(b"=")[2] or 0)
        tenant = int(dict(scope["headers"])[b"x-user"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for part in self.parts(scope["path"], tenant, seconds):
            await send({"type": "http.response.body", "body": part.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def live(self, receive: Receive, send: Send) -> None:
        """Open the pool when the server starts, and close it when it ends."""
        await receive()
        async with self.pool:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def parts(self, path: str, tenant: int, seconds: float) -> AsyncIterator[str]:
        """Yield the parts of the response."""
        if path == "/read/":
            yield await self.ids(tenant)
        elif path == "/slow/":
            first = await self.ids(tenant)
            await asyncio.sleep(seconds)
            yield f"{first};{await self.ids(tenant)}"
        else:
            for _ in range(EVENTS):
                yield f"data: {await self.ids(tenant)}\n\n"
                await asyncio.sleep(seconds / EVENTS)

    async def ids(self, tenant: int) -> str:
        async with self.pool.connection() as connection:
            rows = await (await connection.execute(SQL, [tenant])).fetchall()
        return ",".join(str(row[0]) for row in rows)
