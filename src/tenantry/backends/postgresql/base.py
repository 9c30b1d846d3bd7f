"""``ENGINE = "tenantry.backends.postgresql"``: Django's PostgreSQL backend, bound.

Everything that a project knows of Django's backend (OPTIONS, pooling, server-side binding) works
here. Cursors send the current binding in the same message as the statement, so nothing has to be
set up, tracked or cleaned up per request.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.core.exceptions import ImproperlyConfigured

try:
    import psycopg
except ImportError as error:
    raise ImproperlyConfigured(
        "tenantry's ENGINE needs psycopg 3, which is not installed; psycopg2 cannot send a tenant"
        " with a statement. Install it with: pip install 'psycopg[binary,pool]>=3.2'"
    ) from error

from django.db import NotSupportedError
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import register_tzloader
from psycopg.pq import Format, TransactionStatus

from ...binding import current_binding
from ...checks.role import ROLE, role_parameters
from ...conf import rls_tenants
from ...exceptions import ScopeError, UnsupportedServerError
from ...mixins import Base
from . import driver
from .client import DatabaseClient
from .connection import BoundConnection
from .creation import DatabaseCreation, OwnedDatabaseCreation
from .cursor import MergingServerSideCursor, ServerSideCursor
from .operations import DatabaseOperations
from .options import take_own
from .pool import PoolingMixin
from .refusal import accept, is_accepted, refuse_exempt
from .savepoints import SavepointSQL
from .schema import DatabaseSchemaEditor

MINIMUM_PSYCOPG = (3, 2)
MINIMUM_POSTGRESQL = 15
BEGUN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)

if base.psycopg_version()[:2] < MINIMUM_PSYCOPG:
    raise ImproperlyConfigured(
        f"tenantry's ENGINE needs psycopg 3.2 or newer, not {psycopg.__version__}; upgrade it with:"
        " pip install 'psycopg[binary,pool]>=3.2'"
    )


class BoundConnections(Base):  # type: ignore[misc]
    """Make every cursor of a PostgreSQL backend send the current binding with its statements."""

    creation_class: Any = DatabaseCreation
    creation: Any
    # Whoever looks for bound databases asks for this, and need not import this module.
    sends_binding = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A warning of Django's points to who calls a method, so those that make a test database are
        # overridden only where an owner is asked for.
        if "OWNER" in (self.settings_dict.get("TEST") or {}):
            self.creation = OwnedDatabaseCreation(self)

    def get_connection_params(self) -> dict[str, Any]:
        """Return the parameters of a new connection, without the options of ours."""
        rls_tenants()  # A wrong setting shows before a connection is made, not at a statement.
        params: dict[str, Any] = super().get_connection_params()
        take_own(self.alias, params)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a new connection whose named cursors are bound too."""
        connection = super().get_new_connection(conn_params)
        self.bind_connection(connection)
        return connection

    def bind_connection(self, connection: BoundConnection) -> None:
        """Tell a connection that is new here what the settings say about it."""
        if connection.closed:
            return  # Django finds that out when it has it, and so can return it to its pool.
        connection.restore()
        connection.server_cursor_factory = self.named_cursor_class()
        connection.use_options(self.settings_dict["OPTIONS"])

    def named_cursor_class(self) -> type[ServerSideCursor]:
        """Return the class of server-side cursors that OPTIONS ask for now."""
        on_server = self.settings_dict["OPTIONS"].get("server_side_binding") is True
        return ServerSideCursor if on_server else MergingServerSideCursor

    def check_database_version_supported(self) -> None:
        """Raise UnsupportedServerError if the server is too old for Django or for tenantry."""
        needs = (
            f"tenantry needs PostgreSQL {MINIMUM_POSTGRESQL} or newer; upgrade the server of the"
            f" database {self.alias!r}"
        )
        try:
            super().check_database_version_supported()
        except NotSupportedError as error:
            # Django's own sentence stays whole: its test suite looks for it.
            raise UnsupportedServerError(f"{error} {needs}") from error
        # None says that Django supports all versions.
        if self.features.minimum_database_version is None:
            return
        found: tuple[int, ...] = self.get_database_version()
        if found < (MINIMUM_POSTGRESQL,):
            version = ".".join(map(str, found))
            raise UnsupportedServerError(f"PostgreSQL {version} is too old: {needs}")

    def prepare_database(self) -> None:
        """Prepare the database for ``migrate``.

        Raises ScopeError where that would run as the admin role, which can change no tables.
        """
        role = rls_tenants().admin_role
        if role is not None and current_binding().is_admin:
            raise ScopeError(
                f"migrate runs in the scope of the admin, and so as the role {role!r}, which owns"
                " no tables and may make none; call it outside of admin_context(), and open that"
                " in the operations which need to see every row"
            )
        super().prepare_database()

    def init_connection_state(self) -> None:
        """Prepare a new connection, or refuse it.

        Raises RLSConfigurationError for a role that no policy binds, if the settings say so.
        """
        super().init_connection_state()
        self.accept_role()

    def accept_role(self) -> None:
        """Close the connection and raise RLSConfigurationError if the settings refuse its role."""
        connection: BoundConnection = self.connection
        pool = self.pool
        if is_accepted(pool):
            return
        try:
            with connection.cursor() as cursor:
                cursor.execute(ROLE, role_parameters(self.settings_dict["OPTIONS"]))
                refuse_exempt(self.alias, cursor.fetchone())
            if not connection.autocommit:
                connection.commit()
        except BaseException:
            # Else the next statement would use it.
            self.close()
            raise
        accept(pool)

    async def aprepare_connection(self, connection: Any) -> None:
        """Prepare an async connection; a backend with types of its own registers them."""

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a bound cursor; Django would make a named one from a class of its own.

        Where the binding is sealed it has no name: any statement on the connection could read its
        rows by that, also one that somebody else has injected SQL into.
        """
        if name is None or rls_tenants().sealed:
            return super().create_cursor()
        connection: psycopg.Connection[Any] = self.connection
        # One that SQL, or psycopg, has begun is a transaction too. Where another thread closes a
        # cursor meanwhile, as the event loop's does for an iteration that is left, nobody can tell.
        begun = connection.pgconn.transaction_status in BEGUN
        cursor = self.named_cursor_class()(
            connection, name, scrollable=False, withhold=connection.autocommit and not begun
        )
        loader: Any = connection.adapters.get_loader(base.TIMESTAMPTZ_OID, Format.TEXT)
        if self.timezone != loader.timezone:
            register_tzloader(self.timezone, cursor)
        return cursor


class RidingSavepoints(Base):  # type: ignore[misc]
    """Make no cursor for a savepoint that waits for the next message.

    That would be most of what a nested ``atomic()`` costs. Whoever looks at cursors finds one for
    each savepoint, as with Django's backend.
    """

    def kept(self, statement: SavepointSQL) -> bool:
        """Keep `statement` for the next message if it can wait and nobody looks at cursors."""
        connection: BoundConnection | None = self.connection
        return (
            connection is not None
            and not (self.queries_logged or self.execute_wrappers or self.needs_rollback)
            and connection.keep(statement)
        )

    def _savepoint(self, sid: str) -> None:
        if not self.kept(self.ops.savepoint_create_sql(sid)):
            super()._savepoint(sid)

    def _savepoint_rollback(self, sid: str) -> None:
        if not self.kept(self.ops.savepoint_rollback_sql(sid)):
            super()._savepoint_rollback(sid)

    def _savepoint_commit(self, sid: str) -> None:
        if not self.kept(self.ops.savepoint_commit_sql(sid)):
            super()._savepoint_commit(sid)


class DatabaseWrapper(PoolingMixin, RidingSavepoints, BoundConnections, base.DatabaseWrapper):
    """Django's PostgreSQL backend, with bound cursors and tenant predicates in ORM SQL."""

    Database = driver
    SchemaEditorClass = DatabaseSchemaEditor
    ops_class = DatabaseOperations
    client_class = DatabaseClient


def __getattr__(name: str) -> Any:
    if name == "AsyncDatabaseWrapper":
        # django-async-backend looks for it here. Nobody else needs that package.
        return import_module(f"{__package__}.async_orm").AsyncDatabaseWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
