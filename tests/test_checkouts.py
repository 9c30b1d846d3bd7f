"""A connection of a pool is prepared once, however often somebody checks it out."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from tenantry import aclose_pools, aconnection, tenant_context
from tests.app.models import Tenant
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
