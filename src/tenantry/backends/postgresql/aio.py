"""Native async connections: psycopg's, bound, from a pool of the event loop.

Django's ORM runs in threads even in async code. What is hot enough to do without a thread gets a
``psycopg.AsyncConnection`` here, in a transaction whose statements carry the current binding.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from copy import copy
from operator import attrgetter
from typing import Any, Self

import psycopg
from django.core.exceptions import EmptyResultSet, ImproperlyConfigured
from django.db import OperationalError, connections
from django.db.models import QuerySet
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import PoolTimeout, TooManyRequests

from ...binding import current_binding
from ...checks.role import ROLE, role_parameters
from ...engine import is_bound
from ...exceptions import RLSConfigurationError
from ...queries import binding_of_query
from .apply import assume
from .connection import ControlMixin, SyncedPipelineMixin
from .copying import advise
from .exhaustion import async_attempts, crowded, exhausted
from .finishing import finish
from .lean import SLOTS, LeanMixin
from .lent import LentMixin
from .loops import LoopPool, running_loop
from .named import NamedStatementMixin
from .pool_options import async_options
from .preferences import OF_CURSORS, OF_TRANSACTIONS
from .refusal import accept, is_accepted, refuse_exempt
from .statement import StatementMixin

logger = logging.getLogger("tenantry")


class AsyncSyncedPipeline(SyncedPipelineMixin, psycopg.AsyncPipeline):
    """End with a Sync and nothing after it."""

    async def __aenter__(self) -> Self:
        level = self.level
        try:
            return await super().__aenter__()
        except BaseException as error:
            # psycopg lets others run once it has entered, and may be cancelled there: nobody would
            # leave pipeline mode, and the connection would go back to the pool in it.
            if self.level > level:
                self._exit(error)
            raise


# What a block may set on its connection, with a method or as an attribute.
BY_METHOD = ("autocommit", *OF_TRANSACTIONS)
preferences = attrgetter(*BY_METHOD, *OF_CURSORS)


class AsyncBoundConnection(LentMixin, ControlMixin, psycopg.AsyncConnection[Any]):
    """A psycopg async connection whose BEGIN rides with the first statement."""

    # What the settings say about it.
    preferred: tuple[Any, ...] = ()

    async def use_settings(self, wrapper: Any, level: psycopg.IsolationLevel | None) -> None:
        """Be what the settings of Django's `wrapper` say, for all blocks that will have it."""
        options = wrapper.settings_dict["OPTIONS"]
        self.server_cursor_factory = named_cursor_class(options)
        self.use_options(options)
        await self.set_autocommit(True)
        if self.info.parameter_status("TimeZone") != wrapper.timezone_name:
            await self.execute(wrapper.ops.set_time_zone_sql(), [wrapper.timezone_name])
        await wrapper.aprepare_connection(self)
        if role := options.get("assume_role"):
            await self.execute(assume(role))
        await self.set_autocommit(False)
        if level:
            await self.set_isolation_level(level)
        self.preferred = preferences(self)
        self.per_transaction = True

    async def restore(self) -> None:
        """Undo what a block has set, before the next one gets the connection."""
        if (found := preferences(self)) == self.preferred or self.closed:
            return
        for name, now, preferred in zip(BY_METHOD + OF_CURSORS, found, self.preferred, strict=True):
            if now == preferred:
                continue
            if name in BY_METHOD:
                await getattr(self, f"set_{name}")(preferred)
            else:
                setattr(self, name, preferred)

    async def begin(self, control: list[bytes]) -> None:
        """Send statements of :meth:`take_control` in a message of their own."""
        async with self.lock:
            await self.wait(self.send_control(control))

    @asynccontextmanager
    async def pipeline(self, *, own: bool = False) -> AsyncIterator[psycopg.AsyncPipeline]:
        """Open psycopg's pipeline mode, safe behind a transaction pooler.

        It is `own` where a cursor opens it for a statement.
        """
        if self._pipeline is None:
            self._pipeline = AsyncSyncedPipeline(self)
            self._pipeline.own = own
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
            async with self.block_around(query), self._conn.pipeline(own=True):
                await parent.execute(query, params, **options)
            return self
        self._unparsed = False
        try:
            await parent.execute(query, params, **options)
        except psycopg.Error:
            if not self._unparsed:
                raise
            # Not even BEGIN has happened. The error belongs in the transaction, and ends it.
            await self._conn.begin(self._control)
            await parent.execute(query, params, **options)
        return self

    async def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
        """Run a statement for each of `params_seq`; all run in the binding at the start."""
        self._many = None
        parent: Any = super()
        async with self.block_around(query), self._conn.pipeline(own=True):
            await parent.executemany(query, params_seq, **options)

    @asynccontextmanager
    async def copy(
        self, statement: Any, params: Any = None, *, writer: Any = None
    ) -> AsyncIterator[psycopg.AsyncCopy]:
        """Start a COPY bound; see ``psycopg.AsyncCursor.copy``."""
        binding = self._binding()
        parent: Any = super()
        async with parent.copy(statement, params, writer=writer) as copy:
            advise(copy, binding)
            yield copy

    def block_around(self, query: Any) -> AbstractAsyncContextManager[Any]:
        """Return a transaction block for what could commit without one."""
        return self._conn.transaction() if self.may_commit(query) else nullcontext()


class AsyncCursor(LeanMixin, AsyncBindingMixin, psycopg.AsyncClientCursor[Any]):
    """Merge parameters on the client, as Django's cursors do."""

    __slots__ = SLOTS


class AsyncServerBindingCursor(LeanMixin, AsyncBindingMixin, psycopg.AsyncCursor[Any]):
    """Leave parameters to the server, for ``OPTIONS["server_side_binding"]``."""

    __slots__ = SLOTS


