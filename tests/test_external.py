"""Tables of other packages, protected by an operation; and requests that only read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission
from django.db import InternalError, ProgrammingError, connections, models, transaction
from django.db.migrations import CreateModel
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.http import HttpResponse
from django.test import RequestFactory

from tenantry import admin_context, tenant_context
from tenantry.binding import Binding
from tenantry.checks.inspection import inspect_database
from tenantry.context import Scope
from tenantry.exceptions import RLSConfigurationError
from tenantry.middleware import RLSTenantMiddleware
from tenantry.operations import AddRLSPolicy, AlterRLSPolicy
from tenantry.policy_tests import protected_tables
from tenantry.shapes import current
from tests import settings as test_settings
from tests.app.models import Tag, Tenant, User
from tests.fix_checks import broken
from tests.fix_migrations import Migrate, is_protected, written
from tests.fix_wire import Wire
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


@pytest.fixture
def groups(
    tenants: Tenants, migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> Iterator[Tenants]:
    """Protect Django's own table of groups."""
    state = ProjectState.from_apps(apps)
    migrate(AddRLSPolicy("auth.Group", "owner_id", tenant_model="app.Tenant", **current()), state)
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "owner_id"},
        "SHARED_MODELS": ["auth.Group_permissions"],
    }
    yield tenants
    superuser.execute("TRUNCATE auth_group CASCADE")


def test_a_model_of_another_package_is_isolated(
    groups: Tenants, wire: Wire, superuser: psycopg.Connection[Any]
) -> None:
    a, b = groups
    for tenant in groups:
        with tenant_context(tenant.pk):
            Group.objects.create(name=f"of {tenant.name}")
            run("INSERT INTO auth_group (name) VALUES (%s)", [f"raw of {tenant.name}"])
    assert (Group.objects.count(), run("SELECT count(*) FROM auth_group")) == (0, [(0,)])
    for tenant in groups:
        with tenant_context(tenant.pk):
            names = sorted(Group.objects.values_list("name", flat=True))
            assert names == [f"of {tenant.name}", f"raw of {tenant.name}"]
            assert run("SELECT count(*) FROM auth_group") == [(2,)]
            assert f'"auth_group"."owner_id" = {tenant.pk}' in str(Group.objects.all().query)
    with admin_context():
        assert Group.objects.count() == 4
    with tenant_context(a.pk):
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("UPDATE auth_group SET owner_id = %s", [b.pk])
        user = User.objects.create(username="u", tenant=a)
        user.groups.set(Group.objects.all())
        assert User.objects.filter(groups__name="of A").count() == 1
        assert User.objects.filter(groups__name="of B").count() == 0
    assert list(inspect_database(connections["default"])) == []
    tested = {each.name: each for each in protected_tables(connections["default"])}
    assert tested["auth_group"].columns == ['"id"', '"name"', '"owner_id"']
    assert tested["auth_group"].own("tenant_a") == '"owner_id" = :tenant_a'
    copy = "CREATE TABLE t AS SELECT owner_id FROM auth_group; GRANT SELECT ON t TO app"
    with broken(superuser, copy, "DROP TABLE t"):
        [finding] = inspect_database(connections["default"])
    assert finding.message.startswith("has the tenant column owner_id but no policy")


def test_what_belongs_to_its_rows_is_found(
    groups: Tenants, migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> None:
    external = {"auth.Group": "owner_id"}
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "EXTERNAL_MODELS": external}
    [finding] = inspect_database(connections["default"])
    assert finding.id == "tenantry.E119"
    assert finding.subject == "table auth_group_permissions"
    assert finding.message.endswith("auth.Group, and has Row-Level Security switched off")
    relation = "auth.Group_permissions"
    assert relation in finding.fix
    operation = AddRLSPolicy(relation, "owner_id", tenant_model="app.Tenant", **current())
    migrate(operation, ProjectState.from_apps(apps))
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {**external, relation: "owner_id"},
    }
    assert list(inspect_database(connections["default"])) == []
    a, b = groups
    with tenant_context(a.pk):
        group = Group.objects.create(name="of A")
        group.permissions.set(Permission.objects.all()[:2])
        assert run("SELECT count(*) FROM auth_group_permissions") == [(2,)]
    with tenant_context(b.pk):
        assert run("SELECT count(*) FROM auth_group_permissions") == [(0,)]
    superuser.execute("TRUNCATE auth_group_permissions")


