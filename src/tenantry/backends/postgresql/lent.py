"""Connections that a pool lends, and that are not to be used while it has them back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from ...mixins import Base
from .exhaustion import RememberingPool
from .sessions import whole_session


class LentMixin(Base):  # type: ignore[misc]
    """Refuse a connection that somebody has kept, while it is in its pool for whoever is next.

    Who has it next cannot be told from who has kept it.
    """

    # Whether somebody has it; None while the pool makes it, or looks after it.
    lent: bool | None = None

    def _check_connection_ok(self) -> None:
        super()._check_connection_ok()
        if self.lent is False:
            raise psycopg.InterfaceError(
                "the connection has gone back to its pool, and serves whoever asks for one next; do"
                " not keep it, or a cursor of it, longer than its block"
            )

    @contextmanager
    def looked_after(self) -> Iterator[None]:
        """Let a function that the pool calls use the connection, and all of its session."""
        lent, self.lent = self.lent, None
        try:
            with whole_session(self):
                yield
        finally:
            self.lent = lent


class LendingPool(RememberingPool):
    """A pool whose connections are refused while it has them."""

    def getconn(self, timeout: float | None = None) -> Any:
        """Lend a connection; see ``ConnectionPool.getconn``."""
        connection = super().getconn(timeout)
        connection.lent = True
        return connection

    def _add_to_pool(self, conn: Any) -> None:
        # Here, because it may have been rolled back until now.
        conn.lent = False
        super()._add_to_pool(conn)

    @staticmethod
    def check_connection(conn: Any) -> None:
        """Check a connection of the pool; see ``ConnectionPool.check_connection``."""
        with conn.looked_after():
            ConnectionPool.check_connection(conn)


class AsyncLentMixin(LentMixin):
    """Let psycopg's own transactions be part of that of the block that has the connection."""

    @asynccontextmanager
    async def transaction(
        self, *args: Any, **kwargs: Any
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Open a savepoint in the transaction of the block, or a transaction in autocommit.

        As the first thing of the block it would be the transaction itself, and commit it.
        """
        # See BoundConnection.transaction().
        self._check_connection_ok()
        if self.lent:
            async with self.lock:
                await self.wait(self.start())
        async with super().transaction(*args, **kwargs) as transaction:
            yield transaction
