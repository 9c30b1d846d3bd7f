"""Injections where bindings are sealed, and what they leave behind for who comes next."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from select import select
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction
from psycopg.pq import TransactionStatus
from psycopg.pq.abc import PGconn

from tenantry import admin_context, tenant_context
from tenantry.checks.options import inspect_options
from tenantry.seal import seal_keys
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.injections import (
    EXPRESSIONS,
    STATEMENTS,
    TITLES,
    Injection,
    attempt,
    opening,
    within,
    written,
)

Tenants = tuple[Tenant, Tenant]
sealed_shape = pytest.mark.sealed_shape


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
