"""The shape of policies in which the admin is a role of PostgreSQL, and the app role is named."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import DataError, ProgrammingError, connections, models, transaction
from django.db.migrations import AddConstraint, CreateModel, RemoveConstraint
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, aconnection, admin_context, tenant_context
from tenantry.exceptions import RLSConfigurationError, ScopeError
from tenantry.grants import grant_on
from tests.app.models import Note, Shared, Tag, Tenant
from tests.fix_aliases import Add
from tests.fix_migrations import Migrate, is_protected
from tests.fix_wire import Wire
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


@contextmanager
def arranged(postgres: Any, *statements: str, back: str) -> Iterator[psycopg.Connection[Any]]:
    """Change things as a superuser, and back."""
    dsn = postgres.dsn("postgres", "tenantry")
    with psycopg.connect(dsn, autocommit=True) as connection, ExitStack() as stack:
        stack.callback(connection.execute, back.encode())
        for statement in statements:
            connection.execute(statement.encode())
        yield connection


@pytest.mark.role_shape
@pytest.mark.usefixtures("each_version")
def test_every_statement_says_the_tenant_and_the_role(wire: Wire, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        run("SELECT 1", alias="wire")
    with admin_context():
        run("SELECT 2", alias="wire")
    run("SELECT 3", alias="wire")

    def said(tenant: object, role: str) -> str:
        wrapper: Any = connections["wire"]
        if wrapper.pg_version >= 180000:
            return f"SET LOCAL rls.current_tenant='{tenant}';SET LOCAL role='{role}';\n"
        call = "pg_catalog.set_config"
        return (
            f"SELECT {call}('rls.current_tenant','{tenant}',true),{call}('role','{role}',true);\n"
        )

    assert wire.queries == [
        f"{said(tenants[0].pk, 'none')}SELECT 1",
        f"{said('', 'app_admin')}SELECT 2",
        f"{said('', 'none')}SELECT 3",
    ]
    assert wire.round_trips == 3


@pytest.mark.role_shape
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("alias", ["wire", "pooled", "wire_server_side"])
def test_the_role_ends_with_its_statement(alias: str, tenants: Tenants, wire: Wire) -> None:
    who = "SELECT current_user::text, (SELECT count(*) FROM app_note WHERE %s = 1)"
    with transaction.atomic(using=alias):
        with admin_context():
            assert run(who, [1], alias=alias) == [("app_admin", 4)]
        assert run(who, [1], alias=alias) == [("app", 0)]
        with tenant_context(tenants[0].pk):
            assert run(who, [1], alias=alias) == [("app", 2)]
            with admin_context(), transaction.atomic(using=alias):
                assert run(who, [1], alias=alias) == [("app_admin", 4)]
                transaction.set_rollback(True, using=alias)
            assert run(who, [1], alias=alias) == [("app", 2)]
    with admin_context():
        assert run(who, [1], alias=alias) == [("app_admin", 4)]
    assert run(who, [1], alias=alias) == [("app", 0)]


@pytest.mark.role_shape
def test_a_role_that_is_assumed_is_assumed_again(tenants: Tenants, postgres: Any) -> None:
    with (
        arranged(
            postgres,
            "CREATE ROLE assumed NOLOGIN",
            "GRANT assumed TO app",
            "GRANT SELECT ON app_note TO assumed",
            back="DROP OWNED BY assumed; DROP ROLE assumed",
        ),
        ExitStack() as stack,
    ):
        default = connections["default"]
        other = default.copy()
        stack.callback(other.close)
        other.settings_dict = {**default.settings_dict, "OPTIONS": {"assume_role": "assumed"}}

        def who() -> Any:
            with other.cursor() as cursor:
                cursor.execute("SELECT current_user, count(*) FROM app_note")
                return cursor.fetchone()

        with transaction.atomic():
            assert who() == ("assumed", 0)
            with admin_context():
                assert who() == ("app_admin", 4)
            with tenant_context(tenants[0].pk):
                assert who() == ("assumed", 2)


@pytest.mark.role_shape
async def test_native_async_runs_as_the_role_too(tenants: Tenants) -> None:
    async with aconnection() as connection:
        for scope, expected in (
            (admin_context(), ("app_admin", 4)),
            (tenant_context(1), ("app", 2)),
        ):
            async with scope:
                cursor = await connection.execute("SELECT current_user, count(*) FROM app_note")
                assert await cursor.fetchone() == expected


@pytest.mark.role_shape
def test_the_parameter_of_the_other_shape_opens_nothing(tenants: Tenants) -> None:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("SET rls.is_admin = 'true'; SELECT count(*) FROM app_note")
        cursor.nextset()
        assert cursor.fetchone() == (0,)


@pytest.mark.role_shape
def test_a_stray_policy_adds_nothing_for_the_app_role(tenants: Tenants, postgres: Any) -> None:
    with arranged(
        postgres,
        "CREATE POLICY stray ON app_note USING (true)",
        "CREATE POLICY stray ON app_book USING (true)",
        back="DROP POLICY stray ON app_note; DROP POLICY stray ON app_book",
    ):
        assert run("SELECT count(*) FROM app_note") == [(0,)]
        with tenant_context(tenants[0].pk):
            assert run("SELECT DISTINCT tenant_id FROM app_note") == [(tenants[0].pk,)]
        with admin_context():
            assert run("SELECT count(*) FROM app_note") == [(4,)]
    policies = "SELECT tablename FROM pg_policies WHERE policyname = 'tenantry_restriction'"
    # Those that depend on others too.
    assert {("app_note",), ("app_book",)} <= set(run(policies))


@pytest.mark.role_shape
def test_raw_sql_uses_the_index_of_the_tenant(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic():
        run("SET LOCAL enable_seqscan = off")
        [*lines] = run("EXPLAIN SELECT * FROM app_note ORDER BY title LIMIT 20")
        plan = "\n".join(line for (line,) in lines)
        # Older servers name the result of an InitPlan by its number.
        assert re.search(r"Index Cond: \(tenant_id = (?:\(InitPlan 1\)\.col1|\$0)\)", plan)
        plan = Note.objects.filter(title="A 1").explain()
        assert "One-Time Filter" in plan
        assert "Index Cond: ((tenant_id = 1)" in plan


@pytest.mark.role_shape
def test_the_admin_role_writes_every_table_with_its_sequences(tenants: Tenants) -> None:
    with admin_context():
        for tenant in tenants:
            Note.objects.create(title="new", tenant=tenant)
        Shared.objects.create(text="shared")
        assert Tenant.objects.create(name="C").pk == 3
        assert Note.objects.filter(title="new").delete()[0] == 2


@pytest.mark.role_shape
@pytest.mark.parametrize("engine", ["tenantry.backends.postgresql", "tests.heir"])
def test_migrate_keeps_the_grants_up(
    engine: str, tenants: Tenants, postgres: Any, alias: Add
) -> None:
    owner = alias("owner", ENGINE=engine)
    revoked = {
        "SELECT": "app_tag",
        "INSERT": "app_note",
        "UPDATE": "app_shared",
        "DELETE": "app_item",
    }
    how = ";".join(f"REVOKE {each} ON {table} FROM app_admin" for each, table in revoked.items())
    with arranged(postgres, how, back="SELECT 1"):
        # Whoever owns nothing can migrate without an error, and grants nothing.
        call_command("migrate", database="default", verbosity=0)
        with admin_context(), pytest.raises(ProgrammingError, match="permission denied"):
            list(Tag.objects.all())
        call_command("migrate", database=owner, verbosity=0, run_syncdb=True)
        for each, table in revoked.items():
            assert run("SELECT has_table_privilege('app_admin', %s, %s)", [table, each]) == [
                (True,)
            ]
        with admin_context():
            assert list(Tag.objects.all()) == []


OWN = (
    "CREATE SCHEMA own AUTHORIZATION owner; CREATE TABLE own.t (n serial);"
    "ALTER TABLE own.t OWNER TO owner"
)


@pytest.mark.role_shape
def test_the_admin_role_writes_old_tables_of_other_schemas(tenants: Tenants, postgres: Any) -> None:
    with arranged(postgres, OWN, back="DROP SCHEMA own CASCADE"):
        # Whoever makes the role later migrates again. In a hash join, all schemas are asked about.
        with connections["owner"].cursor() as cursor:
            cursor.execute("SET enable_nestloop = off")
        grant_on(['"own"."t"'], connections["owner"], "nobody_yet")
        connections["owner"].close()
        grant_on(['"own"."t"'], connections["owner"], "app_admin")
        with admin_context():
            assert run("INSERT INTO own.t DEFAULT VALUES RETURNING n") == [(1,)]


@pytest.mark.role_shape
def test_migrate_refuses_to_run_as_the_admin_role(tenants: Tenants) -> None:
    said = "runs in the scope of the admin, and so as the role 'app_admin', which owns no tables"
    with admin_context(), pytest.raises(ScopeError, match=said):
        call_command("migrate", database="owner", verbosity=0)


ROLES = {"admin_role": "shape_admin", "app_role": "app"}
KEY = {"guc_prefix": "rls", "key_type": "int"}
FIELDS: list[tuple[str, models.Field[Any, Any]]] = [
    ("id", models.AutoField(primary_key=True)),
    ("owner", models.IntegerField()),
]
MAKE = "CREATE ROLE shape_admin NOLOGIN"
DROP = "DROP OWNED BY shape_admin; DROP ROLE shape_admin"


def constraint(**roles: str) -> RLSConstraint:
    return RLSConstraint(field="owner", name="shaped_rls", **{**KEY, **roles})  # type: ignore[arg-type]


@pytest.fixture
def shape_admin(project: None, postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """Create an admin role that nobody is a member of."""
    with arranged(postgres, MAKE, back=DROP) as superuser:
        yield superuser


@pytest.mark.role_shape
def test_the_shape_is_added_and_removed_again(
    shape_admin: psycopg.Connection[Any], migrate: Migrate
) -> None:
    shape_admin.execute("GRANT shape_admin TO app WITH INHERIT FALSE")
    state = migrate(CreateModel("Shaped", FIELDS), ProjectState())
    for _ in range(2):
        state = migrate(AddConstraint("shaped", constraint(**ROLES)), state)
        assert is_protected("migrated_shaped") == (True, True, 3)
        state = migrate(RemoveConstraint("shaped", "shaped_rls"), state)
        assert is_protected("migrated_shaped") == (False, False, 0)


@pytest.mark.parametrize(
    ("arrangement", "message", "hint"),
    [
        ((), "shape_admin, which is no role of this server", "CREATE ROLE"),
        (
            ("CREATE ROLE shape_admin NOLOGIN", "GRANT shape_admin TO app"),
            "from which app inherit, who would see every tenant",
            "WITH INHERIT FALSE, SET TRUE",
        ),
    ],
)
def test_a_role_that_is_missing_or_inherited_from_is_refused(
    arrangement: tuple[str, ...], message: str, hint: str, migrate: Migrate, postgres: Any
) -> None:
    if connections["owner"].pg_version < 160000:  # type: ignore[attr-defined]
        message, hint = "ADMIN_ROLE needs PostgreSQL 16 or newer", "upgrade the server"
    back = "DROP ROLE IF EXISTS shape_admin"
    state = migrate(CreateModel("Shaped", FIELDS), ProjectState())
    with (
        arranged(postgres, *arrangement, back=back),
        pytest.raises(Exception, match=message) as raised,
    ):
        migrate(AddConstraint("shaped", constraint(admin_role="shape_admin")), state)
    assert hint in str(raised.value)
    assert is_protected("migrated_shaped") == (False, False, 0)


def test_a_migration_keeps_its_shape_whatever_the_settings_say(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "x", "APP_ROLE": "y"}
    old = RLSConstraint(field="owner", name="n", **KEY)  # type: ignore[arg-type]
    assert "admin_role" not in old.deconstruct()[2]
    assert old.shape.admin_role is None
    followed = RLSConstraint(field="owner", name="n").deconstruct()[2]
    assert (followed["admin_role"], followed["app_role"]) == ("x", "y")
    assert old != RLSConstraint(field="owner", name="n")


@pytest.mark.guc_shape
def test_a_new_shape_makes_a_migration(project: None, settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "app_admin"}
    output = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("makemigrations", check=True, dry_run=True, stdout=output)
    assert "Remove constraint app_note_rls from model note" in output.getvalue()
    assert "Create constraint app_note_rls on model note" in output.getvalue()


@pytest.mark.role_shape
def test_the_admin_is_nobody_where_an_owner_is_judged(tenants: Tenants, postgres: Any) -> None:
    with arranged(
        postgres,
        "CREATE VIEW seen AS SELECT * FROM app_note; ALTER VIEW seen OWNER TO owner;"
        " GRANT SELECT ON seen TO app, app_admin",
        "CREATE FUNCTION tags() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO app_tag (name, tenant_id) VALUES (NEW.title, NEW.tenant_id);"
        " RETURN NULL; END $$; ALTER FUNCTION tags() OWNER TO owner;"
        " CREATE TRIGGER tags AFTER INSERT ON app_note FOR EACH ROW EXECUTE FUNCTION tags()",
        back="DROP VIEW seen; DROP FUNCTION tags() CASCADE",
    ) as superuser:
        with tenant_context(tenants[0].pk):
            assert run("SELECT count(*) FROM seen") == [(2,)]
            Note.objects.create(title="tagged")
        with admin_context():
            assert run("SELECT count(*) FROM seen") == [(0,)]
            with pytest.raises(ProgrammingError, match="violates row-level security policy"):
                Note.objects.create(title="tagged by the admin", tenant=tenants[0])
            superuser.execute("ALTER VIEW seen SET (security_invoker = true)")
            superuser.execute("ALTER FUNCTION tags() SECURITY INVOKER")
            Note.objects.create(title="tagged by the admin", tenant=tenants[0])
            assert run("SELECT count(*) FROM seen") == [(6,)]


@pytest.mark.guc_shape
def test_until_the_migration_only_the_admin_fails(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "nobody"}
    with tenant_context(tenants[0].pk):
        assert Note.objects.count() == 2
    with admin_context(), pytest.raises(DataError, match='role "nobody" does not exist'):
        Note.objects.count()


def test_a_version_from_the_future_is_refused() -> None:
    unknown = RLSConstraint(field="owner", name="n", version=99)
    with pytest.raises(ValueError, match=r"version 99 of a policy is not among .* newer release"):
        unknown.deconstruct()


@pytest.mark.parametrize("key", ["ADMIN_ROLE", "APP_ROLE"])
@pytest.mark.parametrize("value", ["", "none", "public", "pg_monitor", "a b", 'x"', "x" * 64, 5])
def test_a_bad_name_of_a_role_is_refused(key: str, value: object, settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", key: value}
    with pytest.raises(RLSConfigurationError, match=rf"\['{key}'\] is .*; it must be the name of"):
        RLSConstraint(field="owner", name="n").deconstruct()


def test_the_two_roles_differ(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "x", "APP_ROLE": "x"}
    with pytest.raises(RLSConfigurationError, match="it must be a role other than APP_ROLE"):
        RLSConstraint(field="owner", name="n").deconstruct()
