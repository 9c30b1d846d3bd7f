"""Migrations that are undone, and tables of apps that they do not know."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.db import connections
from django.db.migrations import AddConstraint, RemoveConstraint, RenameField, RenameModel
from django.db.migrations.state import ProjectState
from django.db.models.signals import post_migrate

from tenantry import RLSConstraint, SharedWith, tenant_context
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.migrated import (
    SHARE,
    SHARED,
    bare,
    base,
    check,
    child,
    count,
    manager,
    model,
    paper,
    paper_alter,
    rls,
    tags,
    to,
)
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
HANGING = ("report", "thesis", "doc_tags")


def migrated(migrate: Migrate, *, is_open: bool = False) -> tuple[ProjectState, ProjectState]:
    """Return a state of a Doc, and one with what hangs on it, and no policy for it any more."""
    state = migrate(model("Tag", is_open=None), base())
    before = migrate(model("Doc", is_open=is_open, tags=tags()), state)
    state = migrate(child("Thesis", "Report"), migrate(child("Report", "Doc"), before))
    return before, state


def done(state: ProjectState, *, backwards: bool = True) -> None:
    """Do what ``migrate`` does last."""
    config = apps.get_app_config("tenantry")
    plan = [(None, backwards)]
    post_migrate.send(config, app_config=config, using="owner", apps=state.apps, plan=plan)


def undo(operation: Any, before: ProjectState) -> None:
    with connections["owner"].schema_editor() as editor:
        migration_of(operation).unapply(before.clone(), editor)


def test_what_hangs_on_a_table_that_is_protected_again(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    before, state = migrated(migrate)
    with tenant_context(a.pk):
        manager(state, "Thesis").create()
    operation = RemoveConstraint("doc", "doc_rls")
    with connections["owner"].schema_editor() as editor:
        migration_of(operation).apply(state.clone(), editor)
    assert [is_protected(f"migrated_{table}") for table in HANGING] == [(False, False, 0)] * 3
    undo(operation, before)
    # The relation is that of a model which the migration knows.
    assert not is_protected("migrated_report")[0]
    assert not is_protected("migrated_thesis")[0]
    done(state, backwards=False)
    assert not is_protected("migrated_report")[0]
    done(state)
    check(state, {"Doc", "Doc_tags", "Report", "Thesis"}, monkeypatch)
    with tenant_context(b.pk):
        assert count("thesis") == 0
    with tenant_context(a.pk):
        assert count("thesis") == 1
    policies = "SELECT oid FROM pg_policy ORDER BY oid"
    now = run(policies)
    done(state)
    assert run(policies) == now
    run("TRUNCATE migrated_doc CASCADE", alias="owner")


def test_what_hangs_on_a_table_that_is_shared_again(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, state = migrated(migrate, is_open=True)
    is_open, is_closed = (rls("doc_rls", is_open=each) for each in (True, False))
    for known, first, last in ((state, is_open, is_closed), (before, is_closed, is_open)):
        doc = known.apps.get_model("migrated", "Doc")
        with connections["owner"].schema_editor() as editor:
            doc._meta.constraints = []
            editor.remove_constraint(doc, first)
            doc._meta.constraints = [last]
            editor.add_constraint(doc, last)
    state.apps.get_model("migrated", "Doc")._meta.constraints = [is_open]
    assert is_protected("migrated_report")[2] < is_protected("migrated_doc_tags")[2]
    done(state)
    check(state, {"Doc", "Doc_tags", "Report", "Thesis"}, monkeypatch)


def test_what_cannot_be_told_yet_stays(tenants: Tenants, migrate: Migrate) -> None:
    _, state = migrated(migrate, is_open=True)
    protected = [is_protected(f"migrated_{table}") for table in HANGING]
    stale = state.clone()
    # Its constraint names a field that is gone.
    RenameField("doc", "tenant", "owner").state_forwards("migrated", stale)
    # A table that only the state has, as after --fake.
    child("Letter", "Doc").state_forwards("migrated", stale)
    run("ALTER TABLE migrated_report NO FORCE ROW LEVEL SECURITY", alias="owner")
    done(stale)
    assert not is_protected("migrated_report")[1]
    run("ALTER TABLE migrated_report FORCE ROW LEVEL SECURITY", alias="owner")
    assert [is_protected(f"migrated_{table}") for table in HANGING] == protected


def test_what_hangs_on_a_table_without_policies_stays(tenants: Tenants, migrate: Migrate) -> None:
    _, state = migrated(migrate)
    migrate(RemoveConstraint("doc", "doc_rls"), state)
    # As after --fake, which has not protected it again.
    done(state)
    assert [is_protected(f"migrated_{table}") for table in HANGING] == [(False, False, 0)] * 3


def undone(before: ProjectState, *operations: Any, atomic: bool) -> str:
    """Apply a migration, and undo it; return what the policies were in between."""
    migration = migration_of(*operations)
    with connections["owner"].schema_editor(atomic=atomic) as editor:
        migration.apply(before.clone(), editor)
    policies = run("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy")
    with connections["owner"].schema_editor(atomic=atomic) as editor:
        migration.unapply(before.clone(), editor)
    return str(policies)


@pytest.mark.parametrize("atomic", [True, False])
def test_the_model_of_shares_is_renamed(
    *, atomic: bool, tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = migrate_in_place(base(), paper(), SHARE, paper_alter(SHARED))
    a, b = tenants
    with tenant_context(a.pk):
        row = manager(before, "Paper").create()
        manager(before, "Share").create(paper=row, recipient_id=b.pk)
    shared = SharedWith("migrated.Grant", row="paper", tenant="recipient")
    policies = undone(
        before,
        RenameModel("Share", "Grant"),
        *paper_alter(shared).database_operations,
        atomic=atomic,
    )
    assert "migrated_grant" in policies
    check(before, {"Paper", "Share"}, monkeypatch)
    for tenant in (a, b):
        with tenant_context(tenant.pk):
            assert count("paper") == 1
    run("TRUNCATE migrated_paper CASCADE", alias="owner")


@pytest.mark.parametrize("atomic", [True, False])
def test_the_model_on_a_path_is_renamed(
    *, atomic: bool, tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the field of the path with it, for which the constraint waits."""
    path, renamed = (
        RLSConstraint(path=f"{name}__tenant", name="line_rls") for name in ("order", "sale")
    )
    line = bare("Line", order=to("Order"))
    line.options["constraints"] = [path]
    before = migrate_in_place(base(), model("Order", is_open=False), line)
    policies = undone(
        before,
        RenameModel("Order", "Sale"),
        RenameField("line", "order", "sale"),
        RemoveConstraint("line", "line_rls"),
        AddConstraint("line", renamed),
        atomic=atomic,
    )
    assert "migrated_sale" in policies
    check(before, {"Order", "Line"}, monkeypatch)