def operated(operation: Operation, state: ProjectState, *, backwards: bool = False) -> None:
    """Do what an operation does as the owner, in one direction."""
    with connections["owner"].schema_editor() as editor:
        way = operation.database_backwards if backwards else operation.database_forwards
        way("app", editor, state, state)


def shape_of(table: str) -> tuple[list[Any], Any]:
    """Return the columns of a table with their defaults, and how it is protected."""
    columns = run(
        "SELECT column_name::text, data_type::text, column_default FROM information_schema.columns"
        " WHERE table_name = %s ORDER BY 1",
        [table],
        alias="owner",
    )
    return columns, is_protected(table)


@pytest.mark.parametrize("create_column", [True, False])
def test_the_operation_is_undone(create_column: bool, tenants: Tenants) -> None:
    state = ProjectState.from_apps(apps)
    if create_column:
        add = AddRLSPolicy("auth.Group", tenant_model="app.Tenant", **current())
    else:
        add = AddRLSPolicy("auth.Group", "id", create_column=False, **current())
    before = shape_of("auth_group")
    assert before[1] == (False, False, 0)
    with connections["owner"].schema_editor() as editor:
        add.database_forwards("app", editor, state, state)
    columns, protection = shape_of("auth_group")
    assert protection[:2] == (True, True)
    added = [name for name, *_ in columns if name not in {known for known, *_ in before[0]}]
    assert added == (["tenant_id"] if create_column else [])
    with connections["owner"].schema_editor() as editor:
        add.database_backwards("app", editor, state, state)
    assert shape_of("auth_group") == before


@pytest.fixture
def legacy(tenants: Tenants, superuser: psycopg.Connection[Any]) -> Iterator[ProjectState]:
    """Return a state with an unmanaged model, whose table somebody else has made."""
    superuser.execute(
        "CREATE TABLE legacy (id bigint PRIMARY KEY, owner_id bigint);"
        " ALTER TABLE legacy OWNER TO owner; GRANT ALL ON legacy TO app"
    )
    state = ProjectState.from_apps(apps)
    fields: list[tuple[str, Any]] = [("id", models.BigIntegerField(primary_key=True))]
    unmanaged = {"managed": False, "db_table": "legacy"}
    CreateModel("Legacy", fields, unmanaged).state_forwards("app", state)
    yield state
    superuser.execute("DROP TABLE legacy")


@pytest.mark.parametrize("create_column", [True, False])
def test_a_table_that_django_does_not_make_is_protected(
    create_column: bool, legacy: ProjectState, tenants: Tenants
) -> None:
    column = "tenant_id" if create_column else "owner_id"
    tenant_model = "app.Tenant" if create_column else None
    own: dict[str, Any] = {"create_column": create_column}
    add = AddRLSPolicy("app.Legacy", column, tenant_model=tenant_model, **own, **current())
    after = {**current(), "guc_prefix": "after"}
    alter = AlterRLSPolicy("app.Legacy", column, before=current(), **own, **after)
    before = shape_of("legacy")
    operated(add, legacy)
    assert is_protected("legacy")[:2] == (True, True)
    for tenant in tenants:
        with tenant_context(tenant.pk):
            run(f"INSERT INTO legacy (id, {column}) VALUES (%s, %s)", [tenant.pk] * 2)
            assert run("SELECT id FROM legacy") == [(tenant.pk,)]
    assert run("SELECT id FROM legacy") == []
    texts = "SELECT qual FROM pg_policies WHERE tablename = 'legacy' ORDER BY policyname"
    made = run(texts)
    operated(alter, legacy)
    assert "after" in str(run(texts))
    operated(alter, legacy, backwards=True)
    assert run(texts) == made
    operated(add, legacy, backwards=True)
    assert shape_of("legacy") == before


PROXY = CreateModel("Proxy", [], {"proxy": True}, bases=("auth.group",))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("operation", [AddRLSPolicy, AlterRLSPolicy])
@pytest.mark.parametrize(
    ("label", "other"), [("app.Proxy", "auth.Group"), ("auth.User", "app.User")]
)
def test_a_model_without_a_table_of_its_own_is_refused(
    label: str, other: str, operation: Any, backwards: bool, project: None
) -> None:
    state = ProjectState.from_apps(apps)
    PROXY.state_forwards("app", state)
    before = {"before": BEFORE} if operation is AlterRLSPolicy else {}
    made = operation(label, "id", create_column=False, **before, **BEFORE)
    message = f"names {label}, which has no table of its own; name {other} instead"
    with pytest.raises(RLSConfigurationError, match=message):
        operated(made, state, backwards=backwards)


