"""The sealed shape: whoever can run SQL cannot become another tenant, nor the admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import NotSupportedError, connections, models, transaction
from django.db.migrations import AddField, CreateModel
from django.db.migrations.state import ProjectState
from django.db.models import Case, When
from django.db.models.functions import Coalesce
from django.db.models.lookups import IsNull
from psycopg.sql import SQL

from tenantry import CurrentTenant, aconnection, admin_context, arows, tenant_context
from tenantry.exceptions import UnbindableStatementError
from tenantry.seal import seal_keys
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_migrations import migration_of
from tests.fix_wire import Wire
from tests.injections import TITLES, client

Tenants = tuple[Tenant, Tenant]
sealed_shape = pytest.mark.sealed_shape


@sealed_shape
def test_the_binding_goes_as_a_parameter_in_the_same_round_trip(
    wire: Wire, tenants: Tenants
) -> None:
    with tenant_context(tenants[0].pk), connections["wire"].cursor() as cursor:
        cursor.execute(TITLES)
        assert cursor.fetchall() == [("A 1",), ("A 2",)]
    assert wire.round_trips == 1
    assert wire.kinds == "PBDEPBDES"
    role = ",pg_catalog.set_config('role',$2,true)" if test_settings.HAS_ADMIN_ROLE else ""
    assert wire.queries == [
        f"SELECT pg_catalog.set_config('rls.current_tenant',$1,true){role}",
        TITLES,
    ]


@sealed_shape
def test_begin_and_savepoints_ride_along(wire: Wire, tenants: Tenants) -> None:
    with (
        tenant_context(tenants[0].pk),
        transaction.atomic(using="wire"),
        transaction.atomic(using="wire"),
    ):
        assert Note.objects.using("wire").count() == 2
    assert wire.round_trips == 2
    assert [query.split()[0] for query in wire.queries] == [
        "BEGIN",
        "SAVEPOINT",
        "SELECT",
        "SELECT",
        "RELEASE",
    ]


@sealed_shape
def test_who_is_unbound_has_no_secret(wire: Wire) -> None:
    with connections["wire"].cursor() as cursor:
        cursor.execute("SELECT 1")
    [query] = wire.queries
    values = [("rls.current_tenant", ""), ("role", "none")][: 1 + test_settings.HAS_ADMIN_ROLE]
    sets = "".join(f"SET LOCAL {name}='{value}';" for name, value in values)
    calls = ",".join(f"pg_catalog.set_config('{name}','{value}',true)" for name, value in values)
    assert query in (f"{sets}\nSELECT 1", f"SELECT {calls};\nSELECT 1")


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_other_sessions_do_not_see_the_token(
    alias: str, wire: Wire, tenants: Tenants, postgres: Any
) -> None:
    with client(postgres) as other, transaction.atomic(using=alias):
        with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
            cursor.execute("SELECT current_setting('rls.current_tenant'), pg_backend_pid()")
            token, pid = cursor.fetchone()
            assert token.startswith(f"1:{seal_keys()[0].name}:")
        query = "SELECT query FROM pg_stat_activity WHERE pid = %s"
        rows = other.execute(query, [pid]).fetchall()
        assert "current_setting" in rows[0][0]
        assert token not in rows[0][0]
        assert seal_keys()[0].name not in rows[0][0]


@sealed_shape
def test_the_servers_log_shows_no_token_where_it_logs_no_parameters(
    tenants: Tenants, postgres: Any, superuser: psycopg.Connection[Any]
) -> None:
    def logged(tenant: Tenant) -> bool:
        connections["default"].close()
        before = len(postgres.log.read_bytes())
        with tenant_context(tenant.pk):
            assert Note.objects.count() == 2
        # What a session logs is written before its results are sent.
        text = postgres.log.read_bytes()[before:].decode(errors="replace")
        assert "set_config" in text
        return f"1:{seal_keys()[0].name}:" in text

    parameters = {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": 0,
        "log_min_duration_statement": 0,
    }
    lengths = ("log_parameter_max_length", "auto_explain.log_parameter_max_length")
    is_explained = postgres.major >= 16
    try:
        for name, value in parameters.items():
            superuser.execute(f"ALTER ROLE app SET {name} = {value}".encode())
        assert logged(tenants[0])
        superuser.execute(f"ALTER ROLE app SET {lengths[0]} = 0".encode())
        assert logged(tenants[0]) == is_explained
        if is_explained:
            superuser.execute(f"ALTER ROLE app SET {lengths[1]} = 0".encode())
            assert not logged(tenants[0])
    finally:
        for name in (*parameters, *lengths):
            superuser.execute(f"ALTER ROLE app RESET {name}".encode())
        connections["default"].close()


@sealed_shape
@pytest.mark.parametrize("revoked", [False, True])
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_parameters_are_hidden_as_the_documentation_says(
    revoked: bool, alias: str, wire: Wire, tenants: Tenants, postgres: Any
) -> None:
    functions = "pg_stat_get_activity(integer), pg_stat_get_backend_activity(integer)"
    changes = [
        "SELECT ON pg_stat_activity",
        f"EXECUTE ON FUNCTION {functions}",
    ]
    with (
        psycopg.connect(postgres.dsn("postgres", "tenantry"), autocommit=True) as superuser,
        client(postgres) as other,
        transaction.atomic(using=alias),
        connections[alias].cursor() as cursor,
    ):
        with tenant_context(tenants[1].pk):
            cursor.execute("SELECT pg_backend_pid(), %s::text", ["secret of B"])
        pid = cursor.fetchone()[0]
        if revoked:
            for what in changes:
                superuser.execute(f"REVOKE {what} FROM PUBLIC")
        try:
            for source in (
                "pg_stat_activity",
                "pg_stat_get_activity(NULL)",
                "(SELECT pg_stat_get_backend_pid(id) AS pid, pg_stat_get_backend_activity(id) AS"
                " query FROM pg_stat_get_backend_idset() id) x",
            ):
                query = f"SELECT string_agg(query, ' ') FROM {source} WHERE pid = {pid}"
                if revoked:
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        other.execute(query)
                else:
                    seen = str(other.execute(query).fetchone())
                    assert ("secret of B" in seen) == (alias == "default")
        finally:
            for what in changes:
                superuser.execute(f"GRANT {what} TO PUBLIC")


@sealed_shape
async def test_native_async_is_sealed_too(tenants: Tenants) -> None:
    a, b = tenants
    async with tenant_context(a.pk):
        assert [row[0] for row in await arows(Note.objects.values_list("title"))] == ["A 1", "A 2"]
    async with aconnection() as connection:
        for tenant in (a, b):
            async with tenant_context(tenant.pk):
                cursor = await connection.execute(f"SELECT 1; {TITLES}")
                cursor.nextset()
                assert (await cursor.fetchone())[0] == f"{tenant.name} 1"  # type: ignore[index]


@sealed_shape
def test_what_only_a_transaction_can_carry_says_so(tenants: Tenants) -> None:
    a = tenants[0]
    with tenant_context(a.pk), connections["default"].cursor() as cursor:
        with pytest.raises(UnbindableStatementError, match=r"send them one by one, or open atomic"):
            cursor.execute(f"SELECT 1; {TITLES}")
        with pytest.raises(NotSupportedError):
            cursor.execute(f"SELECT 1; {TITLES}")
        # It is the text that seems to be several statements, and no parameter.
        for query in (
            "SELECT %s, count(*) FROM app_note",
            SQL("SELECT %s, count(*) FROM app_note"),
        ):
            cursor.execute(query, [";"])
            assert cursor.fetchone() == (";", 2)
        with transaction.atomic():
            cursor.execute(f"SELECT 1; {TITLES}")
            assert cursor.nextset()
            assert cursor.fetchall() == [("A 1",), ("A 2",)]
            with cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy:
                assert list(copy.rows()) == [("A 1",), ("A 2",)]
    assert Note.objects.count() == 0


def several(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1; {TITLES}")


def copy_out(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy:
        list(copy.rows())


def copy_in(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY app_shared (text) FROM STDIN") as copy:
        copy.write_row(["one"])


@sealed_shape
@pytest.mark.parametrize("act", [several, copy_out, copy_in])
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_what_has_no_place_for_a_parameter_takes_one_round_trip_more_in_a_transaction(
    alias: str, act: Callable[[Any], None], wire: Wire, tenants: Tenants
) -> None:
    connection = connections[alias]
    with transaction.atomic(using=alias):
        connection.cursor().execute("SELECT 1")
        wire.clear()
        act(connection)
        # Who is unbound has no secret.
        assert wire.round_trips == 1
        wire.clear()
        with tenant_context(tenants[0].pk):
            act(connection)
        assert wire.round_trips == 2


@sealed_shape
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_so_does_each_fetch_from_a_cursor_made_by_hand(
    alias: str, wire: Wire, tenants: Tenants
) -> None:
    with transaction.atomic(using=alias):
        connections[alias].ensure_connection()
        with tenant_context(tenants[0].pk):
            cursor = connections[alias].connection.cursor("c")
            cursor.execute(TITLES)
        for title in ("A 1", "A 2"):
            wire.clear()
            assert cursor.fetchone() == (title,)
            assert wire.round_trips == 2
        cursor.close()


@sealed_shape
def test_a_copy_that_was_not_sent_leaves_its_cursor_bound(tenants: Tenants) -> None:
    a, b = tenants
    copy = "COPY (SELECT title FROM app_note WHERE id > %s) TO STDOUT"
    with transaction.atomic(), connections["default"].cursor() as cursor:
        with (
            tenant_context(a.pk),
            pytest.raises(psycopg.ProgrammingError, match="1 placeholder"),
            cursor.copy(copy, [0, 1]),
        ):
            pass
        with tenant_context(b.pk):
            cursor.execute(TITLES)
            assert cursor.fetchall() == [("B 1",), ("B 2",)]


@sealed_shape
def test_a_copy_whose_binding_is_refused_says_why(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "ADMIN_ROLE": "nobody"}
    with (
        admin_context(),
        pytest.raises(psycopg.DataError, match='role "nobody" does not exist'),
        transaction.atomic(),
        connections["default"].cursor() as cursor,
        cursor.copy(f"COPY ({TITLES}) TO STDOUT"),
    ):
        pass


# How often the function runs: with a role for the admin, which has policies of its own, and not.
VERIFIED = {
    "SELECT count(*) FROM app_note": (1, 2),
    "SELECT count(*) FROM app_note n JOIN app_author a ON a.id = n.author_id": (2, 4),
    "UPDATE app_note SET title = title": (3, 4),
    "DELETE FROM app_note": (1, 2),
    "INSERT INTO app_note (title, tenant_id) SELECT title || 'x', tenant_id FROM app_note": (3, 4),
}


@pytest.fixture
def calls(tenants: Tenants, superuser: psycopg.Connection[Any]) -> Iterator[Callable[[str], int]]:
    """Return how often the verifier runs in a statement, on a table of many rows."""
    superuser.execute("ALTER ROLE app SET track_functions = 'pl'")
    superuser.execute("ALTER SYSTEM SET track_functions = 'pl'")
    superuser.execute("SELECT pg_reload_conf()")
    connections["default"].close()
    with admin_context():
        Note.objects.bulk_create([Note(title=str(n), tenant=tenants[0]) for n in range(1000)])

    def calls(statement: str) -> int:
        counts = []
        with transaction.atomic(), connections["default"].cursor() as cursor:
            for each in ("SELECT 1", statement):
                cursor.execute(each)
                cursor.execute(
                    "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_xact_user_functions"
                    " WHERE funcname = 'rls_sealed'"
                )
                counts.append(cursor.fetchone()[0])
            transaction.set_rollback(True)
        before, after = counts
        return int(after - before)

    yield calls
    superuser.execute("ALTER ROLE app RESET track_functions")
    superuser.execute("ALTER SYSTEM RESET track_functions")
    superuser.execute("SELECT pg_reload_conf()")
    connections["default"].close()


@sealed_shape
def test_the_verifier_runs_for_each_table_and_not_for_each_row(
    calls: Callable[[str], int], tenants: Tenants
) -> None:
    with tenant_context(tenants[0].pk):
        found = {statement: calls(statement) for statement in VERIFIED}
    expected = {
        statement: by_role if test_settings.HAS_ADMIN_ROLE else by_parameter
        for statement, (by_role, by_parameter) in VERIFIED.items()
    }
    assert found == expected


@sealed_shape
def test_raw_sql_reads_the_tenant_and_is_stamped(tenants: Tenants) -> None:
    with tenant_context(tenants[1].pk), connections["default"].cursor() as cursor:
        cursor.execute("SELECT tenantry.rls_current_tenant_bigint(), tenantry.rls_is_admin()")
        assert cursor.fetchone() == (tenants[1].pk, False)
        cursor.execute("INSERT INTO app_tag (name) VALUES ('raw') RETURNING tenant_id")
        assert cursor.fetchone() == (tenants[1].pk,)
    with admin_context(), connections["default"].cursor() as cursor:
        cursor.execute("SELECT tenantry.rls_current_tenant_bigint(), tenantry.rls_is_admin()")
        assert cursor.fetchone() == (None, True)


STAMP = CurrentTenant("other", "bigint", sealed=True)
IF_ANY = When(IsNull(STAMP, False), then=1)


@pytest.mark.parametrize("default", [STAMP, Coalesce(STAMP, 0), Case(IF_ANY, default=0)])
@pytest.mark.parametrize("is_added", [False, True])
def test_what_a_default_calls_is_created_first(
    default: Any, is_added: Any, tenants: Tenants
) -> None:
    """Of a prefix that no migration has had, so that nothing of it is there."""
    stamped = ("owner_id", models.BigIntegerField(db_default=default))
    operations: list[Any] = [CreateModel("Stamped", [("id", models.AutoField(primary_key=True))])]
    if is_added:
        operations.append(AddField("stamped", *stamped))
    else:
        operations[0].fields.append(stamped)
    with transaction.atomic("owner"), connections["owner"].cursor() as cursor:
        with connections["owner"].schema_editor() as editor:
            migration_of(*operations).apply(ProjectState(), editor)
        cursor.execute("SELECT to_regprocedure('tenantry.other_sealed(text)') IS NOT NULL")
        assert cursor.fetchone() == (True,)
        transaction.set_rollback(True, "owner")
