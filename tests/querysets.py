"""Random reads of the test project's models, as functions that can be called again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_, xor
from typing import Any

from django.db.models import (
    CharField,
    Count,
    Exists,
    F,
    FilteredRelation,
    IntegerField,
    Max,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
    Window,
)
from django.db.models.functions import RowNumber
from hypothesis import strategies as st

from tenantry.managers import RLSQuerySet
from tests.app.models import (
    Author,
    Book,
    Comment,
    Invoice,
    Item,
    NewestFirst,
    Note,
    Payment,
    Shared,
    Tag,
    Tagging,
)

Step = Callable[[QuerySet[Any, Any]], QuerySet[Any, Any]]
End = Callable[[QuerySet[Any, Any]], Any]

# Paths over relations that are nullable, reverse, many to many, inherited, generic or composite.
TEXTS: dict[type[Model], list[str]] = {
    Author: ["name", "note__title", "note__parent__title", "note__note__author__name"],
    Note: ["title", "author__name", "parent__author__name", "note__title", "shared__text"],
    Shared: ["text", "note__title", "note__author__name", "note__parent__author__name"],
    Item: [
        "name",
        "replaces__name",
        "item__name",
        "tags__name",
        "tagging__tag__name",
        "comments__text",
        "replaces__tags__name",
        "item__replaces__comments__text",
    ],
    Tag: ["name", "item__name", "item__replaces__name", "tagging__item__comments__text"],
    Tagging: ["item__name", "tag__name", "item__replaces__tags__name"],
    Comment: ["text"],
    Payment: ["tenant__name"],
    Invoice: ["tenant__name"],
}
TEXTS |= {Book: [*TEXTS[Item], "item_ptr__item__name"], NewestFirst: TEXTS[Item]}
RELATIONS: dict[type[Model], list[str]] = {
    Author: ["note"],
    Note: ["author", "parent", "note", "shared"],
    Shared: ["note"],
    Item: ["tagging", "item", "replaces", "comments", "book"],
    Book: ["tagging", "item", "replaces", "comments"],
    NewestFirst: ["tagging", "item", "replaces"],
    Tag: ["tagging", "item"],
    Tagging: ["item", "tag"],
    Comment: ["content_type"],
    Payment: ["invoice"],
    Invoice: ["payments"],
}
TO_ONE: dict[type[Model], list[str]] = {
    Author: ["tenant"],
    Note: ["author", "parent", "parent__author", "author__tenant", "parent__parent__author"],
    Shared: ["note", "note__author", "note__parent__author"],
    Item: ["replaces", "replaces__replaces", "book"],
    Book: ["replaces", "tenant", "replaces__book"],
    NewestFirst: ["replaces"],
    Tag: ["tenant"],
    Tagging: ["item", "tag", "item__replaces__replaces"],
    Comment: ["tenant"],
    Payment: ["invoice", "invoice__tenant"],
    Invoice: ["tenant"],
}
# Those that are read with the rows that other tenants share.
SHARED: set[type[Model]] = set()
# Operands that are often true, often false, or have a character that SQL and drivers know.
WORDS = ["A", "B", "1", "%", "old", "red", ""]
KINDS = ["lookup", "lookup", "related", "in", "not", "and", "or", "xor", "exists"]


@dataclass(frozen=True)
class Read:
    """A queryset that is made and evaluated again and again."""

    model: type[Model]
    steps: tuple[Step, ...]
    end: End

    def __call__(self) -> Any:
        queryset = reduce(lambda queryset, step: step(queryset), self.steps, rows(self.model))
        return self.end(queryset)


def rows(model: type[Model]) -> QuerySet[Any, Any]:
    if model in SHARED:
        return RLSQuerySet(model).including_shared().order_by()
    return model._base_manager.order_by()


def one_of(draw: st.DrawFn, choices: Sequence[Any]) -> Any:
    return draw(st.sampled_from(choices))


def condition(draw: st.DrawFn, model: type[Model], depth: int = 2) -> Q:
    """Draw a condition of lookups over relations, AND, OR, XOR, NOT, IN and EXISTS."""
    kind = one_of(draw, KINDS)
    path = one_of(draw, TEXTS[model])
    if depth and kind == "not":
        return ~condition(draw, model, depth - 1)
    if depth and kind in OPERATORS:
        return OPERATORS[kind](condition(draw, model, depth - 1), condition(draw, model, depth - 1))
    if depth and kind == "exists":
        inner = rows(model).filter(condition(draw, model, depth - 1))
        return Q(Exists(inner.filter(**{path: OuterRef(path)})))
    if kind == "in":
        other = one_of(draw, list(TEXTS))
        return Q(**{f"{path}__in": rows(other).values(one_of(draw, TEXTS[other]))})
    if kind == "related":
        return Q(**{f"{one_of(draw, RELATIONS[model])}__isnull": draw(st.booleans())})
    return Q(**{f"{path}__{one_of(draw, ['contains', 'gt', 'endswith'])}": one_of(draw, WORDS)})


OPERATORS: dict[str, Callable[[Q, Q], Q]] = {"and": and_, "or": or_, "xor": xor}


def filters(draw: st.DrawFn, model: type[Model]) -> Step:
    q = condition(draw, model)
    return lambda queryset: queryset.filter(q)


def excludes(draw: st.DrawFn, model: type[Model]) -> Step:
    q = condition(draw, model)
    return lambda queryset: queryset.exclude(q)


def combines(draw: st.DrawFn, model: type[Model]) -> Step:
    other = rows(model).filter(condition(draw, model, 1))
    return lambda queryset: queryset | other


def narrows_a_relation(draw: st.DrawFn, model: type[Model]) -> Step:
    relation, missing = one_of(draw, RELATIONS[model]), draw(st.booleans())
    related: Any = model._meta.get_field(relation).related_model
    fields = related._meta.local_fields
    name = next(f.name for f in fields if isinstance(f, TextField | CharField | IntegerField))
    wanted = {f"{relation}__{name}__contains": one_of(draw, WORDS)}

    def step(queryset: QuerySet[Any, Any]) -> QuerySet[Any, Any]:
        # Made anew, for Django changes it.
        chosen = FilteredRelation(relation, condition=Q(**wanted))
        annotated: QuerySet[Any, Any] = queryset.annotate(chosen=chosen)
        return annotated.filter(chosen__isnull=missing)

    return step


def counts(draw: st.DrawFn, model: type[Model]) -> Step:
    relation, least = one_of(draw, RELATIONS[model]), one_of(draw, [0, 1, 2])
    return lambda queryset: queryset.annotate(n=Count(relation)).filter(n__gte=least)


def compares_a_subquery(draw: st.DrawFn, model: type[Model]) -> Step:
    path, word = one_of(draw, TEXTS[model]), one_of(draw, WORDS)
    inner = rows(model).filter(condition(draw, model, 1), **{path: OuterRef(path)})
    best = Subquery(inner.order_by(TEXTS[model][0]).values(TEXTS[model][0])[:1])
    return lambda queryset: queryset.annotate(best=best).filter(best__contains=word)


def is_distinct(draw: st.DrawFn, model: type[Model]) -> Step:
    return lambda queryset: queryset.distinct()


def lists_keys(draw: st.DrawFn, model: type[Model]) -> End:
    return lambda queryset: sorted(queryset.values_list("pk"))


def lists_values(draw: st.DrawFn, model: type[Model]) -> End:
    paths = [one_of(draw, TEXTS[model]), one_of(draw, TEXTS[model])]
    return lambda queryset: sorted(map(repr, queryset.values_list("pk", *paths)))


def selects_related(draw: st.DrawFn, model: type[Model]) -> End:
    paths = [one_of(draw, TO_ONE[model]), one_of(draw, TO_ONE[model])]

    def end(queryset: QuerySet[Any, Any]) -> Any:
        found = list(queryset.select_related(*paths))
        return sorted(repr((row.pk, *(related(row, path) for path in paths))) for row in found)

    return end


def related(row: Any, path: str) -> Any:
    """Return the key at the end of `path`, of what was selected and not queried for."""
    for name in path.split("__"):
        row = row and row._state.fields_cache[name]
    return row and row.pk


def slices(draw: st.DrawFn, model: type[Model]) -> End:
    start = one_of(draw, [0, 1, 2])
    return lambda queryset: list(queryset.order_by("pk").values_list("pk")[start : start + 3])


def counts_all(draw: st.DrawFn, model: type[Model]) -> End:
    return lambda queryset: (queryset.count(), queryset.exists())


def aggregates(draw: st.DrawFn, model: type[Model]) -> End:
    path, relation = one_of(draw, TEXTS[model]), one_of(draw, RELATIONS[model])
    return lambda queryset: queryset.aggregate(a=Max(path), b=Count(relation), c=Count("*"))


def groups(draw: st.DrawFn, model: type[Model]) -> End:
    path, relation = one_of(draw, TEXTS[model]), one_of(draw, RELATIONS[model])

    def end(queryset: QuerySet[Any, Any]) -> Any:
        found = queryset.values(path).annotate(of_group=Count(relation, distinct=True))
        return sorted(map(repr, found.values_list(path, "of_group")))

    return end


def windows(draw: st.DrawFn, model: type[Model]) -> End:
    number = Window(RowNumber(), partition_by=F(one_of(draw, TEXTS[model])), order_by="pk")

    def end(queryset: QuerySet[Any, Any]) -> Any:
        return sorted(queryset.annotate(row=number).filter(row=1).values_list("pk"))

    return end


def unites(draw: st.DrawFn, model: type[Model]) -> End:
    other, kind = condition(draw, model), one_of(draw, ["union", "intersection", "difference"])

    def end(queryset: QuerySet[Any, Any]) -> Any:
        others = rows(model).filter(other).values_list("pk")
        return sorted(getattr(queryset.values_list("pk"), kind)(others))

    return end


STEPS = [
    filters,
    excludes,
    combines,
    narrows_a_relation,
    counts,
    compares_a_subquery,
    is_distinct,
]
ENDS = [
    lists_keys,
    lists_values,
    selects_related,
    slices,
    counts_all,
    aggregates,
    groups,
    windows,
    unites,
]


@st.composite
def reads(draw: st.DrawFn, models: Sequence[type[Model]] = ()) -> Read:
    """Draw one of `models`, or of all, what is done to its queryset, and how that is evaluated."""
    model = one_of(draw, models or list(TEXTS))
    makers = draw(st.lists(st.sampled_from(STEPS), max_size=3))
    end = one_of(draw, ENDS)
    return Read(model, tuple(make(draw, model) for make in makers), end(draw, model))
