"""Writes of every shape: each protected table is scoped, and other tenants' rows stay."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.core.management.color import no_style
from django.db import DatabaseError, ProgrammingError, connections, transaction
from django.db.models import F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Concat

from tenantry import admin_context, tenant_context
from tests.app.models import (
    Author,
    Book,
    Comment,
    Contract,
    Invoice,
    Item,
    Note,
    Shared,
    Tag,
    Tagging,
)
from tests.scoping import COMPARED, OFF, Tenants, atomically, bindings, sent, unscoped

# Everything that the writes change, as (tenant, table, row).
CONTENT = """
SELECT tenant_id, 'author', name FROM app_author
UNION ALL SELECT n.tenant_id, 'note', n.title || '/' || coalesce(p.title, '-')
  FROM app_note n LEFT JOIN app_note p ON p.id = n.parent_id
UNION ALL SELECT i.tenant_id, 'item', concat_ws('/', i.name, o.name)
  FROM app_item i LEFT JOIN app_item o ON o.id = i.replaces_id
UNION ALL SELECT i.tenant_id, 'book', b.pages::text
  FROM app_book b JOIN app_item i ON i.id = b.item_ptr_id
UNION ALL SELECT tenant_id, 'tag', name FROM app_tag
UNION ALL SELECT g.tenant_id, 'tagging', concat_ws('/', i.name, t.name, g.weight)
  FROM app_tagging g JOIN app_item i ON i.id = g.item_id JOIN app_tag t ON t.id = g.tag_id
UNION ALL SELECT tenant_id, 'comment', text FROM app_comment
UNION ALL SELECT tenant_id, 'invoice', concat_ws('/', number, total) FROM app_invoice
UNION ALL SELECT c.tenant_id, 'contract', concat_ws('/', d.text, c.value)
  FROM app_contract c JOIN app_document d ON d.id = c.document_ptr_id
