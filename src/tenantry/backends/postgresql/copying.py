"""COPY, with the binding in front of it in the same message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators
from psycopg.copy import AsyncLibpqWriter, LibpqWriter
from psycopg.pq import ExecStatus

from ...binding import Binding
from ...mixins import Base
from .advice import with_advice
from .apply import is_secret

if TYPE_CHECKING:
    from psycopg.abc import PQGen

COPY_STARTED = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT)


class CopyMixin(Base):  # type: ignore[misc]
    """Start a COPY bound."""

    def _start_copy_gen(self, statement: Any, params: Any = None) -> PQGen[None]:
        # psycopg insists on exactly one result; here the binding's come first.
        if self._conn._pipeline:
            raise psycopg.NotSupportedError("COPY cannot be used in pipeline mode")
        yield from self._conn.settle()
        yield from self._start_query()
        self._asked = text = statement
        if params or not isinstance(statement, str | bytes | psycopg.sql.Composable):
            # COPY takes no parameters on the server; psycopg merges them in too.
            merged: Any = psycopg.ClientCursor._query_cls(self._tx)
            merged.convert(statement, params)
            text = merged.query
        query = self._convert_query(text)
        binding = self._binding()
        try:
            # Last: the cursor is bare from here on until the statement has gone.
            if is_secret(binding) and not self.goes_bare():
                yield from self._bind_first(binding, b"COPY")
            self._execute_send(query, binary=False)
        finally:
            self._bare = False
        results = yield from generators.execute(self._pgconn)
        if self._is_unparsed(results[0], self._prefix_results):
            yield from self._conn.send_control(self._control)
            yield from self._start_copy_gen(statement, params)
            return
        if results[-1].status == ExecStatus.FATAL_ERROR:
            self._raise_for_result(results[-1])
        del results[: self._prefix_results]
        if len(results) != 1:
            raise psycopg.ProgrammingError("COPY cannot be mixed with other operations")
        if results[0].status not in COPY_STARTED:
            raise psycopg.ProgrammingError(
                "copy() takes a COPY ... TO STDOUT or COPY ... FROM STDIN statement, not one that"
                f" returns {ExecStatus(results[0].status).name}"
            )
        self._set_results(results)


class AdvisedConnection:
    """A connection as a COPY uses it, which adds advice to the errors of what it waits for.

    psycopg raises these itself once a COPY has started.
    """

    def __init__(self, connection: Any, binding: Binding) -> None:
        self._connection = connection
        # That of the statement; the rows may be read in another scope.
        self._binding = binding

    def wait(self, steps: PQGen[Any], **options: Any) -> Any:
        """Wait for `steps` of psycopg; of an async connection, return what does."""
        return self._connection.wait(with_advice(steps, self._binding), **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def advise(copy: Any, binding: Binding) -> None:
    """Let a COPY that has started in `binding`, sync or async, wait with advice."""
    copy.connection = AdvisedConnection(copy.connection, binding)
    # Other writers than psycopg's write to something else.
    if isinstance(copy.writer, LibpqWriter | AsyncLibpqWriter):
        copy.writer.connection = copy.connection