class AsyncServerSideCursor(NamedStatementMixin, AsyncBindingMixin, psycopg.AsyncServerCursor[Any]):
    """The bound server-side cursor, for ``OPTIONS["server_side_binding"]``."""


class AsyncMergingServerSideCursor(AsyncServerSideCursor, ClientCursorMixin[Any, Any]):
    """The bound server-side cursor that merges parameters on the client."""


def named_cursor_class(options: Mapping[str, Any]) -> type[AsyncServerSideCursor]:
    """Return the class of server-side cursors that OPTIONS ask for."""
    on_server = options.get("server_side_binding") is True
    return AsyncServerSideCursor if on_server else AsyncMergingServerSideCursor


@asynccontextmanager
async def aconnection(using: str = "default") -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Check out a psycopg async connection, in a transaction that carries the current binding.

    ``using`` is an alias of ``DATABASES`` with tenantry's ENGINE. The transaction is committed when
    the block ends and rolled back when it raises or is cancelled; either way the connection is back
    in the pool before anything else happens. A block without a statement sends nothing; psycopg's
    ``transaction()`` in it is a savepoint. Errors of statements are psycopg's, not Django's.

    What the block sets on the connection (autocommit, isolation level, row factory) is undone when
    it ends. What PostgreSQL refuses in a transaction block, such as VACUUM, is refused here in
    autocommit too; run it on a cursor of Django's.

    Raises OperationalError when no connection becomes free in time or too many wait for one,
    UnsupportedServerError for a server before PostgreSQL 15, ImproperlyConfigured for settings that
    contradict each other and RLSConfigurationError for another ENGINE or a role that the settings
    refuse. Not for code that runs in a thread: there use Django's connections.
    """
    pool = await _open_pool(using)
    try:
        connection = await pool.getconn()
    except PoolTimeout as error:
        raise OperationalError(str(exhausted(using, pool))) from error
    except TooManyRequests as error:
        raise OperationalError(str(crowded(using, pool))) from error
    connection.lent = True
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
        await finish(give_back(pool, connection))


async def give_back(pool: LoopPool, connection: AsyncBoundConnection) -> None:
    """Return a connection, as the settings want it, to its pool."""
    try:
        if connection.is_in_two_phases():
            # Nobody else could commit anything on it.
            await connection.close()
        await connection.restore()
    except psycopg.Error as error:
        logger.warning("closing %r, which cannot be restored: %s", connection, error)
        await connection.close()
    finally:
        connection.lent = False
        await pool.putconn(connection)


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


def know_server(using: str, connection: psycopg.AsyncConnection[Any]) -> Any:
    """Return Django's wrapper of `using`, which knows the version of the server that we reached.

    Raises UnsupportedServerError if that is too old.
    """
    wrapper: Any = connections[using]
    # Django would ask the server, which it cannot do in an event loop.
    wrapper.pg_version = connection.info.server_version
    wrapper.check_database_version_supported()
    return wrapper


def in_transaction_of(connection: Any, wrapper: Any) -> Any:
    """Return a wrapper that knows whether `connection` is in a transaction.

    Django asks before it locks rows; the wrapper itself would connect to find out.
    """
    wrapper = copy(wrapper)
    wrapper.connection, wrapper.prepared = None, True
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    wrapper.autocommit = connection.single or (connection.autocommit and idle)
    return wrapper


async def accept_role(alias: str, pool: Any, connection: psycopg.AsyncConnection[Any]) -> None:
    """Raise RLSConfigurationError if the settings refuse the role of a pool's connections."""
    if is_accepted(pool):
        return
    options = connections[alias].settings_dict["OPTIONS"]
    cursor = await connection.execute(ROLE, role_parameters(options))
    refuse_exempt(alias, await cursor.fetchone())
    await connection.commit()
    accept(pool)


async def _open_pool(using: str) -> LoopPool:
    loop = running_loop()
    if using not in loop.pools:
        loop.pools[using] = _make_pool(using, ahead=loop.lasts)
    pool = loop.pools[using]
    if pool.closed:
        await pool.open()
    return pool


def _make_pool(using: str, *, ahead: bool) -> LoopPool:
    wrapper: Any = connections[using]
    settings = wrapper.settings_dict
    if not is_bound(wrapper):
        raise RLSConfigurationError(
            f"the database {using!r} has the ENGINE {settings['ENGINE']!r}, which sends no tenant;"
            " set it to 'tenantry.backends.postgresql', or name another database"
        )
    wrapper.check_settings()
    on_server = settings["OPTIONS"].get("server_side_binding") is True
    level = isolation_level(using, settings["OPTIONS"])

    async def prepare(connection: AsyncBoundConnection) -> None:
        pool.made.add(connection)
        await connection.use_settings(wrapper, level)

    pool = LoopPool(
        **async_attempts(AsyncBoundConnection, prepare),
        kwargs={
            **wrapper.get_connection_params(),
            "cursor_factory": AsyncServerBindingCursor if on_server else AsyncCursor,
            "autocommit": False,
        },
        **async_options(using, settings, ahead=ahead),
    )
    return pool


def isolation_level(using: str, options: dict[str, Any]) -> psycopg.IsolationLevel | None:
    """Return the isolation level of OPTIONS; raise ImproperlyConfigured for anything else."""
    given = options.get("isolation_level")
    try:
        return psycopg.IsolationLevel(given) if given else None
    except ValueError as error:
        raise ImproperlyConfigured(
            f"OPTIONS['isolation_level'] of the database {using!r} is {given!r}; it must be one of"
            " psycopg.IsolationLevel"
        ) from error
