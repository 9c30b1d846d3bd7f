"""Strings of several statements: what ends the binding is the last of them, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections, migrations, transaction
from django.db.migrations.state import ProjectState

from tenantry import aconnection, admin_context, tenant_context
from tenantry.backends.postgresql.several import BLANK, statements, undoes_binding
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Tenant
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
TITLES = "SELECT title FROM app_note ORDER BY id"


@pytest.fixture(params=["wire", "wire_server_side"])
def alias(request: pytest.FixtureRequest, wire: Wire) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "statement",
    [
        "ROLLBACK TO SAVEPOINT s; SELECT 1",
        "select 1;rollback;select 2",
        "SELECT 1; END; (SELECT 2)",
        "ABORT;;SELECT 1",
        "COMMIT AND CHAIN; TABLE x",
        "BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2; COMMIT",
        "prepare /* x */ transaction 'a'; select 1",
        "CREATE VIEW v AS SELECT begin atomic; ROLLBACK; SELECT 1",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; END; SELECT 1",
        # END is that of a body only where there is one.
        "CREATE VIEW v AS SELECT 'begin atomic'; END; SELECT 1",
        "CREATE VIEW v AS SELECT begin atomic FROM x; END; SELECT 1",
        "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC END; END; SELECT 1",
        "CREATE FUNCTION f(begin atomic) RETURNS int AS 'x'; END; SELECT 1",
        "CREATE FUNCTION f() RETURNS int AS 'begin atomic'; END; SELECT 1",
        "CREATE FUNCTION f() RETURNS int AS $a$ begin atomic $a$; END; SELECT 1",
        'CREATE FUNCTION f() RETURNS "begin" atomic; END; SELECT 1',
        "CREATE FUNCTION f() /* begin atomic */ RETURNS int -- begin atomic\n; END; SELECT 1",
        "CREATE FUNCTION f() RETURNS int COST 1 + begin$1 + begin.atomic; END; SELECT 1",
        # A comment ends with its line, of either kind, and there may be one in another.
        "-- x\rROLLBACK; SELECT 1",
        "/* a */ COMMIT /* ; */; /* */ SELECT 1",
        "SELECT 1 */* x */ 2; ROLLBACK; SELECT 1",
        "SELECT /* /* */; */ 1; ROLLBACK; SELECT 1",
        # What a quote is depends on what is in front of it.
        "SELECT E'a\\'; ', ''; ROLLBACK TO s; SELECT '--'",
        "SELECT E'a'\n'\\';'; ROLLBACK; SELECT 1",
        # It is continued after a line break only, and what follows is of another kind then.
        "SELECT E'a' '\\'; ROLLBACK; SELECT 1 --'",
        "SELECT E'a'\f\t'\\'; ROLLBACK; SELECT 1 --'",
        "SELECT E'a' /* \n */ '\\'; ROLLBACK; SELECT 1 --'",
        "SELECT 'a'\n'\\'; ROLLBACK; SELECT 1 --'",
        "SELECT '\\'; ROLLBACK TO s; SELECT '",
        "SELECT xe'\\'; ROLLBACK TO s; SELECT 1 --'",
        "SELECT 1_0$$; ' $$; ROLLBACK TO s; SELECT 1 --'",
        "SELECT a$$; ROLLBACK TO s; SELECT $$",
        "SELECT $1; ROLLBACK; SELECT 1",
        """SELECT "'"; ROLLBACK; SELECT "'" """,
    ],
)
def test_what_undoes_the_binding_of_the_next_is_found(statement: str) -> None:
    assert undoes_binding(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "",
        ";;",
        "SELECT 1; SELECT 2",
        "BEGIN; SELECT 1; COMMIT",
        "BEGIN; SELECT 1; COMMIT;  -- done\n",
        "ROLLBACK TO s; RELEASE s",
        "ROLLBACK; BEGIN",
        "PREPARE x AS SELECT 1; EXECUTE x",
        "SELECT '; ROLLBACK; SELECT 1'",
        "SELECT E'\\'; ROLLBACK; SELECT 1'",
        "SELECT E'a'\n -- x;\n '; ROLLBACK; \\' SELECT 1'",
        "SELECT E'a' -- x;\f\r'\\'; ROLLBACK; SELECT 1'",
        'SELECT "; ROLLBACK; x"; SELECT 2',
        "SELECT 1 - 1 / 1 -- ; ROLLBACK; SELECT 2\n; SELECT 3",
        "SELECT 1 /* ; ROLLBACK; */; SELECT 1",
        "SELECT /* /* */ */ 1; SELECT 1",
        "SELECT /* /* END */; ROLLBACK; */ 1; SELECT 1",
        "SELECT CASE WHEN a THEN 1 END; SELECT 2",
        "DO $$ BEGIN x; END; $$; SELECT 1",
        "DO $a$ BEGIN x; ROLLBACK; $$; $b$; END $a$; SELECT 1",
        "DO $$ BEGIN x; ROLLBACK; SELECT",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END;"
        " CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; END; SELECT 1",
        "create or replace procedure p(a text = '(')\nBEGIN/**/ATOMIC SELECT 1; END; SELECT 1",
        "CREATE FUNCTION f() RETURNS void BEGIN ATOMIC /* ; */ END; SELECT 1",
    ],
)
def test_what_keeps_it_is_not(statement: str) -> None:
    assert not undoes_binding(statement.encode())


@pytest.mark.parametrize(
    "piece", ["&nbsp; the end; ", "CREATE FUNCTION(", "e'", "E'\n", "$a$", "/*", "--", "a;", "'"]
)
def test_it_takes_time_by_the_length(piece: str) -> None:
    start = perf_counter()
    undoes_binding(piece.encode() * 30_000)
    assert perf_counter() - start < 10


# What strings, comments and names are made of, and what may be between them.
INSIDE = ["x", "'", "''", "\\", "\\'", "\\\\", '"', "$$", "$a$", "--", "/*", "*/", "\n", "E'"]
INSIDE += ["; SELECT 2", "; SELECT 2 --", "; SELECT 2 /*"]
QUOTES = ["'{}'", "E'{}'", "e'{}'", "U&'{}'", "B'{}'", "N'{}'", "$${}$$", "$a${}$a$", '"{}"']
BETWEEN = ["", " ", "\n", "\r", "\f", "\n\n", " \n\t", "--{}\n", " -- {}\r\n", "/*{}*/", "\n/*{}*/"]
BETWEEN += [",", "||", " -", " /", "1", "a", "1_0", "a$", "$1", "; SELECT ", ";\n;SELECT "]
# In the last of these statements two strings may stand next to each other.
BEGINNINGS = ["SELECT ", "SELECT ", "SELECT 1", "DO LANGUAGE 'plpgsql'", "DO LANGUAGE E'plpgsql'"]
PROGRAMS = ["'BEGIN END;--{}'", "E'BEGIN END;--{}'", "$$BEGIN END;--{}$$"]
ENDINGS = ["", ";", "--", "; SELECT 3", "; SELECT 3 --'", "; SELECT '"]


def random_text(random: Random) -> str:
    """Return something of which the server may take parts for what they are not."""

    def piece(kinds: list[str]) -> str:
        inside = "".join(random.choices(INSIDE, k=random.randrange(4)))
        return random.choice(kinds).format(inside)

    text = random.choice(BEGINNINGS)
    if text.startswith("DO"):
        text += piece(BETWEEN[:11]) + piece(PROGRAMS) + piece(BETWEEN)
    for _ in range(random.randrange(5)):
        text += piece(QUOTES) + piece(BETWEEN)
    return text + random.choice(ENDINGS)


def test_it_is_cut_as_the_server_cuts_it(superuser: psycopg.Connection[Any]) -> None:
    random, compared = Random(1), 0
    for _ in range(4_000):
        text = random_text(random).encode()
        parts = list(statements(text))
        try:
            cursor = superuser.execute(text)
        except psycopg.Error:
            continue
        # Where it is not clear, nothing is said of the parts.
        if None not in parts:
            compared += 1
            counted = [part for part in parts if part and not BLANK.match(part)]
            assert len(counted) == sum(1 for _ in cursor.results()), text
    assert compared > 500


ENDS = ["ROLLBACK TO SAVEPOINT s", "SELECT 1; ROLLBACK TO s", "ROLLBACK", "COMMIT", "ABORT"]


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_no_statement_runs_in_the_binding_of_a_savepoint(
    end: str, failed: bool, alias: str, wire: Wire, tenants: Tenants
) -> None:
    a, b = tenants
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        with tenant_context(b.pk):
            cursor.execute("SELECT 1")
            cursor.execute("SAVEPOINT s")
        with tenant_context(a.pk):
            if failed:
                with pytest.raises(DatabaseError):
                    cursor.execute("SELECT 1/0")
            wire.clear()
            with pytest.raises(UnbindableStatementError, match="send its statements one by one"):
                cursor.execute(f"{end}; {TITLES}")
            assert wire.messages == []
            cursor.execute("ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s")
            cursor.execute(TITLES)
            assert cursor.fetchall() == [("A 1",), ("A 2",)]


def by_copy(cursor: Any, statement: str) -> None:
    with cursor.copy(statement):
        pass


def by_stream(cursor: Any, statement: str) -> None:
    list(cursor.stream(statement))


def by_name(cursor: Any, statement: str) -> None:
    with cursor.connection.cursor("c") as named:
        named.execute(statement)


@pytest.mark.parametrize("send", [by_copy, by_stream, by_name])
def test_no_path_sends_one(send: Callable[[Any, str], None], alias: str, tenants: Tenants) -> None:
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        with tenant_context(tenants[1].pk):
            cursor.execute("SELECT 1")
            cursor.execute("SAVEPOINT s")
        # What goes with a seal is one statement, or PostgreSQL refuses it.
        refusals = (UnbindableStatementError, psycopg.errors.SyntaxError)
        with (
            tenant_context(tenants[0].pk),
            pytest.raises(refusals),
            transaction.atomic(using=alias),
        ):
            send(cursor, f"SELECT 1; ROLLBACK TO s; {TITLES}; COPY ({TITLES}) TO STDOUT")
        cursor.execute("SELECT 1")


class Statement(bytes):
    """A project's own type."""


