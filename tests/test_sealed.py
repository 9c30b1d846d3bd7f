"""The sealed shape: whoever can run SQL cannot become another tenant, nor the admin."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from select import select
from time import time
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import (
    DatabaseError,
    NotSupportedError,
    ProgrammingError,
    connections,
    models,
    transaction,
)
from django.db.migrations import AddField, CreateModel
from django.db.migrations.state import ProjectState
from django.db.models import Case, When
from django.db.models.functions import Coalesce
from django.db.models.lookups import IsNull
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from tenantry import (
    CurrentTenant,
    RLSConstraint,
    aconnection,
    admin_context,
    arows,
    tenant_context,
)
from tenantry.backends.postgresql.apply import Session, binding_query, prefix
from tenantry.binding import ADMIN, UNBOUND, Binding
from tenantry.checks.options import inspect_options
from tenantry.exceptions import RLSConfigurationError, UnbindableStatementError
from tenantry.seal import seal_keys, sign
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_migrations import migration_of
from tests.fix_wire import Wire
from tests.injections import (
    EXPRESSIONS,
    STATEMENTS,
    TITLES,
    Injection,
    attempt,
    later,
    opening,
    within,
    written,
)

Tenants = tuple[Tenant, Tenant]
sealed_shape = pytest.mark.sealed_shape
SECRET = "a secret that is long enough for a test"


def client(postgres: Any, dbname: str = "tenantry") -> psycopg.Connection[Any]:
    """Return a connection of the app role that knows nothing of tenantry: an attacker's."""
    return psycopg.connect(postgres.dsn("app", dbname), autocommit=True)


def titles_with(connection: psycopg.Connection[Any], token: str) -> list[str]:
    connection.execute("SELECT set_config('rls.current_tenant', %s, false)", [token])
    return [title for (title,) in connection.execute(TITLES)]


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
        cursor.execute("SELECT %s, count(*) FROM app_note", [";"])
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


# What a token can be.


@sealed_shape
def test_only_what_is_signed_for_here_and_now_is_a_tenant(tenants: Tenants, postgres: Any) -> None:
    a, b = tenants
    good = sign(Binding(a.pk), "tenantry", later())
    version, name, expiry, grant, signature, _ = good.split(":")
    wrong = {
        "the tenant is not sealed": [
            str(b.pk),
            "true",
            good[:-20],
            f"2{good[1:]}",
            f" {good}",
        ],
        "the seal of the tenant is not valid": [
            f"{version}:{name}:{expiry}:{grant}:{signature}:{b.pk}",
            f"{version}:{name}:{expiry}:admin:{signature}:{a.pk}",
            f"{version}:{name}:{int(expiry) + 1}:{grant}:{signature}:{a.pk}",
            f"{version}:{name}:{expiry}:{grant}:{'0' * 64}:{b.pk}",
            f"{good}0",
            f"{good}:",
            f"{version}:{name}:-1:{grant}:{signature}:{b.pk}",
            f"{version}:{name}:{expiry}:{grant}:{signature.upper()}:{a.pk}",
            f"{version}:{name}:{expiry}:{grant}::{a.pk}",
            good[: good.rindex(":") + 1],
            f"{good}\n",
            sign(Binding(b.pk), "elsewhere", later()),
        ],
        "the seal of the tenant has expired": [sign(Binding(b.pk), "tenantry", int(time()) - 1)],
        "unknown to this database": [
            good.upper(),
            f"{version}:{'0' * 16}:{expiry}:{grant}:{signature}:{b.pk}",
        ],
    }
    with client(postgres) as attacker:
        assert titles_with(attacker, good) == ["A 1", "A 2"]
        assert titles_with(attacker, "") == []
        for message, tokens in wrong.items():
            for token in tokens:
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match=message) as raised:
                    titles_with(attacker, token)
                assert raised.value.diag.message_hint, token