@pytest.mark.parametrize(
    ("label", "other"), [("app.NewestFirst", "app.Item"), ("auth.User", "app.User")]
)
def test_a_model_without_a_table_is_no_external_model(
    label: str, other: str, tenants: Tenants, settings: Any
) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "EXTERNAL_MODELS": {label: "tenant_id"}}
    message = f"names '{label}', which has no table of its own; name '{other}' instead"
    with pytest.raises(RLSConfigurationError, match=message):
        list(Tag.objects.all())


def test_the_policy_that_is_missing_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "id"},
    }
    found = {each.id for each in inspect_database(connections["default"])}
    assert {"tenantry.E111", "tenantry.E114"} <= found


def test_a_model_that_is_not_installed_is_refused(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"taggit.Tag": "tenant_id"},
    }
    with pytest.raises(RLSConfigurationError, match=r"'taggit.Tag', which is not installed"):
        list(Tag.objects.all())


@pytest.mark.parametrize(
    "value", [[], {"Tag": "tenant_id"}, {"taggit.Tag": None}, {"taggit.Tag": ""}]
)
def test_a_bad_setting_is_refused(value: object, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "EXTERNAL_MODELS": value}
    with pytest.raises(RLSConfigurationError, match="a dict of model labels and tenant columns"):
        tenant_context(1)


BEFORE: dict[str, Any] = {"guc_prefix": "before", "key_type": "bigint", "version": 1}
GROUP: dict[str, Any] = {**BEFORE, "tenant_model": "app.Tenant"}


def sql_of(operation: Operation, *, backwards: bool = False) -> list[str]:
    """Return what an operation would run."""
    state = ProjectState.from_apps(apps)
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        way = operation.database_backwards if backwards else operation.database_forwards
        way("app", editor, state, state)
        collected: list[str] = editor.collected_sql
    return collected


def test_an_old_operation_does_the_same_under_new_settings(project: None, settings: Any) -> None:
    add = AddRLSPolicy("auth.Group", **GROUP)
    alter = AlterRLSPolicy("auth.Group", before=BEFORE, **{**BEFORE, "guc_prefix": "after"})
    ways = [(each, backwards) for each in (add, alter) for backwards in (False, True)]
    before = [sql_of(each, backwards=backwards) for each, backwards in ways]
    settings.RLS_TENANTS = {
        "TENANT_MODEL": "app.User",
        "GUC_PREFIX": "other",
        "TENANT_PK_TYPE": "uuid",
        "ADMIN_ROLE": "someone",
        "APP_ROLE": "another",
    }
    assert [sql_of(each, backwards=backwards) for each, backwards in ways] == before
    assert "before.current_tenant" in str(before[0])
    assert 'REFERENCES "app_tenant" ("id") ON DELETE CASCADE' in str(before[0])
    assert 'CREATE INDEX ON "auth_group" ("tenant_id")' in str(before[0])


def test_a_policy_follows_the_settings_by_an_operation(
    tenants: Tenants, migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> None:
    """In the shape of an admin role, from an admin by parameter."""
    a = tenants[0]
    state = ProjectState.from_apps(apps)
    migrate(AddRLSPolicy("auth.Group", **GROUP), state)
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "tenant_id"},
        "SHARED_MODELS": ["auth.Group_permissions"],
    }
    found = list(inspect_database(connections["default"]))
    assert "tenantry.E115" in {each.id for each in found}
    for each in found:
        assert each.fix.startswith(
            "put AlterRLSPolicy('auth.Group', 'tenant_id', guc_prefix='rls',"
        )
    with tenant_context(a.pk), pytest.raises(ProgrammingError, match="row-level security"):
        Group.objects.create(name="of A")
    alter = AlterRLSPolicy("auth.Group", before=BEFORE, **current())
    migrate(alter, state)
    assert list(inspect_database(connections["default"])) == []
    for tenant in tenants:
        with tenant_context(tenant.pk):
            Group.objects.create(name=f"of {tenant.name}")
            assert run("SELECT name FROM auth_group") == [(f"of {tenant.name}",)]
    with admin_context():
        assert Group.objects.count() == 2
    with connections["owner"].schema_editor() as editor:
        alter.database_backwards("app", editor, state, state)
    assert "tenantry.E115" in {each.id for each in inspect_database(connections["default"])}
    with connections["owner"].schema_editor() as editor:
        alter.database_forwards("app", editor, state, state)
    superuser.execute("TRUNCATE auth_group CASCADE")