# Nothing is put in front of what is sealed.
@pytest.mark.unsealed
def test_a_statement_is_of_bytes(alias: str, tenants: Tenants) -> None:
    statement: Any = memoryview(f"ROLLBACK TO s; {TITLES}".encode())
    titles: Any = Statement(TITLES.encode())
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        with tenant_context(tenants[1].pk):
            cursor.execute("SELECT 1")
            cursor.execute("SAVEPOINT s")
        with tenant_context(tenants[0].pk):
            # As in psycopg.
            with pytest.raises(TypeError, match="expected bytes, memoryview found"):
                cursor.execute(statement)
            cursor.execute(titles)
            assert cursor.fetchall() == [("A 1",), ("A 2",)]


async def test_native_async_refuses_it_too(tenants: Tenants) -> None:
    async with aconnection() as connection:
        async with tenant_context(tenants[1].pk):
            await connection.execute("SELECT 1")
            await connection.execute("SAVEPOINT s")
        async with tenant_context(tenants[0].pk):
            with pytest.raises(UnbindableStatementError, match="one by one"):
                await connection.execute(f"ROLLBACK TO s; {TITLES}")
            cursor = await connection.execute(TITLES)
            assert await cursor.fetchall() == [("A 1",), ("A 2",)]


INJECTED = [
    "'; ROLLBACK TO SAVEPOINT {name}; {titles}; --",
    # A string is continued after a line break only, so that this one ends with the backslash.
    "'; DO LANGUAGE E'plpgsql' 'BEGIN END --\\'; ROLLBACK TO SAVEPOINT {name}; {titles}; --",
]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("term", INJECTED)
def test_an_injection_finds_no_savepoint_of_the_admin(
    term: str, inner: bool, alias: str, tenants: Tenants
) -> None:
    def vulnerable(term: str) -> list[Any]:
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT title FROM app_note WHERE title = '{term}'")
            rows: list[Any] = cursor.fetchall()
            while cursor.nextset():
                rows += cursor.fetchall()
            return rows

    with transaction.atomic(using=alias):
        with admin_context(), connections[alias].cursor() as cursor:
            cursor.execute("SELECT count(*) FROM app_note")
            if not inner:
                cursor.execute("SAVEPOINT s")
        with tenant_context(tenants[0].pk), transaction.atomic(using=alias):
            # Sent together with the binding of the statement, in front of it.
            [name] = connections[alias].savepoint_ids if inner else ["s"]
            with pytest.raises(UnbindableStatementError):
                vulnerable(term.format(name=name, titles=TITLES))
            assert vulnerable("A 1") == [("A 1",)]


