"""The ASGI application of one candidate under load; ``BENCHMARK`` in the environment says which.

Every candidate answers the same requests with the same bytes: one read, a read before and one after
something slow, and a stream of events with a read for each. As a program, it creates the tables of
a candidate that has its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import django
import psycopg
from django.apps import apps
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from django.utils.decorators import async_only_middleware
from django.utils.module_loading import import_string
from psycopg_pool import AsyncConnectionPool

from benchmarks.identity import User

# Empty in the program that starts the servers.
PLACE = json.loads(os.environ.get("BENCHMARK", "{}"))
ROWS_READ = 20
EVENTS = 5
SQL = f"""
SELECT id, tenant_id, title, body, created_at FROM benchmarks_plainnote
WHERE tenant_id = %s ORDER BY created_at DESC LIMIT {ROWS_READ}
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a project with a candidate has in its settings, and how its views read.

    Names are those of what is imported, because a candidate's environment has no other package.
    """

    model: str
    middleware: str = ""
    # More than the models need.
    apps: Sequence[str] = ()
    # That of the tables, if they are the candidate's own.
    app: str = "benchmarks"
    reset: str = ""
    # What a stream enters, if it is not in the scope of the middleware.
    scope: str = ""

    @property
    def filters(self) -> bool:
        """Whether views filter by hand."""
        return self.model == "benchmarks.PlainNote"


SETUPS = {
    "stock": Setup("benchmarks.PlainNote"),
    "async_backend": Setup("benchmarks.PlainNote", apps=("django_async_backend",)),
    **dict.fromkeys(
        ("tenantry", "arows"),
        Setup("benchmarks.ProtectedNote", "tenantry.middleware.RLSTenantMiddleware"),
    ),
    "rls_tenants": Setup(
        "load_rls_tenants.Note",
        "django_rls_tenants.RLSTenantMiddleware",
        apps=("django_rls_tenants",),
        app="benchmarks.candidates.load_rls_tenants",
        reset="django_rls_tenants.pool.reset_rls_gucs",
        scope="django_rls_tenants.async_tenant_context",
    ),
}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def application() -> Any:
    """Set the candidate up, and return its application."""
    if PLACE["candidate"] == "psycopg":
        return Psycopg(PLACE["conninfo"], PLACE["size"])
    setup = set_up()
    if setup.app != "benchmarks":
        return get_asgi_application()
    return import_string("tenantry.asgi.PoolLifespan")(get_asgi_application())


def set_up() -> Setup:
    """Set Django up with the candidate's settings; return them."""
    setup = SETUPS[PLACE["candidate"]]
    entry = PLACE["database"]
    installed, databases = [setup.app, *setup.apps], {"default": entry}
    if setup.reset:
        entry["OPTIONS"]["pool"]["reset"] = import_string(setup.reset)
    if setup.app == "benchmarks":
        # The models need tenantry, which needs a database with its ENGINE; nobody uses that one.
        installed.append("tenantry")
        databases["unused"] = {"ENGINE": "tenantry.backends.postgresql"}
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES=databases,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=installed,
        LOGGING_CONFIG=None,
        MIDDLEWARE=[f"{__name__}.identify", *filter(None, [setup.middleware])],
        RLS_TENANTS={"TENANT_MODEL": f"{setup.app.rpartition('.')[2]}.Tenant"},
        ROOT_URLCONF=__name__,
        SECRET_KEY="benchmark",
        USE_TZ=True,
    )
    django.setup()
    return setup


def create() -> None:
    """Create the tables of a candidate that has its own."""
    label = set_up().app.rpartition(".")[2]
    with connection.schema_editor() as editor:
        for name in ("Tenant", "Note"):
            editor.create_model(apps.get_model(label, name))


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
    setup = SETUPS[candidate]
    model: Any = apps.get_model(setup.model)
    notes = (model.async_objects if candidate == "async_backend" else model.objects).all()
    if setup.filters:
        notes = notes.filter(tenant_id=request.user.tenant_id)
    notes = notes.order_by("-created_at")[:ROWS_READ]
    if candidate == "arows":
        arows = import_string("tenantry.arows")
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
        async with scope(request):
            for _ in range(EVENTS):
                yield f"data: {await ids(request)}\n\n"
                await asyncio.sleep(float(request.GET["await"]) / EVENTS)

    return StreamingHttpResponse(stream(), content_type="text/event-stream")


def scope(request: Any) -> AbstractAsyncContextManager[None]:
    """Return the tenant's scope, for a candidate whose streams are not in one yet."""
    name = SETUPS[PLACE["candidate"]].scope
    if not name:
        return nullcontext()
    entered: AbstractAsyncContextManager[None] = import_string(name)(request.user.tenant_id)
    return entered


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


if __name__ == "__main__":
    create()
