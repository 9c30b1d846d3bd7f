"""Connections that are lent to a block, which is a transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    # The mixin stands over an async connection.
    Base = Any
else:
    Base = object


class LentMixin(Base):  # type: ignore[misc]
    """Let psycopg's own transactions be part of that of the block."""

    # Whether a block has the connection.
    lent = False

    @asynccontextmanager
    async def transaction(
        self, *args: Any, **kwargs: Any
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Open a savepoint in the transaction of the block, or a transaction in autocommit.

        As the first thing of the block it would be the transaction itself, and commit it.
        """
        if self.lent:
            async with self.lock:
                await self.wait(self.start())
        async with super().transaction(*args, **kwargs) as transaction:
            yield transaction
