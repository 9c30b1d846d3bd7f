"""``prepare_threshold``: what cannot be prepared goes as it goes without it."""

from __future__ import annotations

from contextlib import nullcontext
from select import select
from typing import Any

import psycopg
import pytest
from django.db import (
    DataError,
    InternalError,
    ProgrammingError,
    connections,
    models,
    transaction,
)
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, aclose_pools, aconnection, tenant_context
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Shared, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import findings

Tenants = tuple[Tenant, Tenant]
TITLES = "SELECT title FROM app_note ORDER BY id"
OPTIONS = {"server_side_binding": True, "prepare_threshold": 1}


@pytest.fixture
def preparing(alias: Add, tenants: Tenants) -> str:
    """Return a database whose statements are prepared the second time."""
    return alias("default", OPTIONS)


@pytest.mark.parametrize("statement", [f"SELECT 1; {TITLES}", f"SELECT 1;\n{TITLES};\n"])
def test_several_statements(statement: str, preparing: str, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using=preparing):
        for _ in range(4):
            with connections[preparing].cursor() as cursor:
                cursor.execute(statement)
                assert cursor.nextset()
                assert cursor.fetchall() == [("A 1",), ("A 2",)]


def test_several_statements_where_nothing_is_prepared(alias: Add, tenants: Tenants) -> None:
    """psycopg does not prepare them either, without a threshold."""
    using = alias("default", {"server_side_binding": True})
    with (
        tenant_context(tenants[0].pk),
        transaction.atomic(using=using),
        connections[using].cursor() as cursor,
    ):
        cursor.cursor.execute(f"SELECT 1; {TITLES}", prepare=True)
        assert cursor.nextset()
        assert cursor.fetchall() == [("A 1",), ("A 2",)]


@pytest.mark.parametrize(
    "statement", ["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "LOCK TABLE app_shared"]
)
def test_what_must_be_first(statement: str, preparing: str, tenants: Tenants) -> None:
    for _ in range(4):
        with (
            tenant_context(tenants[0].pk),
            transaction.atomic(using=preparing),
            connections[preparing].cursor() as cursor,
        ):
            cursor.execute(statement)
            cursor.execute(TITLES)
            assert cursor.fetchall() == [("A 1",), ("A 2",)]


def test_migrations(alias: Add, tenants: Tenants) -> None:
    with isolate_apps("tests.app"):

        class Spare(models.Model):
            tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE)

            class Meta:
                app_label = "app"
                constraints = [RLSConstraint(field="tenant")]

    connection = connections[alias("owner", OPTIONS)]
    try:
        for _ in range(4):
            with connection.schema_editor() as editor:
                editor.create_model(Spare)
            with connection.schema_editor() as editor:
                editor.delete_model(Spare)
    finally:
        connection.close()


async def test_several_statements_without_threads(preparing: str, tenants: Tenants) -> None:
    async with aconnection(preparing) as connection, tenant_context(tenants[0].pk):
        for _ in range(4):
            cursor = await connection.execute(f"SELECT 1; {TITLES}")
            assert cursor.nextset()
            assert await cursor.fetchall() == [("A 1",), ("A 2",)]
    await aclose_pools()


def test_the_others_are_prepared(preparing: str, tenants: Tenants) -> None:
    with (
        tenant_context(tenants[0].pk),
        transaction.atomic(using=preparing),
        connections[preparing].cursor() as cursor,
    ):
        for _ in range(4):
            cursor.execute(TITLES)
            assert cursor.fetchall() == [("A 1",), ("A 2",)]
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        assert (TITLES,) in cursor.fetchall()


