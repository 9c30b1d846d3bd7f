"""Native async connections: psycopg's, bound, from a pool for each event loop.

Django's ORM runs in threads even in async code. What is hot enough to do without a thread gets a
``psycopg.AsyncConnection`` here, in a transaction whose statements carry the current binding.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

import anyio
import psycopg
from django.core.exceptions import EmptyResultSet
from django.db import OperationalError, connections
from django.db.models import QuerySet
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import PipelineStatus
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ...binding import current_binding, pop, push
from ...checks.role import ROLE
from .connection import ControlMixin, SyncedPipelineMixin
from .named import NamedStatementMixin
from .pool import exhausted
from .refusal import accept, is_accepted, refuse_exempt
from .statement import StatementMixin

logger = logging.getLogger("tenantry")

# Seconds that a cancelled task waits for its ROLLBACK.
GRACE = 5.0

Pools = dict[str, AsyncConnectionPool[Any]]

_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pools] = WeakKeyDictionary()
# Their connections are in autocommit, and so are not to be shared.
_orm_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pools] = WeakKeyDictionary()


class AsyncSyncedPipeline(SyncedPipelineMixin, psycopg.AsyncPipeline):
    """End with a Sync and nothing after it."""


class AsyncBoundConnection(ControlMixin, psycopg.AsyncConnection[Any]):
    """Be a psycopg async connection whose BEGIN rides with the first statement."""

    async def begin(self, control: list[bytes]) -> None:
        """Send statements of :meth:`take_control` in a message of their own."""
        async with self.lock:
            await self.wait(self.send_control(control))

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[psycopg.AsyncPipeline]:
        """Open psycopg's pipeline mode, safe behind a transaction pooler."""
        if self._pipeline is None:
            self._pipeline = AsyncSyncedPipeline(self)
        async with super().pipeline() as pipeline:
            yield pipeline


class AsyncBindingMixin(StatementMixin):
    """Run statements bound, as the sync cursors do."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Run a statement bound; see ``psycopg.AsyncCursor.execute``."""
        parent: Any = super()
        if self._pgconn.pipeline_status == PipelineStatus.OFF and not self.is_simple(
            query, params, **options
        ):
            async with self._conn.pipeline():
                await parent.execute(query, params, **options)
            return self
        self._unparsed = False
        try:
            await parent.execute(query, params, **options)
        except psycopg.Error:
            if not self._unparsed:
                raise
            # Not even BEGIN has happened. The error belongs into the transaction, and ends it.
            await self._conn.begin(self._control)
            await parent.execute(query, params, **options)
        return self

    async def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
        """Run a statement for each of `params_seq`; all run in the binding at the start."""
        self._many_bound = False
        parent: Any = super()
        async with self._conn.pipeline():
            await parent.executemany(query, params_seq, **options)


class AsyncCursor(AsyncBindingMixin, psycopg.AsyncClientCursor[Any]):
    """Merge parameters on the client, as Django's cursors do."""


class AsyncServerBindingCursor(AsyncBindingMixin, psycopg.AsyncCursor[Any]):
    """Leave parameters to the server, for ``OPTIONS["server_side_binding"]``."""


class AsyncServerSideCursor(NamedStatementMixin, AsyncBindingMixin, psycopg.AsyncServerCursor[Any]):
    """Be the bound server-side cursor, for ``OPTIONS["server_side_binding"]``."""


class AsyncMergingServerSideCursor(AsyncServerSideCursor, ClientCursorMixin[Any, Any]):
    """Be the bound server-side cursor that merges parameters on the client."""


