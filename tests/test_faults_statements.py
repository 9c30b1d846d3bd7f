"""Statements that the server gives up: timeouts, deadlocks, serialization failures."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from tenantry import tenant_context
from tests.app.models import Note, Tenant
from tests.fix_faults import (
    KINDS,
    PATHS,
    STOCK_OF,
    Outcome,
    Site,
    assert_whole,
    forget,
    outcome_of,
    titles,
    wait_for,
)

Tenants = tuple[Tenant, Tenant]
Run = Callable[[Any, Site], object]
ENDS_IN = {
    "statement_timeout": psycopg.errors.QueryCanceled,
    "lock_timeout": psycopg.errors.LockNotAvailable,
    "deadlock": psycopg.errors.DeadlockDetected,
    "serialization": psycopg.errors.SerializationFailure,
    "nested": psycopg.errors.QueryCanceled,
    "pipeline": psycopg.errors.QueryCanceled,
    "pipeline_of_its_own": psycopg.errors.QueryCanceled,
}


@pytest.fixture(autouse=True)
def rows(site: Site) -> None:
    site.superuser.execute("INSERT INTO app_shared (text) VALUES ('a'), ('b')")


def lock(cursor: Any, text: str) -> None:
    cursor.execute("UPDATE app_shared SET text = text WHERE text = %s", [text])


def statement_timeout(connection: Any, site: Site) -> None:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 50")
        cursor.execute("SELECT pg_sleep(30)")


def lock_timeout(connection: Any, site: Site) -> None:
    with site.superuser.transaction():
        lock(site.superuser, "a")
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = 50")
            lock(cursor, "a")


def deadlock(connection: Any, site: Site) -> None:
    """Wait for who waits for us; the other has the patience, so the error is ours."""

    def other() -> None:
        with psycopg.connect(site.superuser.info.dsn) as patient:
            patient.execute("SET LOCAL deadlock_timeout = '20s'")
            lock(patient, "b")
            arrived.set()
            assert locked.wait(10)
            lock(patient, "a")

    arrived, locked = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            lock(cursor, "a")
            locked.set()
            assert arrived.wait(10)
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
            wait_for(lambda: site.value(waits) == 1)
            lock(cursor, "b")
    finally:
        locked.set()
        thread.join()


def serialization(connection: Any, site: Site) -> None:
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM app_shared")
        site.superuser.execute("UPDATE app_shared SET text = text")
        lock(cursor, "a")


def nested(connection: Any, site: Site) -> None:
    """The inner block's error is undone, and the outer block commits."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        lock(cursor, "a")
        cursor.execute("SET LOCAL statement_timeout = 50")
        try:
            with transaction.atomic(using=connection.alias):
                cursor.execute("SELECT pg_sleep(30)")
        except OperationalError:
            cursor.execute("UPDATE app_shared SET text = 'kept' WHERE text = 'a'")
            raised = True
        assert raised
    assert site.value("SELECT count(*) FROM app_shared WHERE text = 'kept'") == 1
    site.superuser.execute("UPDATE app_shared SET text = 'a' WHERE text = 'kept'")
    statement_timeout(connection, site)


def sleep_in_a_pipeline(connection: Any, cursor: Any) -> None:
    """Be cancelled among other statements of psycopg's pipeline mode."""
    with connection.wrap_database_errors, cursor.connection.pipeline():
        for statement in (
            "SELECT set_config('statement_timeout', '50', true)",
            "UPDATE app_shared SET text = 'lost'",
            "SELECT pg_sleep(30)",
            "UPDATE app_shared SET text = 'lost'",
        ):
            cursor.connection.execute(statement)