@pytest.mark.parametrize("way", ["cursor", "pipeline"])
def test_what_cannot_be_prepared_now_is_prepared_later(
    way: str, preparing: str, superuser: psycopg.Connection[Any]
) -> None:
    """A migration may be in the way, or the time that a lock may take."""
    connections[preparing].ensure_connection()
    connection: Any = connections[preparing].connection

    def count() -> Any:
        with connection.pipeline() if way == "pipeline" else nullcontext():
            return connection.execute(
                "SELECT count(*) FROM app_shared WHERE id > %s", [0]
            ).fetchone()

    assert count() == (0,)
    superuser.execute("ALTER TABLE app_shared RENAME TO away")
    try:
        with pytest.raises(psycopg.errors.UndefinedTable):
            count()
    finally:
        superuser.execute("ALTER TABLE away RENAME TO app_shared")
    for _ in range(4):
        assert count() == (0,)
    statements = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
    assert statements == (1,)


@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_what_is_deallocated_is_prepared_again(statement: str, preparing: str) -> None:
    connections[preparing].ensure_connection()
    connection: Any = connections[preparing].connection
    for _ in range(3):
        connection.execute(statement)
        for number in range(2):
            cursor = connection.execute("SELECT %s", [number], prepare=True)
            assert cursor.fetchone() == (number,)


def test_why_a_statement_has_failed_is_said_though_another_one_is_given_up(preparing: str) -> None:
    connections[preparing].ensure_connection()
    connection: Any = connections[preparing].connection
    connection.prepared_max = 1
    for number in range(2):
        connection.execute(f"SELECT {number}, %s", [1], prepare=True)
    with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
        connection.execute("SELECT 1 / %s", [0])
        # The error is there before the message that gives up what was prepared first.
        select([connection], [], [])


def run(using: str, statement: str, params: list[int], *, many: bool) -> None:
    with connections[using].cursor() as cursor:
        if many:
            cursor.executemany(statement, [params])
        else:
            cursor.execute(statement, params)


LEVEL = {"isolation_level": psycopg.IsolationLevel.REPEATABLE_READ}
TOUCH = "UPDATE app_note SET title = title WHERE id > %s"


@pytest.mark.parametrize("threshold", [0, 1])
@pytest.mark.parametrize("many", [False, True])
def test_the_first_one_of_a_block_at_an_isolation_level(
    many: bool, threshold: int, alias: Add, tenants: Tenants
) -> None:
    """BEGIN is refused after what has taken a snapshot, as preparing a statement does."""
    using = alias(options={**OPTIONS, **LEVEL, "prepare_threshold": threshold})
    for _ in range(4):
        with tenant_context(tenants[0].pk), transaction.atomic(using=using):
            run(using, TOUCH, [0], many=many)
            with connections[using].cursor() as cursor:
                cursor.execute("SHOW transaction_isolation")
                assert cursor.fetchone() == ("repeatable read",)


@pytest.mark.parametrize("threshold", [0, 1])
async def test_the_first_one_of_native_async(threshold: int, alias: Add, tenants: Tenants) -> None:
    using = alias(options={**OPTIONS, **LEVEL, "prepare_threshold": threshold})
    for _ in range(4):
        async with tenant_context(tenants[0].pk), aconnection(using) as connection:
            assert (await connection.execute(TOUCH, [0])).rowcount == 2
        async with tenant_context(tenants[0].pk), aconnection(using) as connection:
            await connection.cursor().executemany(TOUCH, [[0], [1]])
    await aclose_pools()


# The first two fail while they are prepared.
BROKEN = [("SELECT nonsense", []), ("SELEC 1", []), ("SELECT 1 / %s::int", [0])]


@pytest.mark.parametrize(("statement", "params"), BROKEN)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_a_savepoint_undoes_any_error(
    many: bool, first: bool, statement: str, params: list[int], alias: Add, tenants: Tenants
) -> None:
    using = alias(options={**OPTIONS, "prepare_threshold": 0})
    with transaction.atomic(using=using):
        if not first:
            Shared.objects.using(using).create(text="kept")
        with pytest.raises((ProgrammingError, DataError)), transaction.atomic(using=using):
            run(using, statement, params, many=many)
        Shared.objects.using(using).create(text="after")
    written = set(Shared.objects.values_list("text", flat=True))
    assert written == ({"after"} if first else {"after", "kept"})


