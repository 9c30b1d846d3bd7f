"""Every way to send a statement: what rows it sees, and what it costs on the wire."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction
from django.db.utils import (
    DatabaseError,
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from psycopg import errors
from psycopg.pq import Format, TransactionStatus

from tenantry import aclose_pools, aconnection, admin_context, tenant_context
from tenantry.backends.postgresql.cursor import ClosingMixin, bound
from tenantry.binding import Binding, running_as
from tenantry.exceptions import UnbindableStatementError
from tests import settings
from tests.app.models import Note, Shared, Tenant
from tests.fix_wire import Wire

TITLES = "SELECT title FROM app_note ORDER BY id"
Rows = list[Any]
each_version = pytest.mark.usefixtures("each_version")


def execute(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        cursor.execute(TITLES)
        return [row[0] for row in cursor.fetchall()]


def execute_with_parameters(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note WHERE id > %s ORDER BY id", [0])
        return [row[0] for row in cursor.fetchall()]


def raw_cursor(alias: str) -> Rows:
    with connections[alias].connection.cursor() as cursor:
        cursor.execute(TITLES)
        return [row[0] for row in cursor]


def raw_connection_execute(alias: str) -> Rows:
    return [row[0] for row in connections[alias].connection.execute(TITLES)]


def raw_connection_execute_prepared(alias: str) -> Rows:
    return [row[0] for row in connections[alias].connection.execute(TITLES, prepare=True)]


def stream(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        return [row[0] for row in cursor.stream(TITLES)]


def stream_with_parameters(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        statement = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
        return [row[0] for row in cursor.stream(statement, [0])]


def copy_out(alias: str) -> Rows:
    with connections[alias].cursor() as cursor, cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy:
        return [row[0] for row in copy.rows()]


def copy_out_with_parameters(alias: str) -> Rows:
    statement = "COPY (SELECT title FROM app_note WHERE id > %s ORDER BY id) TO STDOUT"
    with connections[alias].cursor() as cursor, cursor.copy(statement, [0]) as copy:
        return [row[0] for row in copy.rows()]


def callproc(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        cursor.callproc("titles")
        return [row[0] for row in cursor.fetchall()]


def named_cursor(alias: str) -> Rows:
    return [note.title for note in Note.objects.using(alias).order_by("id").iterator(1)]


def raw_named_cursor(alias: str) -> Rows:
    connection = connections[alias].connection
    with connection.cursor("c", withhold=connection.autocommit) as cursor:
        cursor.execute(TITLES)
        return [row[0] for row in cursor]


def raw_named_cursor_with_parameters(alias: str) -> Rows:
    connection = connections[alias].connection
    with connection.cursor("c", withhold=connection.autocommit) as cursor:
        # Used again, it closes what it has declared.
        for after in (1, 0):
            cursor.execute("SELECT title FROM app_note WHERE id > %s ORDER BY id", [after])
        return [row[0] for row in cursor]


def executemany(alias: str) -> Rows:
    connections[alias].ensure_connection()
    with connections[alias].connection.cursor() as cursor:
        cursor.executemany(
            "SELECT title FROM app_note WHERE id %% 2 = %s ORDER BY id", [[1], [0]], returning=True
        )
        rows = cursor.fetchall()
        while cursor.nextset():
            rows += cursor.fetchall()
        return sorted(row[0] for row in rows)


def multi_statement(alias: str) -> Rows:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT 'first'; {TITLES}")
        assert cursor.fetchall() == [("first",)]
        assert cursor.nextset()
        titles = [row[0] for row in cursor.fetchall()]
        assert not cursor.nextset()
        return titles


def pipeline(alias: str) -> Rows:
    connection = connections[alias].connection
    with connection.pipeline(), connection.cursor() as one, connection.cursor() as two:
        one.execute("SELECT title FROM app_note WHERE id %% 2 = %s", [1])
        two.execute("SELECT title FROM app_note WHERE id %% 2 = %s", [0])
        return sorted(row[0] for cursor in (one, two) for row in cursor.fetchall())


def raw_orm(alias: str) -> Rows:
    return [note.title for note in Note.objects.using(alias).raw("SELECT * FROM app_note")]


PATHS = [
    execute,
    execute_with_parameters,
    raw_cursor,
    raw_connection_execute,
    raw_connection_execute_prepared,
    stream,
    stream_with_parameters,
    copy_out,
    copy_out_with_parameters,
    callproc,
    named_cursor,
    raw_named_cursor,
    raw_named_cursor_with_parameters,
    executemany,
    multi_statement,
    pipeline,
    raw_orm,
]


@pytest.fixture(autouse=True)
def titles_function(project: None, superuser: psycopg.Connection[Any]) -> None:
    superuser.execute(
        "CREATE OR REPLACE FUNCTION titles() RETURNS SETOF text LANGUAGE sql"
        " AS 'SELECT title FROM public.app_note ORDER BY id'"
    )


@pytest.fixture(params=["wire", "wire_server_side"])
def alias(request: pytest.FixtureRequest, wire: Wire) -> str:
    return str(request.param)


@pytest.fixture(params=["autocommit", "atomic"])
def block(request: pytest.FixtureRequest, alias: str) -> Iterator[None]:
    if request.param == "autocommit":
        yield
    else:
        with transaction.atomic(using=alias):
            yield


# What cannot share a flush with a sealed binding, but only a transaction.
WHOLE_MESSAGE = [copy_out, copy_out_with_parameters, multi_statement]

if sys.version_info >= (3, 14):
    from string.templatelib import Interpolation, Template

    AFTER = Template("SELECT title FROM app_note WHERE id > ", Interpolation(0, ""), " ORDER BY id")

    def template(alias: str) -> Rows:
        with connections[alias].cursor() as cursor:
            cursor.execute(AFTER)
            return [row[0] for row in cursor.fetchall()]

    def template_of_several(alias: str) -> Rows:
        with connections[alias].cursor() as cursor:
            cursor.execute(Template(f"SELECT 1; {TITLES}"))
            cursor.nextset()
            return [row[0] for row in cursor.fetchall()]

    def template_of_named_cursor(alias: str) -> Rows:
        connection = connections[alias].connection
        with connection.cursor("c", withhold=connection.autocommit) as cursor:
            cursor.execute(AFTER)
            return [row[0] for row in cursor]

    PATHS += [template, template_of_several, template_of_named_cursor]
    WHOLE_MESSAGE += [template_of_several]

    def test_a_template_string_is_looked_at_as_any_statement(
        alias: str, tenants: tuple[Tenant, Tenant]
    ) -> None:
        with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
            with pytest.raises(InternalError, match="transaction blocks"):
                cursor.execute(Template("LOCK app_shared"))
            with pytest.raises(errors.SyntaxError, match="multiple commands"):
                list(cursor.stream(Template("SELECT 1; SELECT 1/0")))


@each_version
@pytest.mark.parametrize("path", PATHS)
def test_each_path_sees_the_rows_of_the_current_binding(
    path: Callable[[str], Rows], alias: str, block: None, tenants: tuple[Tenant, Tenant]
) -> None:
    a, b = tenants
    assert path(alias) == []
    if settings.IS_SEALED and connections[alias].get_autocommit() and path in WHOLE_MESSAGE:
        with tenant_context(a.pk), pytest.raises(UnbindableStatementError, match="open atomic"):
            path(alias)
        return
    with tenant_context(a.pk):
        assert path(alias) == ["A 1", "A 2"]
        with tenant_context(b.pk):
            assert path(alias) == ["B 1", "B 2"]
        assert path(alias) == ["A 1", "A 2"]
    with admin_context():
        assert path(alias) == ["A 1", "A 2", "B 1", "B 2"]
    assert path(alias) == []


@pytest.fixture
def stamped(tenants: tuple[Tenant, Tenant], superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Make a table without a policy, whose tenant is by default the one that is bound."""
    superuser.execute(
        "CREATE TABLE stamped (LIKE app_tag INCLUDING DEFAULTS INCLUDING IDENTITY);"
        "ALTER TABLE stamped ALTER tenant_id DROP NOT NULL;"
        "GRANT SELECT, INSERT ON stamped TO app"
    )
    yield
    superuser.execute("DROP TABLE stamped")


