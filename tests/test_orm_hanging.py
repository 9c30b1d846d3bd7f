"""Queries of tables without a tenant of their own: the rows are the policy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef

from tenantry import admin_context, tenant_context
from tests.fix_hanging import Hanging
from tests.scoping import COMPARED, OFF, Tenants, atomically, bindings, sent
from tests.shapes import Rows, Shape, names, texts

Read = Callable[[Hanging], Any]
Check = Callable[[str, Shape], None]


def changed(change: Callable[[], Any], of: Any) -> Rows:
    """Return what a change returns, and the rows after it, and undo it."""
    with transaction.atomic():
        count = change()
        found = [count, *names(of.objects.all())]
        transaction.set_rollback(True)
    return found


def selected(models: Hanging) -> Rows:
    lines = models.line.objects.select_related("up__item")
    return texts(f"{line.name}/{line.up and line.up.item.name}" for line in lines)


def updated_in_bulk(models: Hanging) -> Rows:
    with admin_context():
        lines = list(models.line.objects.all())
    for line in lines:
        line.name = "changed"
    return changed(lambda: models.line.objects.bulk_update(lines, ["name"]), models.line)


def updated(models: Hanging) -> Rows:
    lines = models.line.objects.filter(words__name__endswith="word", item__name__gt="")
    return changed(lambda: lines.update(name="changed"), models.line)


def deleted(models: Hanging) -> Rows:
    lines = models.line.objects.filter(item__replaces__name__endswith="old")
    return changed(lambda: lines.delete()[0], models.line)


SHAPES: dict[str, tuple[Read, dict[str, Any]]] = {
    "a path": (lambda m: names(m.line.objects.all()), {"rows": ["{} first", "{} second"]}),
    "a path of two": (
        lambda m: names(m.word.objects.filter(line__up__name__endswith="first")),
        {"rows": ["{} word"]},
    ),
    "LEFT JOIN over a path": (
        lambda m: names(m.item.objects.all(), "name", "lines__name", "lines__words__name"),
        {"rows": ["{} book/None/None", "{} new/{} second/{} word", "{} old/{} first/None"]},
    ),
    "INNER JOIN over a path": (
        lambda m: names(m.item.objects.filter(lines__downs__name__gt="")),
        {"rows": ["{} old"]},
    ),
    "select_related over a path": (selected, {"rows": ["{} first/None", "{} second/{} old"]}),
    "excluded": (
        lambda m: names(m.item.objects.exclude(lines__name__endswith="first")),
        {"rows": ["{} book", "{} new"]},
    ),
    "excluded on the path": (
        lambda m: names(m.line.objects.exclude(item__replaces__name__endswith="old")),
        {"rows": ["{} first"]},
    ),
    "Exists": (
        lambda m: names(m.line.objects.filter(Exists(m.word.objects.filter(line=OuterRef("pk"))))),
        {"rows": ["{} second"]},
    ),
    "not Exists": (
        lambda m: names(m.item.objects.filter(~Exists(m.line.objects.filter(item=OuterRef("pk"))))),
        {"rows": ["{} book"]},
    ),
    "locked": (
        lambda m: names(m.line.objects.select_for_update()),
        {"rows": ["{} first", "{} second"], "sql": "FOR UPDATE"},
    ),
    "locked with what it refers to": (
        lambda m: texts(
            line.name
            for line in m.line.objects.filter(item__name__gt="")
            .select_related("item")
            .select_for_update(of=("self", "item"))
        ),
        {"rows": ["{} first", "{} second"], "sql": "FOR UPDATE OF"},
    ),
    "UPDATE with a join": (
        updated,
        {
            "rows": [1, "{} first", "changed"],
            "admin": [2, "A first", "B first", "changed", "changed"],
        },
    ),
    "bulk_update": (
        updated_in_bulk,
        {"rows": [2, *["changed"] * 2], "admin": [4, *["changed"] * 4]},
    ),
    "DELETE with a join": (
        deleted,
        {"rows": [2, "{} first"], "admin": [4, "A first", "B first"]},
    ),
    "M2M, LEFT JOIN": (
        lambda m: names(m.tag.objects.all(), "name", "shelves__name"),
        {"rows": ["{} blue/None", "{} red/{} shelf"]},
    ),
    "M2M, INNER JOIN": (
        lambda m: names(m.shelf.objects.filter(tags__item__lines__name__endswith="second")),
        {"rows": ["{} shelf"]},
    ),
    "M2M, excluded": (
        lambda m: names(m.tag.objects.exclude(shelves__name__endswith="shelf")),
        {"rows": ["{} blue"]},
    ),
    "M2M, Exists": (
        lambda m: names(m.tag.objects.filter(Exists(m.shelf.objects.filter(tags=OuterRef("pk"))))),
        {"rows": ["{} red"]},
    ),
    "M2M, the rows that relate": (
        lambda m: [m.shelf.tags.through.objects.count()],
        {"rows": [1], "admin": [2]},
    ),
    "M2M, prefetched": (
        lambda m: texts(
            (shelf.name, [tag.name for tag in shelf.tags.all()])
            for shelf in m.shelf.objects.prefetch_related("tags")
        ),
        {"rows": ["('{} shelf', ['{} red'])"]},
    ),
}
COUNTED = {"UPDATE with a join", "bulk_update", "DELETE with a join", "M2M, the rows that relate"}


@pytest.fixture
def check(library: Tenants, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that reads in each binding, with the predicate and without."""

    def check_in_each(name: str, shape: Shape) -> None:
        for binding, _, scope in bindings(library):
            seen: list[Any] = []
            with scope:
                statements = sent(partial(read_into, seen, shape))
                with monkeypatch.context() as patch:
                    patch.setattr(OFF, lambda apps: {})
                    alone = sent(partial(read_into, seen, shape))
            wanted = shape.expected(binding)
            assert seen == [wanted, wanted], (name, binding)
            assert not [sql for sql in alone if COMPARED.search(sql)]
            # The table of a relation has no column to compare.
            compares = binding != "admin" and name != "M2M, the rows that relate"
            assert any(map(COMPARED.search, statements)) is compares, statements
            assert shape.sql in "".join(statements)

    return check_in_each


def read_into(seen: list[Any], shape: Shape) -> None:
    seen.append(atomically(shape.read))


def test_shapes(hanging: Hanging, check: Check) -> None:
    """In one test, for the tables are made for it."""
    for name, (read, expected) in SHAPES.items():
        unbound = [0] if name in COUNTED else None
        check(name, Shape(partial(read, hanging), **expected, unbound=unbound))


def test_what_a_path_that_may_be_null_leads_to_is_not_deleted(hanging: Hanging) -> None:
    """Check W153 finds such a path: Django deletes the item before the line, which is then hidden.

    Words, to which nothing refers, go first.
    """
    with tenant_context(1):
        with pytest.raises(IntegrityError, match='on table "migrated_line"'):
            hanging.item.objects.get(name="A new").delete()
        assert hanging.line.objects.get(name="A second").delete()[0] == 2
        assert hanging.item.objects.get(name="A new").delete()[1]["app.Item"] == 1
