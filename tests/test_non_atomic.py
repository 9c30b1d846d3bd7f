"""Migrations outside of a transaction: whatever fails, no table shows what it did not before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import IntegrityError, ProgrammingError, connections, models, transaction
from django.db.migrations import AddConstraint, RemoveConstraint
from django.db.migrations.state import ProjectState

from tenantry import RawPredicate, RLSConstraint, SameTenant, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tenantry.external import current
from tenantry.operations import (
    AddRLSPolicy,
    AddSameTenantNotValid,
    AlterRLSPolicy,
    ValidateSameTenant,
)
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


def migrate_together(operation: Any, state: ProjectState) -> None:
    """Do one operation in a transaction."""
    with connections["owner"].schema_editor() as editor:
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
        # What was made before the policies, and is of no other test.
        made = superuser.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE starts_with(proname, 'after_')"
        )
        for (function,) in made.fetchall():
            superuser.execute(f"DROP FUNCTION IF EXISTS {function} CASCADE".encode())


# Foreign keys that hold the tenant, which are checked in the rows of all tenants.

TABLES = ("migrated_doc", "migrated_tag")
ADD = AddSameTenantNotValid("doc", SameTenant(field="tag", name="doc_tag_same"))
VALIDATE = ValidateSameTenant("doc", "doc_tag_same")


@pytest.fixture
def keyed(tenants: Tenants, migrate: Migrate) -> ProjectState:
    """Return a state with a foreign key."""
    tag: Any = models.ForeignKey("migrated.Tag", models.CASCADE, null=True)
    state: ProjectState = many(
        migrate, model("Tag", is_open=False), model("Doc", is_open=False, tag=tag)
    )
    return state


@pytest.fixture
def not_valid(keyed: ProjectState, migrate: Migrate) -> ProjectState:
    """Return a state with a SameTenant that has not looked at the rows of before."""
    return migrate(ADD, keyed)


def test_the_rows_of_all_tenants_are_checked(keyed: ProjectState, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        tag = manager(keyed, "Tag").create()
        manager(keyed, "Doc").create(tag=tag)
    with tenant_context(tenants[1].pk):
        astray = manager(keyed, "Doc").create(tag_id=tag.pk)
    migrate_alone(ADD, keyed)
    after = keyed.clone()
    ADD.state_forwards("migrated", after)
    try:
        with pytest.raises(IntegrityError, match="doc_tag_same"):
            migrate_alone(VALIDATE, after)
        with tenant_context(tenants[1].pk):
            astray.delete()
        migrate_alone(VALIDATE, after)
        valid = "SELECT convalidated FROM pg_constraint WHERE conname = 'doc_tag_same'"
        assert run(valid) == [(True,)]
    finally:
        migrate_alone(RemoveConstraint("doc", "doc_tag_same"), after)
    assert [is_forced(table) for table in TABLES] == [True, True]


# Where the admin is a role, the owner of the tables has to see the rows that are checked.


@contextmanager
def before_the_check(act: Callable[[], None]) -> Iterator[None]:
    """Do something once the owner sees the rows, and before they are checked."""

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "VALIDATE CONSTRAINT" in sql:
            assert [is_forced(table) for table in TABLES] == [False, False]
            act()
        return execute(sql, params, many, context)

    with connections["owner"].execute_wrapper(wrapper):
        yield


def is_forced(table: str) -> bool:
    [(forced,)] = run(f"SELECT relforcerowsecurity FROM pg_class WHERE oid = '{table}'::regclass")
    return bool(forced)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.role_shape
def test_an_interrupt_leaves_the_owner_bound(not_valid: ProjectState) -> None:
    """Such as Ctrl-C, for which a check of many rows gives time."""
    with before_the_check(interrupt), pytest.raises(KeyboardInterrupt) as caught:
        migrate_alone(VALIDATE, not_valid)
    assert not hasattr(caught.value, "__notes__")
    assert [is_forced(table) for table in TABLES] == [True, True]
    with before_the_check(lambda: None):
        migrate_alone(VALIDATE, not_valid)
    assert [is_forced(table) for table in TABLES] == [True, True]


@pytest.mark.role_shape
def test_nobody_else_waits_while_rows_are_checked(
    not_valid: ProjectState, tenants: Tenants
) -> None:
    def read_and_write() -> None:
        with tenant_context(tenants[0].pk), transaction.atomic():
            run("SET LOCAL lock_timeout = '5s'")
            tag = manager(not_valid, "Tag").create()
            manager(not_valid, "Doc").create(tag=tag)
            assert run("SELECT count(*) FROM migrated_doc JOIN migrated_tag t ON t.id = tag_id")

    migrate_together(VALIDATE, not_valid)  # Of no rows.
    read_and_write()
    with pytest.raises(ProgrammingError, match='read "migrated_doc" and "migrated_tag" while'):
        migrate_together(VALIDATE, not_valid)
    assert [is_forced(table) for table in TABLES] == [True, True]
    with before_the_check(read_and_write):
        migrate_alone(VALIDATE, not_valid)


@pytest.mark.role_shape
def test_what_could_not_be_done_after_a_failure_is_said(not_valid: ProjectState) -> None:
    def lose() -> None:
        connections["owner"].connection.close()
        interrupt()

    with before_the_check(lose), pytest.raises(KeyboardInterrupt) as caught:
        migrate_alone(VALIDATE, not_valid)
    (note,) = caught.value.__notes__
    assert note.startswith("This must follow, and has failed, too (")
    for table in TABLES:
        assert f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY' in note
    connections["owner"].close()
    run(note.partition("\n")[2], alias="owner")
    assert [is_forced(table) for table in TABLES] == [True, True]
