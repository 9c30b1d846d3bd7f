"""Native async connections: bound, in a transaction, and back in the pool whatever happens."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any

import anyio
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.models import Count
from django.db.models.expressions import RawSQL
from psycopg import waiting
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from tenantry import (
    aclose_pools,
    aconnection,
    admin_context,
    arows,
    tenant_context,
)
from tenantry.backends.postgresql import loops
from tenantry.backends.postgresql.preferences import async_preferences
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Author, Note, Shared, Tenant
from tests.fix_aliases import Add
from tests.fix_faults import wait_for
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
TITLES = "SELECT title FROM app_note ORDER BY id"
ALIASES = ["wire", "wire_server_side", "pool", "pooled"]
ON_SERVER = {"server_side_binding": True}


@pytest.fixture(autouse=True)
async def pools(tenants: Tenants) -> AsyncIterator[None]:
    yield
    await aclose_pools()


async def titles(connection: Any) -> list[str]:
    cursor = await connection.execute("SELECT title FROM app_note WHERE id > %s ORDER BY id", [0])
    return [row[0] for row in await cursor.fetchall()]


@pytest.mark.parametrize("alias", ALIASES)
async def test_every_statement_runs_in_the_current_binding(alias: str, tenants: Tenants) -> None:
    a, b = tenants
    async with aconnection(alias) as connection:
        assert await titles(connection) == []
        async with tenant_context(a.pk):
            assert await titles(connection) == ["A 1", "A 2"]
            async with tenant_context(b.pk):
                assert await titles(connection) == ["B 1", "B 2"]
            async with (
                connection.cursor() as cursor,
                cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy,
            ):
                assert [row[0] async for row in copy.rows()] == ["A 1", "A 2"]
            assert [row[0] async for row in connection.cursor().stream(TITLES)] == ["A 1", "A 2"]
            async with connection.cursor() as cursor:
                await cursor.executemany("UPDATE app_note SET title = title || %s", [["!"], ["?"]])
                assert cursor.rowcount == 4
            await connection.rollback()
            async with connection.cursor("named") as cursor:
                await cursor.execute(TITLES)
                async with tenant_context(b.pk):
                    assert await cursor.fetchall() == [("A 1",), ("A 2",)]
        async with admin_context():
            assert len(await titles(connection)) == 4


@pytest.mark.parametrize("alias", ALIASES)
async def test_copy_in_is_refused_by_postgresql_on_protected_tables(
    alias: str, tenants: Tenants
) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="COPY FROM not supported"):
        async with (
            tenant_context(tenants[0].pk),
            aconnection(alias) as connection,
            connection.cursor() as cursor,
            cursor.copy("COPY app_note (title) FROM STDIN"),
        ):
            pass


@pytest.mark.unsealed
async def test_a_transaction_takes_two_round_trips_and_an_empty_one_none(
    wire: Wire, tenants: Tenants
) -> None:
    async with aconnection("wire") as connection:
        await titles(connection)
    wire.clear()
    async with tenant_context(tenants[0].pk), aconnection("wire") as connection:
        assert await titles(connection) == ["A 1", "A 2"]
    assert wire.kinds == "QQ"
    assert wire.queries[0].startswith("BEGIN;")
    assert f"'{tenants[0].pk}'" in wire.queries[0]
    assert wire.queries[1] == "COMMIT"
    wire.clear()
    async with aconnection("wire"):
        pass
    assert wire.kinds == ""


@pytest.mark.parametrize("like", ["wire", "wire_server_side"])
async def test_begin_is_a_message_of_its_own_where_an_option_says_so(
    like: str, alias: Add, wire: Wire, tenants: Tenants
) -> None:
    using = alias(like, {"ride_along": False})
    notes = Note.objects.using(using).filter(id__gt=0).order_by("id").values_list("title")
    async with tenant_context(tenants[0].pk):
        async with aconnection(using):
            pass  # Connected.
        wire.clear()
        async with aconnection(using) as connection:
            assert await titles(connection) == ["A 1", "A 2"]
        assert await arows(notes) == [("A 1",), ("A 2",)]
    assert wire.round_trips == 6
    # Where bindings are sealed, COMMIT has that of nobody in front of it.
    last = [query.rpartition("\n")[2] for query in wire.queries]
    assert [each for each in last if each in ("BEGIN", "COMMIT")] == ["BEGIN", "COMMIT"] * 2
    assert sum("app_note" in query for query in wire.queries) == 2


async def test_it_commits_and_rolls_back(tenants: Tenants) -> None:
    insert = "INSERT INTO app_shared (text) VALUES (%s)"
    async with aconnection() as connection:
        await connection.execute(insert, ["kept"])

    async def fail() -> None:
        async with aconnection() as connection:
            await connection.execute(insert, ["lost"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with aconnection() as connection:
        cursor = await connection.execute("SELECT text FROM app_shared")
        assert await cursor.fetchall() == [("kept",)]


@pytest.mark.parametrize("statement", ["SELECT nonsense", "SELEC 1"])
async def test_an_error_ends_the_transaction(statement: str) -> None:
    async with aconnection() as connection:
        with pytest.raises(psycopg.ProgrammingError):
            await connection.execute(statement)
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            await connection.execute("SELECT 1")
    async with aconnection() as connection:
        assert await titles(connection) == []


async def test_rows_of_a_queryset_without_a_thread(tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.order_by("id").values_list("title", "author__name")
    async with tenant_context(a.pk):
        assert await arows(notes) == [("A 1", "author of A"), ("A 2", "author of A")]
    async with tenant_context(b.pk), aconnection() as connection:
        counted = Author.objects.annotate(notes=Count("note")).values_list("notes")
        assert await arows(counted, connection) == [(2,)]
        assert await arows(notes.none(), connection) == []
    assert await arows(notes) == []
    assert connections["default"].connection is None


@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
async def test_rows_alone_take_one_round_trip(alias: str, wire: Wire, tenants: Tenants) -> None:
    a, b = tenants
    notes = Note.objects.using(alias).filter(id__gt=0).order_by("id").values_list("title")
    # What is checked out here shows in what state the connection comes back.
    async with aconnection(alias) as connection:
        await titles(connection)
    wire.clear()
    for tenant, name in ((a, "A"), (b, "B")):
        async with tenant_context(tenant.pk):
            assert await arows(notes) == [(f"{name} 1",), (f"{name} 2",)]
    assert await arows(notes) == []
    assert wire.kinds.count("Q") + wire.kinds.count("S") == 3
    assert not any("BEGIN" in query or "COMMIT" in query for query in wire.queries)
    failing = Tenant.objects.using(alias).annotate(failure=RawSQL("1 / (id - id)", ()))
    with pytest.raises(psycopg.errors.DivisionByZero):
        await arows(failing.values_list("failure"))
    wire.clear()
    async with tenant_context(a.pk), aconnection(alias) as connection:
        assert await titles(connection) == ["A 1", "A 2"]
        assert connection.info.transaction_status == TransactionStatus.INTRANS


async def test_rows_alone_run_at_the_isolation_level_that_is_asked_for(tenants: Tenants) -> None:
    level = RawSQL("current_setting('transaction_isolation')", ())
    rows = Shared.objects.annotate(level=level).values_list("level")
    async with aconnection() as connection:
        await connection.execute("INSERT INTO app_shared (text) VALUES ('x')")
    assert await arows(rows) == [("read committed",)]
    pool = loops.running_loop().pools["default"]
    async with pool.connection() as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        others = [await pool.getconn() for _ in range(pool.get_stats()["pool_available"])]
    try:
        assert await arows(rows) == [("serializable",)]
    finally:
        for other in others:
            await pool.putconn(other)


async def test_an_exhausted_pool_says_what_to_raise() -> None:
    async with aconnection("pool"), aconnection("pool"):
        loops.running_loop().pools["pool"].timeout = 0.1
        with pytest.raises(OperationalError, match=r"all 2 are in use; raise OPTIONS\['pool'\]"):
            async with aconnection("pool"):
                pass


async def test_who_waits_when_the_pools_are_closed_gets_djangos_error(alias: Add) -> None:
    using = alias(options={"pool": {"max_size": 1, "min_size": 0}})

    async def visit() -> None:
        async with aconnection(using):
            pass

    async with aconnection(using) as connection:
        waiting = asyncio.create_task(visit())
        pool = loops.running_loop().pools[using]
        await asyncio.to_thread(wait_for, lambda: pool.get_stats()["requests_waiting"])
        await aclose_pools()
        with pytest.raises(OperationalError, match="is closed"):
            await waiting
        await connection.execute("SELECT 1")
    await visit()


async def test_too_many_who_wait_are_told_what_to_raise(alias: Add) -> None:
    using = alias(options={"pool": {"max_size": 1, "min_size": 0, "max_waiting": 1}})

    async def visit() -> None:
        async with aconnection(using):
            pass

    async with aconnection(using):
        waiting = asyncio.create_task(visit())
        pool = loops.running_loop().pools[using]
        await asyncio.to_thread(wait_for, lambda: pool.get_stats()["requests_waiting"])
        with pytest.raises(OperationalError, match=r"^1 already wait .*'max_waiting'.* raise that"):
            await visit()
    await waiting


@pytest.mark.parametrize(
    ("options", "settings", "said"),
    [
        ({"nonsense": "x"}, {}, 'ProgrammingError: invalid connection option "nonsense"'),
        ({}, {"PORT": "1"}, "OperationalError: .* on socket .* failed"),
        ({"assume_role": "nobody"}, {}, "InvalidParameterValue: role .* does not exist"),
    ],
)
async def test_who_waited_in_vain_is_told_why_connecting_failed(
    options: dict[str, Any], settings: dict[str, Any], said: str, alias: Add
) -> None:
    pool = {"pool": {"max_size": 1, "min_size": 0, "timeout": 0.5}}
    using = alias(options=pool | options, **settings)
    with pytest.raises(OperationalError, match=f"'{using}' could be made within 0.5 s; .*{said}"):
        async with aconnection(using):
            pass


async def test_who_waited_in_vain_is_told_why_no_connection_passed_the_check(alias: Add) -> None:
    async def check(connection: Any) -> None:
        await connection.close()
        raise ValueError("not today")

    using = alias(options={"pool": {"min_size": 0, "max_size": 1, "timeout": 0.1, "check": check}})
    said = "passed the pool's check within 0.1 s; the last one failed with ValueError: not today$"
    with pytest.raises(OperationalError, match=said):
        async with aconnection(using):
            pass


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"ENGINE": "django.db.backends.postgresql"}, "'pool_0' has the ENGINE 'django.* set it"),
        ({"options": {"pool_mode": "transactoin"}}, "'pool_0' is 'transactoin'; it must be"),
        ({"options": {"pool": None}}, "'pool_0' is 'transaction', but there is no pool; add"),
        ({"options": {"pool": "yes"}}, r"\['pool'\] of the database 'pool_0' is 'yes'; it must be"),
        (
            {"options": {"pool": {"min_size": 2, "max_size": 1}}},
            "refused by psycopg_pool: max_size",
        ),
        ({"options": {"pool": {"size": 1}}}, "refused by psycopg_pool: .*'size'"),
        ({"options": {"pool": {"check": print}}}, r"\['check'\] .* cannot await; give"),
        ({"options": {"pool": {"reset": print}}}, r"\['reset'\] .* cannot await; give"),
        ({"options": {"isolation_level": 99}}, "'pool_0' is 99; it must be one of psycopg.Iso"),
        ({"CONN_MAX_AGE": 60}, "'pool_0' has a pool and CONN_MAX_AGE = 60; set that to 0"),
    ],
)
async def test_settings_that_cannot_be_meant(entry: Any, said: str, alias: Add) -> None:
    using = alias(**entry)
    with pytest.raises(ImproperlyConfigured, match=said):
        async with aconnection(using):
            pass


@pytest.mark.parametrize("of", [ConnectionPool, AsyncConnectionPool])
async def test_psycopgs_own_check_of_either_pool_is_the_right_one(
    of: Any, alias: Add, superuser: psycopg.Connection[Any]
) -> None:
    pool = {"min_size": 1, "max_size": 1, "timeout": 5, "check": of.check_connection}
    using = alias(options={"pool": pool})

    def visit() -> int:
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            found: tuple[int] = cursor.fetchone()
        connections[using].close()
        # The next test has another alias of this name.
        del connections[using]
        return found[0]

    async def avisit() -> int:
        async with aconnection(using) as connection:
            return connection.info.backend_pid

    for run in (sync_to_async(visit), avisit):
        first = await run()
        assert await run() == first
        # An idle connection that is broken is replaced, and not lent.
        superuser.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
        assert await run() != first


async def test_a_reset_that_can_be_awaited_is_called(alias: Add) -> None:
    called: list[Any] = []
    done = asyncio.Event()

    async def reset(connection: Any) -> None:
        called.append(connection)
        # Of nobody's block, so that it ends here.
        async with connection.transaction():
            await connection.execute("RESET work_mem")
        done.set()

    using = alias(options={"pool": {"min_size": 0, "max_size": 1, "reset": reset}})
    async with aconnection(using) as first:
        await leave_work_mem(first)
    await done.wait()
    with pytest.raises(psycopg.InterfaceError, match="has gone back to its pool"):
        await first.execute("SELECT 1")
    async with aconnection(using) as second:
        assert second is first
        cursor = await second.execute("SELECT current_setting('work_mem') = '64kB'")
        assert await cursor.fetchone() == (False,)
        with pytest.raises(UnbindableStatementError, match="is for a whole session"):
            await second.execute("RESET work_mem")
    assert called[0] is first


async def leave_work_mem(connection: Any) -> None:
    # A parameter, which nobody takes for SQL, says that it is for the session.
    await connection.execute("SELECT set_config('work_mem', '64kB', %s)", [False])


async def test_a_procedure_that_commits_is_refused(
    tenants: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute(
        "CREATE OR REPLACE PROCEDURE commits(number bigint) LANGUAGE plpgsql"
        " AS $$ BEGIN COMMIT; END $$"
    )
    ended = psycopg.errors.InvalidTransactionTermination
    # Before PostgreSQL 18 a sealed tenant does not get that far.
    reason = "leave COMMIT and ROLLBACK|cannot carry a sealed tenant"
    refused = pytest.raises((ended, UnbindableStatementError), match=reason)
    for using in ("wire", "wire_server_side"):
        async with tenant_context(tenants[0].pk), aconnection(using) as connection:
            await connection.set_autocommit(True)
            with refused:
                await connection.execute("CALL commits(%s)", [0])
            with refused:
                await connection.cursor().executemany("CALL commits(%s)", [[0]])
            with pytest.raises((ended, UnbindableStatementError)):
                async with connection.pipeline():
                    await connection.execute("CALL commits(%s)", [0])
            rows = await connection.execute("SELECT count(*) FROM app_note")
            assert await rows.fetchall() == [(2,)]


async def test_the_next_block_gets_the_connection_as_the_settings_want_it(alias: Add) -> None:
    level = psycopg.IsolationLevel.REPEATABLE_READ
    using = alias(options={"isolation_level": level})
    async with aconnection(using) as connection:
        expected = async_preferences(connection)
        await connection.set_autocommit(True)
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await connection.set_read_only(True)
        await connection.set_deferrable(True)
        connection.row_factory = dict_row
        connection.cursor_factory = psycopg.AsyncCursor
        connection.server_cursor_factory = psycopg.AsyncServerCursor
        connection.prepare_threshold = 1
        connection.prepared_max = 1
        connection.add_notice_handler(print)
        connection.add_notify_handler(print)
        changed = async_preferences(connection)
    assert not [pair for pair in zip(expected, changed, strict=True) if pair[0] == pair[1]]
    with pytest.raises(ZeroDivisionError):
        await insert_and_fail(using)
    async with aconnection(using) as again:
        assert again is connection
        assert async_preferences(again) == expected
        assert not again._notice_handlers
        assert not again._notify_handlers
        rows = await again.execute("SELECT count(*) FROM app_shared")
        assert await rows.fetchall() == [(0,)]


async def insert_and_fail(using: str) -> None:
    async with aconnection(using) as connection:
        await connection.execute("INSERT INTO app_shared (text) VALUES ('lost')")
        raise ZeroDivisionError


WRITE = "INSERT INTO app_shared (text) VALUES ('late')"


async def enter(block: Any) -> None:
    async with block:
        pass


KEPT: dict[str, Callable[[Any, Any], Coroutine[Any, Any, Any]]] = {
    "execute": lambda connection, cursor: connection.execute(WRITE),
    "transaction": lambda connection, cursor: enter(connection.transaction()),
    "pipeline": lambda connection, cursor: enter(connection.pipeline()),
    "cursor": lambda connection, cursor: cursor.execute(WRITE),
    "parameters": lambda connection, cursor: cursor.execute(WRITE + ", (%s)", ["late"]),
    "executemany": lambda connection, cursor: cursor.executemany(WRITE, [[]]),
    "copy": lambda connection, cursor: enter(cursor.copy("COPY app_shared (text) FROM STDIN")),
    "stream": lambda connection, cursor: anext(cursor.stream(WRITE + " RETURNING text")),
}


@pytest.mark.parametrize("on_server", [False, True])
@pytest.mark.parametrize("way", KEPT)
async def test_a_connection_that_somebody_kept_is_refused_while_its_pool_has_it(
    way: str, on_server: bool, alias: Add
) -> None:
    size = {"min_size": 1, "max_size": 1}
    using = alias(options={"pool": size, "server_side_binding": on_server})
    async with aconnection(using) as kept:
        cursor = kept.cursor()
        await cursor.execute("SELECT 1")
    # What has been fetched is nobody else's.
    assert await cursor.fetchall() == [(1,)]
    with pytest.raises(psycopg.InterfaceError, match="has gone back to its pool"):
        await KEPT[way](kept, cursor)
    async with aconnection(using) as again:
        assert again is kept
        assert again.info.transaction_status == TransactionStatus.IDLE
        assert await (await again.execute("SELECT text FROM app_shared")).fetchall() == []
        await again.commit()


@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
async def test_psycopgs_pipeline_knows_of_the_transaction(alias: str) -> None:
    insert = "INSERT INTO app_shared (text) VALUES (%s) RETURNING id"

    async def write(connection: Any, text: str) -> None:
        # Until the results are read, it is known that something goes on.
        assert await (await connection.execute(insert, [text])).fetchone()

    async with aconnection(alias) as connection:
        async with connection.pipeline():
            await write(connection, "committed")
            await connection.commit()
            await write(connection, "rolled back")
            await connection.rollback()
            await write(connection, "kept")
            with pytest.raises(ZeroDivisionError):
                async with connection.transaction():
                    await write(connection, "lost")
                    raise ZeroDivisionError
            async with connection.transaction():
                await write(connection, "kept, too")
        assert connection.info.transaction_status == TransactionStatus.INTRANS
    with pytest.raises(ZeroDivisionError):
        async with aconnection(alias) as connection, connection.pipeline():
            await write(connection, "undone")
            async with connection.transaction():
                await write(connection, "undone with it")
            raise ZeroDivisionError
    async with aconnection(alias) as connection:
        rows = await connection.execute("SELECT text FROM app_shared ORDER BY id")
        assert await rows.fetchall() == [("committed",), ("kept",), ("kept, too",)]


@pytest.mark.parametrize("alias", ALIASES)
async def test_rows_of_executemany_in_a_pipeline_wait_for_its_end(alias: str) -> None:
    async with aconnection(alias) as connection:
        await connection.set_autocommit(True)
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with connection.pipeline(), connection.cursor() as cursor:
                await cursor.executemany("INSERT INTO app_shared (text) VALUES (%s)", [["lost"]])
                await cursor.execute("SELECT 1 / 0")
    assert not await Shared.objects.aexists()


@pytest.mark.parametrize("rides", [False, True])
@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("like", ["wire", "wire_server_side"])
async def test_psycopgs_transaction_is_part_of_that_of_the_block(
    like: str, in_pipeline: bool, rides: bool, alias: Add
) -> None:
    using = alias(like, {"ride_along": rides})

    async def write(connection: Any, text: str) -> None:
        async with (
            connection.pipeline() if in_pipeline else nullcontext(),
            connection.transaction(),
        ):
            await connection.execute("INSERT INTO app_shared (text) VALUES (%s)", [text])

    async def fail(*, autocommit: bool) -> None:
        async with aconnection(using) as connection:
            await connection.set_autocommit(autocommit)
            await write(connection, "committed" if autocommit else "lost")
            raise ZeroDivisionError

    for autocommit in (False, True):
        with pytest.raises(ZeroDivisionError):
            await fail(autocommit=autocommit)
    async with aconnection(using) as connection:
        await write(connection, "kept")
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await write(connection, "lost, too")
                raise ZeroDivisionError
    async with aconnection(using) as connection:
        rows = await connection.execute("SELECT text FROM app_shared ORDER BY id")
        assert await rows.fetchall() == [("committed",), ("kept",)]


async def test_psycopgs_pipeline_begins_once(alias: Add) -> None:
    level = psycopg.IsolationLevel.SERIALIZABLE
    using = alias(like="wire_server_side", options={"isolation_level": level})
    notices: list[Any] = []
    async with aconnection(using) as connection, connection.pipeline():
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        for _ in range(3):
            cursor = await connection.execute("SHOW transaction_isolation")
            assert await cursor.fetchone() == ("serializable",)
    assert notices == []


async def test_a_connection_that_cannot_be_restored_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(value: bool) -> None:
        raise psycopg.OperationalError("no")

    async with aconnection("pool") as connection:
        await connection.set_read_only(True)
        monkeypatch.setattr(connection, "set_read_only", fail)
    assert connection.closed
    assert "which cannot be restored: no" in caplog.text
    async with aconnection("pool") as other:
        assert not other.read_only


@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
async def test_streams_and_named_cursors_with_parameters(alias: str, tenants: Tenants) -> None:
    statement = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
    a, b = tenants
    async with tenant_context(a.pk), aconnection(alias) as connection:
        cursor = connection.cursor()
        assert [row async for row in cursor.stream(statement, [0])] == [("A 1",), ("A 2",)]
        async with aclosing(cursor.stream(statement, [0])) as rows:  # type: ignore[type-var]
            assert await anext(rows) == ("A 1",)
        async with connection.cursor("c") as named:
            await named.execute(statement, [0])
            async with tenant_context(b.pk):
                assert await named.fetchall() == [("A 1",), ("A 2",)]


async def test_a_cursor_with_hold_is_refused() -> None:
    async with aconnection() as connection:
        await connection.set_autocommit(True)
        async with connection.cursor("held", withhold=True) as held:
            with pytest.raises(UnbindableStatementError, match="goes back to a pool"):
                await held.execute(TITLES)


async def test_a_server_side_cursor_made_by_hand_is_refused_when_it_fetches(
    tenants: Tenants,
) -> None:
    async with tenant_context(tenants[0].pk), aconnection() as connection:
        async with psycopg.AsyncServerCursor(connection, "c") as cursor:
            await cursor.execute(TITLES)
            async with admin_context():
                assert len(await titles(connection)) == 4
            with pytest.raises(UnbindableStatementError, match="made by hand cannot carry"):
                await cursor.fetchall()
        assert await titles(connection) == ["A 1", "A 2"]


class CancelledAt:
    """Run a coroutine, and cancel its task where it waits for the `number`-th time.

    With `again`, cancel it wherever it waits after that too, while it cleans up.
    """

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], number: int, *, again: bool = False
    ) -> None:
        self.coroutine = coroutine
        self.number = number
        self.again = again
        self.reached = False

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self.coroutine.__await__()
        task = asyncio.current_task()
        assert task
        send: Any = lambda: steps.send(None)  # noqa: E731
        for number in range(10_000):
            try:
                waits_for = send()
            except StopIteration as stop:
                return stop.value
            if number == self.number or (self.again and number > self.number):
                self.reached = True
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waits_for
                send = lambda: steps.send(None)  # noqa: E731
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                caught = error
                send = lambda: steps.throw(caught)  # noqa: E731, B023
        raise AssertionError("the coroutine does not end")


INSERT = "INSERT INTO app_shared (text) VALUES (%s)"
Work = Callable[[str, list[str]], Coroutine[Any, Any, None]]


@asynccontextmanager
async def block(alias: str, written: list[str], *also: str) -> AsyncIterator[Any]:
    """Open a block that writes first and last, and say what it has written once it ends."""
    async with aconnection(alias) as connection:
        await connection.execute(INSERT, ["first"])
        yield connection
        await connection.execute(INSERT, ["last"])
        written += ["first", "last", *also]


async def statements(alias: str, written: list[str]) -> None:
    async with block(alias, written) as connection:
        assert await titles(connection) == ["A 1", "A 2"]
        await connection.execute("UPDATE app_note SET title = title")
        await asyncio.sleep(0)
        assert await titles(connection) == ["A 1", "A 2"]


async def rows_alone(alias: str, written: list[str]) -> None:
    notes = Note.objects.using(alias).order_by("id").values_list("title")
    assert await arows(notes) == [("A 1",), ("A 2",)]


async def copies(alias: str, written: list[str]) -> None:
    async with block(alias, written, "copied") as connection, connection.cursor() as cursor:
        async with cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy:
            assert [row[0] async for row in copy.rows()] == ["A 1", "A 2"]
        async with cursor.copy("COPY app_shared (text) FROM STDIN") as copy:
            await copy.write_row(["copied"])


async def other_paths(alias: str, written: list[str]) -> None:
    rows = [("A 1",), ("A 2",)]
    async with block(alias, written) as connection:
        cursor = connection.cursor()
        assert [row async for row in cursor.stream(TITLES)] == rows
        async with connection.cursor("named") as named:
            await named.execute(TITLES)
            assert await named.fetchall() == rows
        await cursor.executemany("UPDATE app_note SET title = title WHERE id > %s", [[0], [1]])
        async with connection.pipeline():
            one, other = [await connection.execute(TITLES) for _ in range(2)]
            assert await one.fetchall() == await other.fetchall() == rows


def start(run: CancelledAt, tenant: Tenant) -> asyncio.Task[None]:
    """Let it run in a task of its own."""

    async def run_in_task() -> None:
        async with tenant_context(tenant.pk):
            await run

    return asyncio.create_task(run_in_task())


async def assert_it_ended(task: asyncio.Task[None], run: CancelledAt) -> None:
    """Let it end; it has been cancelled if that was to be."""
    await asyncio.wait([task], timeout=20)
    assert task.done()
    assert task.cancelled() == run.reached
    if not run.reached:
        task.result()


async def assert_it_waits(task: asyncio.Task[None], using: str) -> None:
    """Let it come to where it waits for a connection, if it does."""
    pool = loops.running_loop().pools[using]
    await asyncio.to_thread(wait_for, lambda: task.done() or pool.get_stats()["requests_waiting"])


async def assert_whole(using: str, written: list[str]) -> None:
    """Both connections are there, nobody's, and the table has what was committed; empty it."""
    async with aconnection(using) as one, aconnection(using) as two:
        assert not await titles(one)
        assert not await titles(two)
        cursor = await one.execute("DELETE FROM app_shared RETURNING text")
        assert sorted([row[0] async for row in cursor]) == sorted(written)
    assert loops.running_loop().pools[using].get_stats()["pool_size"] <= 2