def test_a_value_is_no_statement_unless_it_is_quoted_twice(alias: str, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        term = "; ROLLBACK; SELECT 1 --"
        cursor.execute("SELECT %s::text", [term])
        assert cursor.fetchone() == (term,)
    with connections["wire"].cursor() as cursor, pytest.raises(UnbindableStatementError):
        cursor.execute("SELECT '%s'", [term])


@pytest.mark.parametrize(
    "setting", ["standard_conforming_strings = off", "client_encoding = 'SJIS'"]
)
def test_where_quotes_may_mean_something_else_no_word_of_the_kind_is_sent(
    setting: str, wire: Wire
) -> None:
    with connections["wire"].cursor() as cursor:
        cursor.execute("SET escape_string_warning = off")
        cursor.execute(f"SET {setting}")
        try:
            with pytest.raises(UnbindableStatementError):
                cursor.execute("SELECT '; ROLLBACK; '")
            cursor.execute("SELECT 1; SELECT 2")
        finally:
            connections["wire"].close()


def test_a_migration_may_hold_a_transaction_and_the_body_of_a_function(
    tenants: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    script = (
        "BEGIN; CREATE FUNCTION two() RETURNS bigint BEGIN ATOMIC SELECT 1; SELECT 2; END;"
        " DO $$ BEGIN PERFORM two(); END; $$; COMMIT;\n"
    )
    connection = connections["owner"]
    state = ProjectState()
    try:
        with connection.schema_editor(atomic=False) as editor:
            migrations.RunSQL(script).database_forwards("app", editor, state, state)
        assert superuser.execute("SELECT two()").fetchall() == [(2,)]
    finally:
        superuser.execute("DROP FUNCTION IF EXISTS two()")
