"""What wants to be the first statement of its transaction, and what only begins like that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.db import InternalError, connections, transaction
from psycopg import IsolationLevel, errors

from tenantry import aclose_pools, aconnection, admin_context, tenant_context
from tests import settings
from tests.app.models import Note, Shared, Tenant
from tests.fix_aliases import Add
from tests.fix_faults import wait_for

Tenants = tuple[Tenant, Tenant]
LOCK = "LOCK TABLE app_shared IN SHARE ROW EXCLUSIVE MODE"


@pytest.mark.parametrize("like", ["default", "wire_server_side"])
@pytest.mark.parametrize("rides", [True, False])
def test_what_is_read_after_a_lock_is_what_the_other_has_written(
    like: str, rides: bool, alias: Add, arrange: psycopg.Connection[Any], tenants: Tenants
) -> None:
    """Also in REPEATABLE READ: the lock takes no snapshot, so that the one after it is new."""
    using = alias(like, {"isolation_level": IsolationLevel.REPEATABLE_READ, "ride_along": rides})
    Shared.objects.create(text="old")
    read: list[str] = []

    def work() -> None:
        try:
            with tenant_context(tenants[0].pk), transaction.atomic(using=using):
                with connections[using].cursor() as cursor:
                    cursor.execute(LOCK)
                read.extend(Shared.objects.using(using).values_list("text", flat=True))
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    with arrange.transaction():
        arrange.execute(LOCK)
        arrange.execute("UPDATE app_shared SET text = 'new'")
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_for(lambda: arrange.execute(waits).fetchone() == (1,))
    thread.join(10)
    assert read == ["new"]


def test_the_admin_locks_with_the_privileges_of_its_role(
    arrange: psycopg.Connection[Any], tenants: Tenants
) -> None:
    if settings.HAS_ADMIN_ROLE:
        arrange.execute("REVOKE UPDATE, DELETE ON app_shared FROM app")
    try:
        with admin_context(), transaction.atomic(), connections["default"].cursor() as cursor:
            cursor.execute(LOCK)
        driver = connections["default"].connection
        with admin_context(), driver.pipeline():
            for statement in ("BEGIN", LOCK, "COMMIT"):
                driver.execute(statement)
    finally:
        arrange.execute("GRANT UPDATE, DELETE ON app_shared TO app")


@pytest.mark.parametrize("alias", ["default", "pooled", "wire_server_side"])
def test_a_lock_that_would_end_at_once_is_refused(alias: str, tenants: Tenants) -> None:
    refused = pytest.raises(InternalError, match="LOCK TABLE can only be used in transaction")
    with connections[alias].cursor() as cursor:
        with refused:
            cursor.execute(LOCK)
        cursor.execute(f"{LOCK}; SELECT 1")
        assert cursor.nextset()


async def test_so_it_is_in_async_code(tenants: Tenants) -> None:
    async with aconnection() as connection:
        await connection.set_autocommit(True)
        with pytest.raises(errors.NoActiveSqlTransaction):
            await connection.execute(LOCK)
    await aclose_pools()


def run_prepared(cursor: Any) -> None:
    cursor.connection.prepare_threshold = 5
    cursor.execute(LOCK, prepare=True)


def run_many(cursor: Any) -> None:
    cursor.executemany(LOCK, [()])


def run_in_pipeline(cursor: Any) -> None:
    with cursor.connection.pipeline():
        cursor.execute(LOCK)


@pytest.mark.parametrize("run", [run_prepared, run_many, run_in_pipeline])
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_so_it_is_whichever_way_it_goes(
    alias: str, run: Callable[[Any], None], tenants: Tenants
) -> None:
    connection: Any = connections[alias]
    connection.ensure_connection()
    driver = connection.connection
    with tenant_context(tenants[0].pk):
        with driver.cursor() as cursor, pytest.raises(errors.NoActiveSqlTransaction):
            run(cursor)
        # Where it holds until something ends, it is taken, whoever asks for it.
        with transaction.atomic(using=alias), driver.cursor() as cursor:
            run(cursor)
            assert Note.objects.using(alias).count() == 2
        driver.prepare_threshold = None


def test_in_a_pipeline_it_holds_for_the_statements_that_are_one_with_it(tenants: Tenants) -> None:
    connection: Any = connections["default"]
    connection.ensure_connection()
    # Before PostgreSQL 18, those of a pipeline are no block for it.
    refused = pytest.raises(errors.NoActiveSqlTransaction)
    newer = connection.pg_version >= 180000
    with tenant_context(tenants[0].pk), nullcontext() if newer else refused:
        with connection.connection.pipeline():
            connection.connection.execute("SELECT 1")
            connection.connection.execute(LOCK)
            cursor = connection.connection.execute("SELECT count(*) FROM app_note")
        assert cursor.fetchone() == (2,)


@pytest.mark.parametrize("who", ["tenant", "admin"])
def test_what_follows_a_lock_in_its_string_is_bound(who: str, tenants: Tenants) -> None:
    scope: AbstractContextManager[Any] = (
        tenant_context(tenants[0].pk) if who == "tenant" else admin_context()
    )
    with scope, transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("LOCK TABLE app_shared IN SHARE MODE; SELECT count(*) FROM app_note")
        assert cursor.nextset()
        assert cursor.fetchone() == ({"tenant": 2, "admin": 4}[who],)


@pytest.fixture
def deferred(arrange: psycopg.Connection[Any]) -> Iterator[None]:
    """Let a deferred trigger look for the row that was written."""
    arrange.execute(
        """
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NOT EXISTS (SELECT FROM public.app_note WHERE id = NEW.id) THEN
            RAISE 'the trigger does not see its row';
          END IF;
          RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER look AFTER INSERT ON app_note DEFERRABLE INITIALLY DEFERRED
          FOR EACH ROW EXECUTE FUNCTION look();
        """
    )
    yield
    arrange.execute("DROP TRIGGER look ON app_note; DROP FUNCTION look()")


@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_triggers_run_in_the_binding_of_the_statement_that_ends_their_waiting(
    alias: str, tenants: Tenants, deferred: None
) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using=alias):
        Note.objects.using(alias).create(title="A 3", tenant=tenants[0])
        connections[alias].check_constraints()
