"""Tasks of Django."""

from __future__ import annotations

from typing import Any

from django import VERSION

from tenantry import admin_context, arows
from tests.app.models import Note

if VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


def read() -> list[str]:
    return list(Note.objects.order_by("title").values_list("title", flat=True))


@task
def titles(*args: Any, **kwargs: Any) -> list[str]:
    return read()


@task
async def async_titles() -> list[str]:
    return [note.title async for note in Note.objects.order_by("title")]


@task
async def raw_titles() -> list[str]:
    """Read outside of threads."""
    notes = Note.objects.order_by("title").values_list("title")
    return [title for (title,) in await arows(notes)]


@task(takes_context=True)
def titles_with_context(context: Any, number: float) -> list[Any]:
    return [context.attempt, number, *read()]


@task
def write(title: str) -> int | None:
    return Note.objects.create(title=title).tenant_id


@task
def boom() -> None:
    with admin_context():
        raise ValueError("boom")


@task
def leave_open() -> None:
    admin_context().__enter__()