@asynccontextmanager
async def aconnection(using: str = "default") -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Check out a psycopg async connection, in a transaction that carries the current binding.

    ``using`` is an alias of ``DATABASES`` with tenantry's ENGINE. The transaction is committed when
    the block ends and rolled back when it raises or is cancelled; either way the connection is back
    in the pool before anything else happens. A block without a statement sends nothing. Errors of
    statements are psycopg's, not Django's.

    Raises OperationalError when no connection becomes free in time, UnsupportedServerError for a
    server before PostgreSQL 15 and RLSConfigurationError for a role that the settings refuse. Not
    for code that runs in a thread: there use Django's connections.
    """
    pool = await _open_pool(using)
    try:
        connection = await pool.getconn()
    except PoolTimeout as error:
        raise OperationalError(str(exhausted(using, pool))) from error
    try:
        try:
            know_server(using, connection)
            await accept_role(using, pool, connection)
            yield connection
        except BaseException as reason:
            try:
                await finish(connection.rollback(), hurry=not isinstance(reason, Exception))
            except (psycopg.Error, TimeoutError) as error:
                logger.warning("error ignored in rollback of %r: %s", connection, error)
            raise
        await finish(connection.commit())
    finally:
        await finish(pool.putconn(connection))


async def arows(
    queryset: QuerySet[Any, Any], connection: psycopg.AsyncConnection[Any] | None = None
) -> list[tuple[Any, ...]]:
    """Return the rows of `queryset` without a thread, as ``values_list()`` would.

    Runs on `connection`, or on one of its own that it checks out from the queryset's database, in
    one round trip. The SQL is compiled now, so its predicates are those of the current binding. No
    related objects are prefetched and no instances made.
    """
    wanted = getattr(queryset.query, "tenantry_binding", None)
    if wanted is not None and wanted != current_binding():
        frame = push(wanted)
        try:
            return await arows(queryset, connection)
        finally:
            pop(frame)
    if connection is None:
        async with aconnection(queryset.db) as own, single_statement(own):
            return await arows(queryset, own)
    wrapper = know_server(queryset.db, connection)
    compiler: Any = queryset.query.clone().get_compiler(connection=wrapper)
    try:
        sql, params = compiler.as_sql()
    except EmptyResultSet:
        return []
    cursor = await connection.execute(sql, params)
    rows = await cursor.fetchall()
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


def know_server(using: str, connection: psycopg.AsyncConnection[Any]) -> Any:
    """Return Django's wrapper of `using`, which knows the version of the server that we reached.

    Raises UnsupportedServerError if that is too old.
    """
    wrapper: Any = connections[using]
    # Django would ask the server, which it cannot do in an event loop.
    wrapper.pg_version = connection.info.server_version
    wrapper.check_database_version_supported()
    return wrapper


async def accept_role(alias: str, pool: Any, connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise RLSConfigurationError if the settings refuse the role of a pool's connections."""
    if is_accepted(pool):
        return
    cursor = await connection.execute(ROLE)
    refuse_exempt(alias, await cursor.fetchone())
    await connection.commit()
    accept(pool)


async def aclose_pools() -> None:
    """Close the pools of the running event loop; the next connection makes a new one."""
    for pools in (_pools, _orm_pools):
        for pool in pools.pop(asyncio.get_running_loop(), {}).values():
            await finish(pool.close())


def orm_pools() -> Pools:
    """Return the pools that an async ORM uses in the running event loop."""
    return _orm_pools.setdefault(asyncio.get_running_loop(), {})


async def finish(coroutine: Coroutine[Any, Any, Any], *, hurry: bool = False) -> Any:
    """Run `coroutine` to its end, and only then let a cancellation through.

    Once cancelled, or with `hurry` from the start, it has ``GRACE`` seconds before it is cancelled
    too: on a path that has gone deaf it would never end. Raises TimeoutError if it was.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    # The scope holds off anyio's cancellation, wait() does not pass on a task's own.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task], timeout=GRACE if hurry or cancelled else None)
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                # Without effect on one that has ended; psycopg tries once more after the first.
                task.cancel()
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()):
            logger.warning("error ignored after cancellation: %s", failure)
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"given up after {GRACE:g} s")
    return task.result()


async def _open_pool(using: str) -> AsyncConnectionPool[Any]:
    pools = _pools.setdefault(asyncio.get_running_loop(), {})
    if using not in pools:
        pools[using] = _make_pool(using)
    pool = pools[using]
    await pool.open()
    return pool


def _make_pool(using: str) -> AsyncConnectionPool[Any]:
    wrapper: Any = connections[using]
    settings = wrapper.settings_dict
    given = settings["OPTIONS"].get("pool")
    options: dict[str, Any] = (
        dict(given) if isinstance(given, dict) else {"min_size": 0, "max_size": 10}
    )
    if settings["CONN_HEALTH_CHECKS"]:
        options["check"] = AsyncConnectionPool.check_connection
    server_side = settings["OPTIONS"].get("server_side_binding") is True

    async def prepare(connection: AsyncBoundConnection) -> None:
        connection.server_cursor_factory = (
            AsyncServerSideCursor if server_side else AsyncMergingServerSideCursor
        )
        connection.use_options(settings["OPTIONS"])
        await connection.set_autocommit(True)
        if connection.info.parameter_status("TimeZone") != wrapper.timezone_name:
            await connection.execute(wrapper.ops.set_time_zone_sql(), [wrapper.timezone_name])
        await wrapper.aprepare_connection(connection)
        if role := settings["OPTIONS"].get("assume_role"):
            await connection.execute(psycopg.sql.SQL("SET ROLE {}").format(role))
        await connection.set_autocommit(False)
        if level := settings["OPTIONS"].get("isolation_level"):
            await connection.set_isolation_level(level)
        connection.per_transaction = True

    return AsyncConnectionPool(
        connection_class=AsyncBoundConnection,
        kwargs={
            **wrapper.get_connection_params(),
            "cursor_factory": AsyncServerBindingCursor if server_side else AsyncCursor,
            "autocommit": False,
        },
        configure=prepare,
        open=False,
        **options,
    )
