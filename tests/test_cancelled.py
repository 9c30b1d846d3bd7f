"""What the server cancels before it has begun the transaction is not sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from tenantry import aclose_pools, aconnection
from tests.app.models import Tenant
from tests.fix_wire import Wire

# PostgreSQL looks for the end of the text before it begins anything, which takes it longer than
# it is given.
LONG = f"SELECT '{'x' * (1 << 22)}'"
TIMEOUT = b"SET statement_timeout = '1ms'"


@pytest.fixture
def connection(wire: Wire, tenants: tuple[Tenant, Tenant]) -> Iterator[Any]:
    connection: Any = connections["wire"]
    connection.ensure_connection()
    connection.connection.pgconn.exec_(TIMEOUT)
    yield connection
    connection.close()


def execute(connection: Any) -> None:
    connection.cursor().execute(LONG)


def stream(connection: Any) -> None:
    list(connection.cursor().stream(LONG))


def copy(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY ({LONG}) TO STDOUT"):
        pass


def declare(connection: Any) -> None:
    with connection.connection.cursor("c") as cursor:
        cursor.execute(LONG)


@pytest.mark.parametrize("act", [execute, stream, copy, declare])
def test_it_is_sent_once(act: Callable[[Any], None], connection: Any, wire: Wire) -> None:
    with (
        pytest.raises((OperationalError, psycopg.errors.QueryCanceled)),
        transaction.atomic(using="wire"),
    ):
        wire.clear()
        act(connection)
    assert [text[:5] for text in wire.queries if "xxx" in text] == ["BEGIN"]
    # Nor did anything else go in its place.
    assert len(wire.queries) == 1


async def test_it_is_sent_once_by_an_async_connection(wire: Wire) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        async with aconnection("wire") as connection:
            connection.pgconn.exec_(TIMEOUT)
            wire.clear()
            await connection.execute(LONG)
    assert [text[:5] for text in wire.queries if "xxx" in text] == ["BEGIN"]
    await aclose_pools()
