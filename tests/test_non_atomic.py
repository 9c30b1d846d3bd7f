"""Migrations outside of a transaction: whatever fails, no table shows what it did not before."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import (
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connections,
    models,
    transaction,
)
from django.db.migrations import (
    AddConstraint,
    AlterModelTable,
    DeleteModel,
    Migration,
    RemoveConstraint,
    RunSQL,
)
from django.db.migrations.state import ProjectState

from example_asgi.servers import Postgres
from tenantry import RawPredicate, RLSConstraint, SameTenant, admin_context, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tenantry.operations import (
    AddRLSPolicy,
    AddSameTenantNotValid,
    AlterRLSPolicy,
    ValidateSameTenant,
)
from tenantry.shapes import current
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.fix_servers import DATABASE
from tests.migrated import check, child, manager, many, model, path_to, rls, tags
from tests.sql import run

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


# A constraint that changes is removed, and added again.

Looks = list[set[tuple[str, int]]]
KEYS = {"doc": "id", "tag": "id", "report": "doc_ptr_id", "doc_tags": "id", "line": "id"}
LINE = RLSConstraint(path="up__tenant", name="line_rls", extra_bypass_flags=["login"])
CHANGES = [
    *(RemoveConstraint(name, f"{name}_rls") for name in ("doc", "tag", "line")),
    *(AddConstraint(name, rls(f"{name}_rls", is_open=True)) for name in ("doc", "tag")),
    AddConstraint("line", LINE),
]


def looks(tenants: Tenants, keys: dict[str, str] = KEYS) -> Looks:
    """Return the rows that nobody and each of the tenants sees, on the connection of requests."""
    sql = " UNION ALL ".join(
        f"SELECT '{table}', {key} FROM migrated_{table}" for table, key in keys.items()
    )
    found = [{*run(sql)}]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            found.append({*run(sql)})
    return found


@contextmanager
def nobody_sees_more(tenants: Tenants, keys: dict[str, str] = KEYS) -> Iterator[Looks]:
    """Look after each statement of the owner, which is a transaction of its own."""
    before = looks(tenants, keys)

    def wrapper(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        for now, was in zip(looks(tenants, keys), before, strict=True):
            assert now <= was, sql
        return result

    with connections["owner"].execute_wrapper(wrapper):
        yield before


def migration_with(*operations: Any) -> Any:
    migration: Any = Migration("0002", "migrated")
    migration.operations = [*operations]
    migration.atomic = False
    return migration


def apply(migration: Migration, state: ProjectState) -> ProjectState:
    with connections["owner"].schema_editor(atomic=False) as editor:
        return migration.apply(state.clone(), editor)


def unapply(migration: Migration, state: ProjectState) -> None:
    with connections["owner"].schema_editor(atomic=False) as editor:
        migration.unapply(state.clone(), editor)


@pytest.fixture
def docs(tenants: Tenants, migrate: Migrate) -> ProjectState:
    """Return a state with two protected models and what hangs on them, each with rows of both."""
    state: ProjectState = many(
        migrate,
        model("Tag", is_open=False),
        model("Doc", is_open=False, tags=tags()),
        child("Report", "Doc"),
        path_to("Doc"),
    )
    made = []
    for tenant in tenants:
        with tenant_context(tenant.pk):
            tag, report = (manager(state, name).create() for name in ("Tag", "Report"))
            manager(state, "Line").create(up_id=report.pk)
            doc = manager(state, "Doc").get(pk=report.pk)
            doc.tags.add(tag)
            made.append((doc, tag))
    with admin_context():  # Who alone sees what relates rows of two tenants.
        made[0][0].tags.add(made[1][1])
    return state


@pytest.mark.parametrize("backwards", [False, True])
def test_no_table_is_open_while_its_constraint_changes(
    backwards: bool,
    docs: ProjectState,
    tenants: Tenants,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    migration, names = migration_with(*CHANGES), {"Doc", "Doc_tags", "Tag", "Report", "Line"}
    if backwards:
        apply(migration, docs)
    with nobody_sees_more(tenants) as before:
        after = docs if backwards else apply(migration, docs)
        if backwards:
            unapply(migration, docs)
    assert [len(rows) for rows in before] == [0, 5, 5]
    assert looks(tenants) == before
    check(after, names, monkeypatch)


def test_no_table_is_open_after_a_change_that_has_failed(
    docs: ProjectState, tenants: Tenants, superuser: Superuser
) -> None:
    with nobody_sees_more(tenants) as before:
        with no_policy_is_made(superuser):
            apply(migration_with(*CHANGES), docs)
        for table in KEYS:
            check_closed(f"migrated_{table}", tenants, superuser)
        apply(migration_with(*CHANGES), docs)
    assert looks(tenants) == before


def test_a_table_that_is_everybodys_opens_when_the_migration_ends(
    docs: ProjectState, tenants: Tenants, superuser: Superuser
) -> None:
    hanging = ("report", "doc_tags", "line")
    migration = migration_with(RemoveConstraint("doc", "doc_rls"))
    with connections["owner"].schema_editor(atomic=False) as editor:
        with nobody_sees_more(tenants):
            migration.apply(docs.clone(), editor)
        for table in ("doc", *hanging):
            check_closed(f"migrated_{table}", tenants, superuser)
    assert is_protected("migrated_doc") == is_protected("migrated_report") == (False, False, 0)
    with tenant_context(tenants[0].pk):
        counts = {table: run(f"SELECT count(*) FROM migrated_{table}") for table in KEYS}
    assert counts["doc"] == counts["report"] == [(2,)]
    assert counts["tag"] == counts["doc_tags"] == [(1,)]


def test_a_table_that_is_renamed_or_deleted_opens_or_does_not(
    docs: ProjectState, tenants: Tenants
) -> None:
    migration = migration_with(
        RemoveConstraint("doc", "doc_rls"),
        AlterModelTable("doc", "migrated_paper"),
        RemoveConstraint("line", "line_rls"),
        DeleteModel("line"),
    )
    apply(migration, docs)
    assert is_protected("migrated_paper") == (False, False, 0)
    unapply(migration, docs)
    assert is_protected("migrated_doc")[:2] == is_protected("migrated_line")[:2] == (True, True)


def test_a_table_that_gets_other_policies_stays_closed(
    docs: ProjectState, tenants: Tenants
) -> None:
    """Those of SQL that the same migration runs, and that would do nothing after it."""
    policy = "CREATE POLICY own ON migrated_doc USING (tenant_id = 0)"
    change = migration_with(RemoveConstraint("doc", "doc_rls"), RunSQL(policy))
    with nobody_sees_more(tenants, {"doc": "id"}):
        apply(change, docs)
    assert is_protected("migrated_doc") == (True, True, 1)
    run("DROP POLICY own ON migrated_doc", alias="owner")


def test_a_child_whose_own_constraint_changes_is_not_seen_with_its_parent(
    tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    keys = {"doc": "id", "report": "doc_ptr_id"}
    state = migrate(own(), many(migrate, model("Doc", is_open=True), child("Report", "Doc")))
    with tenant_context(a.pk):
        manager(state, "Report").create(partner_id=b.pk)
    flagged = RLSConstraint(path="doc_ptr__tenant", name="own_rls", extra_bypass_flags=["login"])
    change = migration_with(
        RemoveConstraint("report", "own_rls"),
        RemoveConstraint("doc", "doc_rls"),
        AddConstraint("report", flagged),
        AddConstraint("doc", rls("doc_rls", is_open=True)),
    )
    with nobody_sees_more(tenants, keys) as before:
        state = apply(change, state)
    assert [len(rows) for rows in before] == [0, 2, 1]
    assert looks(tenants, keys) == before
    apply(migration_with(RemoveConstraint("report", "own_rls")), state)
    assert [len(rows) for rows in looks(tenants, keys)] == [0, 2, 2]


@pytest.mark.parametrize("closed", ["doc", "tag"])
def test_a_foreign_key_is_checked_while_a_table_shows_nothing(
    closed: str, tenants: Tenants, migrate: Migrate
) -> None:
    tag: Any = models.ForeignKey("migrated.Tag", models.CASCADE)
    state = many(migrate, model("Tag", is_open=False), model("Doc", is_open=False, tag=tag))
    target = ("migrated.tag", "tenant", "id")
    same = SameTenant(field="tag", name="doc_tag_same", tenant="tenant", target=target)
    change = migration_with(
        RemoveConstraint(closed, f"{closed}_rls"),
        AddConstraint("doc", same),
        AddConstraint(closed, rls(f"{closed}_rls", is_open=False)),
    )
    made = {}
    for tenant in tenants:
        with tenant_context(tenant.pk):
            made[tenant] = manager(state, "Tag").create()
            manager(state, "Doc").create(tag_id=made[tenant].pk)
    apply(change, state)
    unapply(change, state)
    with tenant_context(tenants[0].pk):
        manager(state, "Doc").create(tag_id=made[tenants[1]].pk)
    with pytest.raises(IntegrityError, match="doc_tag_same"):
        apply(change, state)
    assert is_protected(f"migrated_{closed}") == (True, True, 0)


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
        assert is_valid()
    finally:
        migrate_alone(RemoveConstraint("doc", "doc_tag_same"), after)
    assert [is_forced(table) for table in TABLES] == [True, True]


# Where the admin is a role, the session that checks has to see the rows, and nobody else.

COUNT = "SELECT count(*) FROM migrated_doc"
VIEW = "CREATE VIEW migrated_docs AS SELECT * FROM migrated_doc"
LEFT = (
    "SELECT polrelid::regclass::text FROM pg_policy WHERE polname = 'tenantry_validation'"
    " ORDER BY 1"
)
SHOWN = (
    "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
    " WHERE polname = 'tenantry_validation' AND polrelid = 'migrated_doc'::regclass"
)


@contextmanager
def before_the_check(act: Callable[[], None]) -> Iterator[None]:
    """Do something once this session may see the rows, and before they are checked."""

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if "VALIDATE CONSTRAINT" in sql:
            assert run(LEFT) == [(table,) for table in TABLES]
            assert [is_forced(table) for table in TABLES] == [True, True]
            act()
        return execute(sql, params, many, context)

    with connections["owner"].execute_wrapper(wrapper):
        yield


def is_forced(table: str) -> bool:
    [(forced,)] = run(f"SELECT relforcerowsecurity FROM pg_class WHERE oid = '{table}'::regclass")
    return bool(forced)


def is_valid() -> bool:
    [(valid,)] = run("SELECT convalidated FROM pg_constraint WHERE conname = 'doc_tag_same'")
    return bool(valid)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def viewed(not_valid: ProjectState, tenants: Tenants) -> Iterator[ProjectState]:
    """Return a state with a row to check, and a view of the owner's."""
    with tenant_context(tenants[0].pk):
        tag = manager(not_valid, "Tag").create()
        manager(not_valid, "Doc").create(tag=tag)
    run(VIEW, alias="owner")
    yield not_valid
    run("DROP VIEW migrated_docs", alias="owner")


