"""The pool: a connection is checked out for a transaction, and back at once."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    Error,
    OperationalError,
    ProgrammingError,
    close_old_connections,
    connections,
    transaction,
)
from django.test.utils import CaptureQueriesContext
from psycopg_pool import PoolTimeout, TooManyRequests

from tenantry import tenant_context
from tenantry.backends.postgresql import pool as pool_module
from tenantry.backends.postgresql.exhaustion import crowded, exhausted
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Note, Shared, Tenant
from tests.fix_aliases import Add
from tests.fix_commands import ROOT, manage
from tests.fix_faults import Outcome, outcome_of, wait_for
from tests.fix_pool import ALIAS, SIZE

Tenants = tuple[Tenant, Tenant]
pytestmark = pytest.mark.usefixtures("pool")


def titles() -> list[str]:
    return [note.title for note in Note.objects.using(ALIAS).order_by("id")]


def backend(cursor: Any) -> int:
    cursor.execute("SELECT pg_backend_pid()")
    return int(cursor.fetchone()[0])


def free(connection: Any) -> int:
    return int(connection.pool_stats()["pool_available"])


def test_a_connection_is_held_while_a_transaction_or_cursor_is_open(
    pool: Any, tenants: Tenants
) -> None:
    with tenant_context(tenants[0].pk):
        assert titles() == ["A 1", "A 2"]
        assert pool.connection is None
        everything_free = free(pool)
        with transaction.atomic(using=ALIAS):
            assert titles() == ["A 1", "A 2"]
            held = pool.connection
            assert held is not None
            assert free(pool) == everything_free - 1
            with transaction.atomic(using=ALIAS):
                assert titles() == ["A 1", "A 2"]
            assert pool.connection is held
        assert pool.connection is None
        assert free(pool) == everything_free
        with pool.cursor() as cursor:
            cursor.execute("SELECT title FROM app_note ORDER BY id")
            assert pool.connection is not None
            assert cursor.fetchone() == ("A 1",)
        assert pool.connection is None
        for note in Note.objects.using(ALIAS).order_by("id").iterator(1):
            assert note.title.startswith("A")
            assert pool.connection is not None
        assert pool.connection is None


def fail_in_atomic() -> None:
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT nonsense")


def fail_in_autocommit() -> None:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT nonsense")


@pytest.mark.parametrize("fail", [fail_in_atomic, fail_in_autocommit])
def test_errors_bring_the_connection_back(fail: Callable[[], None], pool: Any) -> None:
    for _ in range(2 * SIZE):
        with pytest.raises(ProgrammingError):
            fail()
        assert pool.connection is None
    assert titles() == []
    assert pool.pool_stats()["pool_size"] <= SIZE


def test_a_checkout_sends_nothing_of_its_own(pool: Any) -> None:
    titles()
    with CaptureQueriesContext(pool) as captured:
        titles()
        titles()
    assert len(captured) == 2
    assert pool.pool_stats()["connections_num"] <= SIZE


def test_too_many_who_wait_are_told_what_to_raise(alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1, "max_waiting": 1}})
    connection: Any = connections[using]

    def wait() -> None:
        connections[using].ensure_connection()
        connections.close_all()

    def fail() -> None:
        with pytest.raises(OperationalError, match=r"^1 already wait .*'max_waiting'.* raise that"):
            connections[using].ensure_connection()
        connections.close_all()

    with transaction.atomic(using=using), connection.cursor():
        waiting, failing = threading.Thread(target=wait), threading.Thread(target=fail)
        waiting.start()
        wait_for(lambda: connection.pool_stats()["requests_waiting"])
        failing.start()
        failing.join(10)
        assert connection.pool_stats()["requests_errors"] == 1
    waiting.join(10)
    with transaction.atomic(using=using), connection.cursor():
        # Of a thread whose connection Django has prepared, too.
        assert connection.prepared
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_for(lambda: connection.pool_stats()["requests_waiting"])
        with pytest.raises(TooManyRequests, match=r"^1 already wait"):
            connection.checkout(connection.pool)
    waiting.join(10)


@pytest.mark.parametrize(
    ("options", "settings", "cause"),
    [
        ({"timeout": 0.2}, {}, PoolTimeout),
        ({"timeout": 0.2}, {"PORT": "1"}, PoolTimeout),
        ({"timeout": 20, "max_waiting": 1}, {}, TooManyRequests),
    ],
    ids=["exhausted", "nobody answers", "crowded"],
)
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_what_a_pool_cannot_give_is_missed_as_in_stock_django(
    mode: str, options: dict[str, Any], settings: dict[str, Any], cause: type[Exception], alias: Add
) -> None:
    pool = {"pool": {"min_size": 1, "max_size": 1, **options}}

    def ask(using: str) -> None:
        try:
            with connections[using].cursor() as cursor:
                cursor.execute("SELECT 1")
        finally:
            connections.close_all()

    def outcome(using: str) -> Outcome:
        connection: Any = connections[using]
        with ThreadPoolExecutor(2) as executor, ExitStack() as stack:
            if not settings:
                stack.callback(connection.close)
                stack.enter_context(connection.cursor()).execute("SELECT 1")
            if "max_waiting" in options:
                executor.submit(ask, using)
                wait_for(lambda: connection.pool.get_stats()["requests_waiting"])
            return executor.submit(outcome_of, lambda: ask(using)).result(20)

    engine = "django.db.backends.postgresql"
    stock = outcome(alias("default", pool, ENGINE=engine, **settings))
    assert stock == (OperationalError, cause, None)
    assert outcome(alias("default", {**pool, "pool_mode": mode}, **settings)) == stock


@pytest.mark.parametrize(
    ("mode", "options", "settings", "said"),
    [
        (
            "session",
            {"nonsense": "x"},
            {},
            'ProgrammingError: invalid connection option "nonsense"',
        ),
        ("transaction", {}, {"PORT": "1"}, "OperationalError: .* on socket .* failed"),
    ],
)
def test_who_waited_in_vain_is_told_why_connecting_failed(
    mode: str, options: dict[str, Any], settings: dict[str, Any], said: str, alias: Add
) -> None:
    pool = {"min_size": 0, "max_size": 1, "timeout": 0.5}
    using = alias(options={"pool": pool, "pool_mode": mode, **options}, **settings)
    with pytest.raises(OperationalError, match=f"'{using}' could be made within 0.5 s; .*{said}"):
        connections[using].ensure_connection()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_who_waited_in_vain_is_told_why_no_connection_passed_the_check(
    mode: str, alias: Add
) -> None:
    refused = True

    def check(connection: Any) -> None:
        if refused:
            # What is only refused, psycopg_pool 3.2 would check for ever.
            connection.close()
            raise ValueError("not\ntoday")

    pool = {"min_size": 0, "max_size": 1, "timeout": 0.1, "check": check}
    using = alias(options={"pool": pool, "pool_mode": mode})
    said = r"passed the pool's check within 0.1 s; the last one failed with ValueError: not today$"
    with pytest.raises(OperationalError, match=said):
        connections[using].ensure_connection()
    connection: Any = connections[using]
    assert "none passed the pool's check; the last" in str(crowded(using, connection.pool))
    refused = False
    with transaction.atomic(using=using), connection.cursor() as cursor:
        assert backend(cursor)
        # What others are told now, without waiting as they do.
        assert "all 1 are in use" in str(exhausted(using, connection.pool))


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_nor_are_all_in_use_where_nobody_answers(mode: str, alias: Add) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = {"HOST": "127.0.0.1", "PORT": deaf.getsockname()[1]}
        pool = {"min_size": 1, "max_size": 1, "timeout": 0.1}
        using = alias("default", {"pool": pool, "pool_mode": mode}, **address)
        connection: Any = connections[using]
        said = f"to the database '{using}' could be made within 0.1 s; the first .* has not ended$"
        with pytest.raises(OperationalError, match=said):
            connection.ensure_connection()
        assert "none could be made; the first" in str(crowded(using, connection.pool))
        # The pool waits for the one who connects.
        deaf.accept()[0].close()
        connection.close_pool()


def test_a_pool_is_options_or_true(alias: Add) -> None:
    using = alias(options={"pool": "yes"})
    with pytest.raises(ImproperlyConfigured, match="is 'yes'; it must be True or the options"):
        connections[using].cursor()


async def test_more_tasks_than_connections_await_something_slow(tenants: Tenants) -> None:
    """Each reads, waits until all have read, and reads again: with two connections."""
    count, arrived, everybody = 12, 0, asyncio.Event()

    async def visit(tenant: Tenant) -> None:
        nonlocal arrived
        async with tenant_context(tenant.pk):
            expected = [f"{tenant.name} 1", f"{tenant.name} 2"]
            assert await sync_to_async(titles, thread_sensitive=False)() == expected
            arrived += 1
            if arrived == count:
                everybody.set()
            await asyncio.wait_for(everybody.wait(), 20)
            assert await sync_to_async(titles, thread_sensitive=False)() == expected

    await asyncio.gather(*(visit(tenants[number % 2]) for number in range(count)))


def test_a_thread_that_dies_with_a_cursor_open_loses_no_connection(pool: Any) -> None:
    left: list[int] = []

    def leave() -> None:
        cursor = connections[ALIAS].cursor()
        cursor.execute("SELECT pg_backend_pid()")
        left.extend(cursor.fetchone() or ())

    for _ in range(SIZE + 1):
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join(10)
    assert titles() == []
    # Nobody gets the session itself, which something that the thread left might still use.
    assert len(left) == len(set(left)) == SIZE + 1


# A server that is told to end leaves threads behind that serve somebody.
ENDING = """\
import threading, django
django.setup()
from django.db import connections, transaction
is_open = threading.Event()
def serve():
    with transaction.atomic("pool"):
        connections["pool"].ensure_connection()
        is_open.set()
        threading.Event().wait()
