"""``arows``: the rows of a queryset, on a native async connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

import psycopg
from django.core.exceptions import EmptyResultSet
from django.db.models import QuerySet
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ...binding import current_binding
from ...queries import binding_of_query
from .aio import aconnection, know_server


async def arows(
    queryset: QuerySet[Any, Any], connection: psycopg.AsyncConnection[Any] | None = None
) -> list[tuple[Any, ...]]:
    """Return the rows of `queryset` without a thread, as ``values_list()`` would.

    Runs on `connection`, or on one of its own that it checks out from the queryset's database, in
    one round trip. The SQL is compiled now, so its predicates are those of the current binding. No
    related objects are selected or prefetched, and no instances made; fields that the queryset
    defers are left out.

    Raises TransactionManagementError for ``select_for_update()`` without a `connection` in a
    transaction.
    """
    wanted = binding_of_query(queryset.query)
    if wanted is not None and not wanted.sees_as(current_binding()):
        of_user: Any = queryset
        with of_user.scope():
            return await arows(queryset, connection)
    if connection is None:
        async with aconnection(queryset.db) as own, single_statement(own):
            return await arows(queryset, own)
    wrapper = know_server(queryset.db, connection)
    query = queryset.query.clone()
    if query.select_for_update:
        wrapper = in_transaction_of(connection, wrapper)
    query.select_related = False
    compiler: Any = query.get_compiler(connection=wrapper)
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return []
    async with connection.cursor(row_factory=tuple_row) as cursor:
        rows = await (await cursor.execute(sql, params)).fetchall()
    if compiler.has_extra_select:
        # What DISTINCT makes Django select because the order needs it.
        rows = [row[: compiler.col_count] for row in rows]
    return list(compiler.results_iter(results=[rows], tuple_expected=True))


@asynccontextmanager
async def single_statement(connection: Any) -> AsyncIterator[None]:
    """Save the round trips of BEGIN and COMMIT around the one statement of the block."""
    # Only BEGIN can ask for an isolation level, or to be read only.
    connection.single = connection._get_tx_start_command() == b"BEGIN"
    try:
        yield
    finally:
        connection.single = False


def in_transaction_of(connection: Any, wrapper: Any) -> Any:
    """Return a wrapper that knows whether `connection` is in a transaction.

    Django asks before it locks rows; the wrapper itself would connect to find out.
    """
    wrapper = copy(wrapper)
    wrapper.connection, wrapper.prepared = None, True
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    wrapper.autocommit = connection.single or (connection.autocommit and idle)
    return wrapper