@sealed_shape
def test_a_statement_may_take_longer_than_its_token_is_good_for(
    tenants: Tenants, postgres: Any
) -> None:
    """And a later one of the transaction may not begin with it."""
    expiry = int(time()) + 2
    count = f"""
        DO $$ BEGIN
          WHILE extract(epoch FROM clock_timestamp()) <= {expiry} LOOP
            PERFORM pg_sleep(0.1);
          END LOOP;
          IF (SELECT count(*) FROM app_note) <> 2 THEN RAISE 'other rows'; END IF;
        END $$"""
    with client(postgres) as attacker, attacker.transaction(force_rollback=True):
        token = sign(Binding(tenants[0].pk), "tenantry", expiry)
        attacker.execute("SELECT set_config('rls.current_tenant', %s, true)", [token])
        attacker.execute(count)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="has expired"):
            attacker.execute(TITLES)


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_many_rows_may_take_longer_than_a_token_is_good_for(
    alias: str, wire: Wire, tenants: Tenants, superuser: psycopg.Connection[Any], monkeypatch: Any
) -> None:
    expiry = int(time()) + 2
    expiries = [expiry, later(), later()]

    def token(binding: Binding, database: str) -> str:
        # The last row finds the one before it still good.
        return sign(binding, database, expiries.pop(0))

    def rows() -> Iterator[list[str]]:
        yield ["first"]
        superuser.execute("SELECT pg_sleep_until(to_timestamp(%s))", [expiry + 0.1])
        # What they run in is what the first did.
        with tenant_context(tenants[1].pk):
            yield ["second"]
            yield ["third"]

    monkeypatch.setattr("tenantry.backends.postgresql.apply.token", token)
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        cursor.cursor.executemany("INSERT INTO app_tag (name) VALUES (%s)", rows())
    written = superuser.execute("SELECT name, tenant_id FROM app_tag ORDER BY id").fetchall()
    assert written == [(name, tenants[0].pk) for name in ("first", "second", "third")]


