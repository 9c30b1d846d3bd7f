"""Async cursors that send the current binding with every statement."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Self

import psycopg
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import PipelineStatus

from .copying import advise
from .lean import SLOTS, LeanMixin
from .named import NamedStatementMixin
from .statement import StatementMixin


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
        async with self.block_around(query), self.pipeline_around():
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
