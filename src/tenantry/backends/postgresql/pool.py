"""Pooling: psycopg_pool's, for a whole session as in Django, or for a transaction at a time.

With ``OPTIONS = {"pool": {...}, "pool_mode": "transaction"}`` a driver connection is checked out
while a transaction or a cursor is open, and returned at once after. Because no connection carries a
tenant, it can serve anybody next. What would outlive a transaction is refused where it can be seen.
"""

from __future__ import annotations

import atexit
import gc
import math
import os
import sys
import threading
import time
import weakref
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.utils.asyncio import async_unsafe
from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

from ...mixins import Base
from .apply import assume
from .connection import BoundConnection
from .exhaustion import RememberingPool, crowded, exhausted, sync_attempts
from .inherited import leave_to_parent
from .lent import LendingPool, LentMixin
from .pool_options import check_options, sync_options
from .sessions import whole_session

SESSION, TRANSACTION = "session", "transaction"

_pools: dict[tuple[str, int], ConnectionPool[Any]] = {}
# By process, as a thread of the parent may hold the parent's while another one forks.
_creating: dict[int, threading.Lock] = {}
_collected = -math.inf


def close_pools() -> None:
    """Close the pools of this process, whose threads could not be ended once Python finalizes."""
    for key in list(_pools):
        if key[1] == os.getpid():
            _pools.pop(key).close()


atexit.register(close_pools)


def collect() -> None:
    """Collect garbage, unless that has just happened: it takes long, and holds up all threads."""
    global _collected
    if time.monotonic() - _collected > 1:
        # Before, for threads that come meanwhile, and after, because it may take that long.
        _collected = time.monotonic()
        gc.collect()
        _collected = time.monotonic()


def replace(pool: Any, connection: Any) -> None:
    """Close a connection that nobody returned, and let the pool make another one.

    Somebody may still hold a cursor of it, who would close that in the next one's transaction.
    """
    connection.close()
    pool.putconn(connection)


class PooledConnection(LentMixin, BoundConnection):
    """A connection of a pool."""