def test_a_column_of_ones_own_keeps_its_default(project: None) -> None:
    add = AddRLSPolicy("auth.Group", "id", create_column=False, **BEFORE)
    alter = AlterRLSPolicy("auth.Group", "id", create_column=False, before=BEFORE, **BEFORE)
    for operation in (add, alter):
        assert " COLUMN " not in str(sql_of(operation))
    assert " COLUMN " in str(sql_of(AlterRLSPolicy("auth.Group", before=BEFORE, **BEFORE)))


@pytest.mark.guc_shape
def test_an_operation_says_all_of_what_it_does() -> None:
    rest = "guc_prefix='rls', key_type='bigint', version=1"
    for given, wanted in (
        ({}, f"'tenant_id', tenant_model='app.Tenant', {rest})"),
        (BEFORE, "tenant_model='app.Tenant', guc_prefix='before', key_type='bigint', version=1)"),
        ({"create_column": False}, f"'tenant_id', create_column=False, {rest})"),
        ({"tenant_model": "x.Y", "app_role": "z"}, f"model='x.Y', {rest}, app_role='z')"),
    ):
        with pytest.raises(RLSConfigurationError) as caught:
            AddRLSPolicy("taggit.Tag", **given)
        assert "AddRLSPolicy('taggit.Tag') does not say all of what" in str(caught.value)
        assert str(caught.value).endswith(wanted)
    with pytest.raises(RLSConfigurationError) as caught:
        AlterRLSPolicy("taggit.Tag", before=BEFORE)
    assert f"write AlterRLSPolicy('taggit.Tag', 'tenant_id', {rest}, before=" in str(caught.value)
    with pytest.raises(RLSConfigurationError, match="does not say all of what"):
        AlterRLSPolicy("taggit.Tag", before={}, **BEFORE)