# A cursor whose close() is cancelled too stays open.
@pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")
@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize(
    ("like", "options"),
    [("pool", {}), ("pooled", {}), ("pool", ON_SERVER), ("pooled", ON_SERVER)],
    ids=["pool", "pooled", "pool, on the server", "pooled, on the server"],
)
# How often each awaits at least: what is answered already is not waited for.
@pytest.mark.parametrize(
    ("work", "least"), [(statements, 4), (rows_alone, 2), (copies, 3), (other_paths, 5)]
)
async def test_cancelled_at_any_await_the_connection_comes_back(
    work: Work,
    least: int,
    like: str,
    options: dict[str, bool],
    again: bool,
    alias: Add,
    tenants: Tenants,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy loop: psycopg 3.3 lets others run even where nothing is to be waited for.
    monkeypatch.setattr(waiting, "MAX_BUSY_TIME", 0, raising=False)
    using = alias(like, {"pool": {"min_size": 1, "max_size": 2, "timeout": 5}, **options})
    async with aconnection(using), aconnection(using):
        pass  # Now the pool has grown to its size.
    pool = loops.running_loop().pools[using]
    for number in range(1000):
        written: list[str] = []
        run = CancelledAt(work(using, written), number, again=again)
        await assert_it_ended(start(run, tenants[0]), run)
        # It has been rolled back: the pool would say if it had to do that.
        assert "rolling back returned connection" not in caplog.text
        stats = pool.get_stats()
        # Who is cancelled again while psycopg cancels the statement gives up the connection, as
        # does who is cancelled as a COPY begins, which psycopg leaves open. The pool replaces it.
        assert again or work is copies or stats["pool_available"] == stats["pool_size"]
        await assert_whole(using, written)
        if not run.reached:
            break
    else:
        raise AssertionError("every run was cancelled")
    gc.collect()
    assert number >= least


@pytest.mark.parametrize("again", [False, True], ids=["once", "again and again"])
@pytest.mark.parametrize("state", ["not open", "full"])
async def test_cancelled_while_it_gets_a_connection(
    state: str, again: bool, alias: Add, tenants: Tenants
) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 2, "timeout": 5}})
    for number in range(1000):
        written: list[str] = []
        run = CancelledAt(statements(using, written), number, again=again)
        if state == "not open":
            await aclose_pools()
            task = start(run, tenants[0])
        else:
            async with aconnection(using), aconnection(using):
                task = start(run, tenants[0])
                await assert_it_waits(task, using)
        await assert_it_ended(task, run)
        await assert_whole(using, written)
        if not run.reached:
            break
    else:
        raise AssertionError("every run was cancelled")
    assert number >= 4


