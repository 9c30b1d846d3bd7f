"""``for_user()``: a queryset in the binding of a user, whoever evaluates it."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db import ProgrammingError, connections, transaction
from django.db.models import (
    Count,
    Exists,
    Func,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    TextField,
    Value,
    Window,
)
from django.db.models.functions import RowNumber
from django.test.utils import CaptureQueriesContext

from tenantry import aclose_pools, admin_context, arows, tenant_context
from tenantry.binding import Binding, current_binding
from tenantry.context import Scope
from tenantry.exceptions import ScopeError
from tests.app.models import Author, Note, Tenant, User

Tenants = tuple[Tenant, Tenant]
OF_A = ["A 1", "A 2"]
WRITES = ("update", "delete")


def user_of(tenant: Tenant | None, **options: Any) -> User:
    return User(username="someone", tenant=tenant, **options)


def titles(notes: Any) -> list[str]:
    return [note.title for note in notes]


def unpickled(notes: Any) -> Any:
    copy = notes.model._default_manager.all()
    copy.query = pickle.loads(pickle.dumps(notes.query))
    return copy


def rows_of_plan(notes: Any) -> float:
    """Return how many rows PostgreSQL finds where it explains a query."""
    (plan,) = json.loads(notes.explain(format="json", analyze=True))
    found: float = plan["Plan"]["Actual Rows"]
    return found


def either(notes: Any) -> Any:
    """Return the same rows, of a query whose conditions Django has combined."""
    return notes.filter(title="A 1") | notes


# Nobody else finds as many.
EVALUATIONS: dict[str, tuple[Callable[[Any], object], object]] = {
    "iteration": (titles, OF_A),
    "iterator": (lambda notes: titles(notes.iterator(1)), OF_A),
    "iterator with prefetch": (
        lambda notes: [
            note.title
            for note in notes.prefetch_related("author").iterator(1)
            if note.author.name == "author of A"
        ],
        OF_A,
    ),
    "prefetch": (
        lambda notes: [
            note.title
            for note in notes.prefetch_related(Prefetch("author", Author.objects.all()))
            if note.author.name == "author of A"
        ],
        OF_A,
    ),
    "select_related": (
        lambda notes: [
            note.title
            for note in notes.select_related("author")
            if note.author.name == "author of A"
        ],
        OF_A,
    ),
    "values": (lambda notes: [title for (title,) in notes.values_list("title")], OF_A),
    "count": (lambda notes: notes.count(), 2),
    "len": (len, 2),
    "first and last": (lambda notes: [notes.first().title, notes.last().title], OF_A),
    "get": (lambda notes: notes.get(title="A 1").title, "A 1"),
    "in_bulk": (lambda notes: sorted(note.title for note in notes.in_bulk().values()), OF_A),
    "exists": (lambda notes: notes.filter(title="A 2").exists(), True),
    "aggregate": (lambda notes: notes.aggregate(n=Count("pk")), {"n": 2}),
    "aggregate of distinct": (lambda notes: notes.distinct().count(), 2),
    "aggregate of a slice": (lambda notes: notes[:3].count(), 2),
    "aggregate of groups": (lambda notes: notes.annotate(n=Count("note")).count(), 2),
    "groups": (
        lambda notes: [
            tuple(row)
            for row in notes.order_by().values_list("author__name").annotate(n=Count("pk"))
        ],
        [("author of A", 2)],
    ),
    "some groups": (
        lambda notes: titles(either(notes.annotate(n=Count("note"))).filter(Q(n=0) | Q(n__gt=9))),
        OF_A,
    ),
    "window": (
        lambda notes: titles(
            notes.annotate(n=Window(RowNumber(), order_by="id")).filter(Q(n=2) | Q(n__gt=9))
        ),
        ["A 2"],
    ),
    "exclude": (lambda notes: titles(notes.exclude(title="A 1")), ["A 2"]),
    "exclude by what refers to it": (lambda notes: titles(notes.exclude(note__gt=0)), OF_A),
    "slice": (lambda notes: titles(notes[:5]), OF_A),
    "slice of both": (lambda notes: titles((notes | notes)[:5]), OF_A),
    "union": (lambda notes: sorted(titles(notes.union(notes))), OF_A),
    "union as the user": (
        # The first one's key, as the fixture has it.
        lambda _: sorted(
            titles(Note.objects.union(Note.objects.all()).for_user(user_of(Tenant(pk=1))))
        ),
        OF_A,
    ),
    "explain": (rows_of_plan, 2),
    "copy by pickle": (lambda notes: titles(unpickled(notes)), OF_A),
    "copy of both by pickle": (lambda notes: titles(unpickled(either(notes))), OF_A),
    "update": (lambda notes: notes.update(parent=None), 2),
    "update with a join": (lambda notes: notes.filter(author__name__gt="").update(parent=None), 2),
    "delete": (lambda notes: notes.delete()[0], 2),
    "related manager": (
        lambda notes: titles(notes.filter(author__in=Author.objects.values("pk")).order_by("id")),
        OF_A,
    ),
}


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_queryset_is_evaluated_as_its_user(evaluation: str, tenants: Tenants) -> None:
    a, b = tenants
    evaluate, expected = EVALUATIONS[evaluation]
    notes = Note.objects.for_user(user_of(a)).order_by("id")
    around: list[Any] = [nullcontext(), tenant_context(b.pk), admin_context()]
    for scope in around:
        with transaction.atomic(), scope:
            before = current_binding()
            assert evaluate(notes.all()) == expected
            assert current_binding() == before
            transaction.set_rollback(True)
    with tenant_context(b.pk):
        assert Note.objects.count() == 2
    # And in a request that only reads.
    for tenant in tenants if evaluation[:6] not in WRITES else ():
        with Scope(Binding(tenant.pk, read_only=True)):
            assert evaluate(notes.all()) == expected


def test_a_subquery_of_the_user_of_a_request_that_only_reads(tenants: Tenants) -> None:
    notes = Note.objects.for_user(user_of(tenants[0]))
    authors = Author.objects.filter(pk__in=notes.values("author"))
    with Scope(Binding(tenants[0].pk, read_only=True)):
        assert [author.name for author in authors.all()] == ["author of A"]
    with (
        Scope(Binding(tenants[1].pk, read_only=True)),
        pytest.raises(ScopeError, match="in a subquery"),
    ):
        len(authors)


async def test_rows_without_a_thread_are_those_of_a_request_that_only_reads(
    tenants: Tenants,
) -> None:
    setting = Func(
        Value("transaction_read_only"), function="current_setting", output_field=TextField()
    )
    notes = Note.objects.for_user(user_of(tenants[0])).annotate(is_on=setting).values_list("is_on")
    for around in tenants:
        async with Scope(Binding(around.pk, read_only=True)):
            assert await arows(notes) == [("on",), ("on",)]
    assert await arows(notes) == [("off",), ("off",)]
    await aclose_pools()


def test_a_users_queryset_shows_what_the_user_may_see(tenants: Tenants) -> None:
    admin = user_of(None, is_tenant_admin=True)
    with tenant_context(tenants[1].pk):
        assert Note.objects.for_user(admin).count() == 4
        assert titles(Note.objects.for_user(AnonymousUser())) == []
        assert titles(Note.objects.for_user(None)) == []
    with pytest.raises(ValueError, match="Non-admin user has rls_tenant_id=None"):
        Note.objects.for_user(user_of(None))


def test_the_last_user_counts(tenants: Tenants) -> None:
    a, b = map(user_of, tenants)
    of_b = Note.objects.for_user(b)
    for found in (of_b, of_b | of_b, (of_b[:1] | of_b).none() | of_b, of_b & of_b):
        assert sorted(titles(found.for_user(a))) == OF_A
    assert titles(of_b.for_user(None)) == []


def test_the_sql_has_the_users_tenant(tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.for_user(user_of(a))
    with tenant_context(b.pk), CaptureQueriesContext(connections["default"]) as captured:
        assert len(notes) == 2
        assert f'"app_note"."tenant_id" = {a.pk}' in str(notes.query)
    assert f'"app_note"."tenant_id" = {a.pk}' in captured.captured_queries[0]["sql"]


def test_rows_are_written_as_the_user(tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.for_user(user_of(a))
    with tenant_context(b.pk):
        written = [
            notes.create(title="created"),
            *notes.bulk_create([Note(title="in bulk")]),
            notes.get_or_create(title="got")[0],
            notes.update_or_create(title="updated")[0],
        ]
        assert {note.tenant_id for note in written} == {a.pk}
        assert notes.bulk_update([Note(pk=written[0].pk, title="later")], ["title"]) == 1
        with pytest.raises(ProgrammingError, match="row-level security"):
            notes.create(title="foreign", tenant=b)
        assert Note.objects.count() == 2


async def test_async_methods_run_as_the_user(tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.for_user(user_of(a)).order_by("id")
    async with tenant_context(b.pk):
        assert [note.title async for note in notes] == OF_A
        assert [note.title async for note in notes.all().aiterator(1)] == OF_A
        assert await notes.acount() == 2
        assert (await notes.aget(title="A 1")).title == "A 1"
        assert (await notes.acreate(title="new")).tenant_id == a.pk
        assert await arows(notes.filter(title="new").values_list("title")) == [("new",)]
        assert await Note.objects.acount() == 2
    await aclose_pools()


def test_a_row_between_steps_of_an_iterator_runs_in_the_consumers_scope(tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.for_user(user_of(a))
    with tenant_context(b.pk):
        for _ in notes.iterator(1):
            assert current_binding().tenant_id == b.pk
            assert Note.objects.filter(title__startswith="B").count() == 2


def test_one_statement_has_one_user(tenants: Tenants) -> None:
    of_a, of_b = (Note.objects.for_user(user_of(tenant)) for tenant in tenants)
    with pytest.raises(ScopeError, match=r"union\(\) takes querysets of one user"):
        of_a.union(of_b)
    with pytest.raises(ScopeError, match="of one user"):
        Note.objects.union(of_a)
    for authors in (
        Author.objects.filter(pk__in=of_a.values("author")),
        Author.objects.filter(Exists(of_a.filter(author=OuterRef("pk")))),
    ):
        with admin_context(), pytest.raises(ScopeError, match="in a subquery"):
            len(authors)
    with pytest.raises(ScopeError, match=r"raw\(\) cannot be used after for_user\(\)"):
        of_a.raw("SELECT * FROM app_note")


def combinations(plain: Any, of_user: Any) -> dict[str, Callable[[], Any]]:
    """Return what is combined with a queryset of a user, which is not on the left."""
    return {
        "union": lambda: plain.union(of_user),
        "intersection": lambda: plain.intersection(of_user),
        "difference": lambda: plain.difference(of_user),
        "union of nothing": lambda: plain.none().union(plain, of_user),
        "nested union": lambda: plain.union(plain.filter(name="x").union(of_user)),
        "count": lambda: [plain.union(of_user).count()],
        "in a subquery": lambda: Tenant.objects.filter(name__in=plain.union(of_user)),
    }


@pytest.mark.parametrize("name", combinations(None, None))
def test_what_another_manager_combines_has_one_user(name: str, tenants: Tenants) -> None:
    """It asks nobody else's rows: the message has one binding."""
    a, b = tenants
    plain = Tenant.objects.values_list("name")
    of_a = Note.objects.for_user(user_of(a)).values_list("title")
    combine = combinations(plain, of_a)[name]
    for scope in (nullcontext(), tenant_context(b.pk), admin_context()):
        with scope, pytest.raises(ScopeError, match=r"^\w+\(\) takes querysets of one user; call"):
            list(combine())
    for binding in (Binding(a.pk), Binding(a.pk, read_only=True)):
        with Scope(binding):
            found = list(combine())
        assert ("A 1",) in found or name not in ("union", "union of nothing", "nested union")
    # What is empty has no rows of anybody.
    assert sorted(combinations(plain, of_a.none())["union"]()) == [("A",), ("B",)]


