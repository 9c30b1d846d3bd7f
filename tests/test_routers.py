"""Several databases, and connections that last: who is bound is so on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import DatabaseError, close_old_connections, connections, models, transaction
from django.db.migrations import AddConstraint, AddField, DeleteModel, Migration, RemoveConstraint
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, SameTenant, admin_context, tenant_context
from tenantry.checks.inspection import protected_models
from tenantry.exceptions import RLSConfigurationError
from tenantry.grants import grant_on, tables_in
from tenantry.operations import (
    AddRLSPolicy,
    AddSameTenantNotValid,
    AlterRLSPolicy,
    ValidateSameTenant,
)
from tenantry.shapes import current
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.migrated import base, child, manager, model, path_to, rls, tags
from tests.sql import run
from tests.test_roles import arranged

Tenants = tuple[Tenant, Tenant]


class Replica:
    """Read from another alias than is written to, as with a replica."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "pooled"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"


def titles() -> list[str]:
    return sorted(Note.objects.values_list("title", flat=True))


def test_a_replica_is_read_as_who_writes(tenants: Tenants, settings: Any) -> None:
    settings.DATABASE_ROUTERS = [Replica()]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert Note.objects.create(title="new")._state.db == "default"
            note = Note.objects.get(title="new")
            assert (note._state.db, note.tenant_id) == ("pooled", tenant.pk)
            note.title = "newer"
            note.save()
            assert titles() == [f"{tenant.name} 1", f"{tenant.name} 2", "newer"]
    assert titles() == []
    with admin_context():
        assert titles() == ["A 1", "A 2", "B 1", "B 2", "newer", "newer"]


@pytest.mark.parametrize("seconds", [0, 60, None])
@pytest.mark.parametrize("alias", ["default", "pooled"])
def test_a_connection_that_lasts_is_bound_anew(
    alias: str, seconds: int | None, tenants: Tenants
) -> None:
    connection = connections[alias]
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"], before = (
        seconds,
        connection.settings_dict["CONN_MAX_AGE"],
    )
    try:
        drivers = set()
        for tenant in [*tenants, *tenants]:
            with tenant_context(tenant.pk):
                found = Note.objects.using(alias).order_by("title")
                assert [note.title for note in found] == [f"{tenant.name} 1", f"{tenant.name} 2"]
            assert not Note.objects.using(alias).exists()
            # Kept, so that no other one gets its id.
            drivers.add(connection.connection)
            close_old_connections()
        assert len(drivers) == (4 if seconds == 0 else 1)
    finally:
        connection.settings_dict["CONN_MAX_AGE"] = before
        connection.close()


@pytest.mark.unsealed
def test_what_sql_leaves_on_a_connection_is_read_by_whoever_has_it_next(tenants: Tenants) -> None:
    """No policy applies to it: a limit that is documented, with what to write instead."""
    a, b = tenants
    create = "CREATE TEMPORARY TABLE {} AS SELECT title FROM app_note"
    connection = connections["default"]
    try:
        with tenant_context(a.pk):
            run(create.format("kept"))
            run("DECLARE held CURSOR WITH HOLD FOR SELECT title FROM app_note ORDER BY id")
        with tenant_context(b.pk):
            assert run("SELECT title FROM kept ORDER BY title") == [("A 1",), ("A 2",)]
            assert run("FETCH ALL FROM held") == [("A 1",), ("A 2",)]
        for tenant in tenants:
            with tenant_context(tenant.pk), transaction.atomic():
                run(create.format("dropped ON COMMIT DROP"))
                assert {title[0] for (title,) in run("SELECT title FROM dropped")} == {tenant.name}
    finally:
        connection.close()


# Databases that have only some of the tables.


class Elsewhere:
    """Keep some models out of the database."""

    refused: frozenset[str] = frozenset()

    def allow_migrate(self, db: str, app_label: str, model_name: Any = None, **more: Any) -> Any:
        return False if model_name in self.refused else None


def sealed() -> Any:
    stamped = CurrentTenant(guc_prefix="rls", key_type="bigint", sealed=True)
    return models.BigIntegerField(db_default=stamped)


