"""The predicate in ORM SQL: what is compiled, and that rows are what the policy would show."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from django.apps import apps
from django.core.signals import setting_changed
from django.db import connections, transaction
from django.db.models import (
    Count,
    Exists,
    F,
    FilteredRelation,
    Model,
    OuterRef,
    Q,
    QuerySet,
    Window,
)
from django.db.models.functions import RowNumber
from django.test.utils import CaptureQueriesContext

from tenantry import RLSProtectedModel, admin_context, tenant_context
from tests import settings
from tests.app.models import Author, Label, Note, Shared, Tenant

Tenants = tuple[Tenant, Tenant]
AT_IMPORT = Note.objects.all()


def sent(evaluate: Callable[[], Any]) -> str:
    """Return the SQL that `evaluate` sends, without quotes."""
    with CaptureQueriesContext(connections["default"]) as captured:
        evaluate()
    return "; ".join(query["sql"] for query in captured).replace('"', "")


def fetched(alias: str) -> str:
    """Return what is said of a table that ``select_related`` fetches from by key."""
    equal = f"{alias}.tenant_id = {{}}"
    return equal if settings.HAS_ADMIN_ROLE else f"CASE WHEN {equal} THEN 1 END IS NOT NULL"


# One alias is one table in FROM; each protected one must carry the tenant.
SHAPES: dict[str, tuple[Callable[[], QuerySet[Any, Any]], list[str]]] = {
    "plain": (Note.objects.all, ["WHERE app_note.tenant_id = {}"]),
    "at import": (lambda: AT_IMPORT, ["WHERE app_note.tenant_id = {}"]),
    "base manager": (Note._base_manager.all, ["WHERE app_note.tenant_id = {}"]),
    "filtered": (
        lambda: Note.objects.filter(Q(title="A 1") | Q(title="B 1")),
        ["OR app_note.title = 'B 1') AND app_note.tenant_id = {})"],
    ),
    "own columns": (Label.objects.all, ["WHERE Odd table.cust_no = {}"]),
    "nullable join": (
        lambda: Note.objects.select_related("author", "parent__author"),
        [
            "LEFT OUTER JOIN app_author ON (app_note.author_id = app_author.id AND"
            f" {fetched('app_author')})",
            f"T3.id AND {fetched('T3')})",
            f"T4.id AND {fetched('T4')})",
            "WHERE app_note.tenant_id = {}",
        ],
    ),
    "joined to be filtered": (
        lambda: Note.objects.select_related("author").filter(author__name__gt="a"),
        ["INNER JOIN app_author ON", "author_id = app_author.id AND app_author.tenant_id = {})"],
    ),
    "joined from a shared table": (
        lambda: Shared.objects.select_related("note__author"),
        ["note_id = app_note.id AND app_note.tenant_id = {})"],
    ),
    "inner join": (
        lambda: Note.objects.filter(author__name__startswith="author"),
        ["INNER JOIN app_author ON", "app_author.tenant_id = {})", "app_note.tenant_id = {})"],
    ),
    "reverse join": (
        lambda: Author.objects.filter(note__title__contains="1"),
        ["app_note.tenant_id = {})", "app_author.tenant_id = {})"],
    ),
    "from a shared table": (
        lambda: Shared.objects.select_related("note"),
        ["LEFT OUTER JOIN app_note ON", "app_note.tenant_id = {})"],
    ),
    "join with parameters": (
        lambda: Author.objects.annotate(
            first=FilteredRelation("note", condition=Q(note__title__endswith="%1"))
        ).filter(first__id__isnull=True),
        [" AND first.tenant_id = {})", "WHERE (first.id IS NULL AND app_author.tenant_id = {})"],
    ),
    "subquery": (
        lambda: Author.objects.filter(
            Exists(Note.objects.filter(author=OuterRef("pk"), title__endswith="1"))
        ),
        ["U0.tenant_id = {})", "AND app_author.tenant_id = {})"],
    ),
    "in a subquery": (
        lambda: Author.objects.filter(pk__in=Note.objects.values("author")),
        ["WHERE U0.tenant_id = {})", "AND app_author.tenant_id = {})"],
    ),
    "union": (
        lambda: Note.objects.filter(title="A 1").union(Note.objects.filter(title="B 2")),
        ["= 'A 1' AND app_note.tenant_id = {})", "= 'B 2' AND app_note.tenant_id = {})"],
    ),
    "grouped": (
        lambda: Author.objects.annotate(n=Count("note")).filter(n__gt=1),
        ["app_note.tenant_id = {})", "WHERE app_author.tenant_id = {} GROUP BY"],
    ),
    "window": (
        lambda: Note.objects.annotate(n=Window(RowNumber())).filter(n=1),
        ["app_note.tenant_id = {}"],
    ),
    "extra table": (
        lambda: Note.objects.extra(tables=["app_tenant"], where=["app_tenant.id = tenant_id"]),
        ["FROM app_note , app_tenant WHERE", "AND app_note.tenant_id = {})"],
    ),
    "protected extra table": (
        lambda: Note.objects.extra(tables=["app_author"], where=["app_author.id = author_id"]),
        [
            "FROM app_note , app_author WHERE",
            "app_note.tenant_id = {} AND app_author.tenant_id = {}",
        ],
    ),
    # Django trims the first table from the subquery, so that it starts with what was a join.
    "excluded over a reverse relation": (
        lambda: Author.objects.exclude(note__title__endswith="3"),
        ["FROM app_note U1 WHERE", "U1.tenant_id = {}) LIMIT 1", "AND app_author.tenant_id = {})"],
    ),
    "excluded over several hops": (
        lambda: Author.objects.exclude(note__parent__author__name="x"),
        ["U1.tenant_id = {}) LIMIT 1", "U2.tenant_id = {})", "U3.tenant_id = {})"],
    ),
    "sliced and distinct": (
        lambda: Note.objects.order_by("title").distinct("title")[:3],
        ["WHERE app_note.tenant_id = {} ORDER BY"],
    ),
    "locked": (
        lambda: Note.objects.select_related("author").select_for_update(of=("self",)),
        ["WHERE app_note.tenant_id = {}", "FOR UPDATE OF app_note"],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_protected_table_is_scoped_when_the_queryset_is_executed(
    shape: str, tenants: Tenants
) -> None:
    make, fragments = SHAPES[shape]
    queryset = make()

    def sql() -> str:
        with transaction.atomic():
            return sent(lambda: list(queryset.all()))

    for tenant in tenants:
        with tenant_context(tenant.pk):
            text = sql()
            for fragment in fragments:
                assert fragment.replace("{}", str(tenant.pk)) in text
    for fragment in fragments:
        assert fragment.replace("{}", "NULL") in sql()
    with admin_context():
        assert "tenant_id = 1" not in sql().replace("tenant_id = tenant_id", "")
        assert "NULL)" not in sql()


def told(row: Model | None) -> Any:
    """Return what a row says, and the rows that came with it."""
    if row is None:
        return None
    fields = {name: value for name, value in vars(row).items() if name != "_state"}
    return fields, {name: told(related) for name, related in row._state.fields_cache.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_those_that_the_policy_alone_shows(
    shape: str, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    queryset = SHAPES[shape][0]()
    for tenant in tenants:
        with tenant_context(tenant.pk):
            Label.objects.create(text=f"label of {tenant.name}", customer=tenant)
            Shared.objects.create(text=f"from {tenant.name}", note=Note.objects.last())

    def rows() -> list[str]:
        with transaction.atomic():
            return sorted(repr(told(row)) for row in queryset.all())

    def everywhere() -> list[Any]:
        seen = [rows()]
        for tenant in tenants:
            with tenant_context(tenant.pk):
                seen.append(rows())
        with admin_context():
            seen.append(rows())
        return seen

    scoped = everywhere()
    monkeypatch.setattr("tenantry.backends.postgresql.compiler.protections", lambda apps: {})
    assert scoped == everywhere()
    unbound, of_a, of_b, of_all = scoped
    assert of_a
    assert of_b
    assert of_all
    assert of_a != of_b
    if queryset.model is Shared:
        # Everybody's, without what they refer to.
        assert len(unbound) == len(of_all) == 2
        assert all("{'note': None}" in row for row in unbound)
    else:
        assert unbound == []


def test_update_and_delete_are_scoped(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        text = sent(lambda: Note.objects.update(title=F("title")))
        assert text.endswith(f"WHERE app_note.tenant_id = {a.pk}")
        text = sent(lambda: Note.objects.filter(author__name="x").update(title="x"))
        assert "U1.tenant_id = 1)" in text
        assert "U0.tenant_id = 1)" in text
        assert text.endswith("AND app_note.tenant_id = 1)")
        text = sent(lambda: Note.objects.filter(author__name="x")._raw_delete("default"))
        assert text.startswith("DELETE FROM app_note WHERE (app_note.id IN (SELECT U0.id")
        assert "U1.tenant_id = 1)" in text
        assert "U0.tenant_id = 1)" in text
        assert text.endswith("AND app_note.tenant_id = 1)")
        text = sent(lambda: Shared.objects.filter(note__title="x").delete())
        assert "U1.tenant_id = 1)" in text
        text = sent(lambda: Note.objects.filter(pk=0)._raw_delete("default"))
        assert text.endswith("WHERE (app_note.id = 0 AND app_note.tenant_id = 1)")
        text = sent(lambda: Note.objects.all().delete())
        assert text.count("tenant_id = 1") >= 2
    with tenant_context(b.pk):
        assert Note.objects.count() == 2
        text = sent(lambda: Label.objects.all()._raw_delete("default"))
        assert text.endswith("WHERE Odd table.cust_no = 2")


def test_one_query_object_is_compiled_for_each_tenant_in_turn(tenants: Tenants) -> None:
    queryset = Note.objects.select_related("author").filter(title__contains=" ")
    again = pickle.loads(pickle.dumps(queryset.query))
    for tenant in (*tenants, *tenants):
        with tenant_context(tenant.pk):
            assert [note.tenant_id for note in queryset.all()] == [tenant.pk] * 2
            text = str(again)
            assert text.count(f'tenant_id" = {tenant.pk}') == 2
            assert text.count('"tenant_id" =') == 2


def test_prefetches_and_relations_are_scoped(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        text = sent(lambda: list(Author.objects.prefetch_related("note_set__parent")))
        assert "WHERE (app_note.author_id IN (1) AND app_note.tenant_id = 1)" in text
        note = Note.objects.get(title="A 1")
        assert "app_author.tenant_id = 1" in sent(lambda: note.author)
        assert "app_note.tenant_id = 1" in sent(note.refresh_from_db)


def test_aggregates_and_existence_are_scoped(tenants: Tenants) -> None:
    with tenant_context(tenants[1].pk):
        assert Note.objects.aggregate(n=Count("pk"))["n"] == 2
        assert "tenant_id = 2" in sent(Note.objects.count)
        assert "tenant_id = 2" in sent(Note.objects.exists)
        assert Note.objects.distinct()[:1].count() == 1


def test_a_row_of_another_tenant_joins_as_if_it_did_not_exist(
    tenants: Tenants, superuser: Any
) -> None:
    a, b = tenants
    superuser.execute(
        "UPDATE app_note SET author_id = (SELECT id FROM app_author WHERE tenant_id = %s)"
        " WHERE title = 'A 1'",
        [b.pk],
    )
    with tenant_context(a.pk):
        notes = {note.title: note for note in Note.objects.select_related("author")}
        assert notes["A 1"].author is None
        assert notes["A 2"].author is not None


def test_values_are_parameters_with_server_side_binding(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        notes = Note.objects.using("wire_server_side").select_related("author")
        assert [note.title for note in notes] == ["A 1", "A 2"]
        sql, params = notes.query.sql_with_params()
    assert sql.count("%s") == 2
    assert list(params) == [1, 1]


def test_a_model_that_is_made_later_is_scoped_too(tenants: Tenants) -> None:
    assert sent(Note.objects.first)  # So that the protected tables are known already.
    body = {"__module__": "tests.app.models", "Meta": type("Meta", (), {"app_label": "app"})}
    later: Any = type("MadeLater", (RLSProtectedModel,), body)
    try:
        with tenant_context(1):
            sql, parameters = later.objects.all().query.get_compiler("default").as_sql()
        assert sql.endswith('WHERE "app_madelater"."tenant_id" = %s')
        assert parameters == (1,)
    finally:
        del apps.all_models["app"]["madelater"]
        apps.clear_cache()
        # Who prepares a class hears of one that is no longer there; this forgets it, and no more.
        setting_changed.send(sender=None, setting="RLS_TENANTS", value=None, enter=False)
