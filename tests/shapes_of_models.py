"""Queries of models of every kind, and the rows of each binding."""

from __future__ import annotations

import pickle

from django.apps import apps
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState
from django.db.models import Manager, QuerySet, Sum

from tests import settings
from tests.app.models import Book, Comment, Contract, Document, Invoice, Item, NewestFirst, Payment
from tests.shapes import BLUE, Rows, Shape, names, texts


def unpickled() -> Rows:
    queryset = Item.objects.filter(tags__in=BLUE)
    queryset.query = pickle.loads(pickle.dumps(queryset.query))
    return names(queryset)


def in_a_migration() -> Rows:
    if settings.SHAPE == "guc":
        loader = MigrationExecutor(connections["default"]).loader
        state = loader.project_state(("app", "0002_library"))
    else:
        # The tables are not made by migrations.
        state = ProjectState.from_apps(apps)
    return names(state.apps.get_model("app", "Tagging").objects.all(), "item__name", "tag__name")


class Heaviest(Manager[Item]):
    """Be what packages bring: a manager that does not know about tenants."""

    def get_queryset(self) -> QuerySet[Item]:
        return super().get_queryset().annotate(total=Sum("tagging__weight"))


def heaviest() -> Rows:
    manager = Heaviest()
    manager.model = Item
    return names(manager.all(), "name", "total")


SHAPES = {
    "composite primary key": Shape(
        lambda: names(Invoice.objects.filter(pk__in=[(1, 1), (2, 1)]), "pk", "total"),
        ["({key}, 1)/30"],
    ),
    "joined by a composite key": Shape(
        lambda: names(Invoice.objects.annotate(paid=Sum("payments__amount")), "number", "paid"),
        ["1/30", "2/None"],
    ),
    "selected by a composite key": Shape(
        lambda: texts(
            payment.invoice.total for payment in Payment.objects.select_related("invoice")
        ),
        ["30", "30"],
    ),
    "multi-table inheritance": Shape(
        lambda: names(Book.objects.all(), "name", "tenant__name"), ["{} book/{}"]
    ),
    "child of a parent": Shape(
        lambda: texts(item.book.pages for item in Item.objects.filter(book__pages__gt=0)),
        ["{key}0"],
    ),
    "protected child of a shared parent": Shape(
        lambda: names(Contract.objects.all(), "text", "value"), ["{} document/5"]
    ),
    "shared parent, with its child": Shape(
        lambda: names(Document.objects.filter(contract__value=5), "text"), ["{} document"]
    ),
    "proxy": Shape(
        lambda: texts(
            (type(item).__name__, item.name)
            for item in NewestFirst.objects.filter(item__name__endswith="new")
        ),
        ["('NewestFirst', '{} old')"],
    ),
    "self-relation": Shape(
        lambda: names(
            Item.objects.filter(replaces__item__replaces__name__endswith="old"),
            "replaces__name",
        ),
        ["{} old"],
    ),
    "generic relation": Shape(
        lambda: names(Item.objects.filter(comments__text__startswith="about")), ["{} old"]
    ),
    "generic relation, excluded": Shape(
        lambda: names(Item.objects.exclude(comments__text__startswith="about")),
        ["{} book", "{} new"],
    ),
    "generic foreign key": Shape(
        lambda: texts(c.about.name for c in Comment.objects.prefetch_related("about")),
        ["{} old"],
    ),
    "pickled": Shape(unpickled, ["{} new"]),
    "historical models": Shape(
        in_a_migration, ["{} new/{} blue", "{} new/{} red", "{} old/{} red"]
    ),
    "a manager of another package": Shape(heaviest, ["{} book/None", "{} new/4", "{} old/2"]),
}