STAMPED = "SELECT name, tenant_id FROM stamped ORDER BY id"
COPY_IN = "COPY stamped (name) FROM STDIN"


def test_rows_that_are_copied_to_the_server_are_stamped_with_the_tenant(
    stamped: None, alias: str, block: None, tenants: tuple[Tenant, Tenant]
) -> None:
    expected: Rows = [("nobody", None)]
    with connections[alias].cursor() as cursor:
        with cursor.copy(COPY_IN) as copy:
            copy.write_row(["nobody"])
        for tenant in tenants:
            with tenant_context(tenant.pk):
                if settings.IS_SEALED and connections[alias].get_autocommit():
                    with pytest.raises(UnbindableStatementError, match="open atomic"):
                        cursor.copy(COPY_IN).__enter__()
                    continue
                with cursor.copy(COPY_IN) as copy:
                    copy.write_row([tenant.name])
            expected.append((tenant.name, tenant.pk))
        cursor.execute(STAMPED)
        assert cursor.fetchall() == expected


async def test_so_are_those_of_native_async(stamped: None, tenants: tuple[Tenant, Tenant]) -> None:
    async with aconnection("wire") as connection:
        for tenant in tenants:
            async with tenant_context(tenant.pk), connection.cursor().copy(COPY_IN) as copy:
                await copy.write_row([tenant.name])
        cursor = await connection.execute(STAMPED)
        assert await cursor.fetchall() == [(tenant.name, tenant.pk) for tenant in tenants]
    await aclose_pools()


