"""What the database itself guarantees, to raw SQL that filters nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django import VERSION
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections, models, transaction
from django.db.migrations import AddConstraint, CreateModel, RemoveConstraint, RenameField
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.operations.base import Operation
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, admin_context, tenant_context
from tenantry.policies.ddl import Shape
from tests import settings as test_settings
from tests.app.models import Label, Note, Tenant
from tests.fix_docs import DOCS
from tests.fix_migrations import drop_functions, is_protected, migration_of
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
Fields = list[tuple[str, Any]]


@pytest.mark.parametrize("alias", ["default", "owner", "pooled"])
def test_raw_sql_sees_the_tenant_and_unbound_nothing(alias: str, tenants: Tenants) -> None:
    assert run("SELECT count(*) FROM app_note", alias=alias) == [(0,)]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            rows = run("SELECT DISTINCT tenant_id FROM app_note", alias=alias)
            assert rows == [(tenant.pk,)]
    with admin_context():
        assert run("SELECT count(*) FROM app_note", alias=alias) == [(4,)]


def test_the_roles_of_these_tests_are_bound_by_rls(tenants: Tenants) -> None:
    exempt = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    for alias in connections:
        assert run(exempt, alias=alias) == [(False,)]


INSERT = "INSERT INTO app_author (name, tenant_id) VALUES ('new', %s)"
REFUSED = "violates row-level security policy"


def test_a_tenant_writes_its_own_rows_only(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        assert run(INSERT, [a.pk]) == 1
        with pytest.raises(ProgrammingError, match=REFUSED):
            run(INSERT, [b.pk])
        with pytest.raises(ProgrammingError, match=REFUSED):
            run("UPDATE app_note SET tenant_id = %s", [b.pk])
        assert run("UPDATE app_note SET title = title WHERE tenant_id = %s", [b.pk]) == 0
        assert run("DELETE FROM app_note WHERE tenant_id = %s", [b.pk]) == 0
        assert run("DELETE FROM app_note") == 2


def test_unbound_nothing_is_written(tenants: Tenants) -> None:
    with pytest.raises(ProgrammingError, match=REFUSED):
        run(INSERT, [tenants[0].pk])
    assert run("UPDATE app_note SET title = ''") == 0
    assert run("DELETE FROM app_note") == 0


def test_the_admin_writes_for_every_tenant(tenants: Tenants) -> None:
    with admin_context():
        for tenant in tenants:
            assert run(INSERT, [tenant.pk]) == 1
        assert run("UPDATE app_note SET title = title || '!'") == 4
        assert run("DELETE FROM app_note") == 4


def test_flush_is_the_owners(tenants: Tenants) -> None:
    with admin_context(), pytest.raises(CommandError, match="couldn't be flushed"):
        call_command("flush", interactive=False, verbosity=0)
    with admin_context():
        assert Note.objects.count() == 4


def asks_for_the_admin() -> str:
    """Return what a policy of a project's own asks, in this shape, whether the admin is current."""
    if test_settings.IS_SEALED:
        return "(SELECT tenantry.rls_sealed('grant') = 'admin')"
    if test_settings.HAS_ADMIN_ROLE:
        return "current_user = 'notebook_admin'"
    return "current_setting('rls.is_admin', true) = 'true'"


