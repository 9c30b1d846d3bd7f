"""Why a pool gives no connection: it only logs what failed, and who waits asks why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from psycopg_pool import PoolTimeout, TooManyRequests

from ...mixins import Base


class Attempts(Base):  # type: ignore[misc]
    """Remember why the last attempt to make, or to check, a connection of this class failed."""

    failure: str | None = None
    refusal: str | None = None

    @classmethod
    @contextmanager
    def attempt(cls, reason: str = "failure") -> Iterator[None]:
        """Remember the error of the block."""
        try:
            yield
        except Exception as error:
            setattr(cls, reason, f"{type(error).__name__}: {' '.join(str(error).split())}")
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


def remembered(called: Callable[[Any], None], reason: str) -> Callable[[Any], None]:
    """Return `called`, which a pool calls with a connection; `reason` says why it failed last."""

    def run(connection: Any) -> None:
        with connection.attempt(reason):
            called(connection)
        setattr(type(connection), reason, None)

    return run


def async_remembered(
    called: Callable[[Any], Awaitable[None]], reason: str
) -> Callable[[Any], Awaitable[None]]:
    """Return what :func:`remembered` does, of a coroutine function."""

    async def run(connection: Any) -> None:
        with connection.attempt(reason):
            await called(connection)
        setattr(type(connection), reason, None)

    return run


def sync_attempts(connection_class: Any, configure: Callable[[Any], None]) -> dict[str, Any]:
    """Return the options of a pool whose connections are made by these two."""
    return {
        "connection_class": remembering(SyncAttempts, connection_class),
        "configure": remembered(configure, "failure"),
    }


def async_attempts(
    connection_class: Any, configure: Callable[[Any], Awaitable[None]]
) -> dict[str, Any]:
    """Return the options of an async pool whose connections are made by these two."""
    return {
        "connection_class": remembering(AsyncAttempts, connection_class),
        "configure": async_remembered(configure, "failure"),
    }


def exhausted(alias: str, pool: Any) -> PoolTimeout:
    """Return psycopg_pool's error, saying why no connection came in time."""
    attempts = pool.connection_class
    if reason := attempts.failure or attempts.refusal:
        what = "could be made" if attempts.failure else "passed OPTIONS['pool']['check']"
        return PoolTimeout(
            f"no connection to the database {alias!r} {what} within {pool.timeout:g} s; the last"
            f" attempt failed with {reason}"
        )
    return PoolTimeout(
        f"no connection of the database {alias!r} became free within {pool.timeout:g} s: all"
        f" {pool.max_size} are in use; raise OPTIONS['pool']['max_size'] (PostgreSQL's"
        " max_connections allowing) or ['timeout'], or end transactions sooner"
    )


def crowded(alias: str, pool: Any) -> TooManyRequests:
    """Return psycopg_pool's error, saying what to raise where too many wait."""
    return TooManyRequests(
        f"{pool.max_waiting} already wait for a connection of the database {alias!r}, and"
        f" OPTIONS['pool']['max_waiting'] allows no more: all {pool.max_size} are in use; raise"
        " that or ['max_size'] (PostgreSQL's max_connections allowing), or end transactions sooner"
    )