@sealed_shape
def test_a_token_of_another_database_is_refused(
    tenants: Tenants, postgres: Any, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("CREATE DATABASE elsewhere TEMPLATE template0")
    try:
        with connections["default"].cursor() as cursor:
            cursor.connection.session = Session(database="elsewhere")
            with tenant_context(tenants[0].pk), pytest.raises(ProgrammingError, match="not valid"):
                cursor.execute(TITLES)
    finally:
        connections["default"].close()
        superuser.execute("DROP DATABASE elsewhere")


def test_a_token_is_signed_anew_before_it_expires(settings: Any, monkeypatch: Any) -> None:
    settings.RLS_TENANTS = {
        "TENANT_MODEL": "app.Tenant",
        "SEALED": True,
        "SEAL_KEYS": [SECRET],
        "SEAL_LIFETIME": 100,
    }
    tokens = {}
    for now in range(1_000_000, 1_000_301):
        monkeypatch.setattr("tenantry.seal.time", lambda now=now: now)
        [token, *_] = binding_query(Binding(1), Session(database="d"))[1]
        expiry = int(token.split(b":")[2])
        assert 50 <= expiry - now <= 100
        tokens[expiry] = token
    assert len(tokens) == len(set(tokens.values())) == 7


def test_the_values_of_a_secret_binding_are_not_in_a_prefix(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "SEALED": True, "SEAL_KEYS": [SECRET]}
    assert b"is_admin" not in binding_query(ADMIN)[0]
    assert binding_query(UNBOUND)[1] == [b""]
    token = binding_query(ADMIN, Session(database="d"))[1][0].decode()
    assert token.split(":")[3] == "admin"
    # If some path put it into the text all the same, the database would refuse it.
    assert b"'1'" in prefix(Binding(1), b"SELECT", 180000).text


# Injections: SQL that an attacker has got into a statement of tenant A.


# To whom, and how: on a connection of its own, from a pool, through PgBouncer, with parameters of
# the server. Who is unbound sends the same to all of them.
WAYS = [
    ("default", "nobody"),
    *((alias, "tenant") for alias in ("default", "pool", "pooled", "wire_server_side")),
]
FOR_A_SESSION = "is for a whole session"
ONE_BY_ONE = "cannot insert multiple commands into a prepared|send (them|its statements) one by one"


@pytest.fixture
def temporary(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Let everybody make temporary objects, as in a database that nobody has changed."""
    superuser.execute("GRANT TEMPORARY ON DATABASE tenantry TO PUBLIC")
    yield
    connections["default"].close()
    superuser.execute("REVOKE TEMPORARY ON DATABASE tenantry FROM PUBLIC")


@sealed_shape
@pytest.mark.parametrize(("alias", "who"), WAYS)
@pytest.mark.parametrize("injection", [each.param() for each in STATEMENTS + EXPRESSIONS])
def test_an_injection_never_yields_a_foreign_row(
    injection: Injection,
    who: str,
    alias: str,
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
    temporary: None,
    renew: Callable[[str], None],
) -> None:
    """Who is unbound sends no secret, and so several statements outside of a transaction too."""
    a, b = tenants
    is_bound = who == "tenant"
    foreign = re.compile("B " if is_bound else "[AB] [12]")
    rows = "SELECT title, tenant_id FROM app_note WHERE tenant_id <> %s ORDER BY id"
    others = superuser.execute(rows, [a.pk if is_bound else 0]).fetchall()
    assert len(others) == (2 if is_bound else 4)
    # What statistics say of the rows of all tenants.
    superuser.execute("ANALYZE app_note")
    sql = written(injection, tenants)
    conclusive = sql if injection in EXPRESSIONS else within(sql)
    shows = f"{injection.shows}|{FOR_A_SESSION}" if alias == "pool" else injection.shows
    statements = [f"{sql}; {TITLES}", within(sql)] if alias == "default" else [conclusive]
    if is_bound and alias == "default":
        # Alone it goes as another message than several.
        statements.insert(0, sql)
    for statement in statements:
        for block in (True, False):
            renew(alias)
            scope = tenant_context(a.pk) if is_bound else nullcontext()
            with scope, connections[alias].cursor() as cursor:
                try:
                    if block:
                        with transaction.atomic(using=alias):
                            with admin_context():
                                cursor.execute("SELECT count(*) FROM app_note")
                                cursor.execute("SAVEPOINT s")
                            seen = attempt(cursor, statement)
                            if is_bound and statement == conclusive:
                                assert re.search(shows, seen), (statement, seen)
                            seen += attempt(cursor, TITLES)
                    else:
                        seen = attempt(cursor, statement)
                except DatabaseError as error:
                    seen = str(error)
            assert not foreign.search(seen), (statement, seen)
            assert seal_keys()[0].inside.hex() not in seen
            # Whoever has the server session next.
            with connections[alias].cursor() as cursor:
                assert not re.search("[AB] [12]", attempt(cursor, TITLES))
            with tenant_context(b.pk), connections[alias].cursor() as cursor:
                assert not re.search("A [12]", attempt(cursor, TITLES))
    assert superuser.execute(rows, [a.pk if is_bound else 0]).fetchall() == others


@sealed_shape
@pytest.mark.parametrize("atomic", [True, False])
def test_beside_a_parameter_for_the_server_only_an_expression_runs(
    atomic: bool, tenants: Tenants, temporary: None
) -> None:
    alias = "wire_server_side"
    for injection in STATEMENTS + EXPRESSIONS:
        if "app_admin" in injection.sql and not test_settings.HAS_ADMIN_ROLE:
            continue
        sql = written(injection, tenants).replace("%", "%%")
        if injection in EXPRESSIONS:
            statement = f"WITH x AS ({sql}) SELECT * FROM x WHERE %s::int = 1"
            shows = injection.shows
        else:
            statement, shows = within(f"SELECT %s::int; {sql}"), ONE_BY_ONE
        block = transaction.atomic(using=alias) if atomic else nullcontext()
        seen = ""
        scope, cursor = tenant_context(tenants[0].pk), connections[alias].cursor()
        with suppress(DatabaseError), scope, block, cursor:
            seen = attempt(cursor, statement, [1])
        assert re.search(shows, seen), (statement, seen)
        assert "B " not in seen, (statement, seen)


@pytest.mark.parametrize("injection", [*opening("guc"), *opening("role")])
def test_an_injection_yields_a_foreign_row_where_nothing_is_sealed(
    injection: Injection, tenants: Tenants
) -> None:
    sql = written(injection, tenants)
    with (
        tenant_context(tenants[0].pk),
        transaction.atomic(),
        connections["default"].cursor() as cursor,
    ):
        assert "B 1" in attempt(cursor, sql if injection in EXPRESSIONS else within(sql))


# Traps: what an injection leaves behind for whoever uses the server session, or the transaction,
# next. It keeps what it reads in a parameter of the session.

KEEP = (
    "set_config('loot.t', concat(current_setting('loot.t', true), ' ',"
    " current_setting('rls.current_tenant', true)), false) IS NOT NULL"
)
READ = f"SELECT * FROM public.app_note WHERE {KEEP}"
GRANT = "; GRANT ALL ON app_note TO app_admin" if test_settings.HAS_ADMIN_ROLE else ""
SPRUNG = {
    "a view": f"CREATE TEMPORARY VIEW app_note WITH (security_invoker) AS {READ}{GRANT}",
    "a view with a function": "CREATE FUNCTION pg_temp.spy() RETURNS boolean LANGUAGE plpgsql"
    f" AS $$ BEGIN RETURN {KEEP}; END $$; CREATE TEMPORARY VIEW app_note WITH (security_invoker)"
    f" AS SELECT * FROM public.app_note WHERE pg_temp.spy(){GRANT}",
    "a table with a policy": "CREATE TEMPORARY TABLE app_note (LIKE public.app_note); ALTER TABLE"
    " app_note ENABLE ROW LEVEL SECURITY; ALTER TABLE app_note FORCE ROW LEVEL SECURITY; CREATE"
    f" POLICY spy ON app_note USING ({KEEP});"
    f" INSERT INTO app_note SELECT * FROM public.app_note{GRANT}",
    "a deferred trigger": "CREATE TEMPORARY TABLE trap (n int); CREATE FUNCTION pg_temp.spy()"
    f" RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {KEEP}; RETURN NULL; END $$; CREATE"
    " CONSTRAINT TRIGGER spy AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    " EXECUTE FUNCTION pg_temp.spy(); INSERT INTO trap VALUES (1)",
}
HELD = f"DECLARE spy CURSOR WITH HOLD FOR {READ}"
# Some are set, and catch nothing: what is held reads as nobody at COMMIT, and the driver prepares
# nothing by that name unless OPTIONS say so.
IS_SET = r"^\[\[\(1,\)\]\] \[\]$"
# With what is shown as one is set.
INERT = {
    "a schema of the role": (
        f"CREATE SCHEMA app; CREATE VIEW app.app_note AS {READ}",
        "permission denied for database",
    ),
    "an operator": (
        "CREATE FUNCTION public.spy(bigint, integer) RETURNS boolean LANGUAGE sql"
        f" AS $$ SELECT {KEEP} $$; CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = integer,"
        " FUNCTION = public.spy)",
        "permission denied for schema public",
    ),
    "a cursor": (HELD, IS_SET),
    "a cursor of a function": (f"DO $do$ BEGIN EXECUTE $${HELD}$$; END $do$", IS_SET),
    "a prepared statement": (f"PREPARE _pg3_0 AS {READ}", IS_SET),
    "a rule": (
        f"CREATE RULE spy AS ON INSERT TO app_note DO ALSO {READ}",
        "must be owner of (relation|table) app_note",
    ),
}


def spring(trap: str, tenants: Tenants, alias: str, says: str = "") -> str:
    """Set a trap as the first tenant, be the others, and return what the first finds in it.

    As it is first set, it shows what `says` is the regular expression of. All use one server
    session, which nobody has had.
    """
    a, b = tenants
    seen = []

    def be(*others: str) -> None:
        for other in others:
            scope = tenant_context(b.pk) if other == "b" else admin_context()
            with scope, connections[alias].cursor() as cursor:
                attempt(cursor, TITLES)

    for others in ("b", "admin"), ("admin", "b"):
        try:
            with transaction.atomic(using=alias):
                with tenant_context(a.pk), connections[alias].cursor() as cursor:
                    seen.append(attempt(cursor, f"SELECT 1; {trap}"))
                be(*others)
        except DatabaseError:
            pass
    assert re.search(says, seen[0]), seen
    for statement in trap.split("; "):
        with tenant_context(a.pk), connections[alias].cursor() as cursor:
            attempt(cursor, statement)
    be("b", "admin")
    with tenant_context(a.pk), connections[alias].cursor() as cursor:
        cursor.execute("SELECT coalesce(current_setting('loot.t', true), '')")
        return str(cursor.fetchone()[0])


EXECUTED = "DO $$ BEGIN EXECUTE 'DECLARE spy CURSOR WITH HOLD FOR {}'; END $$"


def of_django(alias: str) -> AbstractContextManager[object]:
    return transaction.atomic(using=alias)


def of_psycopg(alias: str) -> AbstractContextManager[object]:
    connection: Any = connections[alias].connection
    block: AbstractContextManager[object] = connection.transaction()
    return block


@contextmanager
def of_pipeline(alias: str) -> Iterator[None]:
    connection: Any = connections[alias].connection
    with connection.pipeline(), connection.transaction():
        yield


@contextmanager
def of_pipeline_after_an_error(alias: str) -> Iterator[None]:
    """Let libpq say at COMMIT that the transaction has failed, which is no longer so."""
    connection: Any = connections[alias].connection
    with connection.pipeline() as pipeline, transaction.atomic(using=alias):
        connection.execute("SAVEPOINT s")
        with suppress(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
            pipeline.sync()
        pipeline.sync()
        connection.execute("ROLLBACK TO SAVEPOINT s")
        yield


def is_foreign(loot: str, tenants: Tenants) -> bool:
    """Return whether a seal of the second tenant or of the admin is in the loot."""
    return any(
        ":admin:" in token or token.endswith(f":{tenants[1].pk}") for token in loot.split(" ")
    )


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "pool", "pooled"])
@pytest.mark.parametrize(
    ("trap", "says"),
    [
        *((trap, "permission denied to create temporary") for trap in SPRUNG.values()),
        *INERT.values(),
    ],
    ids=[*SPRUNG, *INERT],
)
def test_a_trap_catches_no_seal(
    trap: str, says: str, alias: str, tenants: Tenants, renew: Callable[[str], None]
) -> None:
    renew(alias)
    if alias == "pool":
        says = f"{says}|{FOR_A_SESSION}"
    assert not is_foreign(spring(trap, tenants, alias, says), tenants)


@sealed_shape
@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("declare", ["DECLARE spy CURSOR WITH HOLD FOR {}", EXECUTED])
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
@pytest.mark.parametrize("end", [of_django, of_psycopg, of_pipeline, of_pipeline_after_an_error])
def test_a_cursor_that_outlives_a_transaction_has_no_rows_of_who_came_later(
    end: Callable[[str], AbstractContextManager[object]],
    alias: str,
    declare: str,
    tenants: Tenants,
) -> None:
    a, b = tenants
    for scope in (tenant_context(b.pk), admin_context()):
        connections[alias].ensure_connection()
        connection: Any = connections[alias].connection
        with end(alias):
            with tenant_context(a.pk):
                connection.execute(declare.format(TITLES))
            with scope:
                # Read at once: in a pipeline, libpq says how the transaction stood at a Sync.
                assert connection.execute(TITLES).fetchall()
        with tenant_context(a.pk):
            assert connection.execute("FETCH ALL spy").fetchall() == []
        connections[alias].close()


@pytest.fixture
def noted(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Let the end of a transaction note what was inserted, and refuse some."""
    superuser.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.text = 'refused' THEN RAISE 'refused'; END IF;"
        " INSERT INTO app_tag (name) VALUES (NEW.text); RETURN NULL; END $$;"
        " CREATE CONSTRAINT TRIGGER note AFTER INSERT ON app_shared DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION note()"
    )
    yield
    # A transaction that was left open would keep the table.
    connections.close_all()
    superuser.execute("DROP FUNCTION note() CASCADE")


@sealed_shape
@pytest.mark.usefixtures("each_version", "noted")
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
@pytest.mark.parametrize("end", [of_django, of_psycopg, of_pipeline])
def test_what_was_deferred_runs_as_whoever_came_last(
    end: Callable[[str], AbstractContextManager[object]], alias: str, tenants: Tenants
) -> None:
    insert = "INSERT INTO app_shared (text) VALUES (%s)"
    connections[alias].ensure_connection()
    connection: Any = connections[alias].connection
    with tenant_context(tenants[1].pk):
        with end(alias):
            connection.execute(insert, ["noted"])
        with pytest.raises((DatabaseError, psycopg.Error), match="refused"), end(alias):
            connection.execute(insert, ["refused"])
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert connection.execute("SELECT name FROM app_tag").fetchall() == [("noted",)]


class LateSync(deque[Any]):
    """The commands of a pipeline. A Sync waits once for the answer to what is before it."""

    def __init__(self, pgconn: PGconn) -> None:
        super().__init__()
        self.pgconn: PGconn | None = pgconn
        self.waits = False

    def popleft(self) -> Any:
        if self.waits and self.pgconn:
            assert select([self.pgconn.socket], [], [], 10)[0]
            self.pgconn = None
        # A Sync is the last one.
        self.waits = len(self) == 2
        return super().popleft()


@sealed_shape
@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_an_error_before_the_sync_of_a_commit_leaves_no_transaction(
    alias: str, tenants: Tenants
) -> None:
    connections[alias].ensure_connection()
    connection: Any = connections[alias].connection
    with tenant_context(tenants[1].pk):
        with (
            pytest.raises(psycopg.Error, match="refused"),
            connection.pipeline() as pipeline,
            connection.transaction(),
        ):
            connection.execute("INSERT INTO app_shared (text) VALUES ('refused')")
            pipeline.sync()
            pipeline.command_queue = LateSync(connection.pgconn)
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert connection.execute("SELECT name FROM app_tag").fetchall() == []


@sealed_shape
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_a_pipeline_whose_error_was_taken_leaves_no_transaction(
    alias: str, tenants: Tenants
) -> None:
    connections[alias].ensure_connection()
    connection: Any = connections[alias].connection
    with tenant_context(tenants[0].pk):
        with connection.pipeline() as pipeline, connection.transaction():
            connection.execute("SELECT 1 / 0")
            with pytest.raises(psycopg.errors.DivisionByZero):
                pipeline.sync()
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert connection.execute(TITLES).fetchall() == [("A 1",), ("A 2",)]


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "pooled"])
@pytest.mark.parametrize("name", SPRUNG)
def test_the_traps_work_where_temporary_objects_may_be_made(
    name: str, alias: str, tenants: Tenants, temporary: None, renew: Callable[[str], None]
) -> None:
    renew(alias)
    assert is_foreign(spring(SPRUNG[name], tenants, alias), tenants)


