"""``OPTIONS["pool"]``: what a project may ask of psycopg_pool, for sync and for async code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction, signature
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .options import meant_by

# What is not for a project to set, and why.
REFUSED = {
    "connection_class": "the connections are of a class that binds them; remove it",
    "configure": "the connections are prepared as the settings say; remove it, a receiver of"
    " Django's signal connection_created can prepare those of sync code",
    "kwargs": "parameters of connections go beside 'pool'; move them to OPTIONS",
    "open": "the pool is opened when it is first used; remove it",
}
# What psycopg_pool calls with a connection.
CALLED = ("check", "reset")
# What psycopg_pool takes, in the release that is installed.
KNOWN = tuple(signature(ConnectionPool).parameters)
CHECKS = (ConnectionPool.check_connection, AsyncConnectionPool.check_connection)


def check_options(alias: str, given: dict[str, Any]) -> None:
    """Raise ImproperlyConfigured for options that no pool of `alias` can have."""
    for name, reason in REFUSED.items():
        if name in given:
            raise ImproperlyConfigured(
                f"OPTIONS['pool'] of the database {alias!r} has {name!r}, but {reason}"
            )
    if given.get("close_returns"):
        raise ImproperlyConfigured(
            f"OPTIONS['pool'] of the database {alias!r} has 'close_returns', but what is closed"
            " here is not to be used again; remove it: Django returns connections by itself"
        )
    for name in given:
        if name not in KNOWN:
            close = meant_by(str(name), KNOWN)
            meant = f" (did you mean {close!r}?)" if close else ""
            raise ImproperlyConfigured(
                f"OPTIONS['pool'] of the database {alias!r} is refused by psycopg_pool: it has no"
                f" option {name!r}{meant}; correct it, or remove it: parameters of connections go"
                " beside 'pool'"
            )
    for name in CALLED:
        if (called := given.get(name)) and not callable(called):
            raise ImproperlyConfigured(
                f"OPTIONS['pool'][{name!r}] of the database {alias!r} is {called!r}; it must be a"
                " function that takes a connection"
            )


def choose_check(pool_class: Any, options: dict[str, Any], settings: dict[str, Any]) -> None:
    """Let psycopg_pool's own check be that of `pool_class`, where the settings ask for it."""
    if settings["CONN_HEALTH_CHECKS"]:
        options.setdefault("check", pool_class.check_connection)
    if options.get("check") in CHECKS:
        options["check"] = pool_class.check_connection


def sync_options(settings: dict[str, Any], *, per_transaction: bool) -> dict[str, Any]:
    """Return psycopg_pool's options for the pool of sync code."""
    given = settings["OPTIONS"]["pool"]
    options = {} if given is True else dict(given)
    choose_check(ConnectionPool, options, settings)
    if per_transaction:
        # For a session at a time the pool has what Django's pool has.
        options |= {name: looking_after(options[name]) for name in CALLED if options.get(name)}
    return options


def looking_after(called: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return `called`, which the pool calls between two who have a connection."""

    def run(connection: Any) -> None:
        with connection.looked_after():
            called(connection)

    return run


def async_looking_after(
    called: Callable[[Any], Awaitable[None]],
) -> Callable[[Any], Awaitable[None]]:
    """Return the coroutine function `called`, which the pool calls in the same way."""

    async def run(connection: Any) -> None:
        with connection.looked_after():
            await called(connection)

    return run


def async_options(using: str, settings: dict[str, Any], *, ahead: bool) -> dict[str, Any]:
    """Return psycopg_pool's options; the pool is empty at first, but for one that connects `ahead`.

    Raises ImproperlyConfigured for options that psycopg_pool refuses, and for functions that an
    async pool cannot await.
    """
    given = settings["OPTIONS"].get("pool")
    options: dict[str, Any] = (
        dict(given) if isinstance(given, dict) else {"min_size": 0, "max_size": 10}
    )
    choose_check(AsyncConnectionPool, options, settings)
    for name in CALLED:
        if (called := options.get(name)) and not iscoroutinefunction(called):
            raise ImproperlyConfigured(
                f"OPTIONS['pool'][{name!r}] of the database {using!r} is {called!r}, which"
                " aconnection() cannot await; give aconnection() an alias of its own, with a"
                " coroutine function there, or none"
            )
    try:
        planned: AsyncConnectionPool[Any] = AsyncConnectionPool(open=False, **options)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"OPTIONS['pool'] of the database {using!r} is refused by psycopg_pool: {error}; set it"
            " to options of its ConnectionPool, such as {'min_size': 2, 'max_size': 10}"
        ) from error
    options |= {name: async_looking_after(options[name]) for name in CALLED if options.get(name)}
    return options if ahead else options | {"min_size": 0, "max_size": planned.max_size}
