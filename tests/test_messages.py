"""What each way to send a statement costs on the wire is what the documentation says."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import psycopg
import pytest
from django.db import InternalError, NotSupportedError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.base import DatabaseWrapper as DjangosWrapper

from tenantry import aclose_pools, aconnection, arows, tenant_context
from tests.app.models import Shared, Tenant
from tests.fix_docs import table
from tests.fix_wire import Wire

# The page has the letters of the default shape; the others go the ways that test_statement_paths
# and test_sealed know.
pytestmark = pytest.mark.guc_shape

# Each as a function of a connection, on the connection that it is about.

Connection = BaseDatabaseWrapper
SERIES = "SELECT generate_series(1, 2)"
SERIES_TO = "SELECT generate_series(1, %s)"
numbers = count()


def orm(connection: Connection) -> None:
    list(Shared.objects.using(connection.alias).filter(text="x"))


def execute(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(SERIES_TO, [2])


def execute_without_parameters(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(SERIES)


def execute_several(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"{SERIES}; {SERIES}")


def callproc(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.callproc("pg_backend_pid")


def executemany(connection: Connection) -> None:
    with connection.cursor() as cursor:
        rows = [["one"], ["two"], ["three"]]
        cursor.executemany("INSERT INTO app_shared (text) VALUES (%s)", rows)


def copy_from_server(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY ({SERIES}) TO STDOUT") as copy:
        assert len(list(copy.rows())) == 2


def copy_to_server(connection: Any) -> None:
    statement = "COPY app_shared (text) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write_row(["one"])


def stream(connection: Any) -> None:
    with connection.cursor() as cursor:
        assert len(list(cursor.stream(SERIES_TO, [2]))) == 2


def iterator(connection: Any) -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute(SERIES)
        assert len(cursor.fetchmany(3)) == 2


def iterator_with_parameters(connection: Any) -> None:
    with connection.chunked_cursor() as cursor:
        cursor.execute(SERIES_TO, [2])
        assert len(cursor.fetchmany(3)) == 2


def of_driver(connection: Any) -> None:
    with connection.connection.cursor() as cursor:
        cursor.execute(SERIES_TO, [2])


def of_drivers_connection(connection: Any) -> None:
    connection.connection.execute(SERIES_TO, [2])


def held(connection: Any) -> None:
    with connection.connection.cursor("held", withhold=True) as cursor:
        cursor.execute(SERIES)
        assert len(cursor.fetchmany(3)) == 2


def pipeline(connection: Any) -> None:
    driver = connection.connection
    with driver.pipeline(), driver.cursor() as one, driver.cursor() as two:
        one.execute(SERIES_TO, [2])
        two.execute(SERIES_TO, [2])


def binary(connection: Any) -> None:
    connection.connection.execute(SERIES, binary=True)


def prepared(connection: Any) -> None:
    # As OPTIONS = {"prepare_threshold": 0} does; fixtures close the connection.
    connection.connection.prepare_threshold = 0
    connection.connection.execute(SERIES_TO, [2])


def prepared_once(connection: Any) -> None:
    # Each time another statement.
    connection.connection.prepare_threshold = 0
    connection.connection.execute(f"{SERIES_TO} -- {next(numbers)}", [2])


def mogrify(connection: Any) -> None:
    with connection.cursor() as cursor:
        assert cursor.mogrify(SERIES_TO, [2]) == SERIES_TO % 2


def by_hand(connection: Any) -> None:
    psycopg.ClientCursor(connection.connection).execute(SERIES_TO, [2])


def refused_in_a_transaction(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")


def atomic(connection: Connection) -> None:
    with transaction.atomic(using=connection.alias):
        orm(connection)


CLIENT_SIDE, SERVER_SIDE = "wire", "wire_server_side"
PATHS: dict[str, tuple[Callable[[Any], None], str]] = {
    "ORM query": (orm, CLIENT_SIDE),
    "`cursor.execute()`": (execute, CLIENT_SIDE),
    "`cursor.execute()` with several statements": (execute_several, CLIENT_SIDE),
    "`cursor.callproc()`": (callproc, CLIENT_SIDE),
    "`cursor.executemany()` with three rows": (executemany, CLIENT_SIDE),
    "`cursor.copy()` from the server": (copy_from_server, CLIENT_SIDE),
    "`cursor.copy()` to the server": (copy_to_server, CLIENT_SIDE),
    "`cursor.stream()`": (stream, CLIENT_SIDE),
    "`.iterator()`: DECLARE, one FETCH, CLOSE": (iterator, CLIENT_SIDE),
    "driver's `cursor.execute()`": (of_driver, CLIENT_SIDE),
    "driver's `connection.execute()`": (of_drivers_connection, CLIENT_SIDE),
    "driver's named cursor `WITH HOLD`: DECLARE, one FETCH, CLOSE": (held, CLIENT_SIDE),
    "driver's pipeline of two statements": (pipeline, CLIENT_SIDE),
    "cursor made by hand from a class of psycopg": (by_hand, CLIENT_SIDE),
    "`cursor.mogrify()`": (mogrify, CLIENT_SIDE),
    "server-side binding: parameters": (execute, SERVER_SIDE),
    "server-side binding: no parameters": (execute_without_parameters, SERVER_SIDE),
    "server-side binding: binary results": (binary, SERVER_SIDE),
    "server-side binding: prepared statement, first time": (prepared_once, SERVER_SIDE),
    "server-side binding: prepared statement, second time": (prepared, SERVER_SIDE),
    "server-side binding: several statements": (execute_several, SERVER_SIDE),
    "server-side binding: `executemany()` with three rows": (executemany, SERVER_SIDE),
    "server-side binding: `copy()` from the server": (copy_from_server, SERVER_SIDE),
    "server-side binding: `copy()` to the server": (copy_to_server, SERVER_SIDE),
    "server-side binding: driver's pipeline of two statements": (pipeline, SERVER_SIDE),
    "server-side binding: `stream()` with parameters": (stream, SERVER_SIDE),
    "server-side binding: `.iterator()` with parameters": (iterator_with_parameters, SERVER_SIDE),
    "statement that PostgreSQL refuses in a transaction block": (
        refused_in_a_transaction,
        CLIENT_SIDE,
    ),
    "`atomic()` with one ORM query": (atomic, CLIENT_SIDE),
}
DOCUMENTED = {row[0]: row[1:] for row in table("reference/statement-paths.md", "Messages")}


@pytest.fixture
def stock(wire: Wire, superuser: psycopg.Connection[Any]) -> Iterator[dict[str, str]]:
    """Return aliases of Django's own backend through the same proxy, by ours."""
    aliases = {}
    for alias in (CLIENT_SIDE, SERVER_SIDE):
        aliases[alias] = f"stock_{alias}"
        settings = connections[alias].settings_dict
        connections[aliases[alias]] = DjangosWrapper(settings, aliases[alias])
        connections[aliases[alias]].ensure_connection()
    yield aliases
    for alias in aliases.values():
        connections[alias].close()
        del connections[alias]


