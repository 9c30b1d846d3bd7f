"""What comes back to the pool, and when: other threads, forked processes, what is still open."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DatabaseError,
    OperationalError,
    close_old_connections,
    connections,
    transaction,
)
from django.test import override_settings

from tenantry import aclose_pools, aconnection
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Shared
from tests.fix_aliases import Add
from tests.fix_pool import ALIAS
from tests.test_pool_states import execute, in_a_thread, texts, write

pytestmark = pytest.mark.usefixtures("pool")


def here(work: Callable[[], object]) -> None:
    """Run `work` in this thread, as what collects garbage does."""
    work()


def opened(pool: Any) -> Any:
    """Return a cursor of the pool that has executed something."""
    cursor = pool.cursor()
    cursor.execute("SELECT 1")
    return cursor


@pytest.mark.parametrize("run", [in_a_thread, here])
def test_a_cursor_closed_by_others_ends_no_block_that_begins(
    run: Callable[[Callable[[], object]], None], pool: Any
) -> None:
    cursor = opened(pool)
    driver = pool.connection

    def begin(value: bool) -> None:
        # Whoever closes a named cursor has the lock that is waited for here.
        del driver.set_autocommit
        run(cursor.close)
        driver.set_autocommit(value)

    driver.set_autocommit = begin
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=ALIAS):
        write("undone")
        raise ZeroDivisionError
    assert texts() == []
    assert pool.connection is None


@pytest.mark.parametrize("run", [in_a_thread, here])
def test_a_cursor_closed_by_others_leaves_one_that_is_made(
    run: Callable[[Callable[[], object]], None], pool: Any
) -> None:
    left = opened(pool)
    driver = pool.connection

    class Collecting(driver.cursor_factory):  # type: ignore[misc, name-defined]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            run(left.close)

    driver.cursor_factory = Collecting
    with pool.cursor() as cursor:
        assert pool.connection is driver
        cursor.execute("SELECT 1")
    assert pool.connection is None


@pytest.mark.parametrize("use", [lambda pool: pool.cursor().close(), lambda pool: pool.is_usable()])
def test_nor_before_it_is_made(
    use: Callable[[Any], Any], pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = opened(pool)
    ensure = pool.ensure_connection

    def ensure_and_collect() -> None:
        ensure()
        left.close()

    monkeypatch.setattr(pool, "ensure_connection", ensure_and_collect)
    assert use(pool) in (None, True)
    assert pool.connection is None


@pytest.mark.parametrize(
    "close", [lambda: execute(connections[ALIAS], "SELECT 1"), close_old_connections]
)
def test_a_connection_waits_for_its_own_thread(close: Callable[[], None], pool: Any) -> None:
    cursor = opened(pool)
    in_a_thread(cursor.close)
    assert pool.connection is not None
    close()
    assert pool.connection is None


def test_another_thread_that_may_not_close_it_keeps_it_from_no_pool(pool: Any) -> None:
    with transaction.atomic(using=ALIAS):
        execute(pool, "SELECT 1")
        with pytest.raises(DatabaseError, match="can only be used in that same thread"):
            in_a_thread(pool.close)
    assert pool.connection is None


@pytest.mark.parametrize("atomic", [False, True])
def test_nor_does_one_whose_cursor_is_refused(atomic: bool, pool: Any) -> None:
    refused: list[DatabaseError] = []

    def ask() -> None:
        try:
            pool.cursor()
        except DatabaseError as error:
            # With it, what the error has come through.
            refused.append(error)

    execute(pool, "SELECT 1")
    with transaction.atomic(using=ALIAS) if atomic else nullcontext():
        in_a_thread(ask)
    assert "can only be used in that same thread" in str(refused.pop())
    assert pool.connection is None


def test_the_time_zone_is_overridden_where_a_transaction_is_open(pool: Any) -> None:
    def zone() -> Any:
        with pool.cursor() as cursor:
            cursor.execute("SHOW timezone")
            return cursor.fetchone()[0]

    with transaction.atomic(using=ALIAS):
        before = zone()
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            assert zone() == "Asia/Tokyo"
        assert zone() == before
        with pytest.raises(UnbindableStatementError), pool.cursor() as cursor:
            cursor.execute("SELECT set_config('TimeZone', %s, false)", ["Asia/Tokyo"])


def test_a_forked_process_ends_no_transaction_of_another_thread(pool: Any) -> None:
    begun, forked = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic(using=ALIAS):
                write("before")
                begun.set()
                assert forked.wait(20)
                write("after")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        holding = executor.submit(hold)
        assert begun.wait(20)
        pid = os.fork()
        if pid == 0:  # pragma: no cover - the child is not measured
            try:
                gc.collect()
                for thread in threading.enumerate():
                    if thread is not threading.current_thread():
                        thread.join(20)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        forked.set()
        holding.result(20)
    assert texts() == ["after", "before"]


def test_a_connection_with_an_open_cursor_goes_to_nobody_else(pool: Any) -> None:
    with pool.cursor() as cursor:
        cursor.execute("SELECT 1")
        driver = pool.connection
        # As Channels does before and after each call of database_sync_to_async().
        close_old_connections()
        assert pool.connection is None
        assert driver.closed
        with pytest.raises(OperationalError, match="closed"):
            cursor.execute("INSERT INTO app_shared (text) VALUES ('late')")
    write("after")
    assert texts() == ["after"]


def test_one_whose_cursors_are_closed_is_returned(pool: Any) -> None:
    execute(pool, "BEGIN")
    driver = pool.connection
    close_old_connections()
    assert pool.connection is None
    assert not driver.closed


OF_ITS_OWN: list[tuple[dict[str, Any], str]] = [
    ({"close_returns": True}, "has 'close_returns', .*; remove it"),
    ({"connection_class": psycopg.Connection}, "has 'connection_class', .*; remove it"),
    ({"configure": print}, "has 'configure', .*; remove it"),
    ({"kwargs": {"dbname": "other"}}, "has 'kwargs', .*; move them to OPTIONS"),
    ({"open": False}, "has 'open', .*; remove it"),
    ({"max_sise": 2}, r"it has no option 'max_sise' \(did you mean 'max_size'\?\); correct it, or"),
    ({"sslmode": "require"}, "it has no option 'sslmode'; correct it, or remove it: parameters of"),
    ({"check": True}, r"\['check'\] .* is True; it must be a function"),
]


@pytest.mark.parametrize(("option", "said"), OF_ITS_OWN)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_a_pool_has_to_itself_is_refused(
    mode: str, option: dict[str, Any], said: str, alias: Add
) -> None:
    using = alias(options={"pool": {"max_size": 4, **option}, "pool_mode": mode})
    with pytest.raises(ImproperlyConfigured, match=said):
        connections[using].ensure_connection()


@pytest.mark.parametrize(("option", "said"), OF_ITS_OWN)
async def test_so_it_is_in_async_code(option: dict[str, Any], said: str, alias: Add) -> None:
    using = alias(options={"pool": {"max_size": 4, **option}})
    with pytest.raises(ImproperlyConfigured, match=said):
        async with aconnection(using):
            pass


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_connection_in_a_pipeline_goes_to_nobody_else(mode: str, alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1}, "pool_mode": mode})
    connection: Any = connections[using]
    connection.ensure_connection()
    driver = connection.connection
    with pytest.raises(psycopg.OperationalError), driver.pipeline() as pipeline:
        write("in it", using)
        pipeline.sync()
        connection.close()
        assert driver.closed
        write("after", using)
    assert texts() == ["after", "in it"]


async def test_an_async_one_in_a_pipeline_goes_to_nobody_else(alias: Add) -> None:
    async def numbers(connection: Any) -> AsyncGenerator[Any]:
        async with connection.pipeline():
            cursor = await connection.execute("SELECT generate_series(1, 2)")
            yield await cursor.fetchone()
            yield await cursor.fetchone()

    using = alias(options={"pool": {"min_size": 0, "max_size": 1}})
    async with aconnection(using) as connection:
        left = numbers(connection)
        assert await anext(left) == (1,)
    async with aconnection(using) as connection:
        cursor = await connection.execute("INSERT INTO app_shared (text) VALUES ('after')")
        assert cursor.rowcount == 1
        await left.aclose()
    assert [shared.text async for shared in Shared.objects.all()] == ["after"]
    await aclose_pools()


async def test_nor_does_one_whose_pipeline_only_libpq_knows(alias: Add) -> None:
    """Two tasks that share a connection may leave it so, if one is cancelled."""
    using = alias(options={"pool": {"min_size": 0, "max_size": 1}})
    async with aconnection(using) as connection:
        connection.pgconn.enter_pipeline_mode()
    async with aconnection(using) as connection:
        await connection.execute("INSERT INTO app_shared (text) VALUES ('after')")
    assert [shared.text async for shared in Shared.objects.all()] == ["after"]
    await aclose_pools()


# Two-phase transactions. The server has them turned off, so that the first phase fails; to psycopg
# the second one is still to come.


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_one_that_was_closed_in_the_pool_is_replaced(mode: str, alias: Add) -> None:
    closing = True

    def check(connection: Any) -> None:
        if closing:
            connection.close()

    pool = {"min_size": 1, "max_size": 1, "timeout": 5, "check": check}
    connection: Any = connections[alias(options={"pool": pool, "pool_mode": mode})]
    for _ in range(2):
        with pytest.raises(OperationalError, match="the connection is closed"):
            connection.ensure_connection()
        connection.close()
    closing = False
    execute(connection, "SELECT 1")


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_connection_between_two_phases_goes_to_nobody_else(mode: str, alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1}, "pool_mode": mode})
    connection: Any = connections[using]
    connection.set_autocommit(False)
    driver = connection.connection
    driver.tpc_begin("two")
    with pytest.raises(psycopg.NotSupportedError):
        driver.tpc_prepare()
    connection.set_autocommit(True)
    # It is for who ends the second phase.
    assert connection.connection is driver
    connection.close()
    assert driver.closed
    with transaction.atomic(using=using):
        write("after", using)
    assert texts() == ["after"]


async def test_an_async_one_goes_to_nobody_else(alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 0, "max_size": 1}})
    with pytest.raises(psycopg.ProgrammingError, match="during a two-phase transaction"):
        async with aconnection(using) as connection:
            await connection.tpc_begin("two")
            with pytest.raises(psycopg.NotSupportedError):
                await connection.tpc_prepare()
    async with aconnection(using) as connection:
        await connection.execute("INSERT INTO app_shared (text) VALUES ('after')")
    assert [shared.text async for shared in Shared.objects.all()] == ["after"]
    await aclose_pools()