def check_hidden(postgres: Postgres, tenants: Tenants) -> None:
    """Check that nobody sees rows by a view of the owner's, nor another session of the owner."""
    assert run("SELECT count(*) FROM migrated_docs") == [(0,)]
    with tenant_context(tenants[1].pk):
        assert run("SELECT count(*) FROM migrated_docs") == [(0,)]
    with psycopg.connect(postgres.dsn("owner", DATABASE), autocommit=True) as other:
        assert other.execute(COUNT).fetchone() == (0,)
        # Nor one that looks like the one that checks.
        assert other.execute(f"{COUNT} -- $tenantry_validation$".encode()).fetchone() == (0,)


@pytest.mark.role_shape
def test_nobody_else_sees_the_rows_while_they_are_checked(
    viewed: ProjectState, tenants: Tenants, postgres: Postgres
) -> None:
    with before_the_check(lambda: check_hidden(postgres, tenants)):
        migrate_alone(VALIDATE, viewed)
    assert is_valid()
    assert run(LEFT) == []


@pytest.mark.role_shape
def test_a_connection_that_is_lost_leaves_nothing_open(
    viewed: ProjectState, tenants: Tenants, postgres: Postgres, superuser: Superuser
) -> None:
    def lose() -> None:
        [(pid,)] = run("SELECT pg_backend_pid()", alias="owner")
        superuser.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    with before_the_check(lose), pytest.raises(OperationalError) as caught:
        migrate_alone(VALIDATE, viewed)
    (note,) = caught.value.__notes__
    assert note.startswith("This must follow, and has failed, too (")
    for table in TABLES:
        assert f'DROP POLICY IF EXISTS tenantry_validation ON "{table}"' in note
    connections["owner"].close()
    assert run(LEFT) == [(table,) for table in TABLES]
    assert [is_forced(table) for table in TABLES] == [True, True]
    check_hidden(postgres, tenants)
    # Nor a session that has got the number of the process that is gone.
    with psycopg.connect(postgres.dsn("owner", DATABASE), autocommit=True) as other:
        [(shown,)] = run(SHOWN)
        again = re.sub(r"(pid\(\) =) \d+", rf"\1 {other.info.backend_pid}", shown)
        assert again != shown
        other.execute(f"ALTER POLICY tenantry_validation ON migrated_doc USING ({again})".encode())
        assert other.execute(COUNT).fetchone() == (0,)
    # To migrate again makes it good, and so does what the note says.
    migrate_alone(VALIDATE, viewed)
    assert run(LEFT) == []
    run(note.partition("\n")[2], alias="owner")