def measure(path: Callable[[Any], None], alias: str, wire: Wire) -> tuple[str, int]:
    """Return the client's messages and the number of round trips of a second call of `path`."""
    connection = connections[alias]
    try:
        path(connection)
        wire.clear()
        path(connection)
    except (NotSupportedError, InternalError):
        if connection.in_atomic_block:
            transaction.set_rollback(True, using=alias)
        return "refused", 0
    return sent(wire), wire.round_trips


def sent(wire: Wire) -> str:
    """Return the client's messages, but for the flush, H, for which libpq may ask as it likes."""
    return wire.kinds.replace("H", "") or "none"


def measure_twice(path: Callable[[Any], None], alias: str, wire: Wire) -> tuple[str, str, str]:
    """Return the messages outside and inside a transaction, and the round trips of both."""
    outside, trips_outside = measure(path, alias, wire)
    with transaction.atomic(using=alias):
        inside, trips_inside = measure(path, alias, wire)
    trips = [str(number) for number in (trips_outside, trips_inside) if number]
    return outside, inside, " / ".join(dict.fromkeys(trips)) or "0"


def test_every_path_is_documented() -> None:
    assert list(DOCUMENTED) == list(PATHS)
    assert list(ASYNC_DOCUMENTED) == list(ASYNC_PATHS)


