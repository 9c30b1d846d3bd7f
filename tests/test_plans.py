"""The plans that PostgreSQL makes for a million rows of 500 tenants."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import connections
from django.db.migrations.migration import Migration
from django.db.migrations.state import ProjectState
from django.db.models import Count

from tenantry import SameTenant, admin_context, current_tenant_sql, tenant_context
from tests import settings
from tests.app.models import Note, Tagging, Tenant
from tests.fix_hanging import OPERATIONS, Hanging, hanging_of

TENANTS, ROWS = 500, 1_000_000
RAW = "SELECT * FROM app_note ORDER BY title LIMIT 20"


@pytest.fixture(scope="module")
def million(project: None, superuser: psycopg.Connection[Any]) -> Iterator[int]:
    """Return one of many tenants, whose rows are a small part of the table."""
    superuser.execute("TRUNCATE app_tenant, app_user RESTART IDENTITY CASCADE")
    superuser.execute(
        "INSERT INTO app_tenant (name) SELECT 'T' || i FROM generate_series(1, %s) i", [TENANTS]
    )
    superuser.execute(
        "INSERT INTO app_author (name, tenant_id)"
        " SELECT 'author of ' || id, id FROM app_tenant ORDER BY id"
    )
    superuser.execute(
        "INSERT INTO app_note (title, tenant_id, author_id)"
        " SELECT 'n' || i, 1 + i %% %s, 1 + i %% %s FROM generate_series(1, %s) i",
        [TENANTS, TENANTS, ROWS],
    )
    for table in ("tag", "item"):
        superuser.execute(
            f"INSERT INTO app_{table} (name, tenant_id) SELECT '{table} ' || i, 1 + i %% %s"
            " FROM generate_series(0, %s) i".encode(),
            [TENANTS, 4 * TENANTS - 1],
        )
    superuser.execute(
        "INSERT INTO app_tagging (item_id, tag_id, weight, tenant_id)"
        " SELECT i.id, t.id, w, t.tenant_id FROM app_item i"
        " JOIN app_tag t ON t.tenant_id = i.tenant_id, generate_series(1, 10) w"
    )
    superuser.execute("VACUUM ANALYZE app_note, app_author, app_tenant, app_tag, app_item")
    superuser.execute("VACUUM ANALYZE app_tagging")
    yield 42
    superuser.execute("TRUNCATE app_tenant, app_user RESTART IDENTITY CASCADE")
    connections.close_all()


@pytest.fixture(scope="module")
def hanging_rows(million: int, superuser: psycopg.Connection[Any]) -> Iterator[Hanging]:
    """Return models whose rows belong to those of others, of which there are many too."""
    state = ProjectState.from_apps(apps)
    migration: Any = Migration("0001", "migrated")
    migration.operations = OPERATIONS
    with connections["owner"].schema_editor() as editor:
        after = migration.apply(state.clone(), editor)
    superuser.execute(
        "INSERT INTO migrated_line (name, item_id)"
        " SELECT 'line', id FROM app_item, generate_series(1, 20)"
    )
    superuser.execute(
        "INSERT INTO migrated_shelf (name, tenant_id)"
        " SELECT 'shelf', id FROM app_tenant, generate_series(1, 10)"
    )
    superuser.execute(
        "INSERT INTO migrated_shelf_tags (shelf_id, tag_id) SELECT s.id, t.id"
        " FROM migrated_shelf s JOIN app_tag t ON t.tenant_id = s.tenant_id"
    )
    superuser.execute("VACUUM ANALYZE migrated_line, migrated_shelf, migrated_shelf_tags")
    yield hanging_of(after)
    with connections["owner"].schema_editor() as editor:
        migration.unapply(state.clone(), editor)


def plan(sql: str, params: Any = None) -> str:
    with connections["default"].cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF) {sql}", params)
        return "\n".join(line for (line,) in cursor.fetchall())


def plan_of(queryset: Any) -> str:
    return str(queryset.explain(analyze=True, timing=False))


def removed(text: str) -> int:
    """Return how many rows were read in vain."""
    lines = [line for line in text.splitlines() if "Rows Removed" in line]
    return sum(int(line.rpartition(":")[2]) for line in lines)


QUERIES: dict[str, Callable[[], Any]] = {
    "latest": lambda: Note.objects.order_by("title")[:20],
    "all": lambda: Note.objects.all(),
    "joined": lambda: Note.objects.select_related("author").order_by("title")[:20],
    "grouped": lambda: Note.objects.values("author__name").annotate(n=Count("id")).order_by(),
    "in a subquery": lambda: Note.objects.filter(
        author__in=Note.objects.filter(title__gt="n9").values("author")
    ),
    "by key": lambda: Note.objects.filter(pk=41),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUERIES)
def test_the_orm_reads_the_rows_of_the_tenant(name: str, million: int) -> None:
    with tenant_context(million):
        text = plan_of(QUERIES[name]())
    assert "Seq Scan on app_note" not in text
    assert "Index Cond" in text
    assert removed(text) <= ROWS / TENANTS
    if settings.HAS_ADMIN_ROLE:
        # Where the predicate and the policy meet, nothing is compared per row.
        assert "One-Time Filter" in text
    unbound = plan_of(QUERIES[name]())
    # Older servers do not say that NULL is false.
    assert re.search("One-Time Filter: (?:false|NULL::boolean)\n", unbound)
    assert removed(unbound) == 0


HANGING: dict[str, Callable[[Hanging], Any]] = {
    "a path": lambda m: m.line.objects.all(),
    "a path, selected": lambda m: m.line.objects.select_related("item").order_by("item__name"),
    "a path, joined": lambda m: m.item.objects.filter(lines__name__gt=""),
    "a relation": lambda m: m.shelf.objects.filter(tags__name__gt=""),
    "a relation, the other way": lambda m: m.tag.objects.values("name", "shelves__name"),
    "a relation, related": lambda m: m.tag.objects.filter(shelves__in=m.shelf.objects.all()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HANGING)
def test_the_orm_reads_what_hangs_on_rows_of_the_tenant(
    name: str, hanging_rows: Hanging, million: int
) -> None:
    with tenant_context(million):
        text = plan_of(HANGING[name](hanging_rows))
    assert not re.search("Seq Scan on migrated_(?:line|shelf_tags)", text)
    assert re.search("Index Cond: [(](?:item|shelf|tag)_id = ", text)
    # Of tables as small as those of the items and the tags, PostgreSQL may read all.
    assert removed(text) <= 4 * TENANTS
    unbound = plan_of(HANGING[name](hanging_rows))
    assert re.search("One-Time Filter: (?:false|NULL::boolean)\n", unbound)
    assert removed(unbound) == 0


@pytest.mark.slow
@pytest.mark.guc_shape
def test_rows_that_are_fetched_by_key_are_expected_to_be_the_tenants(million: int) -> None:
    """As few as the tenant has of all rows, PostgreSQL would sort them before it fills a page."""
    tagging = Tagging.objects.select_related("item", "tag")
    with tenant_context(million):
        [[found]] = explained(tagging)
        assert found["Plan"]["Actual Rows"] == 160
        assert found["Plan"]["Plan Rows"] >= 0.7 * 160
        [[filtered]] = explained(tagging.filter(item__name__startswith="item", tag__pk__gt=0))
        assert filtered["Plan"]["Plan Rows"] < 0.3 * 160
        assert "Sort" not in plan_of(tagging[:20])


def kept_in_its_tenant(name: str) -> SameTenant:
    """Return a constraint of notes, named as the model would have it."""
    constraint = SameTenant(field="author", name=name or None)
    constraint.name %= {"app_label": "app", "class": "note"}
    constraint.settle(Note)
    return constraint


@pytest.mark.slow
@pytest.mark.parametrize(("name", "counts"), [("", True), ("z_after_the_one_of_django", False)])
def test_joins_are_estimated_by_the_foreign_key_that_comes_first(
    name: str, counts: bool, million: int
) -> None:
    """Its own condition is on each table, and is counted once if the key holds the tenant."""
    constraint = kept_in_its_tenant(name)
    notes = Note.objects.filter(author__pk__gt=0)
    sql = (
        "SELECT FROM app_note n"
        " JOIN app_author a ON (a.tenant_id, a.id) = (n.tenant_id, n.author_id)"
    )
    with connections["owner"].schema_editor() as editor:
        editor.add_constraint(Note, constraint)
    try:
        with tenant_context(million), connections["default"].cursor() as cursor:
            joins = [notes.filter(author__name__gt="")]
            joins += [notes.select_related("author")] if settings.HAS_ADMIN_ROLE else []
            plans = [explained(join)[0][0] for join in joins]
            if settings.HAS_ADMIN_ROLE:
                cursor.execute(f"EXPLAIN (FORMAT json, ANALYZE) {sql}")
                plans += [found for (found,) in cursor.fetchall()[0]]
    finally:
        with connections["owner"].schema_editor() as editor:
            editor.remove_constraint(Note, constraint)
    for each in plans:
        assert each["Plan"]["Actual Rows"] == 2000
        assert (each["Plan"]["Plan Rows"] > 0.7 * 2000) == counts


def explained(queryset: Any) -> Any:
    return [json.loads(queryset.explain(format="json", analyze=True))]


@pytest.mark.slow
@pytest.mark.role_shape
def test_raw_sql_reads_the_rows_of_the_tenant(million: int) -> None:
    check_raw_sql(million, "rls_current_tenant_bigint")


@pytest.mark.slow
@pytest.mark.sealed_shape
@pytest.mark.admin_role
def test_sealed_raw_sql_reads_the_rows_of_the_tenant(million: int) -> None:
    check_raw_sql(million, "rls_sealed")


def check_raw_sql(tenant: int, function: str) -> None:
    for sql in (RAW, "SELECT count(*) FROM app_note", "UPDATE app_note SET title = title"):
        with tenant_context(tenant):
            text = plan(sql)
        assert "Seq Scan" not in text
        # Older servers name the result of an InitPlan by its number.
        assert re.search(r"Index Cond: \(tenant_id = (?:\(InitPlan|\$0\))", text)
        assert removed(text) == 0
        # The restrictive policy says the same as the permissive one, which PostgreSQL notices.
        assert ("InitPlan 2" in text) == sql.startswith("UPDATE")
    with tenant_context(tenant):
        text = plan("SELECT * FROM app_note WHERE tenant_id = %s", [tenant])
        assert "One-Time Filter" in text
        assert f"Index Cond: (tenant_id = {tenant})" in text
        assert function not in text.partition("Index Cond")[2].partition("\n")[0]
    text = plan(RAW)
    assert "Index Cond" in text
    assert "Seq Scan" not in text
    assert "(actual rows=0" in text or "rows=0.00 loops=1" in text
    with admin_context(), connections["default"].cursor() as cursor:
        cursor.execute(RAW.replace("*", "tenant_id"))
        assert len(set(cursor.fetchall())) > 1


@pytest.mark.slow
@pytest.mark.guc_shape
def test_raw_sql_filters_where_the_admin_is_a_parameter(million: int) -> None:
    """What the documentation says of the default shape; naming the tenant makes it an index."""
    with tenant_context(million):
        assert "Index Cond: (tenant_id" not in plan(RAW)
        named = RAW.replace("ORDER", f"WHERE tenant_id = {million} ORDER")
        assert f"Index Cond: (tenant_id = {million})" in plan(named)


@pytest.mark.slow
def test_raw_sql_that_names_the_current_tenant_reads_its_rows(million: int) -> None:
    """In every shape, though the plan is made before the value is known."""
    named = RAW.replace("ORDER", f"WHERE tenant_id = {current_tenant_sql()} ORDER")
    with tenant_context(million):
        text = plan(named)
    # Older servers name the result of an InitPlan by its number.
    assert re.search(r"Index Cond: \(tenant_id = (?:\(InitPlan|\$\d)", text)
    assert "Seq Scan" not in text
    assert removed(text) == 0
    unbound = plan(named)
    assert "Seq Scan" not in unbound
    assert removed(unbound) == 0


@pytest.mark.slow
def test_a_tenant_that_does_not_exist_reads_nothing(million: int) -> None:
    assert Tenant.objects.count() == TENANTS
    with tenant_context(TENANTS + 1):
        assert "Index Cond" in plan_of(Note.objects.all())
        assert Note.objects.count() == 0
