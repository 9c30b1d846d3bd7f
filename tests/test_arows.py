"""``arows()`` returns the rows that Django's own ``values_list()`` does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import models
from django.db.models import Count, F, FilteredRelation, Q, Value, Window
from django.db.models.functions import RowNumber, Upper
from django.db.transaction import TransactionManagementError
from django.test.utils import isolate_apps
from psycopg.rows import dict_row

from tenantry import aclose_pools, aconnection, arows, tenant_context
from tests.app.models import Author, Book, Note, Shared, Tenant, User

Tenants = tuple[Tenant, Tenant]
QuerySets = dict[str, Callable[[], Any]]

ROWS: QuerySets = {
    "model": lambda: Note.objects.all(),
    "related": lambda: Note.objects.select_related("author"),
    "annotated model": lambda: Note.objects.select_related("author").annotate(n=Count("note")),
    "inherited": lambda: Book.objects.order_by("pk"),
    "distinct in another order": lambda: (
        Note.objects.order_by("-title").distinct().values_list("id")
    ),
    "distinct in the order of an annotation": lambda: (
        Note.objects.annotate(u=Upper("title")).order_by("u").distinct().values_list("id")
    ),
    "distinct in the order of a relation": lambda: (
        Note.objects.order_by("author__name", "-title").distinct().values_list("author_id")
    ),
    "distinct on": lambda: Note.objects.order_by("author", "-id").distinct("author").values("id"),
    "values": lambda: Note.objects.values("title", "author__name"),
    "flat": lambda: Note.objects.values_list("id", flat=True),
    "named": lambda: Note.objects.values_list("title", "id", named=True),
    "annotation first": lambda: Note.objects.annotate(u=Upper("title")).values_list(
        "u", "title", "id"
    ),
    "expressions": lambda: Note.objects.values_list(Upper("title"), "id", F("author_id") + 1),
    "aggregates": lambda: (
        Note.objects.values_list("author__name").annotate(n=Count("id")).order_by("-n")
    ),
    "alias": lambda: Note.objects.alias(u=Upper("title")).order_by("-u").values_list("id"),
    "filtered relation": lambda: Author.objects.annotate(
        firsts=FilteredRelation("note", condition=Q(note__title__endswith="1"))
    ).values_list("name", "firsts__title"),
    "window": lambda: Note.objects.annotate(
        number=Window(RowNumber(), order_by=F("title").desc())
    ).filter(number__lte=1),
    "JSON": lambda: Note.objects.values_list(
        Value({"a": [1]}, output_field=models.JSONField()), "id"
    ),
    "extra": lambda: Note.objects.extra(select={"e": "1 + 1"}).values_list("e", "title"),
    "extra left out": lambda: Note.objects.extra(
        select={"e": "-app_note.id"}, order_by=["e"]
    ).values_list("title"),
    "union": lambda: (
        Note.objects.filter(title__endswith="1")
        .union(Note.objects.all(), all=True)
        .order_by("-title")
        .values_list("title", "id")
    ),
    "intersection": lambda: Note.objects.values_list("id").intersection(
        Note.objects.values_list("id")
    ),
    "difference": lambda: Note.objects.values_list("id").difference(
        Note.objects.filter(title__endswith="1")
    ),
    "dates": lambda: User.objects.dates("date_joined", "day"),
    "slice": lambda: Note.objects.order_by("-id")[1:].values_list("id"),
    "none": lambda: Note.objects.none(),
    "empty": lambda: Note.objects.filter(pk__in=[]),
    "a table that is shared": lambda: Shared.objects.values_list("text", "note__title"),
}


@pytest.fixture(autouse=True)
async def pools(tenants: Tenants) -> AsyncIterator[None]:
    await User.objects.acreate(username="u")
    yield
    await aclose_pools()


def expected(queryset: Any) -> list[tuple[Any, ...]]:
    """Return Django's rows; those of a queryset that makes no tuples are of ``values_list()``."""
    if queryset.query.combinator or queryset.query.values_select or queryset.query.annotations:
        rows = list(queryset)
        if not rows or not isinstance(rows[0], models.Model):
            return [as_tuple(row) for row in rows]
    return list(queryset.values_list())


def as_tuple(row: Any) -> tuple[Any, ...]:
    if isinstance(row, dict):
        return tuple(row.values())
    return tuple(row) if isinstance(row, tuple) else (row,)


@pytest.mark.parametrize("name", ROWS)
async def test_rows_are_those_of_django(name: str, tenants: Tenants) -> None:
    async with tenant_context(tenants[0].pk):
        rows = await sync_to_async(lambda: expected(ROWS[name]()))()
        assert await arows(ROWS[name]()) == rows
    assert rows or name in ("none", "empty", "a table that is shared", "inherited")


async def test_deferred_fields_are_left_out(tenants: Tenants) -> None:
    async with tenant_context(tenants[0].pk):
        [first, second] = await arows(Note.objects.only("title"))
    assert first[1:] == ("A 1",)
    assert second[1:] == ("A 2",)


async def test_a_composite_primary_key_is_a_tuple(tenants: Tenants) -> None:
    with isolate_apps("tests.app"):

        class Pair(models.Model):
            pk = models.CompositePrimaryKey("tenant_id", "id")
            tenant_id = models.BigIntegerField()
            id = models.BigIntegerField()
            title = models.TextField()

            class Meta:
                app_label = "app"
                managed = False
                db_table = "app_note"

    newest: Any = models.QuerySet(Pair).order_by("-title")
    async with tenant_context(tenants[0].pk):
        for pairs in (
            newest.values_list("pk", "title"),
            newest.distinct().values_list("pk"),
        ):
            rows = await sync_to_async(lambda pairs=pairs: list(pairs))()
            assert isinstance(rows[0][0], tuple)
            assert await arows(pairs) == rows


async def test_the_row_factory_of_the_connection_does_not_matter(tenants: Tenants) -> None:
    async with tenant_context(tenants[0].pk), aconnection() as connection:
        connection.row_factory = dict_row
        assert await arows(Note.objects.values_list("title"), connection) == [("A 1",), ("A 2",)]


async def test_rows_are_locked_in_the_transaction_of_a_connection(tenants: Tenants) -> None:
    locked = Note.objects.select_for_update()
    async with tenant_context(tenants[0].pk):
        async with aconnection() as connection, aconnection() as other:
            assert len(await arows(locked.order_by("id"), connection)) == 2
            assert await arows(locked.select_for_update(skip_locked=True), other) == []
        async with aconnection() as connection:
            await connection.set_autocommit(True)
            with pytest.raises(TransactionManagementError, match="outside of a transaction"):
                await arows(locked, connection)
            async with connection.transaction():
                assert len(await arows(locked, connection)) == 2
        with pytest.raises(TransactionManagementError, match="outside of a transaction"):
            await arows(locked)