@pytest.mark.parametrize("name", PATHS)
def test_the_statement_paths_cost_what_the_page_says(
    name: str, wire: Wire, stock: dict[str, str], tenants: tuple[Tenant, Tenant]
) -> None:
    path, alias = PATHS[name]
    outside, inside, trips, djangos_trips = DOCUMENTED[name]
    with tenant_context(tenants[0].pk):
        messages = [re.sub("[` ]", "", cell) for cell in (outside, inside)]
        assert measure_twice(path, alias, wire) == (*messages, trips)
        assert measure_twice(path, stock[alias], wire)[2] == djangos_trips


# Those of native async, each as a function of a connection.


async def nothing(connection: Any) -> None:
    """Send nothing."""


async def aexecute(connection: Any) -> None:
    await connection.execute(SERIES_TO, [2])


async def aexecute_twice(connection: Any) -> None:
    await aexecute(connection)
    await aexecute(connection)


async def aexecutemany(connection: Any) -> None:
    rows = [["one"], ["two"], ["three"]]
    await connection.cursor().executemany("INSERT INTO app_shared (text) VALUES (%s)", rows)


async def acopy_from_server(connection: Any) -> None:
    async with connection.cursor().copy(f"COPY ({SERIES}) TO STDOUT") as copy:
        assert len([row async for row in copy.rows()]) == 2


async def acopy_to_server(connection: Any) -> None:
    async with connection.cursor().copy("COPY app_shared (text) FROM STDIN") as copy:
        await copy.write_row(["one"])


async def astream(connection: Any) -> None:
    assert len([row async for row in connection.cursor().stream(SERIES_TO, [2])]) == 2


async def anamed(connection: Any) -> None:
    async with connection.cursor("named") as cursor:
        await cursor.execute(SERIES)
        assert len(await cursor.fetchmany(3)) == 2


async def apipeline(connection: Any) -> None:
    async with connection.pipeline():
        await aexecute_twice(connection)


def found(alias: str) -> Any:
    return Shared.objects.using(alias).filter(text="x")


async def arows_of_client_side(connection: Any) -> None:
    await arows(found(CLIENT_SIDE), connection)


BLOCKS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "no statement": nothing,
    "`execute()`": aexecute,
    "`execute()` twice": aexecute_twice,
    "`executemany()` with three rows": aexecutemany,
    "`copy()` from the server": acopy_from_server,
    "`copy()` to the server": acopy_to_server,
    "`stream()`": astream,
    "named cursor: DECLARE, one FETCH, CLOSE": anamed,
    "pipeline of two statements": apipeline,
    "`arows()` on the connection": arows_of_client_side,
}


def in_block(act: Callable[[Any], Awaitable[None]], alias: str) -> Callable[[], Awaitable[None]]:
    async def path() -> None:
        async with aconnection(alias) as connection:
            await act(connection)

    return path


async def arows_alone(alias: str) -> None:
    await arows(found(alias))


ASYNC_PATHS: dict[str, Callable[[], Awaitable[Any]]] = {
    **{name: in_block(act, CLIENT_SIDE) for name, act in BLOCKS.items()},
    "`arows()` alone": partial(arows_alone, CLIENT_SIDE),
    "server-side binding: `execute()`": in_block(aexecute, SERVER_SIDE),
    "server-side binding: `arows()` alone": partial(arows_alone, SERVER_SIDE),
}
ASYNC_DOCUMENTED = {
    row[0]: row[1:] for row in table("reference/statement-paths.md", "Native async")
}


@pytest.mark.parametrize("name", ASYNC_PATHS)
async def test_native_async_costs_what_the_page_says(
    name: str, wire: Wire, tenants: tuple[Tenant, Tenant]
) -> None:
    messages, trips = ASYNC_DOCUMENTED[name]
    path = ASYNC_PATHS[name]
    async with tenant_context(tenants[0].pk):
        await path()
        wire.clear()
        await path()
    assert (sent(wire), str(wire.round_trips)) == (re.sub("[` ]", "", messages), trips)
    await aclose_pools()