@pytest.mark.parametrize(("statement", "params"), BROKEN)
@pytest.mark.parametrize("many", [False, True])
def test_an_error_ends_the_transaction_that_the_statement_begins(
    many: bool, statement: str, params: list[int], alias: Add, tenants: Tenants
) -> None:
    using = alias(options={**OPTIONS, "prepare_threshold": 0})
    with transaction.atomic(using=using):
        with pytest.raises((ProgrammingError, DataError)):
            run(using, statement, params, many=many)
        with pytest.raises(InternalError, match="current transaction is aborted"):
            run(using, "SELECT %s::int", [1], many=many)
        transaction.set_rollback(True, using=using)
    run(using, "SELECT %s::int", [1], many=many)


@pytest.mark.parametrize("threshold", [0, 1])
@pytest.mark.parametrize(
    "statement",
    ["VACUUM app_shared", "DROP INDEX CONCURRENTLY IF EXISTS nothing", "DISCARD ALL"],
)
def test_what_postgresql_refuses_in_a_transaction(
    statement: str, threshold: int, alias: Add, tenants: Tenants
) -> None:
    using = alias("owner", {**OPTIONS, "prepare_threshold": threshold})
    with tenant_context(tenants[0].pk), connections[using].cursor() as cursor:
        for _ in range(2):
            cursor.execute(TITLES)
            assert cursor.fetchall() == [("A 1",), ("A 2",)]
            cursor.execute(statement)
            assert cursor.rowcount == -1


@pytest.mark.parametrize("statement", ["LISTEN news", "SELECT pg_advisory_lock(%s)"])
@pytest.mark.parametrize("many", [False, True])
def test_what_is_for_a_whole_session(
    many: bool, statement: str, alias: Add, tenants: Tenants
) -> None:
    using = alias(options={**OPTIONS, "prepare_threshold": 0})
    params = [1] if "%s" in statement else []
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE NOT statement ~ 'prepared'"
    with transaction.atomic(using=using), connections[using].cursor() as cursor:
        cursor.execute(prepared)
        before = cursor.fetchone()
        with pytest.raises(UnbindableStatementError, match="is for a whole session"):
            if many:
                cursor.executemany(statement, [params])
            else:
                cursor.execute(statement, params)
        # Not even prepared.
        cursor.execute(prepared)
        assert cursor.fetchone() == before


def test_a_pooler_that_follows_no_prepared_statements_is_named(
    alias: Add, tenants: Tenants
) -> None:
    """Other clients have the server session in between, and it the statements of all of them."""
    one, two = (alias("pooled", {**OPTIONS, "prepare_threshold": 0}) for _ in range(2))
    advice = "\nA transaction pooler that does not follow .* or remove prepare_threshold from"
    run(one, "SELECT %s::int", [1], many=False)
    with pytest.raises(ProgrammingError, match=f"already exists{advice}") as raised:
        run(two, "SELECT %s::text", [1], many=False)
    assert isinstance(raised.value.__cause__, psycopg.errors.DuplicatePreparedStatement)
    with connections["pooled"].cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
    with pytest.raises(ProgrammingError, match=f"does not exist{advice}") as raised:
        run(one, "SELECT %s::int", [1], many=False)
    assert isinstance(raised.value.__cause__, psycopg.errors.InvalidSqlStatementName)
    assert str(raised.value).count("\n") == 1


@pytest.mark.unsealed
@pytest.mark.parametrize("name", ["pooled", "default"])
def test_a_pooler_that_follows_no_prepared_statements_is_found(
    name: str, alias: Add, tenants: Tenants
) -> None:
    options = {**OPTIONS, "prepare_threshold": 1000}
    using = alias(name, options, DISABLE_SERVER_SIDE_CURSORS=True)
    wanted = {("tenantry.W145", f"database {using!r}")} if name == "pooled" else set()
    for _ in range(2):
        assert {each[:2] for each in findings("--database", using)} == wanted
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT FROM pg_prepared_statements WHERE name ~ '^tenantry'")
        assert cursor.fetchall() == []