@pytest.mark.parametrize(
    ("model", "given", "error", "message"),
    [
        ("a.B", {"guc": "rls"}, TypeError, "argument 'guc'"),
        ("LogEntry", {}, RLSConfigurationError, "('LogEntry') needs the label of a model"),
        (Group, {}, RLSConfigurationError, "needs the label of a model, such as 'taggit.Tag'"),
        ("a.B", {"key_type": "integer"}, RLSConfigurationError, "one of int, bigint, uuid, text"),
        ("a.B", {"guc_prefix": "a.b"}, RLSConfigurationError, "guc_prefix='a.b'; it must be at"),
        ("a.B", {"guc_prefix": 7}, RLSConfigurationError, "guc_prefix=7; it must be at"),
    ],
)
def test_what_an_operation_cannot_be_made_of_is_refused(
    model: Any, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    makes: list[Callable[[], object]] = [
        lambda: AddRLSPolicy(model, **given),
        lambda: AddRLSPolicy(model, **{**GROUP, **given}),
        lambda: AlterRLSPolicy(model, before=BEFORE, **{**BEFORE, **given}),
        lambda: AlterRLSPolicy(model, before={**BEFORE, **given}, **BEFORE),
    ]
    for make in makes:
        with pytest.raises(error, match=re.escape(message)):
            make()


def test_what_policies_were_made_of_before_is_known() -> None:
    with pytest.raises(TypeError, match="unknown argument 'guc'; a policy is made of guc_prefix"):
        AlterRLSPolicy("a.B", before={**BEFORE, "guc": "rls"}, **BEFORE)


def test_the_type_of_the_column_stays() -> None:
    with pytest.raises(RLSConfigurationError, match=r"has key_type='uuid' after 'bigint', but the"):
        AlterRLSPolicy("taggit.Tag", before=BEFORE, **{**BEFORE, "key_type": "uuid"})


def test_the_tables_are_there_before() -> None:
    class Nothing:
        class connection:
            alias = "default"

    for operation, label in (
        (AddRLSPolicy("taggit.Tag", **GROUP), "taggit.Tag"),
        (AddRLSPolicy("auth.Group", **{**GROUP, "tenant_model": "x.Tenant"}), "x.Tenant"),
        (AlterRLSPolicy("taggit.Tag", before=BEFORE, **BEFORE), "taggit.Tag"),
    ):
        state = ProjectState.from_apps(apps)
        message = f"needs {label}, which no migration before it creates; add the migration that"
        with pytest.raises(RLSConfigurationError, match=message):
            operation.database_forwards("app", Nothing(), state, state)


def test_the_operations_can_be_written_again() -> None:
    add = AddRLSPolicy("auth.Group", **GROUP)
    name, args, kwargs = add.deconstruct()
    assert (name, args) == ("AddRLSPolicy", ["auth.Group", "tenant_id"])
    assert kwargs == {"create_column": True, **GROUP}
    assert AddRLSPolicy(*args, **kwargs).migration_name_fragment == "protect_auth_group"
    assert "Protect auth.Group by tenant_id" in add.describe()
    own = AddRLSPolicy("auth.Group", create_column=False, **BEFORE).deconstruct()
    assert own[2] == {"create_column": False, **BEFORE}
    alter = AlterRLSPolicy("auth.Group", "id", before=BEFORE, create_column=False, **BEFORE)
    name, args, kwargs = alter.deconstruct()
    assert (name, args) == ("AlterRLSPolicy", ["auth.Group", "id"])
    assert kwargs == {"before": BEFORE, "create_column": False, **BEFORE}
    again = AlterRLSPolicy(*args, **kwargs)
    assert again.migration_name_fragment == "alter_protection_of_auth_group"
    assert "Change how auth.Group is protected by id" in again.describe()


ALL = {**BEFORE, "admin_role": "adm", "app_role": "app", "sealed": True}


@pytest.mark.parametrize(
    "operation",
    [
        AddRLSPolicy("auth.Group", **GROUP),
        AddRLSPolicy("auth.Group", tenant_model="app.Tenant", **ALL),
        AddRLSPolicy("auth.Group", "id", create_column=False, **BEFORE, sealed=False),
        AlterRLSPolicy("auth.Group", before=BEFORE, **ALL),
        AlterRLSPolicy("auth.Group", "id", before=ALL, create_column=False, **BEFORE),
    ],
)
def test_squashmigrations_writes_all_of_an_operation(operation: Any) -> None:
    """Django writes those arguments only that the signature names."""
    scope: dict[str, Any] = {}
    exec(written(operation), scope)
    (again,) = scope["Migration"].operations
    assert type(again) is type(operation)
    assert again.deconstruct() == operation.deconstruct()
    assert again.made_of == operation.made_of


# Requests that only read.


def respond(method: str, user: User) -> list[str]:
    """Return what a request that writes a tag came to."""
    outcome = []

    def view(request: Any) -> HttpResponse:
        outcome.append(f"{Tag.objects.count()} tags")
        try:
            with transaction.atomic():
                Tag.objects.create(name="written")
        except InternalError as error:
            outcome.append(str(error))
        try:
            with tenant_context(user.tenant_id):
                Tag.objects.create(name="written in a scope")
        except InternalError as error:
            outcome.append(str(error))
        return HttpResponse()

    request = RequestFactory().generic(method, "/")
    request.user = user
    RLSTenantMiddleware(view)(request)
    return outcome


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_a_get_cannot_write(method: str, tenants: Tenants, settings: Any) -> None:
    a = tenants[0]
    user = User.objects.create(username="u", tenant=a)
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "READ_ONLY_REQUESTS": True}
    refused = "cannot execute INSERT in a read-only transaction"
    expected = ["0 tags"] + [refused] * 2 * (method in ("GET", "HEAD"))
    assert respond(method, user) == expected
    # Nothing of it is left.
    with tenant_context(a.pk):
        Tag.objects.create(name="after")


def test_read_only_is_off_by_default(tenants: Tenants) -> None:
    user = User.objects.create(username="u", tenant=tenants[0])
    assert respond("GET", user) == ["0 tags"]


def test_read_only_goes_with_the_statement(wire: Wire, tenants: Tenants) -> None:
    with Scope(Binding(read_only=True)), connections["wire"].cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("on",)
        cursor.execute("SELECT 1")
    assert wire.round_trips == 2
    with connections["wire"].cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("off",)


def test_read_only_goes_with_what_must_be_first(tenants: Tenants) -> None:
    with (
        Scope(Binding(tenants[0].pk, read_only=True)),
        connections["default"].cursor() as cursor,
        pytest.raises(InternalError, match="cannot execute INSERT in a read-only transaction"),
    ):
        cursor.execute("SET LOCAL lock_timeout = 0; INSERT INTO app_shared (text) VALUES ('x')")