def doc(**more: Any) -> Any:
    tag = models.ForeignKey("migrated.Tag", models.CASCADE, null=True)
    return model("Doc", is_open=False, tag=tag, tags=tags(), **more)


SAME = SameTenant(
    field="tag", name="doc_tag_same", tenant="tenant", target=("migrated.tag", "tenant", "id")
)
OPERATIONS: dict[str, tuple[list[Any], Any]] = {
    "a protected model": ([], doc(other=sealed())),
    "a model that is protected no more": ([doc()], DeleteModel("doc")),
    "a sealed field": ([doc()], AddField("doc", "other", sealed())),
    "a path": ([doc()], path_to("Doc")),
    "a child": ([doc()], child("Report", "Doc")),
    "protection": (
        [doc(), child("Report", "Doc"), RemoveConstraint("doc", "doc_rls")],
        AddConstraint("doc", rls("doc_rls", is_open=True)),
    ),
    "no protection": ([doc(), child("Report", "Doc")], RemoveConstraint("doc", "doc_rls")),
    "a foreign key": ([doc()], AddConstraint("doc", SAME)),
    "no foreign key": ([doc(), AddConstraint("doc", SAME)], RemoveConstraint("doc", SAME.name)),
    "a foreign key that is not valid": ([doc()], AddSameTenantNotValid("doc", SAME)),
    "a foreign key that is checked": (
        [doc(), AddSameTenantNotValid("doc", SAME)],
        ValidateSameTenant("doc", SAME.name),
    ),
    "a model of another package": (
        [doc()],
        AddRLSPolicy("migrated.Doc", tenant_model="app.Tenant", **current()),
    ),
    "other policies of one": (
        [doc()],
        AlterRLSPolicy("migrated.Doc", before=current(), **current()),
    ),
}


