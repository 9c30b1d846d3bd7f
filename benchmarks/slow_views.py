"""Async views that read a tenant's newest notes, await something slow, and read again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks import data
from tenantry import arows, tenant_context

ROWS_READ = 20

Read = Callable[[], Awaitable[list[int]]]


async def stock(request: HttpRequest, alias: str, tenant: int) -> JsonResponse:
    """Read through Django's async ORM, with a filter written by hand."""
    notes = data.rows("PlainNote", alias).filter(tenant_id=tenant).order_by("-created_at")

    async def read() -> list[int]:
        return [note.tenant_id async for note in notes.all()[:ROWS_READ]]

    return await read_twice(request, read)


async def tenantry(request: HttpRequest, alias: str, tenant: int) -> JsonResponse:
    """Read through Django's async ORM, in the tenant's scope."""
    notes = data.rows("ProtectedNote", alias).order_by("-created_at")

    async def read() -> list[int]:
        return [note.tenant_id async for note in notes.all()[:ROWS_READ]]

    async with tenant_context(tenant):
        return await read_twice(request, read)


async def native(request: HttpRequest, alias: str, tenant: int) -> JsonResponse:
    """Read without a thread, in the tenant's scope."""
    notes = data.rows("ProtectedNote", alias).order_by("-created_at")
    column = [field.attname for field in notes.model._meta.concrete_fields].index("tenant_id")

    async def read() -> list[int]:
        return [row[column] for row in await arows(notes.all()[:ROWS_READ])]

    async with tenant_context(tenant):
        return await read_twice(request, read)


async def read_twice(request: HttpRequest, read: Read) -> JsonResponse:
    """Respond with the tenants of the notes of both reads, or with what went wrong."""
    try:
        first = await read()
        await asyncio.sleep(float(request.GET["await"]))
        return JsonResponse({"reads": [first, await read()]})
    except Exception as error:  # noqa: BLE001 - it is counted
        return JsonResponse({"error": f"{type(error).__name__}: {error}"}, status=500)


VIEWS: dict[str, Any] = {"stock": stock, "tenantry": tenantry, "native": native}

urlpatterns = [
    path(f"{name}/<str:alias>/<int:tenant>/", view, name=name) for name, view in VIEWS.items()
]
