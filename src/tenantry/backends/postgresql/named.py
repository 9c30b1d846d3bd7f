"""Named cursors: declared on the server, and fetched from in the binding of their DECLARE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import Format, TransactionStatus

from ...binding import Binding, current_binding
from ...exceptions import UnbindableStatementError
from .advice import with_advice
from .apply import first_word, is_secret, prefix
from .statement import StatementMixin

if TYPE_CHECKING:
    from psycopg.abc import PQGen


# What psycopg sends to read from a cursor.
FETCHES = frozenset({b"FETCH", b"MOVE"})


def refuse_fetch(command: bytes) -> None:
    """Raise UnbindableStatementError if `command` reads from a cursor that was made by hand.

    Nobody knows the binding of its DECLARE; it would read in that of the statement before it.
    """
    if first_word(command) in FETCHES:
        raise UnbindableStatementError(
            "a server-side cursor made by hand cannot carry the tenant when it fetches; get it from"
            " connection.cursor(name)"
        )


class NamedStatementMixin(StatementMixin):
    """Declare a server-side cursor bound, and fetch from it in the binding of its DECLARE.

    A policy is evaluated while rows are fetched (PostgreSQL documentation, "DECLARE"), so each
    FETCH carries the binding again, whatever scope is open by then.
    """

    _declared: Binding | None = None
    # Who keeps the connection until the cursor is closed.
    closed_by: Any = None
    # psycopg's.
    _described: bool
    _format: Format
    _iter_rows: Any

    def _declare_gen(self, query: Any, params: Any = None, binary: Any = None) -> PQGen[None]:
        self._control = []
        if self._conn.per_transaction:
            # What is asked for is looked at, and not the DECLARE around it.
            self._asked = query
            super().refuse_session_state(b"")
        outside = self.is_outside()
        if self.withhold and not outside:
            # PostgreSQL fills it at COMMIT, in the binding of whatever statement came last.
            raise UnbindableStatementError(
                f"the cursor {self.name!r} cannot be WITH HOLD inside a transaction: the tenant"
                " is bound to the statement, and its rows are read at COMMIT"
            )
        if self.withhold and self._conn.per_transaction and self.closed_by is None:
            raise UnbindableStatementError(
                f"the cursor {self.name!r} cannot be WITH HOLD: its connection goes back to a pool,"
                " and its rows with it to whoever is next; open it without that in a transaction,"
                " or use a database alias with pool_mode 'session'"
            )
        if self._described:
            # Before anything can fail: the rows of the one before are not for who declares anew.
            yield from self._close_gen()
            self._described = False
        # Without a transaction to live in, PostgreSQL's own error is the clearest.
        self._bare = outside and not self.withhold
        self._declared = current_binding()
        # A simple message would run several statements, of which psycopg takes one.
        on_server = self.may_be_several(query) or (
            not isinstance(self, ClientCursorMixin) and (params or self.has_values(query))
        )
        if not self._bare and (on_server or is_secret(self._declared)):
            yield from self._declare_on_server(query, params, binary)
            return
        yield from self._conn.settle()
        try:
            yield from super()._declare_gen(query, params, binary)
        except psycopg.Error as error:
            idle = self._pgconn.transaction_status == TransactionStatus.IDLE
            cancelled = isinstance(error, psycopg.errors.QueryCanceled)
            self._unparsed = idle and bool(self._control) and not cancelled
            raise
        finally:
            self._bare = False

    def _declare_on_server(self, query: Any, params: Any, binary: bool | None) -> PQGen[None]:
        """Send BEGIN, the binding and a DECLARE with server-side parameters in one flush."""
        statement = self._make_declare_statement(query)
        self._iter_rows = None
        yield from self._start_query(statement)
        declare = self._convert_query(statement, params)
        ahead = yield from self._send_flush(declare)
        yield from self._fetch_ahead(ahead)
        [result] = yield from generators.execute(self._pgconn)
        yield from self._end_flush(result)
        self._format = Format(binary) if binary is not None else self.format
        yield from self._describe_gen()

    def refuse_session_state(self, statement: bytes) -> None:
        """Accept any DECLARE; :meth:`_declare_gen` looks at whether it holds, and what."""

    def is_simple(self, query: Any, params: Any, **options: Any) -> bool:
        """Return True: a DECLARE that is not simple makes a pipeline of its own."""
        return True

    def _binding(self) -> Binding:
        return current_binding() if self._declared is None else self._declared

    def _describe_gen(self) -> PQGen[None]:
        self._prefix_results = 0
        yield from super()._describe_gen()

    def _fetch_gen(self, num: int | None) -> PQGen[list[Any]]:
        try:
            yield from self._rebind()
            rows: list[Any] = yield from with_advice(super()._fetch_gen(num), self._binding())
        finally:
            # It may not even have been sent.
            self._conn.ahead = None
        return rows

    def _scroll_gen(self, value: int, mode: str) -> PQGen[None]:
        try:
            yield from self._rebind()
            yield from with_advice(super()._scroll_gen(value, mode), self._binding())
        finally:
            self._conn.ahead = None

    def _rebind(self) -> PQGen[None]:
        self._conn.ahead = b""
        if self._pgconn.transaction_status != TransactionStatus.INTRANS:
            return
        if self._format == Format.TEXT and not is_secret(self._binding()):
            version = self._pgconn.server_version
            self._conn.ahead = prefix(self._binding(), b"FETCH", version, self._conn.session).text
        else:
            # psycopg asks for binary results by the extended protocol, where nothing rides.
            yield from self._conn.settle()
            yield from self._conn.apply(self._binding())