def sent(alias: Add, before: ProjectState, *operations: Any) -> list[str]:
    """Return what a migration sends, forwards and backwards; no table of it is there."""
    statements: list[str] = []

    def record(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        # What a block is made of has other names each time.
        if "SAVEPOINT" not in sql:
            statements.append(sql)
        return execute(sql, params, many, context)

    migration: Any = Migration("0002", "migrated")
    migration.operations = [*operations]
    for go in (migration.apply, migration.unapply):
        # Django leaves the block open if what a migration does last fails.
        owner = alias("owner")
        with suppress(DatabaseError), transaction.atomic(using=owner):
            with (
                connections[owner].execute_wrapper(record),
                connections[owner].schema_editor() as editor,
            ):
                go(before.clone(), editor)
            transaction.set_rollback(True, using=owner)
    return statements


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_nothing_where_its_table_is_not(
    name: str, alias: Add, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier, operation = OPERATIONS[name]
    before = base()
    for each in (model("Tag", is_open=False), *earlier):
        each.state_forwards("migrated", before)
    nothing = sent(alias, before)
    settings.DATABASE_ROUTERS = [Elsewhere()]
    assert {*sent(alias, before, operation)} - {*nothing}
    monkeypatch.setattr(Elsewhere, "refused", frozenset({"doc", "line", "report"}))
    assert sent(alias, before, operation) == nothing


def test_a_relation_of_a_model_that_is_elsewhere_is_left_alone(
    project: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = base()
    for each in (model("Tag", is_open=False), doc()):
        each.state_forwards("migrated", state)
    through = manager(state, "Doc").model.tags.through
    settings.DATABASE_ROUTERS = [Elsewhere()]
    for refused, sends in (frozenset[str](), True), (frozenset({"doc"}), False):
        monkeypatch.setattr(Elsewhere, "refused", refused)
        connection: Any = connections["owner"]
        with connection.schema_editor(collect_sql=True) as editor:
            editor.depend_anew(through)
            assert bool(editor.collected_sql) == sends


def test_the_admin_role_is_granted_the_tables_that_are_here(
    project: None, postgres: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "refused", frozenset({"tag"}))
    settings.DATABASE_ROUTERS = [Elsewhere()]
    back = "DROP OWNED BY elsewhere_admin; DROP ROLE elsewhere_admin"
    with arranged(postgres, "CREATE ROLE elsewhere_admin NOLOGIN", back=back):
        owner: Any = connections["owner"]
        grant_on(tables_in(owner), owner, "elsewhere_admin")
        sql = "SELECT has_table_privilege('elsewhere_admin', %s, 'SELECT')"
        assert [run(sql, [table]) for table in ("app_note", "app_tag")] == [[(True,)], [(False,)]]


def test_a_relation_is_where_its_model_is(
    project: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django asks a router for the model, and not for the table that it makes with that."""
    external = {"EXTERNAL_MODELS": {"auth.Group_permissions": "id"}}
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, **external}
    settings.DATABASE_ROUTERS = [Elsewhere()]
    through: Any = Group.permissions.through
    add = AddRLSPolicy("auth.Group_permissions", "id", create_column=False, **current())
    connection = connections["default"]
    editor, state = SimpleNamespace(connection=connection), SimpleNamespace(apps=apps)
    for refused, is_here in ("group_permissions", True), ("group", False):
        monkeypatch.setattr(Elsewhere, "refused", frozenset({refused}))
        assert (through in protected_models(connection)) == is_here
        assert (through._meta.db_table in tables_in(connection)) == is_here
        assert (add.model_with_table(editor, state) is through) == is_here


# Databases of another ENGINE, which makes no policies for what hangs on a protected table.


class ButOf:
    """Keep the models of an app out of a database."""

    refused = "app"

    def allow_migrate(self, db: str, app_label: str, **more: Any) -> Any:
        return False if app_label == self.refused else None


@pytest.fixture
def empty(alias: Add, superuser: psycopg.Connection[Any]) -> Iterator[str]:
    """Return an alias with Django's own ENGINE, whose database has no tables."""
    superuser.execute("CREATE DATABASE of_django OWNER owner")
    name = alias("owner", ENGINE="django.db.backends.postgresql", NAME="of_django")
    yield name
    connections[name].close()
    superuser.execute("DROP DATABASE of_django")


def tables(alias: str) -> set[str]:
    with connections[alias].cursor() as cursor:
        return set(connections[alias].introspection.table_names(cursor))


def migrate_all(alias: str, *arguments: str) -> None:
    # With the apps that have no migrations, which are others in other shapes.
    call_command("migrate", *arguments, database=alias, verbosity=0, run_syncdb=not arguments)


def test_protected_models_are_not_migrated_by_another_engine(empty: str, settings: Any) -> None:
    message = (
        f"the database '{empty}' has the ENGINE 'django.db.backends.postgresql', which does not"
        " inherit from tenantry's, .* migrate .*app.Book.*app.Tagging.* through an alias"
        " with the ENGINE 'tenantry.backends.postgresql', or keep them"
    )
    with pytest.raises(RLSConfigurationError, match=message):
        migrate_all(empty)
    assert tables(empty) <= {"django_migrations"}
    settings.DATABASE_ROUTERS = [ButOf()]
    migrate_all(empty)
    assert {"auth_group", "django_content_type"} <= tables(empty)
    assert not any(name.startswith("app_") for name in tables(empty))


@pytest.mark.guc_shape
def test_other_apps_are_migrated_by_another_engine(empty: str) -> None:
    migrate_all(empty, "contenttypes")
    assert "django_content_type" in tables(empty)
    call_command("migrate", "app", "--plan", database=empty, verbosity=0)
    with pytest.raises(RLSConfigurationError, match=r"app\.Note"):
        migrate_all(empty, "app")


@pytest.mark.guc_shape
def test_what_is_taken_for_done_is_recorded_by_tenantrys_engine(empty: str, alias: Add) -> None:
    """Nothing says that a migration is only recorded, but the record is the database's."""
    migrate_all(empty, "auth")
    with pytest.raises(RLSConfigurationError, match=r"app\.Note"):
        migrate_all(empty, "app", "--fake")
    ours = alias("owner", NAME="of_django")
    migrate_all(ours, "app", "--fake")
    connections[ours].close()
    migrate_all(empty, "app")
    assert "app_note" not in tables(empty)


def test_a_database_that_is_up_to_date_is_left_alone_by_another_engine(alias: Add) -> None:
    name = alias("owner", ENGINE="django.db.backends.postgresql")
    before = tables(name)
    migrate_all(name)
    assert tables(name) == before
