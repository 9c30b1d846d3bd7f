"""What hangs on rows that others may read: they read it too, and only the tenant writes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from django.db import ProgrammingError, connections, models, transaction
from django.db.migrations import AddConstraint, CreateModel, RemoveConstraint
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, RLSManager, admin_context, bypass_flag, tenant_context
from tenantry.checks import policies as inspecting
from tenantry.checks.policies import inspect_policies
from tenantry.lifecycle.tables import ownership
from tests import settings as test_settings
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, drop_functions
from tests.migrated import (
    FLAG,
    STRAY,
    add_stray_policies,
    child,
    count,
    manager,
    many,
    model,
    rls,
    tags,
    tenant,
)
from tests.scoping import OFF
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
NAMES = ("Tag", "Report", "Thesis")
DENIED = pytest.raises(ProgrammingError, match="row-level security")


def owned(state: ProjectState) -> int:
    """Return how many relations would be exported, and deleted, with the tenant that is bound."""
    through = manager(state, "Doc").model.tags.through
    condition, _ = ownership(through, connections["default"].ops.quote_name)
    return count(f"doc_tags WHERE {condition}")


def policies(table: str) -> set[str]:
    sql = "SELECT policyname FROM pg_policies WHERE tablename = %s"
    return {name for (name,) in run(sql, [f"migrated_{table}"])}


def readers(partner: Tenant) -> list[Callable[[], AbstractContextManager[Any]]]:
    return [lambda: tenant_context(partner.pk), lambda: bypass_flag("login")]


@pytest.fixture(autouse=True)
def _flag(settings: Any) -> None:
    settings.RLS_TENANTS = FLAG


@pytest.mark.parametrize("is_stray", STRAY)
def test_children_of_a_shared_row_are_read_only(
    is_stray: bool, tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    state = many(
        migrate, model("Doc", is_open=True), child("Report", "Doc"), child("Thesis", "Report")
    )
    if is_stray:
        add_stray_policies("doc", "report", "thesis")
    theses = manager(state, "Thesis")
    with tenant_context(a.pk):
        row = theses.create(partner_id=b.pk)
        bare = manager(state, "Doc").create(partner_id=b.pk)
    for reader in readers(b):
        with reader():
            assert count("doc") == 2
            assert run("UPDATE migrated_doc SET partner_id = NULL") == 0
            assert run("DELETE FROM migrated_doc") == 0
            with DENIED:
                run("INSERT INTO migrated_doc (tenant_id) VALUES (%s)", [a.pk])
    columns = {"report": "doc_ptr_id", "thesis": "report_ptr_id"}
    for table, column in columns.items():
        for reader in readers(b):
            with reader():
                assert count(table) == 1
                assert run(f"UPDATE migrated_{table} SET in_{table} = 666") == 0
                assert run(f"DELETE FROM migrated_{table}") == 0
                insert = f"INSERT INTO migrated_{table} ({column}, in_{table}) VALUES (%s, 1)"
                with DENIED:
                    run(insert, [bare.pk])
        with tenant_context(b.pk):
            own = theses.create()
            with DENIED:
                run(f"UPDATE migrated_{table} SET {column} = %s", [bare.pk])
            assert (
                run(f"UPDATE migrated_{table} SET in_{table} = 2 WHERE {column} = %s", [own.pk])
                == 1
            )
            own.delete()
        assert count(table) == 0
    with tenant_context(a.pk):
        assert run("UPDATE migrated_thesis SET in_thesis = 3") == 1
        assert theses.filter(pk=row.pk).update(in_thesis=4) == 1
    with admin_context():
        assert run("UPDATE migrated_thesis SET in_thesis = 5") == 1
        assert theses.create(tenant_id=b.pk).delete()[0] == 3
        assert row.delete()[0] == 3


def test_the_orm_finds_a_child_with_the_row_that_it_hangs_on(
    tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    state = many(
        migrate, model("Doc", is_open=True), child("Report", "Doc"), child("Thesis", "Report")
    )
    made = {}
    docs: Any = RLSManager()
    for owner, partner in ((a, b), (b, None)):
        with tenant_context(owner.pk):
            made[owner] = manager(state, "Thesis").create(partner_id=partner and partner.pk)
    for name, column in (("Thesis", "in_thesis"), ("Report", "in_report")):
        rows: Any = RLSManager()
        rows.model = state.apps.get_model("migrated", name)
        rows = rows.using("default").order_by("pk")
        for reader, own in ((a, [made[a].pk]), (b, [made[b].pk])):
            with tenant_context(reader.pk):
                keys = [each.pk for each in rows.all()]
                assert keys == own
                assert (rows.count(), rows.exists(), rows.first().pk) == (1, True, own[0])
                assert list(rows.values_list(column)) == [(1,)]
                assert rows.update(**{column: 1}) == 1
        with tenant_context(b.pk):
            both = sorted(each.pk for each in made.values())
            shared = rows.including_shared()
            assert [each.pk for each in shared] == both
            assert (shared.count(), len(shared.values_list(column))) == (2, 2)
            assert [each.partner_id for each in shared if each.pk == made[a].pk] == [b.pk]
            docs.model = state.apps.get_model("migrated", "Doc")
            found = docs.using("default").including_shared().select_related("report__thesis")
            assert [each.report.thesis.pk for each in found.order_by("pk")] == both
            assert docs.using("default").filter(report__thesis__in_thesis=1).count() == 1
        with bypass_flag("login"):
            assert rows.count() == len(rows.all()) == 2
        with admin_context():
            assert rows.count() == len(rows.all()) == 2
        assert rows.count() == len(rows.all()) == 0


CITATION = CreateModel(
    "Citation",
    [
        ("id", models.BigAutoField(primary_key=True)),
        ("tenant", tenant()),
        ("doc", models.ForeignKey("migrated.Doc", models.CASCADE)),
        ("report", models.ForeignKey("migrated.Report", models.CASCADE, related_name="cited")),
    ],
    {"constraints": [RLSConstraint(field="tenant", name="citation_rls")]},
)
# By every table of an object.
CITED = {
    "Doc": ["citation", "report__cited", "report__thesis__cited"],
    "Report": ["citation", "cited", "thesis__citation", "doc_ptr__citation"],
    "Thesis": ["citation", "cited", "report_ptr__cited", "report_ptr__doc_ptr__citation"],
}


@pytest.mark.parametrize("method", ["filter", "exclude"])
@pytest.mark.parametrize("name", CITED)
def test_a_child_is_excluded_with_the_row_that_it_hangs_on(
    method: str,
    name: str,
    tenants: Tenants,
    migrate: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = tenants
    made = [model("Doc", is_open=True), child("Report", "Doc"), child("Thesis", "Report"), CITATION]
    state = many(migrate, *made)
    theses, citations = manager(state, "Thesis"), manager(state, "Citation")
    rows: Any = RLSManager()
    rows.model = state.apps.get_model("migrated", name)
    rows = rows.using("default")
    with tenant_context(a.pk):
        shared = [theses.create(partner_id=b.pk).pk for _ in range(2)]
    with tenant_context(b.pk):
        own = [theses.create().pk for _ in range(2)]
        for pk in (shared[0], own[0]):
            citations.create(doc_id=pk, report_id=pk)
    for path in CITED[name]:
        for condition in (models.Q(**{f"{path}__isnull": True}), models.Q(**{f"{path}__gt": 0})):
            with tenant_context(b.pk):
                found = getattr(rows.including_shared(), method)(condition)
                scoped = sorted(found.values_list("pk"))
                # As a part of another query, which gives its tables other names.
                again = rows.including_shared().filter(pk__in=found.values("pk"))
                assert sorted(again.values_list("pk")) == scoped
                with monkeypatch.context() as patch:
                    patch.setattr(OFF, lambda apps: {})
                    alone = sorted(getattr(rows.all(), method)(condition).values_list("pk"))
            assert scoped == alone, (path, condition)
            assert len(scoped) == 2


@pytest.mark.parametrize("is_stray", STRAY)
def test_what_a_shared_row_is_related_to_is_read_only(
    is_stray: bool, tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    state = many(migrate, model("Tag", is_open=None), model("Doc", is_open=True, tags=tags()))
    if is_stray:
        add_stray_policies("doc", "doc_tags")
    docs, tag = manager(state, "Doc"), manager(state, "Tag").create()
    with tenant_context(a.pk):
        row = docs.create(partner_id=b.pk)
        row.tags.add(tag)
    second = manager(state, "Tag").create()
    for reader in readers(b):
        with reader():
            assert count("doc_tags") == 1
            with DENIED:
                row.tags.add(second)
            row.tags.clear()
            assert run("UPDATE migrated_doc_tags SET tag_id = tag_id") == 0
            assert run("DELETE FROM migrated_doc_tags") == 0
            assert count("doc_tags") == 1
    with tenant_context(b.pk):
        own = docs.create()
        own.tags.set([tag, second])
        with DENIED:
            run("UPDATE migrated_doc_tags SET doc_id = %s", [row.pk])
        own.tags.clear()
    with tenant_context(a.pk):
        row.tags.set([second])
    with admin_context():
        row.tags.set([tag, second])
        row.tags.clear()


@pytest.mark.parametrize("is_open", [False, True])
def test_an_own_row_may_be_related_to_a_shared_one(
    is_open: bool, tenants: Tenants, migrate: Migrate
) -> None:
    """And a shared row to nothing: the relation is part of the row that declares it."""
    a, b = tenants
    state = many(migrate, model("Tag", is_open=True), model("Doc", is_open=is_open, tags=tags()))
    docs = manager(state, "Doc")
    with tenant_context(a.pk):
        tag, secret = (manager(state, "Tag").create(partner_id=each) for each in (b.pk, None))
        foreign = docs.create(partner_id=b.pk)
    with tenant_context(b.pk):
        # In the open case its relation to the tag is one that the tag's owner sees.
        own = docs.create(partner_id=a.pk)
        own_tag = manager(state, "Tag").create(partner_id=a.pk)
        own.tags.add(tag)
        assert list(own.tags.values_list("pk")) == []  # The ORM asks for own tags.
        assert count("doc_tags") == 1
        for wrong in (foreign.tags.add, own.tags.add):
            with DENIED, transaction.atomic():
                wrong(own_tag if wrong.__self__.instance is foreign else secret)
        with DENIED:
            foreign.tags.through._default_manager.create(doc_id=foreign.pk, tag_id=own_tag.pk)
        assert owned(state) == 1
    with tenant_context(a.pk):
        assert count("doc_tags") == (1 if is_open else 0)
        assert owned(state) == 0
        tag.doc_set.clear()
        assert run("DELETE FROM migrated_doc_tags") == 0
        assert run("UPDATE migrated_doc_tags SET doc_id = %s", [foreign.pk]) == 0
    with bypass_flag("login"):
        assert run("DELETE FROM migrated_doc_tags") == 0
    with tenant_context(b.pk):
        assert run("UPDATE migrated_doc_tags SET tag_id = %s", [own_tag.pk]) == 1
        assert run("DELETE FROM migrated_doc_tags") == 1


def test_only_what_hangs_on_shared_rows_has_policies_for_reading(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = many(migrate, model("Tag", is_open=True), model("Doc", is_open=False, tags=tags()))
    state = migrate(child("Report", "Doc"), state)
    plain = {"tenantry_isolation"}
    if "APP_ROLE" in test_settings.RLS_TENANTS:
        plain = {"tenantry_isolation", "tenantry_restriction"}
    tables = ("doc_tags", "report")
    assert [policies(table) for table in tables] == [plain, plain]
    state = migrate(RemoveConstraint("doc", "doc_rls"), state)
    state = migrate(AddConstraint("doc", rls("doc_rls", is_open=True)), state)
    assert all("tenantry_sharing" in policies(table) for table in tables)
    state = migrate(RemoveConstraint("doc", "doc_rls"), state)
    assert policies("report") == set()
    # Now by the tag alone.
    assert "tenantry_sharing" in policies("doc_tags")
    migrate(AddConstraint("doc", rls("doc_rls", is_open=False)), state)
    assert [policies(table) for table in tables] == [plain, plain]


def test_a_policy_may_call_functions_that_the_owner_table_is_yet_to_bring(
    migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> None:
    settings.RLS_TENANTS = {**FLAG, "GUC_PREFIX": "later"}
    try:
        many(migrate, model("Tag", is_open=None), model("Doc", is_open=True, tags=tags()))
        assert "tenantry_sharing" in policies("doc_tags")
    finally:
        drop_functions(superuser, "later")


def test_check_rls_expects_these_policies(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = many(
        migrate,
        model("Tag", is_open=True),
        model("Doc", is_open=True, tags=tags()),
        child("Report", "Doc"),
        child("Thesis", "Report"),
    )
    monkeypatch.setattr(inspecting, "apps", state.apps)
    doc = state.apps.get_model("migrated", "Doc")
    through = doc._meta.get_field("tags").remote_field.through
    connection = connections["default"]
    with connection.cursor() as cursor:
        for each in (doc, through, *(state.apps.get_model("migrated", name) for name in NAMES)):
            assert list(inspect_policies(connection, cursor, each)) == []
        with connections["owner"].cursor() as owner:
            owner.execute("ALTER POLICY tenantry_isolation ON migrated_thesis USING (true)")
        thesis = state.apps.get_model("migrated", "Thesis")
        [found] = inspect_policies(connection, cursor, thesis)
    assert found.id == "tenantry.E115"
