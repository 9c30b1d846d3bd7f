"""Tables that are called like an alias in their own policies, which would hide them there."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import ProgrammingError, connections, models

from tenantry import admin_context, tenant_context
from tenantry.checks import inspection
from tenantry.checks import policies as inspecting
from tenantry.checks.policies import inspect_policies
from tenantry.policies.predicates import unlike
from tenantry.policy_tests import protected_tables
from tests.app.models import Tenant
from tests.fix_migrations import Migrate
from tests.test_dependents_shared import FLAG, child, manager, many, model
from tests.test_sharing import (
    ORDER,
    SHARE,
    SHARED,
    base,
    line,
    paper,
    paper_alter,
    papers,
    run,
    titles,
)

Tenants = tuple[Tenant, Tenant]
DENIED = pytest.raises(ProgrammingError, match="row-level security")


@pytest.fixture(autouse=True)
def _flag(settings: Any) -> None:
    settings.RLS_TENANTS = FLAG


def called(table: str, operation: Any) -> Any:
    """Return the operation, which creates a model, with another name for its table."""
    operation.options["db_table"] = table
    return operation


def expected(state: Any, *names: str) -> bool:
    """Return whether check_rls finds the policies that the models ask for."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        tables = [state.apps.get_model("migrated", name) for name in names]
        return [[*inspect_policies(connection, cursor, each)] for each in tables] == [[]] * len(
            tables
        )


@pytest.mark.parametrize("table", ["share", "Share", '"share"'])
def test_a_table_called_share_shows_what_is_shared(
    table: str, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    state = migrate(SHARE, migrate(called(table, paper()), base()))
    state = migrate(paper_alter(SHARED), state)
    objects = papers(state)
    with tenant_context(a.pk):
        objects.create(title="private")
        row = objects.create(title="chosen")
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    quoted = connections["default"].ops.quote_name(table)
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == ["chosen"]
        assert run(f"SELECT title FROM {quoted}") == [("chosen",)]
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    with tenant_context(a.pk):
        run("DELETE FROM migrated_share")
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == []
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Paper", "Share")
    with connections["owner"].cursor() as owner:
        # As a table has it whose policy was made with the alias that hides it.
        owner.execute(
            f"ALTER POLICY tenantry_sharing ON {quoted} USING (EXISTS (SELECT FROM migrated_share"
            " AS share WHERE share.paper_id = share.id))"
        )
    assert not expected(state, "Paper")


@pytest.mark.parametrize("is_open", [False, True])
def test_a_child_called_owner_belongs_to_its_parent(
    is_open: bool, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    report = called("owner", child("Report", "Doc"))
    state = many(migrate, model("Doc", is_open=is_open), report, child("Thesis", "Report"))
    theses = manager(state, "Thesis")
    with tenant_context(a.pk):
        theses.create(partner_id=b.pk)
        theses.create()
    for table, column in (("owner", "in_report"), ("migrated_thesis", "in_thesis")):
        with tenant_context(a.pk):
            assert run(f"SELECT count(*) FROM {table}") == [(2,)]
            assert run(f"UPDATE {table} SET {column} = {column}") == 2
        with tenant_context(b.pk):
            assert run(f"SELECT count(*) FROM {table}") == [(int(is_open),)]
            assert run(f"UPDATE {table} SET {column} = {column}") == 0
        with admin_context():
            assert run(f"SELECT count(*) FROM {table}") == [(2,)]
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Doc", "Report", "Thesis")


def test_a_relation_called_owner_belongs_to_both_ends(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    tags = models.ManyToManyField("migrated.Tag", db_table="owner")
    state = many(migrate, model("Tag", is_open=True), model("Doc", is_open=True, tags=tags))
    docs = manager(state, "Doc")
    with tenant_context(a.pk):
        shared = docs.create(partner_id=b.pk)
        tag = manager(state, "Tag").create(partner_id=b.pk)
        for row in (shared, docs.create()):
            row.tags.add(tag)
        assert run("SELECT count(*) FROM owner") == [(2,)]
    with tenant_context(b.pk):
        assert run("SELECT count(*) FROM owner") == [(1,)]
        assert run("DELETE FROM owner") == 0
        docs.create().tags.add(tag)
        with DENIED:
            run("UPDATE owner SET doc_id = %s", [shared.pk])


@pytest.mark.parametrize("tables", [("o1", "o1_"), ("owner", "o2"), ("share", "o1")])
def test_a_path_leads_from_a_table_of_any_name(
    tables: tuple[str, str],
    tenants: Tenants,
    migrate: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = tenants
    lines, parts = tables
    state = migrate(called(lines, line("up__tenant")), migrate(ORDER, base()))
    state = migrate(called(parts, line("up__up__tenant", "Part", "Line")), state)
    order, row, part = (manager(state, name) for name in ("Order", "Line", "Part"))
    for each in tenants:
        with tenant_context(each.pk):
            part.create(up=row.create(up=order.create()))
    for model_, table in ((row, lines), (part, parts)):
        for each in tenants:
            with tenant_context(each.pk):
                assert (model_.count(), run(f"SELECT count(*) FROM {table}")) == (1, [(1,)])
        with admin_context():
            assert (model_.count(), run(f"SELECT count(*) FROM {table}")) == (2, [(2,)])
    with tenant_context(a.pk):
        with admin_context():
            foreign = order.get(tenant_id=b.pk).pk
        with DENIED:
            row.create(up_id=foreign)
    for module in (inspecting, inspection):
        monkeypatch.setattr(module, "apps", state.apps)
    assert expected(state, "Line", "Part")
    subjects = {each.name: each for each in protected_tables(connections["default"])}
    for table in tables:
        with tenant_context(a.pk):
            found = run(f"SELECT count(*) FROM {table} WHERE {subjects[table].visible}")
            assert found == [(1,)]


def test_other_tables_have_the_policies_that_they_had() -> None:
    assert unlike("share", '"note"') == unlike("share", '"Share"') == "share"
    assert unlike("share", '"schema"."share"') == "share"
    assert unlike("share", '"share"') == "share_"
