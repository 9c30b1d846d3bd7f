"""Columns that are dropped, and what policies and keys of other tables say of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.db import InternalError, connections, models
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations import (
    AddConstraint,
    CreateModel,
    DeleteModel,
    RemoveConstraint,
    RemoveField,
)

from tenantry import RawPredicate, RLSConstraint, SameTenant, tenant_context
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.migrated import base, check, child, count, manager, many, model
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
Superuser = psycopg.Connection[Any]


def in_the_way(policy: str) -> AbstractContextManager[Any]:
    """Return a block in which a column cannot be dropped, but on Django 5.2, which cascades."""
    if "CASCADE" in DatabaseSchemaEditor.sql_delete_column:
        return nullcontext()
    return pytest.raises(InternalError, match=policy)


def shows_nothing(table: str, tenant: Tenant) -> None:
    assert is_protected(f"migrated_{table}")[:2] == (True, True)
    assert count(table) == 0
    with tenant_context(tenant.pk):
        assert count(table) == 0


def line(*, app_role: str | None = None) -> CreateModel:
    rls = RLSConstraint(path="up__tenant", name="line_rls", app_role=app_role)
    up = models.ForeignKey("migrated.Doc", models.CASCADE, related_name="lines")
    fields: list[tuple[str, Any]] = [("id", models.AutoField(primary_key=True)), ("up", up)]
    return CreateModel("Line", fields, {"constraints": [rls]})


def test_the_link_of_a_child(tenants: Tenants, migrate: Migrate, superuser: Superuser) -> None:
    state = many(migrate, model("Doc", is_open=False), child("Report", "Doc"))
    with tenant_context(tenants[0].pk):
        manager(state, "Report").create()
        assert count("report") == 1
    state = migrate(RemoveField("report", "doc_ptr"), state)
    shows_nothing("report", tenants[0])
    superuser.execute("TRUNCATE migrated_report, migrated_doc")


@pytest.mark.parametrize("app_role", [None, "app"])
def test_what_a_path_leads_to(
    app_role: str | None, tenants: Tenants, migrate: Migrate, superuser: Superuser
) -> None:
    state = many(migrate, model("Doc", is_open=False), line(app_role=app_role))
    with tenant_context(tenants[0].pk):
        manager(state, "Line").create(up=manager(state, "Doc").create())
        assert count("line") == 1
    if app_role:
        # What holds for the role of the application holds on.
        superuser.execute("CREATE POLICY stray ON migrated_line USING (true)")
    state = migrate(RemoveConstraint("doc", "doc_rls"), state)
    state = migrate(RemoveField("doc", "tenant"), state)
    shows_nothing("line", tenants[0])
    with connections["owner"].schema_editor() as editor:
        migration_of(RemoveConstraint("line", "line_rls")).apply(state, editor)
    assert is_protected("migrated_line") == (False, False, 1 if app_role else 0)
    superuser.execute("TRUNCATE migrated_line, migrated_doc")


def test_what_a_key_of_the_same_tenant_refers_to(tenants: Tenants, migrate: Migrate) -> None:
    same = SameTenant(field="up", name="same")
    up = models.ForeignKey("migrated.Doc", models.CASCADE)
    book = model("Book", is_open=False, up=up)
    state = many(migrate, model("Doc", is_open=False), book, AddConstraint("book", same))
    keys = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conname = 'same'"
    assert len(run(keys)) == 1
    state = migrate(RemoveConstraint("doc", "doc_rls"), state)
    state = migrate(RemoveField("doc", "tenant"), state)
    assert run(keys) == []
    assert is_protected("migrated_book")[:2] == (True, True)
    with connections["owner"].schema_editor() as editor:
        migration_of(RemoveConstraint("book", "same")).apply(state, editor)


def test_what_an_expression_of_the_model_asks_for_is_in_the_way(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = many(migrate, model("Doc", is_open=False, code=models.IntegerField(default=1)))
    raw = RLSConstraint(field="tenant", name="raw_rls", extra_predicates=[RawPredicate("code = 2")])
    state = migrate(RemoveConstraint("doc", "doc_rls"), state)
    state = migrate(AddConstraint("doc", raw), state)
    with in_the_way("tenantry_sharing"):
        migrate(RemoveField("doc", "code"), state)


def of_author(*constraints: Any) -> CreateModel:
    author = models.ForeignKey("migrated.Author", models.CASCADE)
    book = model("Book", is_open=False, author=author)
    book.options["constraints"] += constraints
    return book


# What Django 5.2 writes to delete models that refer to each other: it removes no constraints.
BOOKS = (
    RemoveField("book", "author"),
    RemoveField("book", "partner"),
    RemoveField("book", "tenant"),
    DeleteModel("Author"),
    DeleteModel("Book"),
)
REPORTS = (RemoveField("report", "doc_ptr"), DeleteModel("Doc"), DeleteModel("Report"))
# The child alone, where its parent is protected by something else from now on.
CHANGED = (
    RemoveField("report", "doc_ptr"),
    RemoveConstraint("doc", "doc_rls"),
    AddConstraint("doc", RLSConstraint(field="tenant", name="doc_rls")),
    DeleteModel("Report"),
    DeleteModel("Doc"),
)
LINES = (RemoveField("line", "up"), DeleteModel("Doc"), DeleteModel("Line"))


@pytest.mark.parametrize(
    ("made", "deletion"),
    [
        ((model("Author", is_open=False), of_author()), BOOKS),
        (
            (model("Author", is_open=False), of_author(SameTenant(field="author", name="same"))),
            BOOKS,
        ),
        ((model("Doc", is_open=True), child("Report", "Doc")), REPORTS),
        ((model("Doc", is_open=True), child("Report", "Doc")), CHANGED),
        ((model("Doc", is_open=False), line()), LINES),
    ],
    ids=["books", "books of one tenant", "reports", "reports alone", "lines"],
)
def test_models_that_are_deleted_by_their_columns_first(
    made: Any, deletion: Any, tenants: Tenants, migrate_in_place: Migrate
) -> None:
    migrate_in_place(base(), *made, [*deletion])
    assert run("SELECT relname FROM pg_class WHERE starts_with(relname, 'migrated_')") == []


def test_the_table_of_a_model_that_is_to_be_deleted_is_closed(
    tenants: Tenants, migrate_in_place: Migrate, superuser: Superuser
) -> None:
    state = migrate_in_place(base(), model("Author", is_open=False), of_author())
    with tenant_context(tenants[0].pk):
        manager(state, "Book").create(author=manager(state, "Author").create())
        assert count("book") == 1
    migrate_in_place(state, [*BOOKS[:3]])
    shows_nothing("book", tenants[0])
    assert superuser.execute("SELECT count(*) FROM migrated_book").fetchone() == (1,)


@pytest.mark.parametrize(
    ("made", "deletion", "names"),
    [
        ((model("Author", is_open=False), of_author()), BOOKS, {"Author", "Book"}),
        ((model("Doc", is_open=False), line()), LINES, {"Doc", "Line"}),
        (
            (model("Doc", is_open=False), line()),
            (RemoveField("doc", "tenant"), *LINES),
            {"Doc", "Line"},
        ),
        (
            (model("Doc", is_open=False), line()),
            (LINES[0], RemoveField("doc", "tenant"), *LINES[1:]),
            {"Doc", "Line"},
        ),
    ],
    ids=["books", "lines", "tenants first", "tenants last"],
)
def test_the_deletion_is_undone(
    made: Any,
    deletion: Any,
    names: set[str],
    tenants: Tenants,
    migrate_in_place: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = migrate_in_place(base(), *made)
    migrate_in_place(before.clone(), [*deletion])
    with connections["owner"].schema_editor() as editor:
        migration_of(*deletion).unapply(before, editor)
    check(before, names, monkeypatch)


def test_so_is_that_of_a_key_of_the_same_tenant(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = SameTenant(field="author", name="same")
    before = migrate_in_place(base(), model("Author", is_open=False), of_author(same))
    migrate_in_place(before.clone(), [*BOOKS])
    with connections["owner"].schema_editor() as editor:
        migration_of(*BOOKS).unapply(before, editor)
    check(before, {"Author", "Book"}, monkeypatch)
    assert run("SELECT contype::text FROM pg_constraint WHERE conname = 'same'") == [("f",)]


def test_so_is_a_policy_of_somebody_else(tenants: Tenants, migrate: Migrate) -> None:
    state = many(migrate, model("Doc", is_open=None, code=models.IntegerField(default=1)))
    run("CREATE POLICY mine ON migrated_doc USING (code = 1)", alias="owner")
    with in_the_way("policy mine"):
        migrate(RemoveField("doc", "code"), state)


def test_the_sql_says_so(tenants: Tenants, migrate: Migrate) -> None:
    state = many(migrate, model("Doc", is_open=False), line())
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        migration_of(RemoveField("doc", "partner")).apply(state, editor)
    assert "ALTER POLICY" in "".join(editor.collected_sql)
