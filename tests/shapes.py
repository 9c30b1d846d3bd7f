"""Queries of every shape, and the rows of each binding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    FilteredRelation,
    OuterRef,
    Prefetch,
    Q,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Coalesce, RowNumber

from tests.app.models import (
    Author,
    Book,
    Item,
    Label,
    Note,
    Payment,
    Shared,
    Tag,
    Tagging,
)

Rows = list[Any]
AT_IMPORT = Note.objects.all()
BLUE = Tag.objects.filter(name__endswith="blue")


@dataclass(frozen=True)
class Shape:
    """A way to read rows, and what a tenant, the admin and nobody get.

    "{}" in a row stands for the tenant's name, "{key}" for its key. The admin gets the rows of both
    tenants unless said otherwise.
    """

    read: Callable[[], Any]
    rows: Rows
    admin: Rows | None = None
    unbound: Rows | None = None
    sql: str = ""

    def expected(self, binding: str) -> Rows:
        if binding == "unbound":
            return self.unbound or []
        if binding != "admin":
            return filled(self.rows, binding)
        if self.admin is not None:
            return self.admin
        return sorted(filled(self.rows, "A") + filled(self.rows, "B"))


def filled(rows: Rows, name: str) -> Rows:
    key = " AB".index(name)
    return [
        row.replace("{key}", str(key)).replace("{}", name) if isinstance(row, str) else row
        for row in rows
    ]


def names(queryset: Any, *fields: str) -> Rows:
    """Return what a queryset's rows say, as text."""
    rows = queryset.values_list(*(fields or ("name",)))
    return sorted("/".join(map(str, row)) for row in rows)


def texts(values: Any) -> Rows:
    return sorted(map(str, values))


NOTES = ["{} 1", "{} 2"]
ITEMS = ["{} book", "{} new", "{} old"]


def author_of(note: Note | None) -> str | None:
    return note.author.name if note and note.author else None


def notes_with_parents() -> Rows:
    notes = Note.objects.select_related("parent__author", "author")
    return texts(f"{note.title}/{author_of(note)}/{author_of(note.parent)}" for note in notes)


def shared_chain() -> Rows:
    shared = list(Shared.objects.select_related("note__parent__author"))
    found = [
        f"{row.text}/{row.note.title}/{author_of(row.note.parent)}" for row in shared if row.note
    ]
    return texts([*found, f"{len(shared) - len(found)} missing"])


def prefetched() -> Rows:
    red = Prefetch("tags", Tag.objects.filter(name__endswith="red"), to_attr="red")
    items = Item.objects.prefetch_related(red, "tagging_set__tag", "item_set", "comments__about")
    return texts(
        f"{item.name}/{[tag.name for tag in item.red]}"
        f"/{len(item.tagging_set.all())}/{[other.name for other in item.item_set.all()]}"
        f"/{[comment.about.name for comment in item.comments.all()]}"
        for item in items
    )


def sliced_prefetch() -> Rows:
    first = Prefetch("note_set", Note.objects.order_by("-title")[:1], to_attr="last")
    authors = Author.objects.prefetch_related(first)
    return texts(note.title for author in authors for note in author.last)


def explained() -> Rows:
    [plan] = json.loads(Note.objects.filter(title__contains="1").explain(format="json"))
    return list(plan)


def read_in_bulk() -> Rows:
    keys = list(range(1, 20))
    return texts(item.name for item in Item.objects.in_bulk(keys).values())


def by_relation() -> Rows:
    return [
        str(related)
        for item in Item.objects.filter(name__endswith="new")
        for related in (item.replaces.name, *names(item.tags.all()))
    ]


