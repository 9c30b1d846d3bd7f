"""Native async connections: psycopg's, bound, from a pool of the event loop.

Django's ORM runs in threads even in async code. What is hot enough to do without a thread gets a
``psycopg.AsyncConnection`` here, in a transaction whose statements carry the current binding.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from ...checks.role import ROLE, role_parameters
from ...engine import is_bound
from ...exceptions import RLSConfigurationError
from .apply import assume
from .async_cursor import AsyncCursor, AsyncServerBindingCursor, named_cursor_class
from .connection import ControlMixin
from .exhaustion import async_attempts, crowded, exhausted
from .finishing import finish
from .lent import AsyncLentMixin
from .loops import LoopPool, running_loop
from .pool_options import async_options
from .preferences import BY_METHOD, OF_CURSORS, async_preferences
from .refusal import accept, is_accepted, refuse_exempt
from .synced import AsyncSyncedPipeline

logger = logging.getLogger("tenantry")


class AsyncBoundConnection(AsyncLentMixin, ControlMixin, psycopg.AsyncConnection[Any]):
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
        self.preferred = async_preferences(self)
        self.per_transaction = True

    async def restore(self) -> None:
        """Undo what a block has set, before the next one gets the connection."""
        self._notice_handlers.clear()
        self._notify_handlers.clear()
        if (found := async_preferences(self)) == self.preferred or self.closed:
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
        async with AsyncExitStack() as stack:
            # See BoundConnection.pipeline().
            async with self.lock:
                self._check_connection_ok()
                pipeline = self._pipeline or AsyncSyncedPipeline(self, own=own)
                self._pipeline = await stack.enter_async_context(pipeline)
            yield pipeline


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

    Raises OperationalError when no connection becomes free in time, too many wait for one, or the
    pool is closed meanwhile, UnsupportedServerError for a server before PostgreSQL 15,
    ImproperlyConfigured for settings that contradict each other, RLSConfigurationError for another
    ENGINE or a role that the settings refuse, and RuntimeError without a running event loop of
    asyncio, such as under Trio. Not for code that runs in a thread: there use Django's connections.
    """
    pool = await _open_pool(using)
    try:
        connection = await pool.getconn()
    except PoolTimeout as error:
        raise OperationalError(str(exhausted(using, pool))) from error
    except TooManyRequests as error:
        raise OperationalError(str(crowded(using, pool))) from error
    except PoolClosed as error:
        raise OperationalError(str(error)) from error
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
        if connection.is_left_open():
            # Nobody else could commit anything on it, or would get results when they are there.
            await connection.close()
        await connection.restore()
    except psycopg.Error as error:
        logger.warning("closing %r, which cannot be restored: %s", connection, error)
        await connection.close()
    finally:
        connection.lent = False
        await pool.putconn(connection)


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