threading.Thread(target=serve, daemon=True).start()
is_open.wait()
"""


def test_a_process_ends_while_a_thread_has_a_connection(
    pool: Any, processes: dict[str, str]
) -> None:
    subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, env=processes, timeout=30, check=True)


def in_child(is_so: Callable[[], bool]) -> bool:
    """Return what a forked process finds, which ends then."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child is not measured
        signal.alarm(10)
        found = False
        try:
            found = is_so()
        finally:
            os._exit(not found)
    return os.waitpid(pid, 0)[1] == 0


def test_a_forked_process_has_a_pool_of_its_own(pool: Any, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        assert titles() == ["A 1", "A 2"]
        assert in_child(lambda: titles() == ["A 1", "A 2"])
        assert titles() == ["A 1", "A 2"]


@pytest.mark.parametrize("mode", [None, "session", "transaction"])
def test_a_forked_process_leaves_the_server_session_to_its_parent(
    mode: str | None, alias: Add, tenants: Tenants
) -> None:
    """Where both have it, one reads the rows of the other's tenant."""
    kept = {"pool": {"min_size": 1, "max_size": 1}, "pool_mode": mode} if mode else {}
    using = alias("default", kept)

    def session() -> int:
        with connections[using].cursor() as cursor:
            return backend(cursor)

    def refused() -> bool:
        with pytest.raises(OperationalError, match="closed"):
            session()
        return True

    def kept_refused() -> bool:
        for use in (named.fetchone, lambda: opened.execute("SELECT 1")):
            with pytest.raises((Error, psycopg.Error), match=r"closed|in the current transaction"):
                use()
        return True

    def other() -> bool:
        return session() != parents

    def left() -> bool:
        refused()
        block.__exit__(None, None, None)
        with transaction.atomic(using=using):
            return other()

    def left_alone(error: Exception | None) -> bool:
        block.__exit__(type(error) if error else None, error, None)
        return connections[using].connection is None and other()

    parents = session()
    assert in_child(other)
    with (block := transaction.atomic(using=using)):
        Shared.objects.using(using).create(text="the parent's")
        assert session() == parents
        assert in_child(refused)
        with connections[using].cursor() as opened, opened.connection.cursor("named") as named:
            named.execute("SELECT 1")
            assert in_child(kept_refused)
            assert named.fetchone() == (1,)
        assert in_child(left)
        assert in_child(lambda: not connections[using].is_usable())
        assert in_child(lambda: left_alone(None))
        assert in_child(lambda: left_alone(ValueError()))
        assert Shared.objects.using(using).exists()
    assert Shared.objects.using(using).get().text == "the parent's"
    assert session() == parents
    with connections[using].cursor() as cursor:
        assert backend(cursor) == parents
        assert in_child(other)
    Shared.objects.using(using).all().delete()


def test_a_forked_process_does_not_wait_for_a_thread_that_it_lacks(
    pool: Any, alias: Add, tenants: Tenants
) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1}})
    making, forked = threading.Event(), threading.Event()

    def make() -> None:
        connection: Any = connections[using]
        params = connection.get_connection_params

        def wait() -> Any:
            making.set()
            assert forked.wait(20)
            return params()

        connection.get_connection_params = wait
        assert connection.pool
        connections.close_all()

    with ThreadPoolExecutor(1) as executor, tenant_context(tenants[0].pk):
        made = executor.submit(make)
        assert making.wait(20)
        assert in_child(lambda: titles() == ["A 1", "A 2"])
        forked.set()
        made.result(20)