SHAPES = {
    "plain": Shape(lambda: names(Item.objects.all()), ITEMS),
    "at import": Shape(lambda: names(AT_IMPORT.all(), "title"), NOTES),
    "base manager": Shape(lambda: names(Item._base_manager.all()), ITEMS),
    "own columns": Shape(lambda: names(Label.objects.all(), "text"), ["{} label"]),
    "negated OR": Shape(
        lambda: names(Item.objects.exclude(Q(name="A old") | Q(name="B old") | ~Q(pk__gt=0))),
        ["{} book", "{} new"],
    ),
    "combined with |": Shape(
        lambda: names(
            Item.objects.filter(name__endswith="old") | Item.objects.filter(tags__in=BLUE)
        ),
        ["{} new", "{} old"],
    ),
    "every row": Shape(lambda: names(Item.objects.filter(~Q(pk__in=[]))), ITEMS),
    "no row": Shape(lambda: names(Item.objects.filter(pk__in=[])), []),
    "select_related over nullable hops": Shape(
        notes_with_parents, ["{} 1/author of {}/None", "{} 2/None/author of {}"]
    ),
    "nullable hops from a shared table": Shape(
        shared_chain,
        ["2 missing", "on {} 1/{} 1/None", "on {} 2/{} 2/author of {}"],
        admin=[
            "0 missing",
            "on A 1/A 1/None",
            "on A 2/A 2/author of A",
            "on B 1/B 1/None",
            "on B 2/B 2/author of B",
        ],
        unbound=["4 missing"],
    ),
    "inner join": Shape(
        lambda: names(Note.objects.filter(parent__author__name__gt=""), "title"), ["{} 2"]
    ),
    "missing on the other side": Shape(
        lambda: names(Item.objects.filter(item__isnull=True)), ["{} book", "{} new"]
    ),
    "reverse join": Shape(
        lambda: names(Author.objects.filter(note__title__endswith="1")), ["author of {}"]
    ),
    "excluded reverse join": Shape(
        lambda: names(Item.objects.exclude(tagging__weight=2)), ["{} book"]
    ),
    "excluded over several hops": Shape(
        lambda: names(Author.objects.exclude(note__note__author__name="x")), ["author of {}"]
    ),
    "excluded through a nullable join": Shape(
        lambda: names(Note.objects.exclude(parent__note__title__endswith="2"), "title"), ["{} 1"]
    ),
    "M2M": Shape(lambda: names(Item.objects.filter(tags__name__endswith="blue")), ["{} new"]),
    "M2M, excluded": Shape(
        lambda: names(Item.objects.exclude(tags__name__endswith="blue")), ["{} book", "{} old"]
    ),
    "M2M, the other way": Shape(
        lambda: names(Tag.objects.filter(item__replaces__name__endswith="old").distinct()),
        ["{} blue", "{} red"],
    ),
    "related managers": Shape(lambda: texts(by_relation()), ["{} blue", "{} old", "{} red"]),
    "FilteredRelation": Shape(
        lambda: names(
            Item.objects.annotate(
                odd=FilteredRelation("comments", condition=Q(comments__text__endswith="%d"))
            ).filter(odd__isnull=True, name__contains=" ")
        ),
        ITEMS,
    ),
    "FilteredRelation, selected": Shape(
        lambda: names(
            Item.objects.annotate(
                heavy=FilteredRelation("tagging", condition=Q(tagging__weight__gt=1))
            ).filter(name__contains=" "),
            "name",
            "heavy__tag__name",
        ),
        ["{} book/None", "{} new/{} blue", "{} new/{} red", "{} old/{} red"],
    ),
    "FilteredRelation behind a join": Shape(
        lambda: names(
            Item.objects.filter(replaces__tags__name__endswith="red")
            .annotate(odd=FilteredRelation("comments", condition=Q(comments__text__endswith="%d")))
            .filter(odd__isnull=True)
        ),
        ["{} new"],
    ),
    "prefetch_related": Shape(
        prefetched,
        [
            "{} book/[]/0/[]/[]",
            "{} new/['{} red']/2/[]/[]",
            "{} old/['{} red']/1/['{} new']/['{} old']",
        ],
    ),
    "sliced Prefetch": Shape(sliced_prefetch, ["{} 1"]),
    "Exists": Shape(
        lambda: names(
            Item.objects.filter(Exists(Tagging.objects.filter(item=OuterRef("pk"), weight=2)))
        ),
        ["{} new", "{} old"],
    ),
    "not Exists": Shape(
        lambda: names(Item.objects.filter(~Exists(BLUE.filter(item=OuterRef("pk"))))),
        ["{} book", "{} old"],
    ),
    "Subquery": Shape(
        lambda: names(
            Author.objects.annotate(
                last=Subquery(
                    Note.objects.filter(author=OuterRef("pk")).order_by("-id").values("title")[:1]
                )
            ),
            "last",
        ),
        ["{} 1"],
    ),
    "IN a queryset": Shape(
        lambda: names(Tag.objects.filter(pk__in=Tagging.objects.values("tag"))),
        ["{} blue", "{} red"],
    ),
    "union": Shape(
        lambda: texts(
            name
            for (name,) in Item.objects.filter(name__endswith="old")
            .values_list("name")
            .union(BLUE.values_list("name"), all=True)
            .order_by("name")
        ),
        ["{} blue", "{} old"],
    ),
    "intersection": Shape(
        lambda: texts(
            item.name
            for item in Item.objects.filter(pk__gt=0).intersection(
                Item.objects.filter(name__endswith="old")
            )
        ),
        ["{} old"],
    ),
    "difference, sliced": Shape(
        lambda: texts(
            item.name
            for item in Item.objects.order_by("name").difference(
                Item.objects.filter(name__endswith="old")
            )[:9]
        ),
        ["{} book", "{} new"],
    ),
    "annotate": Shape(
        lambda: names(
            Item.objects.annotate(n=Count("tags"), w=Coalesce(Sum("tagging__weight"), 0)),
            "name",
            "n",
            "w",
        ),
        ["{} book/0/0", "{} new/2/4", "{} old/1/2"],
    ),
    "HAVING with OR": Shape(
        lambda: names(
            Item.objects.annotate(n=Count("tags")).filter(Q(n__gt=1) | Q(name__endswith="k"))
        ),
        ["{} book", "{} new"],
    ),
    "aggregate": Shape(
        lambda: [Payment.objects.aggregate(n=Sum("amount"))["n"]], [30], admin=[60], unbound=[None]
    ),
    "aggregate over a subquery": Shape(
        lambda: [
            Item.objects.annotate(n=Count("tags")).distinct()[:9].aggregate(mean=Avg("n"))["mean"]
        ],
        [1.0],
        admin=[1.0],
        unbound=[None],
    ),
    "count and exists": Shape(
        lambda: [Item.objects.count(), Item.objects.filter(tags__name__gt="").exists()],
        [3, True],
        admin=[6, True],
        unbound=[0, False],
    ),
    "values with a group": Shape(
        lambda: names(
            Tagging.objects.values("item__name").annotate(n=Count("*")), "item__name", "n"
        ),
        ["{} new/2", "{} old/1"],
    ),
    "distinct": Shape(
        lambda: names(Tag.objects.filter(item__gt=0).distinct()), ["{} blue", "{} red"]
    ),
    "DISTINCT ON": Shape(
        lambda: names(Tagging.objects.order_by("item", "-tag__name").distinct("item"), "tag__name"),
        ["{} red", "{} red"],
    ),
    "conditional expressions": Shape(
        lambda: names(
            Note.objects.annotate(
                kind=Case(
                    When(parent__author__name__gt="", then=Value("child")), default=Value("root")
                )
            ),
            "title",
            "kind",
        ),
        ["{} 1/root", "{} 2/child"],
    ),
    "locked": Shape(
        lambda: texts(
            note.title
            for note in Note.objects.select_related("author", "parent").select_for_update(
                of=("self",)
            )
        ),
        NOTES,
        sql='FOR UPDATE OF "app_note"',
    ),
    "locked with a parent": Shape(
        lambda: texts(
            book.name for book in Book.objects.select_for_update(of=("self", "item_ptr"))
        ),
        ["{} book"],
        sql='FOR UPDATE OF "app_book", "app_item"',
    ),
    "in_bulk": Shape(read_in_bulk, ITEMS),
    "iterator": Shape(
        lambda: texts(
            len(item.tags.all()) for item in Item.objects.prefetch_related("tags").iterator(1)
        ),
        ["0", "1", "2"],
    ),
    "explain": Shape(
        explained, ["Plan"], admin=["Plan"], unbound=["Plan"], sql="EXPLAIN (FORMAT json)"
    ),
    "raw": Shape(
        lambda: texts(
            item.tags.count()
            for item in Item.objects.raw("SELECT i.id FROM app_item i /* policy */ ORDER BY id")
        ),
        ["0", "1", "2"],
    ),
    "extra": Shape(
        lambda: texts(
            (item.name, item.tag)
            for item in Item.objects.extra(
                select={"tag": "app_tag.name"},
                tables=["app_tagging", "app_tag"],
                where=[
                    "app_tagging.item_id = app_item.id",
                    "app_tagging.tag_id = app_tag.id",
                    "app_tag.name LIKE %s OR false",
                ],
                params=["%blue"],
            )
        ),
        ["('{} new', '{} blue')"],
    ),
    "window": Shape(
        lambda: names(
            Tagging.objects.annotate(
                n=Window(RowNumber(), partition_by="item", order_by="-tag__name")
            ).filter(n=1, weight=2),
            "item__name",
            "tag__name",
            "n",
        ),
        ["{} new/{} red/1", "{} old/{} red/1"],
    ),
}