@sealed_shape
def test_a_name_that_the_driver_prepared_is_a_trap(tenants: Tenants) -> None:
    connection = connections["wire_server_side"]
    options = connection.settings_dict["OPTIONS"]
    connection.close()
    options["prepare_threshold"] = 0
    seen = []
    try:
        assert [each.id for each in inspect_options("default", connection.settings_dict)] == [
            "tenantry.E144"
        ]
        with connection.cursor() as cursor:
            for tenant in tenants:
                with tenant_context(tenant.pk):
                    cursor.execute(TITLES)
                    cursor.execute("DEALLOCATE _pg3_0")
                    cursor.execute("PREPARE _pg3_0 AS SELECT current_setting('rls.current_tenant')")
                    cursor.execute(TITLES)
                    seen += cursor.fetchall()
    finally:
        del options["prepare_threshold"]
        connection.close()
    assert [token.rpartition(":")[2] for (token,) in seen] == [str(each.pk) for each in tenants]
    assert list(inspect_options("default", connection.settings_dict)) == []


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
@pytest.mark.parametrize("atomic", [False, True])
def test_an_injection_finds_no_open_cursor_of_somebody_else(
    atomic: bool, alias: str, tenants: Tenants
) -> None:
    """From which it would fetch, in one expression too: cursor_to_xml(name, ...)."""
    open_cursors = set()
    block = transaction.atomic(using=alias) if atomic else nullcontext()
    with block, admin_context():
        titles = []
        for note in Note.objects.using(alias).filter(pk__gt=0).iterator(chunk_size=1):
            titles.append(note.title)
            with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
                cursor.execute("SELECT name FROM pg_cursors WHERE name <> ''")
                open_cursors.update(cursor.fetchall())
    assert sorted(titles) == ["A 1", "A 2", "B 1", "B 2"]
    assert not open_cursors


