"""Sync cursors that send the current binding with every statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Self

import psycopg
from django.db.backends.postgresql.base import CursorMixin
from psycopg import errors
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import PipelineStatus

from . import parsed
from .named import NamedStatementMixin
from .savepoints import SavepointSQL
from .statement import StatementMixin


class BindingMixin(StatementMixin):
    """Run statements bound, inside and outside transactions."""

    # Who wants to know when the cursor is closed.
    closed_by: Callable[[Any], None] | None = None

    def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Run a statement bound; see ``psycopg.Cursor.execute``.

        Raises UnbindableStatementError when the statement cannot carry a binding.
        """
        if isinstance(query, SavepointSQL) and self._conn.defer(query):
            # Who looks at the cursor, as Django's log does, finds the statement.
            self._query = self._query_cls(psycopg.adapt.Transformer(self))
            self._query.convert(query, None)
            return self
        self._may_not_parse = self._unparsed = False
        if self._pgconn.pipeline_status == PipelineStatus.OFF:
            if not self.is_simple(query, params, **options):
                with self._conn.pipeline():
                    super().execute(query, params, **options)
                return self
            if self._conn.savepoints.pending and self._conn.must_not_share():
                statement = parsed.statement(self._pgconn, query, params)
                self._may_not_parse = not parsed.is_known(statement)
        try:
            super().execute(query, params, **options)
            if self._may_not_parse:
                parsed.remember(statement)
            return self
        except errors.ActiveSqlTransaction:
            # It has failed outside a transaction if it is outside of one again.
            if not (self.is_outside() and self.is_refused_utility()):
                raise
            self._bare = True
        except psycopg.Error:
            if not self._unparsed:
                raise
            # Not even BEGIN has happened. The error belongs into the transaction, and ends it.
            self._conn.begin(self._control)
        try:
            super().execute(query, params, **options)
            return self
        finally:
            self._bare = False

    def close(self) -> None:
        """Close the cursor; whoever waits for that hears of it."""
        super().close()
        if self.closed_by is not None:
            closed_by, self.closed_by = self.closed_by, None
            closed_by(self)

    def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
        """Run a statement for each of `params_seq`; all run in the binding at the start."""
        self._many_bound = False
        with self._conn.pipeline():
            super().executemany(query, params_seq, **options)


class ServerSideCursor(NamedStatementMixin, BindingMixin, CursorMixin, psycopg.ServerCursor[Any]):
    """Be the bound server-side cursor, for ``OPTIONS["server_side_binding"]``."""


class MergingServerSideCursor(ServerSideCursor, ClientCursorMixin[Any, Any]):
    """Be the bound server-side cursor that merges parameters on the client, as Django's does."""


@lru_cache(maxsize=64)
def bound(cursor_class: type[psycopg.Cursor[Any]]) -> type[psycopg.Cursor[Any]]:
    """Return a subclass of `cursor_class` that sends the binding with every statement."""
    if issubclass(cursor_class, BindingMixin):
        return cursor_class
    return type(cursor_class.__name__, (BindingMixin, cursor_class), {})
