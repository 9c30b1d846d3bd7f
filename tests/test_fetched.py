"""Rows that a queryset keeps, in a module or in a cache, and who may read them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache
from django.db import models
from django.db.models import F

from tenantry import admin_context, tenant_context
from tenantry.binding import Binding
from tenantry.context import Scope
from tenantry.exceptions import ScopeError
from tests.app.models import Author, Comment, Note, Tenant
from tests.scoping import sent

Tenants = tuple[Tenant, Tenant]

READS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "len": len,
    "bool": bool,
    "index": lambda notes: notes[0],
    "slice": lambda notes: notes[:1],
    "first": lambda notes: notes.order_by("pk").first() and notes[0],
    "in": lambda notes: None in notes,
    "count": lambda notes: notes.count(),
    "exists": lambda notes: notes.exists(),
    "contains": lambda notes: notes.contains(Note(pk=1)),
    "iterate": lambda notes: next(iter(notes)),
    "pickle": pickle.dumps,
}


def fetched(**conditions: Any) -> Any:
    """Return a queryset that keeps its rows."""
    notes = Note.objects.filter(**conditions).order_by("pk")
    assert len(notes)
    return notes


@pytest.mark.parametrize("read", READS)
def test_rows_of_one_tenant_are_not_read_as_another(read: str, tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        notes = fetched()
        READS[read](notes)
    with (
        tenant_context(b.pk),
        pytest.raises(ScopeError, match=f"as tenant {a.pk}, and are read as tenant {b.pk}"),
    ):
        READS[read](notes)
    with tenant_context(b.pk):
        assert {note.tenant_id for note in notes.all()} == {b.pk}
        assert not notes.all().contains(Note(pk=1))
    with tenant_context(a.pk):
        READS[read](notes)
        assert {note.tenant_id for note in notes} == {a.pk}


async def test_nor_asynchronously(tenants: Tenants) -> None:
    a, b = tenants
    async with tenant_context(a.pk):
        notes = Note.objects.all()
        assert [note.tenant_id async for note in notes] == [a.pk] * 2
    async with tenant_context(b.pk):
        with pytest.raises(ScopeError, match="call all"):
            [note async for note in notes]
        with pytest.raises(ScopeError, match="call all"):
            await notes.acount()
        with pytest.raises(ScopeError, match="call all"):
            await notes.acontains(Note(pk=1))


@pytest.mark.parametrize("values", [False, True])
def test_a_queryset_in_a_cache_keeps_whose_rows_it_has(values: bool, tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        notes = Note.objects.values_list("title") if values else Note.objects.all()
        cache.set("notes", notes)
    with tenant_context(a.pk):
        assert len(cache.get("notes")) == 2
    with tenant_context(b.pk), pytest.raises(ScopeError, match=f"as tenant {a.pk}"):
        list(cache.get("notes"))
    with tenant_context(b.pk):
        assert len(cache.get("notes").all()) == 2


def test_rows_of_all_are_read_as_no_tenant(tenants: Tenants) -> None:
    a, b = tenants
    with admin_context():
        notes = fetched()
        with tenant_context(a.pk), pytest.raises(ScopeError, match="as admin"):
            list(notes)
        assert {note.tenant_id for note in notes} == {a.pk, b.pk}
    with Scope(Binding(bypass="login")):
        notes = Note.objects.all()
        assert list(notes) == []
    with tenant_context(a.pk):
        with pytest.raises(ScopeError, match="as login"):
            list(notes)
        assert len(notes.all()) == 2


@pytest.mark.parametrize("read", READS)
def test_the_admin_and_who_is_handed_them_may_read_them(read: str, tenants: Tenants) -> None:
    a, _ = tenants
    with tenant_context(a.pk):
        notes = fetched()
        with admin_context():
            READS[read](notes)
        with Scope(Binding(tenant_id=a.pk, read_only=True)):
            READS[read](notes)
    READS[read](notes)
    assert {note.tenant_id for note in notes} == {a.pk}


def test_what_a_tenant_may_not_read_it_may_still_build_on(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        notes = fetched()
    with tenant_context(b.pk):
        assert notes.filter(title__startswith="A").count() == 0
        assert {note.tenant_id for note in notes | Note.objects.all()} == {b.pk}
        assert notes.create(title="new").tenant_id == b.pk
        assert {note.tenant_id for note in notes.iterator()} == {b.pk}
        assert notes.filter(title="new").update(title="changed") == 1


def test_nor_may_who_may_read_some_tables_only(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        notes = fetched()
    with Scope(Binding(bypass="login")), pytest.raises(ScopeError, match="and are read as"):
        len(notes)


@pytest.mark.parametrize("write", ["update", "delete"])
def test_what_was_written_keeps_no_rows(write: str, tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        notes = fetched()
        if write == "update":
            notes.update(title=F("title"))
        else:
            notes.delete()
    with tenant_context(b.pk):
        assert notes.count() == 2
        assert notes.exists()
        assert {note.tenant_id for note in notes} == {b.pk}


def test_rows_of_a_user_are_read_anywhere(tenants: Tenants) -> None:
    a, b = tenants

    class Someone:
        is_authenticated = True
        is_tenant_admin = False
        rls_tenant_id = a.pk

    with admin_context():
        notes = Note.objects.for_user(Someone())
        assert len(notes) == 2
    with tenant_context(b.pk):
        assert {note.tenant_id for note in notes} == {a.pk}


def test_prefetched_rows_are_those_of_their_instance(tenants: Tenants) -> None:
    with admin_context():
        authors = list(Author.objects.prefetch_related("note_set"))
    for author in authors:
        with tenant_context(author.tenant_id):
            assert {note.tenant_id for note in author.note_set.all()} == {author.tenant_id}


def test_what_was_empty_for_nobody_is_nobodys(tenants: Tenants) -> None:
    notes = Note.objects.all()
    assert list(notes) == []
    with tenant_context(tenants[0].pk):
        assert list(notes) == []
        assert len(notes.all()) == 2


# Since Django 6.1 the first of several rows may ask for what all of them refer to.
MODES = ["", *(name for name in ["FETCH_PEERS"] if hasattr(models, name))]


@pytest.mark.parametrize("fetch", [list, lambda notes: list(notes.iterator())])
@pytest.mark.parametrize("mode", MODES)
def test_what_rows_refer_to_is_read_in_any_scope(
    mode: str, fetch: Callable[[Any], list[Any]], tenants: Tenants
) -> None:
    a, b = tenants
    notes: Any = Note.objects.order_by("pk")
    if mode:
        notes = notes.fetch_mode(getattr(models, mode))
    with admin_context():
        rows = [*fetch(notes), *pickle.loads(pickle.dumps(fetch(notes.all())))]
    for row in rows:
        # The first reader is another tenant.
        with (
            tenant_context(b.pk if row.tenant_id == a.pk else a.pk),
            pytest.raises(Author.DoesNotExist),
        ):
            assert row.author
    for row in rows:
        with tenant_context(row.tenant_id):
            assert row.author.tenant_id == row.tenant_id


@pytest.mark.parametrize("mode", MODES)
def test_peers_are_read_at_once_in_the_scope_that_fetched_them(mode: str, tenants: Tenants) -> None:
    a, _ = tenants
    notes: Any = Note.objects.order_by("pk")
    authors: Any = Author.objects.all()
    if mode:
        notes, authors = (each.fetch_mode(getattr(models, mode)) for each in (notes, authors))
    with tenant_context(a.pk):
        assert len(notes) == 2
        author = authors.get()
    with admin_context():
        # Who has fetched them before makes no difference.
        rows = list(notes.all())
        assert len(sent(lambda: [row.author for row in rows])) == (1 if mode else 4)
        assert [row.author.tenant_id == row.tenant_id for row in rows] == [True] * 4
        rows = list(author.note_set.all())
        assert len(sent(lambda: [row.tenant for row in rows])) == (1 if mode else 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_generic_relation_that_was_not_found_stays_so(mode: str, tenants: Tenants) -> None:
    """Which is documented."""
    a, b = tenants
    with tenant_context(a.pk):
        Comment.objects.create(text="x", about=Note.objects.first())
        comments: Any = Comment.objects.all()
        if mode:
            comments = comments.fetch_mode(getattr(models, mode))
        comment = comments.get()
    with tenant_context(b.pk):
        assert comment.about is None
    with tenant_context(a.pk):
        assert comment.about is None
        assert comments.get().about.tenant_id == a.pk