@pytest.mark.role_shape
def test_an_interrupt_leaves_no_policy(not_valid: ProjectState) -> None:
    """Such as Ctrl-C, for which a check of many rows gives time."""
    with before_the_check(interrupt), pytest.raises(KeyboardInterrupt) as caught:
        migrate_alone(VALIDATE, not_valid)
    assert not hasattr(caught.value, "__notes__")
    assert run(LEFT) == []


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
    assert run(LEFT) == []
    with before_the_check(read_and_write):
        migrate_alone(VALIDATE, not_valid)


def change_session() -> None:
    """Show the rows to another session, as if a pooler had given this one instead."""
    policy = "ALTER POLICY tenantry_validation ON migrated_doc USING (pg_backend_pid() = 0)"
    run(policy, alias="owner")


def restrict() -> None:
    run("CREATE POLICY mine ON migrated_tag AS RESTRICTIVE USING (id = 0)", alias="owner")


@pytest.mark.role_shape
@pytest.mark.parametrize(("act", "table"), [(change_session, "doc"), (restrict, "tag")])
def test_rows_that_the_session_does_not_see_are_not_called_good(
    act: Callable[[], None], table: str, viewed: ProjectState
) -> None:
    try:
        with (
            before_the_check(act),
            pytest.raises(ProgrammingError, match=f'rows of "migrated_{table}" are hidden'),
        ):
            migrate_alone(VALIDATE, viewed)
        assert not is_valid()
        assert run(LEFT) == []
    finally:
        run("DROP POLICY IF EXISTS mine ON migrated_tag", alias="owner")