class PoolingMixin(Base):  # type: ignore[misc]
    """Give a PostgreSQL backend pools of bound connections, in either mode."""

    alias: str
    autocommit: bool
    connection: Any
    # The process whose connection it is, and the wrapper, of which others may be shallow copies.
    process = holder = 0
    in_atomic_block: bool
    settings_dict: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Whether Django has prepared this wrapper, so that a checkout needs no more than itself.
        self.prepared = False
        # The cursors that keep the connection checked out, and how many methods that hand it out.
        self.cursors: weakref.WeakSet[Any] = weakref.WeakSet()
        self.taken = 0
        # The thread that Django lets use it.
        self.thread = threading.get_ident()

    @property
    def per_transaction(self) -> bool:
        """Whether connections are checked out for a transaction at a time."""
        mode = self.settings_dict["OPTIONS"].get("pool_mode")
        # Databases are created and dropped from another one, which has no pool.
        return bool(mode == TRANSACTION and self.alias != NO_DB_ALIAS)

    def check_settings(self) -> None:
        """Refuse OPTIONS that contradict each other."""
        super().check_settings()
        options = self.settings_dict["OPTIONS"]
        if not isinstance(given := options.get("pool"), dict | bool | None):
            raise ImproperlyConfigured(
                f"OPTIONS['pool'] of the database {self.alias!r} is {given!r}; it must be True or"
                " the options of a pool, such as {'min_size': 2, 'max_size': 10}"
            )
        mode = options.get("pool_mode", SESSION)
        if mode not in (SESSION, TRANSACTION):
            raise ImproperlyConfigured(
                f"OPTIONS['pool_mode'] of the database {self.alias!r} is {mode!r}; it must be"
                f" {SESSION!r} or {TRANSACTION!r}"
            )
        if mode == TRANSACTION and not options.get("pool"):
            raise ImproperlyConfigured(
                f"OPTIONS['pool_mode'] of the database {self.alias!r} is {TRANSACTION!r}, but there"
                " is no pool; add OPTIONS['pool'] = {'min_size': 2, 'max_size': 10}"
            )
        if isinstance(given, dict):
            check_options(self.alias, given)
        if options.get("pool"):
            self.refuse_persistent_connections()

    def refuse_persistent_connections(self) -> None:
        """Raise ImproperlyConfigured if Django is to keep connections beside the pool."""
        if (age := self.settings_dict["CONN_MAX_AGE"]) != 0:
            raise ImproperlyConfigured(
                "Pooling doesn't support persistent connections. The database"
                f" {self.alias!r} has a pool and CONN_MAX_AGE = {age!r}; set that to 0, the pool"
                " keeps connections (OPTIONS['pool']['max_lifetime'] says for how long)"
            )

    @property
    def pool(self) -> ConnectionPool[Any] | None:
        """The pool of this database in this process; None when it has none."""
        given = self.settings_dict["OPTIONS"].get("pool")
        if self.alias == NO_DB_ALIAS or not given:
            return None
        # A forked process makes its own: the parent's connections are not to be shared.
        key = (self.alias, os.getpid())
        pool = _pools.get(key)
        if pool is None:
            self.check_settings()
            with _creating.setdefault(os.getpid(), threading.Lock()):
                pool = _pools.get(key) or _pools.setdefault(key, self._make_pool())
        return pool

    def close_pool(self) -> None:
        """Close the pool and its connections; the next checkout makes a new one."""
        pool = _pools.pop((self.alias, os.getpid()), None)
        if pool is not None:
            pool.close()

    def pool_stats(self) -> dict[str, int]:
        """Return psycopg_pool's statistics of this process; empty when there is no pool."""
        return self.pool.get_stats() if self.pool else {}

    def _make_pool(self) -> ConnectionPool[Any]:
        # A method of a wrapper that never connects: the pool would keep this one alive, and so the
        # connection that its thread may take with it when it ends.
        preparing = type(self)(self.settings_dict, self.alias)
        pool_class = LendingPool if self.per_transaction else RememberingPool
        return pool_class(
            **sync_attempts(PooledConnection, preparing.prepare_connection),
            kwargs={**self.get_connection_params(), "autocommit": True},
            open=False,
            **sync_options(self.settings_dict, per_transaction=self.per_transaction),
        )

    def prepare_connection(self, connection: BoundConnection) -> None:
        """Prepare a connection once, for all who will check it out."""
        self._configure_connection(connection)
        if level := self.settings_dict["OPTIONS"].get("isolation_level"):
            connection.isolation_level = level
        self.bind_connection(connection)
        # Last: what prepares a session may set session state.
        connection.per_transaction = self.per_transaction

    def _configure_role(self, connection: BoundConnection) -> bool:
        role = self.settings_dict["OPTIONS"].get("assume_role")
        if role:
            # Django quotes the name with a cursor of the wrapper, which would wait for the pool
            # that waits for this connection.
            with connection.cursor() as cursor:
                cursor.execute(assume(role))
        return bool(role)

    def _configure_timezone(self, connection: BoundConnection) -> bool:
        # No pool has the session: it is new, or Django has closed the pool for another zone.
        with whole_session(connection):
            return bool(super()._configure_timezone(connection))

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection, from the pool when there is one.

        Raises OperationalError when none becomes free in time.
        """
        if self.connection is not None and not self.connection.announced:
            return self.connection  # That of :meth:`announce`.
        try:
            connection = super().get_new_connection(conn_params)
        except PoolTimeout as error:
            connection = self.recovered(error)
            self.bind_connection(connection)
        except TooManyRequests as error:
            raise crowded(self.alias, self.pool) from error
        return connection

    def checkout(self, pool: ConnectionPool[Any]) -> Any:
        """Return a connection that is prepared; errors are as for a new one."""
        pool.open()
        try:
            connection = pool.getconn()
        except PoolTimeout as error:
            connection = self.recovered(error)
        except TooManyRequests as error:
            raise crowded(self.alias, pool) from error
        connection.restore()
        if not connection.autocommit:
            # Whoever had it has closed it between transactions that are begun by hand.
            connection.autocommit = True
        return connection

    def recovered(self, error: PoolTimeout) -> Any:
        """Return a connection that a thread took with it when it ended, if there is one."""
        pool = self.pool
        assert pool is not None  # noqa: S101 - it has just timed out
        collect()
        try:
            return pool.getconn(timeout=1)
        except (PoolTimeout, TooManyRequests):
            raise exhausted(self.alias, pool) from error

    def __del__(self) -> None:
        # A thread that ended, or a wrapper that was dropped, with its connection checked out. In a
        # forked process it is a thread of the parent, whose session this would end.
        pool = getattr(self.connection, "_pool", None)
        if sys.is_finalizing():
            return  # The connections end with Python, in which no thread starts any more.
        if pool is not None and self.process == os.getpid() and self.holder == id(self):
            # The pool's lock may be held by whoever triggers this, hence from another thread.
            give_back = threading.Thread(target=replace, args=(pool, self.connection), daemon=True)
            give_back.start()

    # Checkout for a transaction at a time.

    @async_unsafe
    def connect(self) -> None:
        """Connect as Django does, with all its preparations; a checkout after that needs none."""
        self.process, self.holder = os.getpid(), id(self)
        if self.prepared and (pool := self.pool):
            self.connection = self.checkout(pool)
            if self.connection.announced:
                self.accept_role()
            else:
                self.announce()
        else:
            super().connect()
            self.prepared = self.per_transaction
        if not self.connection.announced:
            self.connection.keep_preferences()

    def announce(self) -> None:
        """Let whoever prepares connections see a driver connection that is new to them.

        Those are an ENGINE that is derived from this one, and the receivers of Django's signal, who
        register types on it, as those of django.contrib.postgres do.
        """
        self.prepared = False  # Their cursors are not the last to need it.
        try:
            self.connection = self.get_new_connection({})
            self.init_connection_state()
            connection_created.send(sender=type(self), connection=self)
        except BaseException:
            self.close()
            raise
        self.prepared = True

    @async_unsafe
    def close(self) -> None:
        """Close the connection as Django does; the next one is prepared anew."""
        leave_to_parent(self)
        # First, as another thread that may not close it would let it never return to the pool.
        self.validate_thread_sharing()
        # A transaction may have been open, whose state Django's connect() clears.
        self.prepared = False
        super().close()

    def is_usable(self) -> bool:
        """Return whether the database answers, with a checkout if there is none."""
        leave_to_parent(self)
        self.taken += 1
        try:
            if self.prepared:
                self.ensure_connection()
            return bool(super().is_usable())
        except DatabaseError:
            return False
        finally:
            self.taken -= 1
            self.return_connection()

    def get_autocommit(self) -> bool:
        """Return Django's autocommit flag, without a checkout to learn it."""
        if not self.prepared:
            super().get_autocommit()
            if self.prepared:
                self.return_connection()
        return self.autocommit

    def set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        """Begin or end a transaction block, and with it the checkout."""
        if self.process != os.getpid():
            leave_to_parent(self)
        self.taken += not autocommit
        try:
            super().set_autocommit(autocommit, *args, **kwargs)
            if self.autocommit and self.connection is not None:
                # Savepoints that wait were for a transaction that nothing began: psycopg refuses
                # this in one that is open.
                self.connection.savepoints.pending.clear()
        finally:
            self.taken -= not autocommit
            if self.prepared:  # Else there is nothing to return: asked without a call.
                # Also where a hook of on_commit() raises.
                self.return_connection()

    def _commit(self) -> None:
        if self.process != os.getpid():
            leave_to_parent(self)
        super()._commit()

    def _rollback(self) -> None:
        leave_to_parent(self)
        super()._rollback()

    def _cursor(self, name: str | None = None) -> Any:
        # Here, as uWSGI tells nobody in Python that it has forked. Asked without a call, like
        # above, for each statement comes here.
        if self.process != os.getpid():
            leave_to_parent(self)
        if self.thread != threading.get_ident():
            self.validate_thread_sharing()  # Before it takes what it could not return.
        self.taken += 1
        try:
            return super()._cursor(name)
        finally:
            self.taken -= 1

    def create_cursor(self, name: str | None = None) -> Any:
        """Return a cursor, which keeps its connection checked out until it is closed."""
        cursor = super().create_cursor(name)
        if self.connection.per_transaction:
            self.cursors.add(cursor)
            cursor.closed_by = self.forget_cursor
        return cursor

    def _close(self) -> None:
        if self.connection is not None:
            # The pool rolls back only what the server has heard of.
            self.connection.savepoints.clear()
            if self.cursors or self.connection.is_left_open():
                # Whoever holds a cursor or a pipeline would use it in the transaction of who is
                # next, and between two phases nobody else can commit anything.
                self.connection.close()
        # Nor do they keep another connection checked out.
        self.cursors.clear()
        super()._close()

    def forget_cursor(self, cursor: Any) -> None:
        """Return the connection if `cursor` was the last to need it.

        An async iteration that is left closes its cursor on the event loop's thread. The connection
        then waits for its own thread, which may be about to begin a transaction on it.
        """
        self.cursors.discard(cursor)
        if self.thread == threading.get_ident():
            self.return_connection()

    def return_connection(self) -> None:
        """Return the connection to the pool, unless a transaction or a cursor is open."""
        if (
            # Garbage is collected at any moment, and may close a cursor.
            not self.taken
            and self.prepared
            and self.connection is not None
            and self.autocommit
            and not self.in_atomic_block
            and not self.cursors
            and self.connection.is_between_transactions()
        ):
            connection, self.connection = self.connection, None
            connection._pool.putconn(connection)