# The keys.


@sealed_shape
def test_nobody_but_the_verifier_reads_the_keys(
    tenants: Tenants, superuser: psycopg.Connection[Any], postgres: Any
) -> None:
    for role in ("app", "app_admin")[: 1 + test_settings.HAS_ADMIN_ROLE]:
        rows = superuser.execute(
            "SELECT has_table_privilege(%s, 'tenantry.seal_keys', 'SELECT, INSERT, UPDATE, DELETE,"
            " TRUNCATE, REFERENCES, TRIGGER')",
            [role],
        ).fetchall()
        assert rows == [(False,)]
    superuser.execute("GRANT ALL ON tenantry.seal_keys TO app")
    try:
        with client(postgres) as attacker:
            assert attacker.execute("SELECT * FROM tenantry.seal_keys").fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                attacker.execute("INSERT INTO tenantry.seal_keys VALUES ('x', '', '')")
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)
        with (
            client(postgres) as attacker,
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
        ):
            attacker.execute("SELECT * FROM tenantry.seal_keys")
    finally:
        superuser.execute("REVOKE ALL ON tenantry.seal_keys FROM app")


@pytest.fixture
def rotating(tenants: Tenants) -> Iterator[None]:
    yield
    call_command("migrate", database="owner", verbosity=0, run_syncdb=True)


