"""The requests that are measured; every candidate serves the same views."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.shop import BULK, PAGE, READS, SAVES, joined

RAW = f"SELECT n.id FROM note n {{where}} ORDER BY n.created_at DESC LIMIT {PAGE}"
REPORT = """
SELECT c.name, count(*) FROM note n JOIN category c ON c.id = n.category_id
{where} GROUP BY c.name ORDER BY c.name COLLATE "C"
"""


def newest(request: HttpRequest, start: int = 0) -> list[Any]:
    """Return a page of notes."""
    notes = settings.PROJECT.notes(request).order_by("-created_at")
    return list(notes[start : start + PAGE])


def ids(notes: list[Any]) -> HttpResponse:
    """Respond with the ids of notes."""
    return HttpResponse(joined(note.pk for note in notes))


def event(request: HttpRequest) -> Any:
    """Return an event that is not saved."""
    return settings.PROJECT.model("Event")(name="it", **settings.PROJECT.values(request))


def read(request: HttpRequest) -> HttpResponse:
    """Read once."""
    return ids(newest(request))


def reads(request: HttpRequest) -> HttpResponse:
    """Read five times."""
    return ids([note for page in range(READS) for note in newest(request, page * PAGE)])


def write(request: HttpRequest) -> HttpResponse:
    """Insert a row."""
    event(request).save()
    return HttpResponse("done")


def atomic(request: HttpRequest) -> HttpResponse:
    """Read in a transaction."""
    with transaction.atomic():
        return ids(newest(request))


def nested(request: HttpRequest) -> HttpResponse:
    """Read, and save three rows, each in a block of its own, as an admin's formset does."""
    with transaction.atomic():
        notes = newest(request)
        for note in notes[:SAVES]:
            with transaction.atomic():
                note.save(update_fields=["title"])
        return ids(notes)


def atomic_request(request: HttpRequest) -> HttpResponse:
    """Read and insert in the transaction of ``ATOMIC_REQUESTS``."""
    notes = newest(request)
    event(request).save()
    return ids(notes)


def page(request: HttpRequest) -> HttpResponse:
    """Read with two joins."""
    notes = settings.PROJECT.notes(request).select_related("author", "category")
    rows = notes.order_by("-created_at")[:PAGE]
    return HttpResponse(",".join(f"{n.pk}:{n.author.name}:{n.category.name}" for n in rows))


def bulk(request: HttpRequest) -> HttpResponse:
    """Insert 500 rows."""
    events = [event(request) for _ in range(BULK)]
    settings.PROJECT.model("Event").objects.bulk_create(events)
    return HttpResponse("done")


def rows(request: HttpRequest, sql: str) -> list[tuple[Any, ...]]:
    """Return what raw SQL finds of the tenant's."""
    condition, parameters = settings.PROJECT.condition(request)
    with connection.cursor() as cursor:
        where = f"WHERE {condition}" if condition else ""
        cursor.execute(sql.format(where=where), parameters or None)
        return cursor.fetchall()


def raw(request: HttpRequest) -> HttpResponse:
    """Read in SQL."""
    return HttpResponse(joined(note for (note,) in rows(request, RAW)))


def report(request: HttpRequest) -> HttpResponse:
    """Count in SQL."""
    return HttpResponse(",".join(f"{name}:{count}" for name, count in rows(request, REPORT)))


VIEWS = {
    view.__name__: transaction.non_atomic_requests(view)
    for view in (read, reads, write, atomic, nested, page, bulk, raw, report)
} | {"atomic_request": atomic_request}
urlpatterns = [path(f"{name}/", view) for name, view in VIEWS.items()]