@pytest.mark.parametrize("path", [executemany, pipeline])
def test_pipelines_carry_the_binding_in_their_one_round_trip(
    path: Callable[[str], Rows], wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk):
        path("wire")
    assert wire.kinds.count("S") == 1
    assert wire.round_trips == 1


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_rows_of_executemany_in_a_pipeline_wait_for_its_end(
    alias: str, fails: bool, wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    insert = "INSERT INTO app_shared (text) VALUES (%s)"
    error = pytest.raises((DataError, errors.DivisionByZero)) if fails else nullcontext()
    with error, connections[alias].cursor() as cursor, cursor.connection.pipeline():
        cursor.execute(insert, ["first"])
        cursor.executemany(insert, [["second"], ["third"]])
        cursor.execute(f"SELECT 1 / {int(not fails)}")
    assert wire.kinds.count("S") == 1
    texts = [] if fails else ["first", "second", "third"]
    assert list(Shared.objects.order_by("id").values_list("text", flat=True)) == texts


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("opened", ["before the error", "after the error"])
def test_a_pipeline_goes_on_bound_after_a_rollback_to_a_savepoint(
    opened: str, by_hand: bool, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    """Until a Sync follows the rollback, libpq says that the transaction has failed."""
    a, b = tenants
    connection: Any = connections[alias].connection

    def run(statement: str) -> Any:
        return (psycopg.Cursor(connection) if by_hand else connection).execute(statement)

    def titles() -> Rows:
        return [row[0] for row in run(TITLES).fetchall()]

    with transaction.atomic(using=alias), ExitStack() as stack:
        run("SAVEPOINT s")
        if opened == "before the error":
            pipeline = stack.enter_context(connection.pipeline())
            with pytest.raises(psycopg.errors.DivisionByZero):
                run("SELECT 1 / 0")
                pipeline.sync()
            # It may have raised before it had read all.
            pipeline.sync()
        else:
            with pytest.raises(psycopg.errors.DivisionByZero):
                run("SELECT 1 / 0")
            stack.enter_context(connection.pipeline())
        run("ROLLBACK TO SAVEPOINT s")
        with tenant_context(a.pk):
            assert titles() == ["A 1", "A 2"]
        with tenant_context(b.pk):
            assert titles() == ["B 1", "B 2"]
        with admin_context():
            assert titles() == ["A 1", "A 2", "B 1", "B 2"]
        assert titles() == []


def test_so_does_one_around_djangos_block(alias: str, tenants: tuple[Tenant, Tenant]) -> None:
    connection: Any = connections[alias].connection
    with transaction.atomic(using=alias), connection.pipeline() as pipeline:
        with pytest.raises(psycopg.errors.DivisionByZero), transaction.atomic(using=alias):
            connection.execute("SELECT 1 / 0")
            pipeline.sync()
        for tenant in tenants:
            with tenant_context(tenant.pk):
                rows = connection.execute(TITLES).fetchall()
                assert [row[0] for row in rows] == [f"{tenant.name} 1", f"{tenant.name} 2"]
        assert connection.execute(TITLES).fetchall() == []


@pytest.mark.parametrize("end", ["COMMIT", "END", "ABORT", "PREPARE TRANSACTION 'x'"])
def test_what_ends_a_failed_transaction_in_a_pipeline_goes_alone(
    end: str, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    """A binding in front of it would fail, and nothing after that would be run."""
    connection: Any = connections[alias].connection
    with tenant_context(tenants[0].pk), connection.pipeline() as pipeline:
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")
            pipeline.sync()
        pipeline.sync()
        connection.execute(end)
        assert [row[0] for row in connection.execute(TITLES).fetchall()] == ["A 1", "A 2"]
    assert connection.info.transaction_status == TransactionStatus.IDLE


async def test_so_does_one_of_native_async(alias: str, tenants: tuple[Tenant, Tenant]) -> None:
    async with aconnection(alias) as connection, connection.pipeline() as pipeline:
        await connection.execute("SAVEPOINT s")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1 / 0")
            await pipeline.sync()
        await connection.execute("ROLLBACK TO SAVEPOINT s")
        for tenant in tenants:
            async with tenant_context(tenant.pk):
                rows = await (await connection.execute(TITLES)).fetchall()
                assert [row[0] for row in rows] == [f"{tenant.name} 1", f"{tenant.name} 2"]
        assert await (await connection.execute(TITLES)).fetchall() == []
    await aclose_pools()


def test_executemany_carries_the_binding_once(wire: Wire, tenants: tuple[Tenant, Tenant]) -> None:
    with tenant_context(tenants[0].pk):
        executemany("wire")
    assert sum("set_config" in query for query in wire.queries) == 1
    assert len(wire.queries) == 3


@pytest.mark.guc_shape
def test_an_unbound_statement_carries_the_empty_binding(wire: Wire) -> None:
    execute("wire")
    first = wire.queries[0].splitlines()[0]
    assert "rls.current_tenant" in first
    assert "''" in first
    assert "'false'" in first


@pytest.mark.unsealed
@each_version
@pytest.mark.parametrize("tenant", ["é", "\\é'"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_tenant_is_the_same_in_any_encoding_of_the_client(
    tenant: str, encoding: str, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    # In SQL_ASCII psycopg returns bytes.
    expected = tenant if encoding == "LATIN1" else tenant.encode()
    current = "SELECT current_setting('rls.current_tenant')"
    with running_as(Binding(tenant)), transaction.atomic(using=alias):
        connection: Any = connections[alias].connection
        connection.execute(f"SET LOCAL client_encoding = '{encoding}'")
        assert connection.execute(current).fetchall() == [(expected,)]
        assert connection.execute(f"{current}, %s", [1]).fetchall() == [(expected, 1)]
        with connection.pipeline():
            assert connection.execute(current).fetchall() == [(expected,)]
        with psycopg.ClientCursor(connection) as cursor:
            assert cursor.execute(current).fetchall() == [(expected,)]


@pytest.mark.unsealed
def test_a_tenant_that_the_encoding_lacks_loses_no_savepoint(wire: Wire) -> None:
    using = "wire_server_side"
    connection: Any = connections[using].connection
    with transaction.atomic(using=using):
        connection.execute("SET LOCAL client_encoding = 'LATIN1'")
        with (
            pytest.raises(UnicodeEncodeError),
            transaction.atomic(using=using),
            running_as(Binding("ł")),
        ):
            list(connection.cursor().stream("SELECT %s", [1]))
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


@each_version
def test_a_named_cursor_fetches_in_the_binding_of_its_declare(
    alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    a, b = tenants
    with transaction.atomic(using=alias):
        with tenant_context(a.pk):
            notes = Note.objects.using(alias).order_by("id").iterator(1)
            titles = [next(notes).title]
        with tenant_context(b.pk):
            assert execute(alias) == ["B 1", "B 2"]
            titles += [note.title for note in notes]
            assert execute(alias) == ["B 1", "B 2"]
    assert titles == ["A 1", "A 2"]


def test_one_that_cannot_be_declared_anew_fetches_as_nobody_else(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    a, b = tenants
    connection: Any = connections["wire"].connection
    with transaction.atomic(using="wire"), connection.cursor("c") as cursor:
        with tenant_context(a.pk):
            cursor.execute(TITLES)
        with tenant_context(b.pk), pytest.raises(UnicodeDecodeError):
            cursor.execute(b"SELECT \xff")
        with pytest.raises(errors.InvalidCursorName), transaction.atomic(using="wire"):
            cursor.fetchall()


@pytest.mark.unsealed
def test_a_fetch_carries_its_binding_in_its_message(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using="wire"):
        notes = Note.objects.using("wire").order_by("id").iterator(1)
        for title in ("A 1", "A 2"):
            wire.clear()
            assert next(notes).title == title
            if title == "A 2":
                assert wire.kinds == "Q"
                assert f"'{tenants[0].pk}'" in wire.queries[0]
                assert wire.queries[0].splitlines()[1].startswith("FETCH FORWARD 1")


def test_binary_rows_of_a_named_cursor_are_bound(tenants: tuple[Tenant, Tenant]) -> None:
    a, b = tenants
    with transaction.atomic(using="wire"):
        connections["wire"].ensure_connection()
        with connections["wire"].connection.cursor("c") as cursor:
            with tenant_context(a.pk):
                cursor.execute(TITLES, binary=True)
            with tenant_context(b.pk):
                assert cursor.fetchall() == [("A 1",), ("A 2",)]


def test_a_named_cursor_leaves_parameters_to_the_server_where_options_say_so(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    # The two parameters of the SELECT and the ORDER BY are one value for a client only.
    statement = "SELECT DISTINCT coalesce(title, %s) FROM app_note ORDER BY coalesce(title, %s)"
    for alias in ("wire", "wire_server_side"):
        with tenant_context(tenants[0].pk), transaction.atomic(using=alias):
            connection = connections[alias]
            with transaction.atomic(using=alias), connection.chunked_cursor() as cursor:
                if alias == "wire":
                    cursor.execute(statement, ["", ""])
                    assert cursor.fetchall() == [("A 1",), ("A 2",)]
                    continue
                with pytest.raises(ProgrammingError, match="must appear in select list"):
                    cursor.execute(statement, ["", ""])
                transaction.set_rollback(True, using=alias)
            assert execute(alias) == ["A 1", "A 2"]


@pytest.mark.unsealed
def test_a_declare_with_parameters_carries_begin_and_the_binding(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    statement = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
    a, b = tenants
    with (
        tenant_context(a.pk),
        transaction.atomic(using="wire_server_side"),
        connections["wire_server_side"].chunked_cursor() as cursor,
    ):
        wire.clear()
        cursor.execute(statement, [0])
        assert wire.kinds == "PBDEPBDEPBDESDS"
        assert wire.round_trips == 2
        assert wire.queries[0] == "BEGIN"
        assert "set_config('rls.current_tenant',$1,true)" in wire.queries[1]
        with tenant_context(b.pk):
            assert cursor.fetchall() == [("A 1",), ("A 2",)]


@each_version
def test_a_scrolled_cursor_counts_the_rows_of_its_declare(
    alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    connection = connections[alias]
    with transaction.atomic(using=alias):
        with tenant_context(tenants[0].pk):
            cursor = connection.connection.cursor("c", scrollable=True)
            cursor.execute(TITLES)
        cursor.scroll(1)
        assert cursor.fetchone() == ("A 2",)
        cursor.close()


@pytest.mark.parametrize(
    "statement",
    [
        "VACUUM app_shared",
        "CREATE INDEX CONCURRENTLY shared_text ON app_shared (text)",
        "-- a comment\n/* and another */ DROP INDEX CONCURRENTLY IF EXISTS shared_text",
        "REINDEX TABLE CONCURRENTLY app_shared",
        "DISCARD ALL",
    ],
)
def test_what_postgresql_refuses_in_a_transaction_works_outside_one(
    statement: str, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), connections["owner"].cursor() as cursor:
        cursor.execute(statement)
        assert cursor.rowcount == -1


def test_what_postgresql_refuses_in_a_transaction_is_still_refused_in_one(
    tenants: tuple[Tenant, Tenant],
) -> None:
    with (
        pytest.raises(InternalError, match="cannot run inside a transaction block"),
        transaction.atomic(using="owner"),
        connections["owner"].cursor() as cursor,
    ):
        cursor.execute("VACUUM app_shared")


def test_a_refusal_that_is_not_a_utility_is_not_sent_again_unbound(
    wire: Wire, superuser: psycopg.Connection[Any], tenants: tuple[Tenant, Tenant]
) -> None:
    superuser.execute(
        "CREATE OR REPLACE FUNCTION not_here() RETURNS void LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE 'not here' USING ERRCODE = '25001'; END $$"
    )
    with (
        tenant_context(tenants[0].pk),
        connections["wire"].cursor() as cursor,
        pytest.raises(InternalError, match="not here"),
    ):
        cursor.execute("SELECT not_here()")
    assert wire.round_trips == 1


@each_version
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "CALL commits(0)",
        "CALL commits(%s)",
        ";CALL commits(0)",
        "-- first\n; CALL commits(%s)",
        "/* /* */ */ CALL commits(%s)",
    ],
)
def test_a_procedure_that_commits_is_refused_with_the_reason(
    statement: str,
    many: bool,
    alias: str,
    superuser: psycopg.Connection[Any],
    tenants: tuple[Tenant, Tenant],
) -> None:
    superuser.execute(
        "CREATE OR REPLACE PROCEDURE commits(number bigint) LANGUAGE plpgsql"
        " AS $$ BEGIN COMMIT; RAISE 'went on as %', current_setting('rls.current_tenant'); END $$"
    )
    params = [0] if "%s" in statement else None
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        # Before PostgreSQL 18 a sealed tenant does not get that far.
        reason = r"leave COMMIT and ROLLBACK to its caller|cannot carry a sealed tenant"
        with pytest.raises((InternalError, UnbindableStatementError), match=reason) as caught:
            if many:
                cursor.executemany(statement, [params or []])
            else:
                cursor.execute(statement, params)
        if isinstance(cause := caught.value.__cause__, psycopg.Error):
            assert "at COMMIT" in (cause.diag.context or "")
        connection: Any = connections[alias].connection
        refusals = (errors.InvalidTransactionTermination, UnbindableStatementError)
        with pytest.raises(refusals), connection.pipeline():
            connection.execute(statement, params)
        assert connection.info.transaction_status == TransactionStatus.IDLE
        with pytest.raises(refusals):
            list(connection.cursor().stream(statement, params))


@pytest.mark.unsealed
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_before_postgresql_18_a_procedure_with_parameters_takes_two_round_trips_more(
    alias: str, wire: Wire, superuser: psycopg.Connection[Any], tenants: tuple[Tenant, Tenant]
) -> None:
    superuser.execute(
        "CREATE OR REPLACE PROCEDURE nothing(number bigint) LANGUAGE sql AS 'SELECT 1'"
    )
    more = 0 if superuser.info.server_version >= 180000 else 2
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        wire.clear()
        cursor.execute("CALL nothing(%s)", [1])
        # What is merged into the text goes as everything does.
        assert wire.round_trips == 1 + (more if alias == "wire_server_side" else 0)
        for statement, rows in (("CALL nothing(%s)", [[1], [2]]), ("DO 'BEGIN END'", [[], []])):
            wire.clear()
            cursor.executemany(statement, rows)
            assert wire.round_trips == 1 + more


NUMBERS = "SELECT i, title FROM app_note, generate_series(1, %s) i ORDER BY i"


@each_version
def test_a_stream_that_is_left_leaves_nothing_behind(
    alias: str, block: None, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        with transaction.atomic(using=alias):
            with closing(cursor.stream(NUMBERS, [100_000])) as rows:
                assert next(rows) == (1, "A 1")
            transaction.set_rollback(True, using=alias)
        assert execute(alias) == ["A 1", "A 2"]
        assert len(list(cursor.stream(NUMBERS, [3]))) == 6


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT nonsense, %s", "nonsense"),
        ("SELECT 1 / (i - %s) FROM generate_series(1, 5) i", "division by zero"),
        ("SELECT set_config('a.b', 'c', true) FROM app_note WHERE 1 / (id - id) = %s", "division"),
        ("CREATE TABLE IF NOT EXISTS %s", "syntax error"),
    ],
)
def test_a_stream_that_fails_leaves_nothing_behind(
    statement: str, error: str, alias: str, block: None, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        with pytest.raises(psycopg.Error, match=error), transaction.atomic(using=alias):
            list(cursor.stream(statement, [3]))
        assert execute(alias) == ["A 1", "A 2"]


@pytest.mark.parametrize("way", ["stream", "named"])
def test_several_statements_are_refused_where_the_rows_of_one_are_read(
    way: str, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    Shared.objects.create(text="kept")

    def read(statement: str) -> Rows:
        with transaction.atomic(using=alias):
            connection: Any = connections[alias].connection
            if way == "stream":
                return list(connection.cursor().stream(statement))
            with connection.cursor("c") as cursor:
                return list(cursor.execute(statement))

    with tenant_context(tenants[0].pk):
        with pytest.raises(psycopg.errors.SyntaxError, match="multiple commands"):
            read("SELECT 1; DELETE FROM app_shared")
        assert read("SELECT text || ';' FROM app_shared; ") == [("kept;",)]


@pytest.mark.parametrize("binary", [False, True])
def test_streamed_rows_come_in_chunks_and_formats_as_asked_for(
    binary: bool, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), connections["wire_server_side"].cursor() as cursor:
        rows = list(cursor.stream("SELECT title, %s FROM app_note", [1], binary=binary, size=1))
        assert rows == [("A 1", 1), ("A 2", 1)]
        if psycopg.capabilities.has_stream_chunked():
            rows = list(cursor.stream("SELECT title, %s FROM app_note", [1], size=2))
            assert rows == [("A 1", 1), ("A 2", 1)]
        with pytest.raises(ValueError, match="size must be >= 1"):
            next(cursor.stream("SELECT %s", [1], size=0))
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]


def test_binary_results_of_a_server_side_cursor_are_bound(tenants: tuple[Tenant, Tenant]) -> None:
    connections["wire_server_side"].ensure_connection()
    connection = connections["wire_server_side"].connection
    with tenant_context(tenants[0].pk):
        assert connection.execute(TITLES, binary=True).fetchall() == [("A 1",), ("A 2",)]
        cursor = connection.cursor(binary=True).execute(TITLES)
        assert cursor.fetchall() == [("A 1",), ("A 2",)]
        assert cursor.pgresult.fformat(0) == Format.BINARY


@pytest.mark.parametrize("path", [execute_with_parameters, stream_with_parameters])
def test_server_side_parameters_go_with_begin_and_the_binding(
    path: Callable[[str], Rows], wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using="wire_server_side"):
        assert path("wire_server_side") == ["A 1", "A 2"]
    assert wire.kinds == "PBDEPBDEPBDESQ"
    assert wire.round_trips == 2
    assert wire.queries[0] == "BEGIN"


@pytest.mark.parametrize("path", [executemany, pipeline])
def test_a_pipeline_after_a_stream_is_bound(
    path: Callable[[str], Rows], alias: str, block: None, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk):
        for _ in range(2):
            assert stream(alias) == path(alias) == ["A 1", "A 2"]


def test_a_client_side_cursor_refuses_binary_results_as_psycopg_does(
    tenants: tuple[Tenant, Tenant],
) -> None:
    connections["wire"].ensure_connection()
    with (
        tenant_context(tenants[0].pk),
        pytest.raises(psycopg.NotSupportedError, match="binary"),
    ):
        connections["wire"].connection.execute(TITLES, binary=True)


def test_prepared_statements_are_bound(wire: Wire, tenants: tuple[Tenant, Tenant]) -> None:
    connection = connections["wire_server_side"].connection
    connection.prepare_threshold = 0
    statement = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
    for tenant in tenants:
        with tenant_context(tenant.pk):
            rows = connection.execute(statement, [0], prepare=True).fetchall()
            assert [row[0] for row in rows] == [f"{tenant.name} 1", f"{tenant.name} 2"]
    assert connection.execute(statement, [0], prepare=True).fetchall() == []
    # Parsed once, and executed by its name after that.
    assert wire.queries.count(statement.replace("%s", "$1")) == 1


def test_a_cursor_with_hold_is_refused_in_a_transaction(tenants: tuple[Tenant, Tenant]) -> None:
    with transaction.atomic(using="wire"), tenant_context(tenants[0].pk):
        connections["wire"].ensure_connection()
        with (
            connections["wire"].connection.cursor("c", withhold=True) as cursor,
            pytest.raises(UnbindableStatementError, match="WITH HOLD inside a transaction"),
        ):
            cursor.execute(TITLES)


def test_a_cursor_without_hold_needs_a_transaction(tenants: tuple[Tenant, Tenant]) -> None:
    connections["wire"].ensure_connection()
    with (
        connections["wire"].connection.cursor("c") as cursor,
        pytest.raises(psycopg.errors.NoActiveSqlTransaction, match="DECLARE CURSOR can only"),
    ):
        cursor.execute(TITLES)


def test_rows_held_after_a_commit_are_those_of_the_declare(tenants: tuple[Tenant, Tenant]) -> None:
    connections["wire"].ensure_connection()
    with connections["wire"].connection.cursor("c", withhold=True) as cursor:
        with tenant_context(tenants[0].pk):
            cursor.execute(TITLES)
        with tenant_context(tenants[1].pk):
            assert cursor.fetchall() == [("A 1",), ("A 2",)]


def test_copy_merges_parameters_as_its_cursor_adapts_them(alias: str, wire: Wire) -> None:
    class Shout(psycopg.adapt.Dumper):
        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    with connections[alias].connection.cursor() as cursor:
        cursor.adapters.register_dumper(str, Shout)
        with cursor.copy("COPY (SELECT %s) TO STDOUT", ["loud"]) as copy:
            assert list(copy.rows()) == [("LOUD",)]


def test_copy_refuses_what_psycopg_refuses(tenants: tuple[Tenant, Tenant]) -> None:
    connections["wire"].ensure_connection()
    connection = connections["wire"].connection
    with connection.cursor() as cursor:
        with pytest.raises(psycopg.ProgrammingError, match="COPY"), cursor.copy("SELECT 1"):
            pass
        with (
            pytest.raises(psycopg.ProgrammingError, match="mixed"),
            cursor.copy("SELECT 1; SELECT 2"),
        ):
            pass
        with (
            pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"),
            cursor.copy("COPY nowhere TO STDOUT"),
        ):
            pass
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "statement",
    [
        "COPY app_shared TO STDOUT",
        "/* /* */ */ COPY app_shared TO STDOUT",
        "/* /* */ */ COPY app_shared FROM STDIN",
    ],
)
def test_copy_by_another_method_comes_to_an_end(
    statement: str, streamed: bool, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    error = pytest.raises((DatabaseError, psycopg.Error))
    with tenant_context(tenants[0].pk), error, connections[alias].cursor() as cursor:
        if streamed:
            list(cursor.stream(statement))
        else:
            cursor.execute(statement)
    connections[alias].close()


def test_copy_cannot_be_used_in_a_pipeline(tenants: tuple[Tenant, Tenant]) -> None:
    connections["wire"].ensure_connection()
    connection = connections["wire"].connection
    with (
        pytest.raises(psycopg.NotSupportedError, match="pipeline"),
        connection.pipeline(),
        connection.cursor() as cursor,
        cursor.copy("COPY app_shared TO STDOUT"),
    ):
        pass


def test_after_an_error_only_the_rollback_is_sent_and_nothing_in_front_of_it(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using="wire"):
        with pytest.raises(ProgrammingError), transaction.atomic(using="wire"):
            connections["wire"].cursor().execute("SELECT nonsense")
        rollbacks = [query for query in wire.queries if "ROLLBACK TO" in query]
        assert rollbacks
        assert all(query.startswith("ROLLBACK TO") for query in rollbacks)
        assert execute("wire") == ["A 1", "A 2"]


def test_a_cursor_factory_in_options_keeps_working_bound(tenants: tuple[Tenant, Tenant]) -> None:
    class Shouting(psycopg.ClientCursor[Any]):
        def fetchall(self) -> list[Any]:
            return [(row[0].upper(),) for row in super().fetchall()]

    connection = connections.create_connection("default")
    connection.settings_dict = {
        **connection.settings_dict,
        "OPTIONS": {"cursor_factory": Shouting},
    }
    with tenant_context(tenants[0].pk), connection.cursor() as cursor:
        cursor.execute("SELECT lower(title) FROM app_note ORDER BY id")
        assert cursor.fetchall() == [("A 1",), ("A 2",)]
        # Of one that is bound already, too.
        connection.connection.cursor_factory = type(cursor.cursor)
        assert connection.cursor().execute("SELECT 'a'").fetchall() == [("A",)]
    connection.close()


def test_a_connection_keeps_the_class_of_its_cursors(tenants: tuple[Tenant, Tenant]) -> None:
    """However many there are, as where an instrumentation makes one for each connection."""
    connections["default"].ensure_connection()
    connection = connections["default"].connection
    with connection.cursor() as cursor:
        kept = type(cursor)
    for number in range(100):
        bound(type(f"Traced{number}", (psycopg.ClientCursor,), {}))
    assert type(connection.cursor()) is kept
    connection.cursor_factory = type("Traced", (psycopg.ClientCursor,), {})
    assert issubclass(type(connection.cursor()), connection.cursor_factory)
    connection.per_transaction = True
    assert issubclass(type(connection.cursor()), ClosingMixin)
    connections["default"].close()


def test_a_new_connection_asks_whoever_has_replaced_what_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As tracing does that is turned on when Django has connected already."""
    traced = []
    connect = vars(psycopg.Connection)["connect"].__func__

    def trace(cls: type[Any], *args: Any, **options: Any) -> Any:
        traced.append(connect(cls, *args, **options))
        return traced[-1]

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(trace))
    connection = connections.create_connection("default")
    connection.connect()
    assert traced == [connection.connection]
    connection.close()


ENDED = "SELECT pg_terminate_backend(pg_backend_pid()) WHERE %s"


@pytest.mark.parametrize("path", ["execute", "prepared", "stream", "named", "executemany"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_why_the_server_has_ended_the_session_is_raised(
    alias: str,
    inside: bool,
    path: str,
    wire: Wire,
    tenants: tuple[Tenant, Tenant],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # psycopg loses what it has read if it reads the end of the connection while it sends the rest.
    monkeypatch.setattr(wire, "waits_for_sync", True)
    connection: Any = connections[alias]
    block: AbstractContextManager[Any] = nullcontext()
    if inside or path == "named":
        block = transaction.atomic(using=alias)
    ended = pytest.raises((OperationalError, psycopg.OperationalError))
    with tenant_context(tenants[0].pk), ended as raised, block, connection.cursor() as cursor:
        if path == "execute":
            cursor.execute(ENDED, [True])
        elif path == "prepared":
            cursor.connection.execute(ENDED, [True], prepare=True)
        elif path == "stream":
            list(cursor.stream(ENDED, [True]))
        elif path == "executemany":
            cursor.executemany(ENDED, [[True]])
        else:
            with cursor.connection.cursor("ended") as named:
                named.execute(ENDED, [True])
                named.fetchall()
    error: Any = raised.value.__cause__ or raised.value
    assert error.sqlstate == "57P01"
    connection.close()


@each_version
@pytest.mark.parametrize("path", ["execute", "stream", "executemany", "pipeline"])
def test_what_fails_when_it_is_committed_is_raised(
    path: str, alias: str, tenants: tuple[Tenant, Tenant]
) -> None:
    """A deferred constraint is checked at the end of a message, after the statement's result."""
    insert = "INSERT INTO app_note (title, author_id) VALUES (%s, 999) RETURNING id"
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        with pytest.raises((IntegrityError, psycopg.IntegrityError), match="foreign key"):
            if path == "execute":
                cursor.execute(insert, ["x"])
            elif path == "stream":
                list(cursor.stream(insert, ["x"]))
            elif path == "executemany":
                cursor.executemany(insert, [["x"]])
            else:
                with cursor.connection.pipeline():
                    cursor.connection.execute(insert, ["x"])
        cursor.execute("SELECT title FROM app_note ORDER BY id")
        assert cursor.fetchall() == [("A 1",), ("A 2",)]


class Texts(psycopg.adapt.Dumper):
    """A dumper of a project that forgets to encode."""

    def dump(self, obj: Any) -> Any:
        return "1"


@pytest.mark.parametrize(("path", "nested"), [("stream", False), ("declare", True)])
@pytest.mark.parametrize("wrong", ["number", "type"])
def test_what_libpq_does_not_send_leaves_the_connection_usable(
    path: str, nested: bool, wrong: str, wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    using = "wire_server_side"
    connection: Any = connections[using].connection
    many: list[Any] = [0] * 65536 if wrong == "number" else [Decimal(1)]
    statement = f"SELECT title FROM app_note WHERE id IN ({', '.join(['%s'] * len(many))})"

    def block() -> AbstractContextManager[None]:
        return transaction.atomic(using=using) if nested else nullcontext()

    with tenant_context(tenants[0].pk), block():
        refused = pytest.raises(
            (psycopg.OperationalError, TypeError), match=r"number of parameters|expected"
        )
        named = "c" if path == "declare" else ""
        with refused, block(), connection.cursor(named) as cursor:
            cursor.adapters.register_dumper(Decimal, Texts)
            if path == "stream":
                list(cursor.stream(statement, many))
            else:
                cursor.execute(statement, many)
        assert execute(using) == execute_with_parameters(using) == ["A 1", "A 2"]
        assert connections[using].connection is connection


def test_a_fetch_that_is_not_sent_leaves_no_binding_behind(
    wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    connection: Any = connections["wire"].connection
    with transaction.atomic(using="wire"):
        with tenant_context(tenants[0].pk):
            cursor = connection.cursor("c", scrollable=True)
            cursor.execute(TITLES)
        with pytest.raises(ValueError, match="bad mode"):
            cursor.scroll(1, "sideways")
        assert connection.ahead is None
        cursor.close()
        with pytest.raises(psycopg.InterfaceError, match="closed"):
            cursor.fetchone()
    # Where bindings are sealed, that of nobody is in front of it.
    ahead = "SET CONSTRAINTS ALL IMMEDIATE;" if settings.IS_SEALED else "COMMIT"
    assert wire.queries[-1].startswith(ahead)
    assert str(tenants[0].pk) not in wire.queries[-1]


def test_a_binding_that_is_refused_says_why(tenants: tuple[Tenant, Tenant], settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "ADMIN_ROLE": "nobody"}
    connections["wire"].ensure_connection()
    with (
        admin_context(),
        pytest.raises(psycopg.DataError, match='role "nobody" does not exist'),
        transaction.atomic(using="wire"),
        psycopg.ClientCursor(connections["wire"].connection) as cursor,
    ):
        cursor.execute(TITLES)
