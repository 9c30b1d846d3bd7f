"""Why a pool gives no connection: it only logs what failed, and who waits asks why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout, TooManyRequests

from ...mixins import Base


def told(error: Exception) -> str:
    """Return what `error` says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


class Refusals:
    """Remember why the last connection of a pool did not pass its check."""

    refusal: str | None = None

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Remember the error of the block, a check; the pool has to see it as well."""
        try:
            yield
        except Exception as error:
            self.refusal = f"the last one failed with {told(error)}"
            raise
        self.refusal = None


class RememberingPool(Refusals, ConnectionPool[Any]):
    """A pool that says why it has nothing to give."""

    # Around the project's function, which whoever looks finds in the pool, as in Django's.
    def _check_connection(self, conn: Any) -> None:
        with self.checking():
            super()._check_connection(conn)


class AsyncRememberingPool(Refusals, AsyncConnectionPool[Any]):
    """An async pool that says the same."""

    async def _check_connection(self, conn: Any) -> None:
        with self.checking():
            await super()._check_connection(conn)


class Attempts(Base):  # type: ignore[misc]
    """Remember why the last attempt to make a connection of this class failed."""

    failure: str | None = "the first attempt has not ended"

    @classmethod
    @contextmanager
    def attempt(cls) -> Iterator[None]:
        """Remember the error of the block."""
        try:
            yield
        except Exception as error:
            cls.failure = f"the last attempt failed with {told(error)}"
            raise


class SyncAttempts(Attempts):
    """Remember the errors of ``connect()``."""

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Any:
        """Connect; see ``psycopg.Connection.connect``."""
        with cls.attempt():
            return super().connect(*args, **kwargs)


class AsyncAttempts(Attempts):
    """Remember the errors of ``await connect()``."""

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Any:
        """Connect; see ``psycopg.AsyncConnection.connect``."""
        with cls.attempt():
            return await super().connect(*args, **kwargs)


def remembering(attempts: type[Attempts], connection_class: type[Any]) -> type[Any]:
    """Return a subclass of its own for a pool, as it is the pool's attempts that it remembers."""
    names = {"__module__": connection_class.__module__}
    return type(connection_class.__name__, (attempts, connection_class), names)


def sync_attempts(connection_class: Any, configure: Callable[[Any], None]) -> dict[str, Any]:
    """Return the options of a pool whose connections are made by these two."""

    def attempt(connection: Any) -> None:
        with connection.attempt():
            configure(connection)
        type(connection).failure = None

    return {
        "connection_class": remembering(SyncAttempts, connection_class),
        "configure": attempt,
    }


def async_attempts(
    connection_class: Any, configure: Callable[[Any], Awaitable[None]]
) -> dict[str, Any]:
    """Return the options of an async pool whose connections are made by these two."""

    async def attempt(connection: Any) -> None:
        with connection.attempt():
            await configure(connection)
        type(connection).failure = None

    return {
        "connection_class": remembering(AsyncAttempts, connection_class),
        "configure": attempt,
    }


def trouble(pool: Any) -> tuple[str, str] | None:
    """Return what no connection did, and why not; None where all are in use."""
    if failure := pool.connection_class.failure:
        return "could be made", failure
    if refusal := pool.refusal:
        return "passed the pool's check", refusal
    return None


def exhausted(alias: str, pool: Any) -> PoolTimeout:
    """Return psycopg_pool's error, saying why no connection came in time."""
    if found := trouble(pool):
        what, reason = found
        return PoolTimeout(
            f"no connection to the database {alias!r} {what} within {pool.timeout:g} s; {reason}"
        )
    return PoolTimeout(
        f"no connection of the database {alias!r} became free within {pool.timeout:g} s: all"
        f" {pool.max_size} are in use; raise OPTIONS['pool']['max_size'] (PostgreSQL's"
        " max_connections allowing) or ['timeout'], or end transactions sooner"
    )


def crowded(alias: str, pool: Any) -> TooManyRequests:
    """Return psycopg_pool's error, saying what to do where too many wait."""
    if found := trouble(pool):
        why = "none {}; {}".format(*found)
    else:
        why = (
            f"all {pool.max_size} are in use; raise that or ['max_size'] (PostgreSQL's"
            " max_connections allowing), or end transactions sooner"
        )
    return TooManyRequests(
        f"{pool.max_waiting} already wait for a connection of the database {alias!r}, and"
        f" OPTIONS['pool']['max_waiting'] allows no more: {why}"
    )