OPERATORS = {"&": operator.and_, "|": operator.or_, "^": operator.xor}


@pytest.mark.parametrize("sign", OPERATORS)
def test_an_operator_takes_querysets_of_one_user(sign: str, tenants: Tenants) -> None:
    combine = OPERATORS[sign]
    of_a, of_b = (Note.objects.for_user(user_of(tenant)) for tenant in tenants)
    plain: Any = QuerySet(Note)
    message = rf"^\{sign} takes querysets of one user; call for_user\(\) with the same user on each"
    for left, right in (
        (of_a, of_b),
        (of_a, Note.objects.all()),
        (Note.objects.all(), of_a),
        (of_a, plain),
        (plain, of_a),
    ):
        with admin_context(), pytest.raises(ScopeError, match=message):
            combine(left, right)


class Published(QuerySet[Any, Any]):
    """Be of a project: none of ours, nor what ours inherit from."""


FORGETFUL: dict[str, Callable[[Any], object]] = {
    "rows": list,
    "values": lambda notes: list(notes.values("title")),
    "slice": lambda notes: list(notes[:1]),
    "count": lambda notes: notes.count(),
    "aggregate of distinct": lambda notes: notes.distinct().count(),
    "exists": lambda notes: notes.exists(),
    "aggregate": lambda notes: notes.aggregate(n=Count("pk")),
    "groups": lambda notes: list(notes.values("author").annotate(n=Count("pk")).filter(n__gt=0)),
    "window": lambda notes: list(notes.annotate(n=Window(RowNumber())).filter(n=1)),
    "exclude": lambda notes: list(notes.exclude(title="x")),
    "exclude by what refers to it": lambda notes: list(notes.exclude(note__gt=0)),
    "join": lambda notes: list(notes.filter(author__name__gt="")),
    "subquery": lambda notes: list(Author.objects.filter(pk__in=notes.values("author"))),
    "negated subquery": lambda notes: list(Author.objects.exclude(pk__in=notes.values("author"))),
    "EXISTS": lambda notes: list(Author.objects.filter(Exists(notes.filter(title="A 1")))),
    "union": lambda notes: list(Note.objects.union(notes)),
    "as a user": lambda notes: list(Note.objects.for_user(None).union(notes)),
    "copy by pickle": lambda notes: titles(unpickled(notes)),
    "update": lambda notes: notes.update(parent=None),
    "update with a join": lambda notes: notes.filter(author__name__gt="").update(parent=None),
    "delete": lambda notes: notes.delete(),
    "delete with a join": lambda notes: notes.filter(author__name__gt="")._raw_delete("default"),
}


