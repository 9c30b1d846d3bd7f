"""The connections of django-async-backend, an async ORM, bound.

That package asks the ENGINE's ``base`` module for an ``AsyncDatabaseWrapper``. This module is
imported for that only, so that who does not use the package does not need it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured

from ...conf import rls_tenants
from .aio import AsyncBoundConnection, accept_role
from .apply import assume
from .async_cursor import AsyncBindingMixin, AsyncServerSideCursor, named_cursor_class
from .lean import SLOTS, LeanMixin
from .loops import running_loop
from .options import take_own

PACKAGE = "django-async-backend"
# Its minor versions follow Django's, and what is overridden here is private.
OLDEST, TOO_NEW = (6, 1, 5), (6, 2)


def require_package() -> None:
    """Raise ImproperlyConfigured unless a version is installed that is known to be bound."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = ""
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if not OLDEST <= numbers < TOO_NEW:
        raise ImproperlyConfigured(
            f"tenantry binds the async connections of {PACKAGE} 6.1.5 or newer, before 6.2;"
            f" found {found or 'none'}; install it with:"
            " pip install 'django-tenantry[async-backend]'"
        )


require_package()

from django_async_backend.db.backends.postgresql import async_base  # noqa: E402


@lru_cache(maxsize=64)
def bound(cursor_class: type[Any]) -> type[Any]:
    """Return a subclass of the async `cursor_class` that sends the binding with statements."""
    slots = {"__slots__": SLOTS}
    return type(cursor_class.__name__, (LeanMixin, AsyncBindingMixin, cursor_class), slots)


class AsyncDatabaseOperations(async_base.AsyncDatabaseOperations):  # type: ignore[misc]
    """Compile async ORM queries with tenant predicates."""

    compiler_module = "tenantry.backends.postgresql.async_compiler"


class AsyncDatabaseWrapper(async_base.AsyncDatabaseWrapper):  # type: ignore[misc]
    """The package's wrapper, with connections and cursors that are bound."""

    Database = SimpleNamespace(**vars(psycopg) | {"AsyncConnection": AsyncBoundConnection})
    ops_class = AsyncDatabaseOperations

    def __init__(self, settings_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        options = dict(settings_dict["OPTIONS"])
        if given := options.get("pool"):
            pool = {} if given is True else given
            options["pool"] = {**pool, "connection_class": AsyncBoundConnection}
        super().__init__({**settings_dict, "OPTIONS": options}, *args, **kwargs)

    @property
    def _connection_pools(self) -> dict[str, Any]:
        # For each event loop, and where aclose_pools() finds them.
        return running_loop().orm_pools

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters of a new connection, its cursors bound."""
        rls_tenants()  # A wrong setting shows before a connection is made, not at a statement.
        params: dict[str, Any] = super().get_connection_params()
        take_own(self.alias, params)
        params["cursor_factory"] = bound(params["cursor_factory"])
        return params

    async def _configure_connection(self, connection: AsyncBoundConnection) -> bool:
        connection.use_options(self.settings_dict["OPTIONS"])
        connection.server_cursor_factory = self.named_cursor_class()
        changed: bool = await super()._configure_connection(connection)
        return changed

    async def _configure_role(self, connection: AsyncBoundConnection) -> bool:
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if role:
            # The package quotes the name as Django does, whose pool would wait for itself.
            await connection.execute(assume(role))
        return bool(role)

    async def init_connection_state(self) -> None:
        """Prepare a new connection, or refuse it and close it."""
        await super().init_connection_state()
        try:
            await accept_role(self.alias, self.pool, self.connection)
        except BaseException:
            await self.close()
            raise

    def named_cursor_class(self) -> type[AsyncServerSideCursor]:
        """Return the class of server-side cursors that OPTIONS ask for now."""
        return named_cursor_class(self.settings_dict["OPTIONS"])

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a bound cursor; the package would make a named one from a class of its own.

        Where the binding is sealed it has no name, as in sync code.
        """
        if name is None or rls_tenants().sealed:
            return super().create_cursor()
        connection: psycopg.AsyncConnection[Any] = self.connection
        cursor = self.named_cursor_class()(
            connection, name, scrollable=False, withhold=connection.autocommit
        )
        async_base.register_tzloader(self.timezone, cursor)
        return cursor