def test_a_policy_of_a_projects_own_can_ask_for_the_admin(
    tenants: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    asked = asks_for_the_admin()
    assert asked in (DOCS / "how-to/protect-users.md").read_text()
    asked = asked.replace("notebook_admin", "app_admin")
    superuser.execute(
        "CREATE POLICY own ON app_note AS RESTRICTIVE USING (true)"
        f" WITH CHECK (left(title, 6) <> 'admin ' OR {asked})".encode()
    )
    try:
        with tenant_context(tenants[0].pk):
            assert run("UPDATE app_note SET title = 'tenant ' || title") == 2
            with pytest.raises(ProgrammingError, match=REFUSED):
                run("UPDATE app_note SET title = 'admin ' || title")
        with admin_context():
            assert run("UPDATE app_note SET title = 'admin ' || title") == 4
        with tenant_context(tenants[0].pk):
            with pytest.raises(ProgrammingError, match=REFUSED):
                run("UPDATE app_note SET author_id = NULL")
            assert run("UPDATE app_note SET title = 'tenant ' || title") == 2
    finally:
        superuser.execute("DROP POLICY own ON app_note")


def test_the_orm_refuses_and_shows_what_the_database_does(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        with pytest.raises(ProgrammingError, match=REFUSED):
            Note.objects.create(title="x", tenant=b)
        with pytest.raises(ProgrammingError, match=REFUSED):
            Note.objects.update(tenant=b)
        with pytest.raises(ProgrammingError, match=REFUSED):
            Note.objects.bulk_create([Note(title="x", tenant=a), Note(title="y", tenant=b)])
        label = Label.objects.create(text="mine", customer=a)
    assert not Label.objects.exists()
    with tenant_context(b.pk):
        assert not Label.objects.exists()
    with tenant_context(a.pk):
        assert list(Label.objects.all()) == [label]


@pytest.mark.parametrize("form", ["TEXT", "BINARY"])
@pytest.mark.parametrize(
    "around", [pytest.param(nullcontext, marks=pytest.mark.unsealed), transaction.atomic]
)
def test_copy_in_is_refused_by_postgresql_on_protected_tables(
    around: Callable[[], AbstractContextManager[None]], form: str, tenants: Tenants
) -> None:
    copy = f"COPY app_author (name, tenant_id) FROM STDIN (FORMAT {form})"
    with (
        pytest.raises(psycopg.errors.FeatureNotSupported, match="COPY FROM not supported"),
        tenant_context(tenants[0].pk),
        around(),
        connections["default"].cursor() as cursor,
        cursor.copy(copy),
    ):
        pass


def test_copy_in_works_on_shared_tables(wire: Any, tenants: Tenants) -> None:
    with connections["wire"].cursor() as cursor:
        with cursor.copy("COPY app_shared (text) FROM STDIN") as copy:
            copy.write_row(["one"])
            copy.write_row(["two"])
        assert cursor.rowcount == 2
    assert wire.kinds == "Qdc"
    assert run("SELECT text FROM app_shared ORDER BY 1") == [("one",), ("two",)]


def test_a_tenant_key_is_compared_by_index(tenants: Tenants) -> None:
    """The predicate in ORM SQL makes an index condition, which the policy's CASE does not."""
    with tenant_context(tenants[0].pk):
        run("SET enable_seqscan = off")
        plan = Note.objects.filter(title="A 1").explain()
        run("RESET enable_seqscan")
    assert "Index Cond: ((tenant_id = 1)" in plan


# Migrations.

KEYS: list[tuple[models.Field[Any, Any], str, tuple[Any, Any]]] = [
    (models.IntegerField(), "int", (1, 2)),
    (models.BigIntegerField(), "bigint", (-(2**40), 2**40)),
    (
        models.UUIDField(),
        "uuid",
        ("00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"),
    ),
    (models.CharField(max_length=40), "text", ("straße 1%s", "%(b)s")),
    # What is sealed has colons of its own around it.
    (models.TextField(), "text", ("a:b:", "a")),
]
PREFIX = "keyed"


@pytest.fixture
def _no_functions_left(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    drop_functions(superuser, PREFIX)


@pytest.mark.usefixtures("_no_functions_left")
@pytest.mark.parametrize(("field", "key_type", "values"), KEYS)
def test_every_key_type_isolates(
    field: models.Field[Any, Any],
    key_type: str,
    values: tuple[Any, Any],
    migrate: Callable[..., ProjectState],
    settings: Any,
) -> None:
    keys = {"TENANT_PK_TYPE": key_type, "GUC_PREFIX": f"{PREFIX}_{key_type}"}
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, **keys}
    constraint = RLSConstraint(field="owner", name="keyed_rls")
    options = {"constraints": [constraint], "db_table": "Keyed"}
    fields = [("code", models.AutoField(primary_key=True)), ("owner", field)]
    state = migrate(CreateModel("Keyed", fields, options), ProjectState())
    assert is_protected('"Keyed"')[:2] == (True, True)
    model = state.apps.get_model("migrated", "Keyed")
    objects = model._default_manager.using("default")
    for value in values:
        with tenant_context(value):
            objects.create(owner=value)
            with pytest.raises(ProgrammingError, match=REFUSED):
                objects.create(owner=next(other for other in values if other != value))
    assert run('SELECT * FROM "Keyed"') == []
    for value in values:
        with tenant_context(value):
            assert [str(row.owner) for row in objects.all()] == [str(value)]
            assert [str(owner) for (owner,) in run('SELECT owner FROM "Keyed"')] == [str(value)]
    with admin_context():
        assert len(run('SELECT * FROM "Keyed"')) == 2


@pytest.mark.guc_shape
def test_a_constraint_is_added_and_removed_again(migrate: Callable[..., ProjectState]) -> None:
    fields: Fields = [
        ("id", models.AutoField(primary_key=True)),
        ("owner", models.IntegerField()),
    ]
    state = migrate(CreateModel("Later", fields), ProjectState())
    assert is_protected("migrated_later") == (False, False, 0)
    model = state.apps.get_model("migrated", "Later")
    with tenant_context(1):
        assert "WHERE" not in str(model._default_manager.all().query)
    state = migrate(AddConstraint("later", RLSConstraint(field="owner", name="later_rls")), state)
    assert is_protected("migrated_later") == (True, True, 1)
    model = state.apps.get_model("migrated", "Later")
    with tenant_context(1):
        assert str(model._default_manager.all().query).endswith('"owner" = 1')
    migrate(RemoveConstraint("later", "later_rls"), state)
    assert is_protected("migrated_later") == (False, False, 0)


@pytest.mark.guc_shape
def test_unapplying_drops_table_and_policy(migrate: Callable[..., ProjectState]) -> None:
    fields: Fields = [
        ("id", models.AutoField(primary_key=True)),
        ("owner", models.IntegerField()),
    ]
    constraint = RLSConstraint(field="owner", name="gone_rls")
    migration = migration_of(CreateModel("Gone", fields, {"constraints": [constraint]}))
    for _ in range(2):
        with connections["owner"].schema_editor() as editor:
            migration.apply(ProjectState(), editor)
        assert is_protected("migrated_gone") == (True, True, 1)
        with connections["owner"].schema_editor() as editor:
            migration.unapply(ProjectState(), editor)
        assert is_protected("migrated_gone") == (False, False, 0)


def test_a_model_created_and_deleted_in_one_migration_leaves_nothing(project: None) -> None:
    fields: Fields = [
        ("id", models.AutoField(primary_key=True)),
        ("owner", models.IntegerField()),
    ]
    constraint = RLSConstraint(field="owner", name="brief_rls")
    state = ProjectState()
    CreateModel("Brief", fields, {"constraints": [constraint]}).state_forwards("migrated", state)
    model = state.apps.get_model("migrated", "Brief")
    with connections["owner"].schema_editor() as editor:
        editor.create_model(model)
        editor.delete_model(model)
    assert is_protected("migrated_brief") == (False, False, 0)


@pytest.mark.guc_shape
def test_sqlmigrate_shows_the_policy(project: None) -> None:
    output = io.StringIO()
    call_command("sqlmigrate", "app", "0001", stdout=output, no_color=True, database="owner")
    sql = output.getvalue()
    assert 'ALTER TABLE "app_note" FORCE ROW LEVEL SECURITY;' in sql
    assert 'CREATE POLICY tenantry_isolation ON "Odd table"' in sql
    output = io.StringIO()
    call_command(
        "sqlmigrate", "app", "0001", stdout=output, no_color=True, backwards=True, database="owner"
    )
    assert 'ALTER TABLE "app_note" NO FORCE ROW LEVEL SECURITY;' in output.getvalue()


def test_migrations_hold_everything_that_models_declare(project: None) -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.guc_shape
@pytest.mark.parametrize(
    ("key", "value"), [("GUC_PREFIX", "other"), ("TENANT_PK_TYPE", "int"), ("APP_ROLE", "app")]
)
def test_a_changed_setting_makes_a_migration(
    key: str, value: str, project: None, settings: Any
) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", key: value}
    output = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("makemigrations", check=True, dry_run=True, stdout=output)
    assert "Remove constraint app_note_rls from model note" in output.getvalue()
    assert "Create constraint app_note_rls on model note" in output.getvalue()


def test_a_tenant_field_with_a_column_of_its_own_is_renamed(project: None) -> None:
    """Django 6.1 looks for the fields of any constraint that keeps its name: see the limits."""

    def state(field: str, name: str) -> ProjectState:
        fields: Fields = [
            ("id", models.BigAutoField(primary_key=True)),
            (field, models.BigIntegerField(db_column="customer_no")),
        ]
        options = {"constraints": [RLSConstraint(field=field, name=name)]}
        made = ProjectState()
        CreateModel("Renamed", fields, options).state_forwards("migrated", made)
        return made

    def operations(after: ProjectState) -> list[type[Operation]]:
        renamed = MigrationQuestioner({"ask_initial": True, "ask_rename": True})
        detector = MigrationAutodetector(state("customer", "a"), after, renamed)
        [migration] = detector.changes(MigrationGraph())["migrated"]
        return [type(each) for each in migration.operations]

    wanted = [RemoveConstraint, RenameField, AddConstraint]
    assert operations(state("client", "b")) == wanted
    if VERSION >= (6, 0):
        with pytest.raises(KeyError, match="fields"):
            operations(state("client", "a"))
    else:
        assert operations(state("client", "a")) == wanted


PREDICATE_1 = (
    "CASE WHEN (SELECT pg_catalog.current_setting('rls.is_admin', true) = 'true') THEN 1"
    """ WHEN "c" = (SELECT NULLIF(pg_catalog.current_setting('rls.current_tenant', true),"""
    " '')::bigint) THEN 1 END IS NOT NULL"
)
VERSION_1 = f"""\
CREATE POLICY tenantry_isolation ON "t" AS PERMISSIVE FOR ALL TO PUBLIC
  USING ({PREDICATE_1})
  WITH CHECK ({PREDICATE_1})"""


def test_version_1_of_the_policy_never_changes() -> None:
    """Old migrations run this text for ever; a change is a new version."""
    shape = Shape("rls", "bigint", version=1)
    sql = shape.protect('"t"', shape.policies(f'"c" = {shape.tenant}'))
    assert sql.endswith(VERSION_1)
    assert "LANGUAGE sql STABLE PARALLEL SAFE" in sql


def test_the_functions_mean_the_same_under_any_search_path(
    tenants: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("CREATE SCHEMA mine AUTHORIZATION app")
    try:
        run(
            "CREATE FUNCTION mine.current_setting(text, boolean) RETURNS text"
            " LANGUAGE sql AS $$ SELECT '2' $$"
        )
        with tenant_context(tenants[0].pk), transaction.atomic():
            run("SET LOCAL search_path = mine, public, pg_catalog")
            assert run("SELECT current_setting('x', true)") == [("2",)]
            assert run("SELECT DISTINCT tenant_id FROM app_note") == [(tenants[0].pk,)]
    finally:
        superuser.execute("DROP SCHEMA mine CASCADE")