@pytest.mark.parametrize("evaluation", FORGETFUL)
def test_a_queryset_of_another_class_cannot_forget_the_user(
    evaluation: str, tenants: Tenants
) -> None:
    """Python asks the left one first, which copies conditions and not whose they are."""
    of_a = Note.objects.for_user(user_of(tenants[0]))
    ones = (of_a, of_a.filter(title__gt=""), of_a | of_a.filter(title="A 1"))
    for combine, one in product(OPERATORS.values(), ones):
        found = combine(Published(Note).filter(pk__gt=0), one)
        for scope in (admin_context(), tenant_context(tenants[1].pk)):
            with scope, pytest.raises(ScopeError):
                FORGETFUL[evaluation](found)
            with scope, pytest.raises(ScopeError, match="which would forget the user; make it a"):
                list(found.all())
    with admin_context():
        assert Note.objects.filter(title__in=[*OF_A, "B 1", "B 2"]).count() == 4


def test_what_has_all_rows_needs_none_of_a_user(tenants: Tenants) -> None:
    """Django then leaves out what the user's queryset asks for."""
    of_a = Note.objects.for_user(user_of(tenants[0]))
    with tenant_context(tenants[1].pk):
        assert titles(Published(Note).order_by("id") | of_a) == ["B 1", "B 2"]


