"""A connection of a pool is prepared once, however often somebody checks it out."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from tenantry import aclose_pools, aconnection, arows, tenant_context
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
# All that a connection is prepared with: what the settings ask for is not what the server has.
OPTIONS = {
    "pool": {"min_size": 1, "max_size": 1, "timeout": 5},
    "assume_role": "assumed",
    "isolation_level": psycopg.IsolationLevel.REPEATABLE_READ,
}
STATE = (
    "SELECT current_user::text, current_setting('timezone'),"
    " current_setting('transaction_isolation'), count(*) FROM app_note"
)
EXPECTED = ("assumed", "UTC", "repeatable read", 2)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_checkout_sends_nothing_of_its_own(
    mode: str, assumed: str, alias: Add, wire: Wire, tenants: Tenants
) -> None:
    using = alias("wire", {**OPTIONS, "pool_mode": mode})

    def read() -> Any:
        with (
            tenant_context(tenants[0].pk),
            transaction.atomic(using=using),
            connections[using].cursor() as cursor,
        ):
            cursor.execute(STATE)
            row = cursor.fetchone()
        if mode == "session":
            # As Django does at the end of a request.
            connections[using].close()
        return row

    assert read() == EXPECTED
    wire.clear()
    assert read() == EXPECTED
    assert wire.round_trips == 2
    assert wire.queries[0].startswith("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert wire.queries[-1].endswith("COMMIT")


@pytest.mark.parametrize(("checks", "asked"), [(False, 0), (True, 1)])
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_health_check_is_a_round_trip_for_each_checkout(
    mode: str, checks: bool, asked: int, alias: Add, wire: Wire, tenants: Tenants
) -> None:
    pool = {"pool": OPTIONS["pool"], "pool_mode": mode}
    using = alias("wire", pool, CONN_HEALTH_CHECKS=checks)
    notes = Note.objects.using(using).values_list("title").order_by("title")
    rows = [("A 1",), ("A 2",)]

    def read() -> None:
        assert list(notes.all()) == rows

    def forget() -> None:
        # The next test has another alias of this name, maybe in this thread.
        connections[using].close()
        del connections[using]

    def read_in_a_block() -> None:
        with transaction.atomic(using=using):
            for _ in range(2):
                assert list(notes.all()) == rows

    async def read_in_an_async_block() -> None:
        async with aconnection(using) as connection:
            assert await arows(notes, connection) == rows

    async def read_rows_alone() -> None:
        assert await arows(notes) == rows

    async with tenant_context(tenants[0].pk):
        for run, round_trips, checked in (
            (sync_to_async(read), 1, mode == "transaction"),
            # BEGIN rides with the first statement.
            (sync_to_async(read_in_a_block), 3, mode == "transaction"),
            (read_in_an_async_block, 2, True),
            (read_rows_alone, 1, True),
        ):
            await run()
            wire.clear()
            await run()
            assert wire.round_trips == round_trips + (asked if checked else 0)
    await sync_to_async(forget)()
    await aclose_pools()


async def test_an_async_checkout_sends_nothing_of_its_own(
    assumed: str, alias: Add, wire: Wire, tenants: Tenants
) -> None:
    using = alias("wire", OPTIONS)

    async def read() -> Any:
        async with tenant_context(tenants[0].pk), aconnection(using) as connection:
            cursor = await connection.execute(STATE)
            return await cursor.fetchone()

    assert await read() == EXPECTED
    wire.clear()
    assert await read() == EXPECTED
    assert wire.round_trips == 2
    assert wire.queries[0].startswith("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert wire.queries[-1].endswith("COMMIT")
    await aclose_pools()