async def test_cancelled_again_while_it_cleans_up_it_still_rolls_back(
    tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    arrived = asyncio.Event()

    async def work() -> None:
        async with aconnection("pool") as connection:
            await connection.execute("INSERT INTO app_shared (text) VALUES ('lost')")
            arrived.set()
            await asyncio.Event().wait()

    async with aconnection("pool") as one, aconnection("pool") as two:
        assert await titles(one) == await titles(two)
    for _ in range(5):
        arrived.clear()
        task = asyncio.create_task(work())
        await asyncio.wait_for(arrived.wait(), 5)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()
        stats = loops.running_loop().pools["pool"].get_stats()
        assert stats["pool_available"] == stats["pool_size"] == 2
        assert stats.get("connections_lost", 0) == 0
    assert caplog.text == ""
    async with aconnection("pool") as connection:
        cursor = await connection.execute("SELECT count(*) FROM app_shared")
        assert await cursor.fetchone() == (0,)


async def test_a_cancel_scope_of_anyio_rolls_back_and_returns(tenants: Tenants) -> None:
    scope, written = anyio.CancelScope(), anyio.Event()

    async def write() -> None:
        with scope:
            async with aconnection("pool") as connection:
                await connection.execute("INSERT INTO app_shared (text) VALUES ('lost')")
                written.set()
                await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await written.wait()
            scope.cancel()
    assert scope.cancelled_caught
    async with aconnection("pool") as connection:
        cursor = await connection.execute("SELECT count(*) FROM app_shared")
        assert await cursor.fetchone() == (0,)


async def test_each_event_loop_has_pools_of_its_own() -> None:
    async def visit() -> list[str]:
        async with aconnection() as connection:
            rows = await titles(connection)
        await aclose_pools()
        return rows

    here = asyncio.create_task(visit())
    there = asyncio.to_thread(asyncio.run, visit())
    assert list(await asyncio.gather(here, there)) == [[], []]