@pytest.mark.parametrize("sign", OPERATORS)
def test_an_operator_takes_querysets_that_share_alike(sign: str, tenants: Tenants) -> None:
    combine = OPERATORS[sign]
    own, shared = Note.objects.all(), Note.objects.including_shared()
    plain: Any = QuerySet(Note)
    for left, right in ((own, shared), (shared, own), (plain, shared), (shared, plain)):
        with pytest.raises(ScopeError, match=rf"^\{sign} takes querysets that both have the rows"):
            combine(left, right)
    assert combine(shared, shared).query.tenantry_shared
    with tenant_context(tenants[0].pk):
        assert titles(shared | own.none()) == titles(own.none() | shared) == OF_A


@pytest.mark.parametrize("around", ["unbound", "other", "admin"])
def test_operators_keep_the_user(around: str, tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.for_user(user_of(a)).order_by("id")
    scopes: Any = {"unbound": nullcontext(), "other": tenant_context(b.pk)}
    with scopes.get(around) or admin_context():
        assert titles(notes & notes.filter(title__endswith="1")) == ["A 1"]
        assert titles(notes.filter(title="A 1") | notes.filter(title__endswith="2")) == OF_A
        assert titles(notes ^ notes.filter(title="A 1")) == ["A 2"]
        assert sorted(titles(notes[:1] | notes.filter(title="A 2"))) == OF_A
        assert sorted(titles(notes.filter(title="A 2") | notes[:1])) == OF_A
        assert titles(notes[:2] ^ notes.filter(title="A 2")) == ["A 1"]
        # One that is empty has no rows of anybody.
        for found in (Note.objects.none() | notes, notes | Note.objects.none()):
            assert titles(found) == OF_A
        assert titles(Note.objects.none() & notes) == titles(notes & Note.objects.none()) == []


def test_operators_of_nobody_are_those_of_django(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        notes: Any = Note.objects.all()
        plain: Any = QuerySet(Note)
        assert titles(notes[:1] | notes.filter(title="A 2")) == OF_A
        assert titles(plain & notes) == titles(notes & plain) == OF_A
        assert titles(plain.filter(title="A 1") | notes) == OF_A
        assert titles(plain.filter(title="A 1") ^ notes) == ["A 2"]
    with pytest.raises(AttributeError):
        OPERATORS["&"](Note.objects.all(), 1)


def test_a_subquery_of_the_same_user_is_one_statement(tenants: Tenants) -> None:
    user = user_of(tenants[0])
    authors = Author.objects.for_user(user).filter(
        pk__in=Note.objects.for_user(user).values("author")
    )
    assert [author.name for author in authors] == ["author of A"]