"""
Content = set[tuple[int, str, str]]


@dataclass(frozen=True)
class Write:
    """A way to change rows of each tenant it can see; `gone` and `new` are what is different.

    "{}" stands for the tenant's name, "{key}" for its key.
    """

    write: Callable[[], Any]
    gone: list[str]
    new: list[str]


def again(item: Item) -> None:
    item.name += "er"
    item.save()


def save_each() -> None:
    for item in Item.objects.filter(name__endswith="old"):
        again(item)


def save_child() -> None:
    for book in Book.objects.all():
        book.pages += 1
        again(book)


def update_in_bulk() -> None:
    items = list(Item.objects.filter(tags__name__endswith="blue"))
    for item in items:
        item.name += "!"
    Item.objects.bulk_update(items, ["name"])


def update_composite() -> None:
    invoices = list(Invoice.objects.filter(number=1))
    for invoice in invoices:
        invoice.total += 1
    Invoice.objects.bulk_update(invoices, ["total"])


def delete_each() -> None:
    for item in Item.objects.filter(name__endswith="old"):
        item.delete()


def clear_tags() -> None:
    for tag in Tag.objects.filter(name__endswith="red"):
        tag.item_set.clear()


NEW_TAGGINGS = ["tagging {} new/{} red/2", "tagging {} new/{} blue/2"]
WRITES = {
    "update": Write(
        lambda: Note.objects.update(title=Concat("title", Value("!"))),
        ["note {} 1/-", "note {} 2/{} 1"],
        ["note {} 1!/-", "note {} 2!/{} 1!"],
    ),
    "update with a join": Write(
        lambda: Note.objects.filter(parent__author__name__startswith="author").update(parent=None),
        ["note {} 2/{} 1"],
        ["note {} 2/-"],
    ),
    "update with a negated join": Write(
        lambda: Item.objects.exclude(tagging__weight=2).update(name="none"),
        ["item {} book"],
        ["item none"],
    ),
    "update with OR": Write(
        lambda: Tag.objects.filter(Q(name="A red") | Q(name="B red")).update(name="green"),
        ["tag {} red", "tagging {} old/{} red/2", "tagging {} new/{} red/2"],
        ["tag green", "tagging {} old/green/2", "tagging {} new/green/2"],
    ),
    "update from a subquery": Write(
        lambda: Item.objects.filter(replaces__gt=0).update(
            name=Subquery(Item.objects.filter(item=OuterRef("pk")).values("name")[:1])
        ),
        ["item {} new/{} old", *NEW_TAGGINGS],
        ["item {} old/{} old", "tagging {} old/{} blue/2"],
    ),
    "update of a parent and its child": Write(
        lambda: Book.objects.filter(name__endswith="book").update(
            name="read", pages=F("pages") + 1
        ),
        ["item {} book", "book {key}0"],
        ["item read", "book {key}1"],
    ),
    "update of a protected child and its shared parent": Write(
        lambda: Contract.objects.update(text="read", value=6),
        ["contract {} document/5"],
        ["contract read/6"],
    ),
    "save": Write(
        save_each,
        ["item {} old", "item {} new/{} old", "tagging {} old/{} red/2"],
        ["item {} older", "item {} new/{} older", "tagging {} older/{} red/2"],
    ),
    "save of a child": Write(
        save_child, ["item {} book", "book {key}0"], ["item {} booker", "book {key}1"]
    ),
    "bulk_update": Write(
        update_in_bulk,
        ["item {} new/{} old", *NEW_TAGGINGS],
        ["item {} new!/{} old", "tagging {} new!/{} red/2", "tagging {} new!/{} blue/2"],
    ),
    "bulk_update of composite keys": Write(update_composite, ["invoice 1/30"], ["invoice 1/31"]),
    "update of composite keys with a join": Write(
        lambda: Invoice.objects.filter(payments__amount=10).update(total=0),
        ["invoice 1/30"],
        ["invoice 1/0"],
    ),
    "delete with cascades": Write(
        lambda: Item.objects.filter(name__endswith="old").delete(),
        ["item {} old", "item {} new/{} old", "tagging {} old/{} red/2", "comment about {} old"],
        ["item {} new"],
    ),
    "delete of instances": Write(
        delete_each,
        ["item {} old", "item {} new/{} old", "tagging {} old/{} red/2", "comment about {} old"],
        ["item {} new"],
    ),
    "delete of children": Write(
        lambda: Book.objects.filter(name__endswith="book").delete(),
        ["item {} book", "book {key}0"],
        [],
    ),
    "fast delete": Write(lambda: Comment.objects.all().delete(), ["comment about {} old"], []),
    "fast delete with a join": Write(
        lambda: Tagging.objects.filter(item__replaces__name__gt="").delete(), NEW_TAGGINGS, []
    ),
    "fast delete of what is not": Write(
        lambda: Tagging.objects.exclude(item__item__name__endswith="new")._raw_delete("default"),
        NEW_TAGGINGS,
        [],
    ),
    "delete of composite keys with a join": Write(
        lambda: Invoice.objects.filter(payments__amount__gt=10)._raw_delete("default"),
        ["invoice 1/30"],
        [],
    ),
    "M2M clear": Write(clear_tags, ["tagging {} old/{} red/2", "tagging {} new/{} red/2"], []),
}


def filled(rows: list[str], key: int) -> Content:
    name = " AB"[key]
    texts = [row.replace("{key}", str(key)).replace("{}", name) for row in rows]
    return {(key, *text.partition(" ")[::2]) for text in texts}


@pytest.fixture
def content(superuser: psycopg.Connection[Any]) -> Callable[[], Content]:
    def read() -> Content:
        return set(superuser.execute(CONTENT).fetchall())

    return read


def written(write: Write) -> tuple[list[str], Content]:
    """Return the statements of a write, and all rows after it, and undo it."""
    with transaction.atomic():
        statements = sent(lambda: atomically(write.write))
        with admin_context(), connections["default"].cursor() as cursor:
            # What is deferred is checked too.
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(CONTENT)
            found = set(cursor.fetchall())
        transaction.set_rollback(True)
    return statements, found


@pytest.mark.parametrize("name", WRITES)
def test_write(
    name: str,
    library: Tenants,
    content: Callable[[], Content],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write, before = WRITES[name], content()
    for binding, value, scope in bindings(library):
        with scope:
            statements, after = written(write)
            with monkeypatch.context() as patch:
                patch.setattr(OFF, lambda apps: {})
                unfiltered, after_unfiltered = written(write)
        keys = {"A": [1], "B": [2], "admin": [1, 2], "unbound": []}[binding]
        gone: Content = set().union(*(filled(write.gone, key) for key in keys))
        new: Content = set().union(*(filled(write.new, key) for key in keys))
        for found in (after, after_unfiltered):
            assert (before - found, found - before) == (gone, new), binding
        if binding == "admin":
            unfiltered += statements
        else:
            assert [sql for sql in statements if unscoped(sql, value)] == []
        for sql in unfiltered:
            # What an instance saves is not what is asked for.
            asked = sql.partition(" WHERE ")[2] if sql.startswith("UPDATE") else sql
            assert not COMPARED.search(asked), sql


def notes(content: Content) -> set[str]:
    return {text.partition("/")[0] for _, table, text in content if table == "note"}


def upsert(title: str, tenant: int, **conflicts: Any) -> Callable[[], Any]:
    return lambda: Note.objects.bulk_create(
        [Note(title=title, tenant_id=tenant), Note(title=f"{title}?", tenant_id=tenant)],
        **conflicts,
    )


IGNORE = {"ignore_conflicts": True}
UPDATE = {
    "update_conflicts": True,
    "unique_fields": ["tenant", "title"],
    "update_fields": ["parent"],
}


@pytest.mark.parametrize("conflicts", [IGNORE, UPDATE], ids=["ignore", "update"])
def test_bulk_create_with_conflicts(
    conflicts: dict[str, Any], library: Tenants, content: Callable[[], Content]
) -> None:
    refused = []
    for binding, _, scope in bindings(library):
        with scope:
            for name, tenant in (("A", 1), ("B", 2)):
                try:
                    (sql,) = sent(upsert(f"{name} 2", tenant, **conflicts))
                except ProgrammingError as error:
                    assert "violates row-level security policy" in str(error)  # noqa: PT017
                    refused.append((binding, name))
                else:
                    assert not COMPARED.search(sql)
    assert refused == [("A", "B"), ("B", "A"), ("unbound", "A"), ("unbound", "B")]
    assert notes(content()) == {"A 1", "A 2", "A 2?", "B 1", "B 2", "B 2?"}
    parents = {row for row in content() if row[2].startswith(("A 2", "B 2"))}
    untouched = {(1, "note", "A 2/A 1"), (2, "note", "B 2/B 1")}
    assert (parents >= untouched) is (conflicts is IGNORE)


def test_a_conflict_with_a_row_of_another_tenant_is_refused(library: Tenants) -> None:
    with tenant_context(2):
        theirs = Note.objects.earliest("id").pk
    with tenant_context(1):
        mine = Note(pk=theirs, title="A 9", tenant_id=1)
        with pytest.raises(ProgrammingError, match="violates row-level security policy"):
            Note.objects.bulk_create(
                [mine], update_conflicts=True, unique_fields=["id"], update_fields=["title"]
            )
        # PostgreSQL looks at keys before policies, and so tells that the key is taken.
        Note.objects.bulk_create([mine], ignore_conflicts=True)
        assert not Note.objects.filter(title="A 9").exists()


def test_update_or_create(library: Tenants, content: Callable[[], Content]) -> None:
    made = {}
    for binding, value, scope in bindings(library):
        with scope:
            for name, tenant in (("A", 1), ("B", 2)):

                def write(name: str = name, tenant: int = tenant, binding: str = binding) -> None:
                    _, made[binding, name] = Note.objects.update_or_create(
                        title=f"{name} 1", tenant_id=tenant, defaults={"parent": None}
                    )

                try:
                    statements = sent(write)
                except DatabaseError as error:
                    assert isinstance(error, ProgrammingError)  # noqa: PT017
                    assert binding not in ("admin", name)
                else:
                    assert binding in ("admin", name)
                    assert statements[0].endswith("FOR UPDATE")
                    # The first one names the tenant itself.
                    compared = [len(COMPARED.findall(sql)) for sql in statements[:2]]
                    assert compared == ([1, 0] if binding == "admin" else [2, 1])
                    if value is not None:
                        assert [unscoped(sql, value) for sql in statements[:2]] == [{}, {}]
                        assert statements[1].endswith(f'AND "app_note"."tenant_id" = {value})')
    assert made == {
        ("A", "A"): False,
        ("B", "B"): False,
        ("admin", "A"): False,
        ("admin", "B"): False,
    }
    assert notes(content()) == {"A 1", "A 2", "B 1", "B 2"}


def test_get_or_create_finds_only_what_the_tenant_has(library: Tenants) -> None:
    for tenant in library:
        with tenant_context(tenant.pk):
            author, created = Author.objects.get_or_create(name="new", tenant=tenant)
            assert created
            assert Author.objects.get_or_create(name="new", defaults={"tenant": tenant}) == (
                author,
                False,
            )


def test_the_table_of_a_child_is_scoped_by_its_policy(
    library: Tenants, content: Callable[[], Content]
) -> None:
    """It has no column for the tenant. Django leaves the parent out where no column needs it."""
    with tenant_context(1):
        assert [book.name for book in Book.objects.all()] == ["A book"]
        assert Book.objects.filter(tenant__gt=0).count() == 1
        assert Book.objects.count() == 1
        assert not Book.objects.filter(pages=20).exists()
        (sql,) = sent(lambda: Book.objects.update(pages=5))
        assert sql == 'UPDATE "app_book" SET "pages" = 5'
    assert {row for row in content() if row[1] == "book"} == {(1, "book", "5"), (2, "book", "20")}


def test_sequences_are_not_moved_back_to_the_rows_that_are_seen(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        Author.objects.create(name="first")
    with tenant_context(b.pk):
        last = Author.objects.create(name="last").pk
    # Where the admin is a role, it may not move sequences, and is told.
    for scope in (nullcontext(), tenant_context(a.pk)):
        with scope, connections["owner"].cursor() as cursor:
            for sql in connections["owner"].ops.sequence_reset_sql(no_style(), [Author, Shared]):
                cursor.execute(sql)
        with tenant_context(a.pk):
            last, before = Author.objects.create(name="next").pk, last
            assert last == before + 1


def test_sequences_are_moved_up_to_the_rows_that_are_seen(tenants: Tenants) -> None:
    a, _ = tenants
    with tenant_context(a.pk):
        last = Author.objects.create(name="first").pk
        Author.objects.create(id=last + 10, name="loaded")
        with connections["owner"].cursor() as cursor:
            for sql in connections["owner"].ops.sequence_reset_sql(no_style(), [Author]):
                cursor.execute(sql)
        assert Author.objects.create(name="next").pk == last + 11