@sealed_shape
def test_keys_rotate_without_a_gap(tenants: Tenants, rotating: None, settings: Any) -> None:
    a = tenants[0]
    old, new = test_settings.SEAL["SEAL_KEYS"][0], "a new secret, which is long enough"  # type: ignore[index]

    def use(*keys: str) -> None:
        settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "SEAL_KEYS": list(keys)}

    def migrate() -> None:
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)

    def works() -> bool:
        with tenant_context(a.pk):
            return [note.title for note in Note.objects.all()] == ["A 1", "A 2"]

    for keys in ([old, new], [new, old], [new]):
        use(*keys)
        if keys[0] == old:
            migrate()
        assert works()
    migrate()
    assert works()
    use(old)
    with pytest.raises(ProgrammingError, match="unknown to this database"):
        works()


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
def test_the_verifier_is_pinned(tenants: Tenants) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT prosecdef, provolatile, proparallel, proconfig, pg_get_userbyid(proowner)"
            " FROM pg_proc WHERE oid = 'tenantry.rls_sealed(text)'::regprocedure"
        )
        assert cursor.fetchone() == (True, "s", "s", ["search_path=pg_catalog, pg_temp"], "owner")


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


# Settings.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SEALED": True}, r"\['SEALED'\] needs RLS_TENANTS\['SEAL_KEYS'\], a list of secrets"),
        ({"SEALED": True, "SEAL_KEYS": []}, "needs RLS_TENANTS"),
        ({"SEALED": "yes"}, r"\['SEALED'\] is 'yes'; it must be True or False"),
        (
            {"SEAL_KEYS": "one secret that is long enough"},
            r"\['SEAL_KEYS'\] is '<str>'; it must",
        ),
        ({"SEAL_KEYS": ["short"]}, r"\['SEAL_KEYS'\]\[0\] is <5 characters>; SEAL_KEYS must be"),
        ({"SEAL_KEYS": [SECRET, None]}, r"\['SEAL_KEYS'\]\[1\] is <no str>"),
        ({"SEAL_LIFETIME": 5}, r"\['SEAL_LIFETIME'\] is 5; it must be a number of seconds from 10"),
        ({"SEAL_LIFETIME": True}, r"\['SEAL_LIFETIME'\] is True"),
    ],
)
def test_a_bad_setting_is_refused_without_showing_a_secret(
    given: dict[str, object], message: str, settings: Any
) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", **given}
    with pytest.raises(RLSConfigurationError, match=message) as raised:
        RLSConstraint(field="owner", name="n").deconstruct()
    assert "short" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.guc_shape
def test_sealing_makes_a_migration_without_the_keys(project: None, settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "SEALED": True, "SEAL_KEYS": [SECRET]}
    output = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("makemigrations", check=True, dry_run=True, stdout=output, verbosity=3)
    assert "sealed=True" in output.getvalue()
    assert SECRET not in output.getvalue()