def pipeline(connection: Any, site: Site) -> None:
    """The inner block's error is undone, and the outer block goes on in another pipeline."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        lock(cursor, "a")
        try:
            with transaction.atomic(using=connection.alias):
                sleep_in_a_pipeline(connection, cursor)
        except OperationalError:
            with cursor.connection.pipeline():
                cursor.connection.execute("UPDATE app_shared SET text = 'kept' WHERE text = 'a'")
    assert site.value("SELECT string_agg(text, ' ' ORDER BY text) FROM app_shared") == "b kept"
    site.superuser.execute("UPDATE app_shared SET text = 'a' WHERE text = 'kept'")
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        sleep_in_a_pipeline(connection, cursor)


def pipeline_of_its_own(connection: Any, site: Site) -> None:
    """Outside of a block, its statements are a transaction."""
    try:
        with connection.cursor() as cursor:
            sleep_in_a_pipeline(connection, cursor)
    finally:
        assert site.value("SELECT string_agg(text, ' ' ORDER BY text) FROM app_shared") == "a b"


RUNS = [
    statement_timeout,
    lock_timeout,
    deadlock,
    serialization,
    nested,
    pipeline,
    pipeline_of_its_own,
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS)
def test_the_server_gives_up_a_statement(
    path: str, kind: str, run: Run, site: Site, tenants: Tenants
) -> None:
    outcomes: list[Outcome] = []
    for alias in (f"{path}_{STOCK_OF[kind]}", f"{path}_{kind}"):
        connection: Any = connections[alias]
        with tenant_context(tenants[0].pk):
            outcomes.append(outcome_of(lambda connection=connection: run(connection, site)))  # type: ignore[misc]
            # Nothing of it lasts, not even within the request.
            if alias.endswith(kind):
                assert titles(alias) == ["A 1", "A 2"]
    assert outcomes[0] == outcomes[1]
    error = ENDS_IN[run.__name__]
    assert outcomes[1] == (OperationalError, error, error.sqlstate)
    forget(connections[f"{path}_{STOCK_OF[kind]}"])
    assert_whole(site, f"{path}_{kind}", tenants)


@pytest.mark.parametrize(("path", "kind"), [("direct", "session"), ("bounced", "transaction")])
def test_threads_that_die_lose_nothing(path: str, kind: str, site: Site, tenants: Tenants) -> None:
    """In a transaction, with rows half read: nobody closes anything."""
    alias = f"{path}_{kind}"

    def die(tenant: Tenant) -> None:
        with tenant_context(tenant.pk):
            transaction.atomic(using=alias).__enter__()
            # Not one title for all: who comes later would wait for this transaction.
            title = f"lost {len(seen)}"
            Note.objects.using(alias).create(title=title, tenant=tenant)
            iterator = Note.objects.using(alias).iterator(1)
            seen.append(next(iterator).title)

    seen: list[str] = []
    for tenant in [*tenants, tenants[0]]:
        thread = threading.Thread(target=die, args=[tenant])
        thread.start()
        thread.join(10)
    assert seen == ["A 1", "B 1", "A 1"]
    # Before that, whoever finds the pool empty asks for it, as the last thread did.
    gc.collect()
    assert_whole(site, alias, tenants)
    assert site.value("SELECT count(*) FROM app_note WHERE title LIKE 'lost%%'") == 0


def test_a_cursor_that_outlived_its_connection_keeps_no_other(site: Site, tenants: Tenants) -> None:
    """A traceback or a variable may hold it for long."""
    connection: Any = connections["direct_transaction"]
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    site.terminate()
    with pytest.raises(OperationalError):
        cursor.execute("SELECT 1")
    assert_whole(site, "direct_transaction", tenants)
    assert titles("direct_transaction") == []
    assert connection.connection is None
    cursor.close()
    assert_whole(site, "direct_transaction", tenants)


@pytest.mark.parametrize("kind", KINDS)
def test_syntax_errors_after_a_nested_block(kind: str, site: Site, tenants: Tenants) -> None:
    """The RELEASE that was pending goes with a message that nothing comes of."""

    def run(connection: Any, site: Site) -> None:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            with transaction.atomic(using=connection.alias):
                lock(cursor, "a")
            cursor.execute("SELEC 1")

    outcomes = [
        outcome_of(lambda alias=alias: run(connections[alias], site))  # type: ignore[misc]
        for alias in (f"direct_{STOCK_OF[kind]}", f"direct_{kind}")
    ]
    assert outcomes[0] == outcomes[1]
    forget(connections[f"direct_{STOCK_OF[kind]}"])
    assert_whole(site, f"direct_{kind}", tenants)
