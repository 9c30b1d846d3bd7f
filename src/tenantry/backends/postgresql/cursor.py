"""Sync cursors that send the current binding with every statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Self

import psycopg
from django.db.backends.postgresql.base import CursorMixin
from psycopg import errors
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import PipelineStatus

from . import parsed
from .copying import advise
from .lean import SLOTS, LeanMixin
from .named import NamedStatementMixin
from .savepoints import SavepointSQL
from .statement import StatementMixin


class BindingMixin(StatementMixin):
    """Run statements bound, inside and outside transactions."""

    def execute(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
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
            # First what is usual, without a call.
            merges = isinstance(self, ClientCursorMixin)
            if not (merges or self.is_simple(query, params, prepare=prepare, binary=binary)):
                with self.block_around(query), self._conn.pipeline(own=True):
                    self._run(query, params, prepare, binary)
                return self
            if self._conn.savepoints.pending:
                statement = self._after_savepoint(query, params)
        try:
            self._run(query, params, prepare, binary)
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
            # Not even BEGIN has happened. The error belongs in the transaction, and ends it.
            self._conn.begin(self._control)
        try:
            self._run(query, params, prepare, binary)
            return self
        finally:
            self._bare = False

    def _after_savepoint(self, query: Any, params: Any) -> Any:
        """Note whether a statement must not share a message with a savepoint; return its key."""
        if not self._conn.must_not_share():
            return None
        statement = parsed.statement(self._pgconn, query, params)
        self._may_not_parse = not parsed.is_known(statement)
        return statement

    def _run(self, query: Any, params: Any, prepare: bool | None, binary: bool | None) -> None:
        # By name, because a dict of options takes longer. Named cursors know no `prepare`.
        if prepare is None:
            super().execute(query, params, binary=binary)
        else:
            super().execute(query, params, prepare=prepare, binary=binary)

    def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
        """Run a statement for each of `params_seq`; all run in the binding at the start."""
        self._many = None
        with self.block_around(query), self.pipeline_around():
            super().executemany(query, params_seq, **options)

    @contextmanager
    def copy(
        self, statement: Any, params: Any = None, *, writer: Any = None
    ) -> Iterator[psycopg.Copy]:
        """Start a COPY bound; see ``psycopg.Cursor.copy``."""
        binding = self._binding()
        with super().copy(statement, params, writer=writer) as copy:
            advise(copy, binding)
            yield copy

    def block_around(self, query: Any) -> AbstractContextManager[Any]:
        """Return a transaction block for what could commit without one."""
        return self._conn.transaction() if self.may_commit(query) else nullcontext()


class ClosingMixin(BindingMixin):
    """Tell when the cursor is closed, for a connection that is returned then."""

    # Who wants to know.
    closed_by: Callable[[Any], None] | None = None

    def close(self) -> None:
        """Close the cursor; whoever waits for that hears of it."""
        try:
            super().close()
        finally:
            if self.closed_by is not None:
                if not self.closed and self.is_outside():
                    # Its rows, WITH HOLD, are not for who has the server session next.
                    self._conn.close()
                closed_by, self.closed_by = self.closed_by, None
                closed_by(self)


# psycopg's execute() takes options that it does not name, and refuses them.
class ServerSideCursor(  # type: ignore[misc]
    NamedStatementMixin, ClosingMixin, CursorMixin, psycopg.ServerCursor[Any]
):
    """The bound server-side cursor, for ``OPTIONS["server_side_binding"]``."""


class MergingServerSideCursor(ServerSideCursor, ClientCursorMixin[Any, Any]):  # type: ignore[misc]
    """The bound server-side cursor that merges parameters on the client, as Django's does."""


@lru_cache(maxsize=64)
def bound(
    cursor_class: type[psycopg.Cursor[Any]], *, closing: bool = False
) -> type[psycopg.Cursor[Any]]:
    """Return a subclass of `cursor_class` that sends the binding with every statement.

    With `closing` it tells when it is closed.
    """
    if issubclass(cursor_class, BindingMixin):
        return cursor_class
    binding = ClosingMixin if closing else BindingMixin
    # A dict, if `cursor_class` gives it one, is for what its own methods set.
    slots = {"__slots__": SLOTS}
    return type(cursor_class.__name__, (LeanMixin, binding, cursor_class), slots)
