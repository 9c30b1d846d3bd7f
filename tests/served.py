"""An ASGI application whose view leaves connections in pools; ``test_asgi`` serves it."""

from __future__ import annotations

import os
import time
from typing import Any

import psycopg
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from psycopg.rows import dict_row

settings.ROOT_URLCONF = __name__
django_application: Any = get_asgi_application()

from tenantry import aconnection, tenant_context  # noqa: E402
from tenantry.asgi import PoolLifespan  # noqa: E402
from tests.app.models import Note  # noqa: E402


async def titles(request: HttpRequest, tenant: int) -> JsonResponse:
    """Return the titles twice: from an async connection, and from the pool of sync code."""
    async with tenant_context(tenant):
        async with aconnection("pooled") as connection:
            cursor = await connection.execute("SELECT title FROM app_note ORDER BY id")
            found = [title for (title,) in await cursor.fetchall()]
        notes = Note.objects.using("pool").values_list("title", flat=True)
        also = [title async for title in notes]
    return JsonResponse({"async": found, "sync": also})


urlpatterns = [path("<int:tenant>/", titles)]
closing = PoolLifespan(django_application)


def connected() -> int:
    """Return how many connections of this process PgBouncer has."""
    console = (
        f"user=pgbouncer dbname=pgbouncer application_name=console port={os.environ['PGPORT']}"
    )
    with psycopg.connect(console, autocommit=True, row_factory=dict_row) as connection:
        clients = connection.execute("SHOW CLIENTS").fetchall()
    return sum(client["application_name"] == os.environ["PGAPPNAME"] for client in clients)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Log how many connections there are once the pools are closed."""

    async def counting(message: Any) -> None:
        if message["type"] == "lifespan.shutdown.complete":
            deadline = time.monotonic() + 5
            while connected() and time.monotonic() < deadline:
                time.sleep(0.05)  # noqa: ASYNC251 - nothing else runs any more
            print("connections after:", connected(), flush=True)
        await send(message)

    if scope["type"] == "http":
        await closing(scope, receive, send)
        print("connections before:", connected(), flush=True)
    else:
        await closing(scope, receive, counting)
