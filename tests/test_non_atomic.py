"""Migrations outside of a transaction: whatever fails, no table shows what it did not before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import ProgrammingError, connections
from django.db.migrations import AddConstraint
from django.db.migrations.state import ProjectState

from tenantry import RawPredicate, RLSConstraint, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tenantry.external import current
from tenantry.operations import AddRLSPolicy, AlterRLSPolicy
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.test_dependents_shared import child, manager, many, model, tags
from tests.test_sharing import run

Tenants = tuple[Tenant, Tenant]
Superuser = psycopg.Connection[Any]

NO_POLICY = """\
CREATE FUNCTION no_policy() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'no policy is made now'; END $$;
CREATE EVENT TRIGGER no_policy ON ddl_command_start WHEN TAG IN ('CREATE POLICY')
  EXECUTE FUNCTION no_policy()"""


@contextmanager
def no_policy_is_made(superuser: Superuser) -> Iterator[None]:
    """Let every CREATE POLICY fail, which is said after what it takes the place of is gone."""
    superuser.execute(NO_POLICY)
    try:
        with pytest.raises(ProgrammingError, match="no policy is made now"):
            yield
    finally:
        superuser.execute("DROP EVENT TRIGGER no_policy; DROP FUNCTION no_policy")


def migrate_alone(operation: Any, state: ProjectState) -> None:
    """Do one operation, outside of a transaction."""
    with connections["owner"].schema_editor(atomic=False) as editor:
        migration_of(operation).apply(state.clone(), editor)


def check_closed(table: str, tenants: Tenants, superuser: Superuser) -> None:
    """Check that a table, which has rows, is protected and shows them to nobody."""
    count = f"SELECT count(*) FROM {table}"
    assert superuser.execute(count.encode()).fetchone() != (0,)
    assert is_protected(table)[:2] == (True, True)
    assert run(count) == run(count, alias="owner") == [(0,)]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert run(count) == [(0,)]


@pytest.fixture
def report(tenants: Tenants, migrate: Migrate) -> ProjectState:
    """Return a state with a child that is protected by its parent, and has a row."""
    state: ProjectState = many(migrate, model("Doc", is_open=False), child("Report", "Doc"))
    with tenant_context(tenants[0].pk):
        manager(state, "Report").create()
    return state


def own(*predicates: Any) -> AddConstraint:
    rls = RLSConstraint(path="doc_ptr__tenant", name="own_rls", extra_predicates=predicates)
    return AddConstraint("report", rls)


def test_a_child_that_gets_a_constraint_of_its_own(
    report: ProjectState, tenants: Tenants, superuser: Superuser
) -> None:
    with no_policy_is_made(superuser):
        migrate_alone(own(), report)
    check_closed("migrated_report", tenants, superuser)


def test_a_child_that_gets_one_that_postgresql_does_not_take(
    report: ProjectState, tenants: Tenants, superuser: Superuser
) -> None:
    with pytest.raises(RLSConfigurationError, match="no_such_column"):
        migrate_alone(own(RawPredicate("no_such_column")), report)
    check_closed("migrated_report", tenants, superuser)


def test_a_relation_that_leads_elsewhere(
    tenants: Tenants, migrate: Migrate, superuser: Superuser
) -> None:
    state = many(migrate, model("Tag", is_open=False), model("Doc", is_open=False, tags=tags()))
    with tenant_context(tenants[0].pk):
        manager(state, "Doc").create().tags.add(manager(state, "Tag").create())
    through = manager(state, "Doc").model.tags.through
    with (
        no_policy_is_made(superuser),
        connections["owner"].schema_editor(atomic=False) as editor,
    ):
        editor.depend_anew(through)  # type: ignore[attr-defined]
    check_closed("migrated_doc_tags", tenants, superuser)


def test_a_table_of_another_package_whose_policies_change(
    tenants: Tenants, migrate: Migrate, superuser: Superuser
) -> None:
    state = ProjectState.from_apps(apps)
    before = current()
    migrate(AddRLSPolicy("auth.Group", tenant_model="app.Tenant", **before), state)
    with tenant_context(tenants[0].pk):
        run("INSERT INTO auth_group (name) VALUES ('of A')")
    alter = AlterRLSPolicy("auth.Group", before=before, **{**before, "guc_prefix": "after"})
    try:
        with no_policy_is_made(superuser):
            migrate_alone(alter, state)
        check_closed("auth_group", tenants, superuser)
    finally:
        superuser.execute("TRUNCATE auth_group CASCADE")