def test_those_who_wait_in_vain_collect_garbage_once(
    alias: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time holds up all threads, also those that end transactions."""
    monkeypatch.setattr(pool_module, "_collected", -math.inf, raising=False)
    using = alias(options={"pool": {"min_size": 1, "max_size": 1, "timeout": 0.1}})
    collections: list[str] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            collections.append(phase)

    def wait() -> None:
        said = r"all 1 are in use; raise OPTIONS\['pool'\]"
        with pytest.raises(OperationalError, match=said):
            connections[using].ensure_connection()
        connections.close_all()

    gc.disable()
    gc.callbacks.append(count)
    try:
        with (
            transaction.atomic(using=using),
            connections[using].cursor(),
            ThreadPoolExecutor(2) as executor,
        ):
            first = executor.submit(wait)
            wait_for(lambda: collections)
            executor.submit(wait).result(20)
            first.result(20)
    finally:
        gc.callbacks.remove(count)
        gc.enable()
    assert len(collections) == 1


def test_transactions_are_djangos(pool: Any) -> None:
    done = []
    with transaction.atomic(using=ALIAS, durable=True):
        transaction.on_commit(lambda: done.append(Shared.objects.count()), using=ALIAS)
        Shared.objects.using(ALIAS).create(text="x")
        with transaction.atomic(using=ALIAS, savepoint=False):
            Shared.objects.using(ALIAS).create(text="y")
    assert done == [2]
    pool.set_autocommit(False)
    Shared.objects.using(ALIAS).create(text="z")
    assert pool.connection is not None
    pool.rollback()
    pool.set_autocommit(True)
    assert pool.connection is None
    assert Shared.objects.count() == 2
    close_old_connections()
    assert titles() == []


@pytest.mark.parametrize(
    "statement",
    [
        "LISTEN news",
        "SET work_mem = '1MB'",
        " /* c */ set session timezone to 'UTC'",
        "PREPARE p AS SELECT 1",
        "CREATE TEMPORARY TABLE t (n int)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT pg_advisory_lock(1)",
    ],
)
def test_what_would_outlive_the_transaction_is_refused(statement: str, pool: Any) -> None:
    with (
        pool.cursor() as cursor,
        pytest.raises(UnbindableStatementError, match="is for a whole session"),
    ):
        cursor.execute(statement)
    assert titles() == []


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL work_mem = '1MB'",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL IMMEDIATE",
        "SELECT pg_advisory_xact_lock(1)",
    ],
)
def test_what_ends_with_the_transaction_is_not(statement: str, pool: Any) -> None:
    with transaction.atomic(using=ALIAS), pool.cursor() as cursor:
        cursor.execute(statement)


def wrapper(**changes: Any) -> Any:
    connection: Any = connections.create_connection(ALIAS)
    options = {**connection.settings_dict["OPTIONS"], **changes.pop("OPTIONS", {})}
    connection.settings_dict = {**connection.settings_dict, **changes, "OPTIONS": options}
    return connection


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"OPTIONS": {"pool_mode": "transactoin"}}, "must be 'session' or 'transaction'"),
        ({"OPTIONS": {"pool": None}}, "there is no pool; add"),
        ({"OPTIONS": {"ride_along": "no"}}, "is 'no'; it must be True or False"),
        ({"OPTIONS": {"poolmode": "session"}}, r"'poolmode' \(did you mean 'pool_mode'\?\)"),
        ({"CONN_MAX_AGE": 60}, "set that to 0"),
    ],
)
def test_contradicting_options_say_the_fix(changes: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        wrapper(**changes).ensure_connection()


@pytest.mark.parametrize("health", [False, True])
def test_a_pool_for_whole_sessions_is_djangos(health: bool, tenants: Tenants) -> None:
    connection = wrapper(OPTIONS={"pool_mode": "session"}, CONN_HEALTH_CHECKS=health)
    connection.close_pool()
    try:
        with tenant_context(tenants[0].pk), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM app_note")
            assert cursor.fetchone() == (2,)
        assert connection.connection is not None
        connection.close()
        assert connection.connection is None
    finally:
        connection.close_pool()


@pytest.mark.parametrize("mode", ["session", "transaction"])
@pytest.mark.parametrize("way", ["by hand", "nested"])
def test_a_savepoint_that_waits_stays_with_who_began_it(mode: str, way: str, alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1}, "pool_mode": mode})
    connection = connections[using]
    # Who connects as Django does clears it, too.
    other: Any = connections.create_connection(using)
    with other.cursor() as cursor:
        cursor.execute("SELECT 1")
    if mode == "session":
        other.close()
    if way == "by hand":
        transaction.set_autocommit(False, using=using)
        # Django 6.1 renamed it.
        getattr(transaction, "savepoint_create", transaction.savepoint)(using=using)
        close_old_connections()
    else:
        with transaction.atomic(using=using), transaction.atomic(using=using):
            connection.close()
    connection.close()
    with other.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    other.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_savepoint_that_waits_ends_with_the_transactions_by_hand(mode: str, alias: Add) -> None:
    using = alias(options={"pool": {"min_size": 1, "max_size": 1}, "pool_mode": mode})
    connection = connections[using]
    connection.set_autocommit(False)
    getattr(transaction, "savepoint_create", transaction.savepoint)(using=using)
    connection.set_autocommit(True)
    if mode == "transaction":
        assert connection.connection is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def test_a_pipeline_on_a_lost_connection_does_not_keep_it(
    pool: Any, superuser: psycopg.Connection[Any]
) -> None:
    with pool.cursor() as cursor:
        superuser.execute("SELECT pg_terminate_backend(%s, 10000)", [backend(cursor)])
        for _ in range(2):
            with pytest.raises(OperationalError):
                cursor.executemany("SELECT %s", [[1], [2]])
    assert pool.connection is None
    with pool.cursor() as cursor:
        assert backend(cursor)


def test_without_a_pool_there_are_no_statistics() -> None:
    assert connections["default"].pool_stats() == {}  # type: ignore[attr-defined]


def test_a_process_ends_without_a_word(
    tenants: tuple[Tenant, Tenant], processes: dict[str, str]
) -> None:
    code = "from django.db import connections; connections['pool'].ensure_connection()"
    result = manage("shell", "-c", code)
    assert (result.returncode, result.stderr) == (0, "")


def test_pools_of_another_process_are_left_to_it(
    tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: dict[Any, Any] = {("pool", 1): None}
    monkeypatch.setattr(pool_module, "_pools", pools)
    wrapper: Any = connections["pool"]
    pool = wrapper.pool
    pool_module.close_pools()
    assert pool.closed
    assert pools == {("pool", 1): None}
    with tenant_context(tenants[0].pk):
        assert Note.objects.using("pool").count() == 2
    pool_module.close_pools()
