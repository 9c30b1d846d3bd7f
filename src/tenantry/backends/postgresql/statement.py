"""The statement path: a binding goes with every statement, whichever way psycopg sends it.

psycopg has no public hook between converting a query and sending it, so this module overrides
private methods of its cursors, those that sync and async cursors share. They are named in
``tests/test_layers.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg import generators
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import (
    DiagnosticField,
    ExecStatus,
    Format,
    TransactionStatus,
)

from ... import audit
from ...binding import Binding, current_binding
from ...conf import rls_tenants
from ...exceptions import UnbindableStatementError
from .advice import advised, is_refused_row
from .apply import (
    excerpt,
    first_word,
    is_secret,
    must_be_first,
    prefix,
    without_tenant,
)
from .copying import CopyMixin
from .flush import FlushMixin
from .pipelines import PipelineMixin
from .positions import without_prefix
from .sessions import refuse_session_state
from .several import refuse_undoing

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

# What PostgreSQL refuses in a transaction block begins with one of these, and reads no rows.
UTILITIES = frozenset(
    {b"ALTER", b"CLUSTER", b"COMMIT", b"CREATE", b"DISCARD", b"DROP", b"REINDEX", b"REPACK"}
    | {b"ROLLBACK", b"VACUUM"}
)
# After a pipeline psycopg would hear too late that nothing is prepared any more.
UNPREPARED = UTILITIES | {b"DEALLOCATE"}
# What PostgreSQL says of a LOCK.
LOCKED = b"LOCK TABLE"
# What was cancelled is not to be sent again.
CANCELLED = b"57014"
IDLE_OR_INTRANS = frozenset((TransactionStatus.IDLE, TransactionStatus.INTRANS))
# A number: asked for bytes, bytes first ask whether that is one, and make an error of the answer.
SEMICOLON = ord(";")
END_OF_RESULT = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class StatementMixin(CopyMixin, FlushMixin, PipelineMixin):
    """Send the binding in the same message as the statement, and hide that from the user."""

    _conn: Any
    # A cursor that has been declared keeps the one that it was declared in.
    _binding = staticmethod(current_binding)

    # The text sent in front of the last statement, and how many results belong to it.
    _prefix = b""
    _prefix_results = 0
    # Whether statements go out as they are: outside a transaction, unbound.
    _bare = False
    # The transaction control in the last message, and whether the server could not parse it.
    _control: list[bytes] = []
    _unparsed = False
    # Whether it has to leave the savepoint in front of it to a message of its own.
    _may_not_parse = False
    # What the user has asked for, where there is a text of it.
    _asked: Any = None

    def is_refused_utility(self) -> bool:
        """Return whether the statement that has just failed may go again on its own.

        Nothing has happened yet. Anything that reads rows may not: on its own it would run as
        whatever the server session was left with.
        """
        statement = self._query.query if self._query else b""
        return self._is_bound() and first_word(statement) in UTILITIES

    def _is_bound(self) -> bool:
        """Return whether a binding went together with the last statement."""
        return bool(self._prefix_results) or self._together

    def is_simple(
        self,
        query: Any,
        params: Any,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> bool:
        """Return whether this goes as one simple Query message."""
        if isinstance(self, ClientCursorMixin):
            return True
        if (
            params
            or binary
            or (binary is None and self.format == Format.BINARY)
            or self.has_values(query)
        ):
            return False
        # Without a threshold psycopg prepares nothing, whatever is asked for.
        if prepare is not False and self._conn.prepare_threshold is not None:
            if prepare:
                return False
            # It is counted, until it is prepared, but for what cannot be.
            text = self.text_of(query)
            several = self.may_be_several(query)
            return several or must_be_first(text) or first_word(text) in UNPREPARED
        return True

    def may_be_several(self, query: Any) -> bool:
        """Return whether `query` may be several statements, unless what it has is in quotes."""
        return b";" in self.text_of(query).rstrip(b"; \n")

    def is_outside(self) -> bool:
        """Return whether a statement now is a transaction of its own."""
        idle = self._pgconn.transaction_status == TransactionStatus.IDLE
        return idle and bool(self._conn.autocommit)

    def refuse_session_state(self, statement: bytes) -> None:
        """Raise UnbindableStatementError if `statement` would outlive its transaction.

        Raises InterfaceError if the pool has the connection, whose cursor somebody has kept.
        """
        self._conn._check_connection_ok()
        # A parameter is not SQL, and `statement` may have it merged in.
        if self._asked is not None:
            statement = self.text_of(self._asked)
        refuse_session_state(statement)

    def goes_bare(self) -> bool:
        """Return whether a statement goes out without a binding.

        After an error only a rollback can succeed, and not with anything in front of it. In
        somebody's pipeline libpq goes on to tell of the error until a Sync follows the rollback.
        """
        if self._bare or self._pgconn.transaction_status != TransactionStatus.INERROR:
            return self._bare
        return self._conn._pipeline is None or bool(self._conn._pipeline.own)

    def _execute_send(
        self, query: Any, *, force_extended: bool = False, binary: bool | None = None
    ) -> None:
        if self._conn.per_transaction:
            self.refuse_session_state(query.query)
        refuse_undoing(query.query, self._pgconn)
        self._prefix_results = 0
        self._control = []
        text_results = self.format == Format.TEXT if binary is None else not binary
        client_side = isinstance(self, ClientCursorMixin)
        bare = self.goes_bare()
        if self._conn._pipeline and not bare:
            self._queue_binding(query.query)
        elif text_results and (client_side or not query.params) and not bare:
            current = self._binding()
            # Only what must be first, and reads no rows, comes here with a secret.
            self._send_with_binding(
                query, without_tenant(current) if is_secret(current) else current
            )
            return
        elif not (client_side or bare):
            shown = excerpt(query.query)
            raise UnbindableStatementError(
                f"cannot bind {shown!r}: it needs the extended query protocol, which carries the"
                " tenant only in a pipeline; use execute()"
            )
        # Among what goes on: binary results of a client-side cursor, which psycopg refuses.
        super()._execute_send(query, force_extended=force_extended, binary=binary)

    def goes_straight(self, binary: bool | None) -> bool:
        """Return whether a statement goes as one simple message, whatever it says."""
        return (
            self._pgconn.transaction_status in IDLE_OR_INTRANS
            and isinstance(self, ClientCursorMixin)
            and not (binary or self.format == Format.BINARY)
            and not (self._bare or self._may_not_parse or self._conn._pipeline)
            and self._conn.rides
            and not rls_tenants().sealed
        )

    def _execute_gen(
        self,
        query: Any,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> PQGen[None]:
        if self.closed or not self.goes_straight(binary):
            yield from super()._execute_gen(query, params, prepare=prepare, binary=binary)
        else:
            # What psycopg does in the end, without asking what else could be done: nearly every
            # statement comes here, and the questions took as long as the answers.
            self._reset()
            self._asked = query
            if self._last_query is None or self._last_query is not query:
                self._last_query = None
                self._tx = psycopg.adapt.Transformer(self)
            statement = self._convert_query(query, params)
            if self._conn.per_transaction:
                self.refuse_session_state(statement.query)
            if SEMICOLON in statement.query:
                refuse_undoing(statement.query, self._pgconn)
            self._send_with_binding(statement, self._binding())
            results = yield from generators.execute(self._pgconn)
            self._check_results(results)
            self._set_results(results)
            self._last_query = query
        results = self._results
        if results and results[-1].command_status == LOCKED and not self._bare:
            yield from self._refuse_lock(query, params)

    def _refuse_lock(self, query: Any, params: Any) -> PQGen[None]:
        """Let PostgreSQL refuse a lock that has ended with its statement.

        It does so outside a transaction, unless there is another statement in the same message,
        such as the binding.
        """
        if len(self._results) > 1 or not self.is_outside():
            return
        self._bare = True
        try:
            yield from self._execute_gen(query, params)
        finally:
            self._bare = False

    def _start_query(self, query: Any = None) -> PQGen[None]:
        self._asked = query
        # psycopg would send BEGIN here.
        self._conn.carried = True
        try:
            yield from super()._start_query(query)
        finally:
            self._conn.carried = False

    def _maybe_prepare_gen(
        self, pgq: Any, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        # What failed between preparing and sending has left nothing for this statement.
        self._together = self._queued = False
        if self._conn.per_transaction and (self._execmany_returning is None or self._many is None):
            # Before it is prepared, which would leave that to the session; of all rows once.
            self.refuse_session_state(pgq.query)
        rides = self.may_ride(pgq.query)
        if not self._conn._pipeline:
            # Whatever is asked for: the binding of a prepared statement needs a pipeline.
            prepare = False
            # Nor is it counted: psycopg would not see from the result of what it knows already that
            # nothing is prepared any more.
            prepared = self._conn._prepared
            prepared.validate(prepared.key(pgq), None, b"", [])
        if self._conn._pipeline or (rides and not self._may_not_parse):
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        elif self.goes_together(pgq.query):
            yield from self._execute_together(pgq, binary)
        elif rides:
            yield from self._conn.settle()
            yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        else:
            yield from self._bind_first(self._binding(), pgq.query)
            try:
                yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            finally:
                self._bare = False

    def may_ride(self, statement: bytes) -> bool:
        """Return whether nothing secret has to go with `statement`."""
        return (
            not rls_tenants().sealed
            or self.goes_bare()
            or not is_secret(self._binding())
            or must_be_first(statement)
        )

    def _bind_first(self, binding: Binding, statement: bytes) -> PQGen[None]:
        """Send a secret binding before what cannot share a flush with it; it costs a round trip.

        Raises UnbindableStatementError outside a transaction, whose end it would not outlive.
        """
        refuse_undoing(statement, self._pgconn)
        if self.is_outside() or self._conn.single:
            shown = excerpt(statement)
            raise UnbindableStatementError(
                f"{shown!r} cannot carry a sealed tenant outside a transaction, because it is COPY,"
                " or seems to be several statements, or may commit; send them one by one, or open"
                " atomic()"
            )
        yield from self._conn.send_control(self._conn.take_control())
        yield from self._conn.apply(binding)
        self._bare = True

    def goes_together(self, statement: bytes) -> bool:
        """Return whether libpq's pipeline mode takes `statement`."""
        asked = self._asked
        alone = asked is None or not self.may_be_several(asked) or b";" not in statement
        return alone and first_word(statement) != b"COPY" and not self.may_commit(statement)

    def _send_with_binding(self, query: Any, binding: Binding) -> None:
        if type(query.query) is not bytes and not isinstance(query.query, bytes):
            # As psycopg says. A memoryview could be put behind the prefix, and nothing of what is
            # looked for in a statement is found in one.
            raise TypeError(f"expected bytes, {type(query.query).__name__} found")
        self._query = query
        connection, pgconn = self._conn, self._pgconn
        self._control = control = connection.take_control()
        text, results = prefix(binding, query.query, pgconn.server_version, connection.session)
        if control:
            text = b";".join([*control, text])
            results += len(control)
        self._prefix, self._prefix_results = text, results
        pgconn.send_query(text + query.query)

    def _check_results(self, results: list[PGresult]) -> None:
        # What fails ends its message, so that nothing has failed before a last one that has not.
        if not (results and results[-1].status in END_OF_RESULT):
            # Only in front of BEGIN: in a transaction, the error has ended it, and all is lost.
            self._unparsed = (
                bool(self._control)
                and bool(results)
                and results[0].status == ExecStatus.FATAL_ERROR
                and results[0].error_field(DiagnosticField.SQLSTATE) != CANCELLED
                and self._pgconn.transaction_status == TransactionStatus.IDLE
            )
            super()._check_results(results)
        if self._prefix_results:
            del results[: self._prefix_results]
            if not results:
                # An empty statement makes no result when it is not alone.
                results.append(self._pgconn.make_empty_result(ExecStatus.EMPTY_QUERY))

    def _raise_for_result(self, result: PGresult) -> NoReturn:
        try:
            super()._raise_for_result(result)
        except psycopg.Error as error:
            if is_refused_row(error) and rls_tenants().audit_log:
                audit.crossed(error.diag.message_primary or "")
            failed = advised(error, self._binding())
            if self._prefix_results:
                failed = without_prefix(failed, self._prefix)
        try:
            # Here, where PostgreSQL's error is not the context of one that keeps a seal from sight.
            raise failed
        finally:
            # Its traceback holds this frame.
            del failed

    def _stream_send_gen(
        self, query: Any, params: Any = None, *, binary: bool | None = None, size: int = 1
    ) -> PQGen[None]:
        bare = self.goes_bare()
        secret = is_secret(self._binding()) and not bare
        # psycopg asks for a single statement, and reads what comes of the first one only.
        several = self.may_be_several(query) and not bare
        if secret or several or not self.is_simple(query, params, binary=binary):
            yield from self._stream_send_flush(query, params, binary, size)
            return
        yield from self._conn.settle()
        yield from super()._stream_send_gen(query, params, binary=binary, size=size)
        remaining = self._prefix_results
        while remaining:
            result = yield from generators.fetch(self._pgconn)
            if self._is_unparsed(result, remaining):
                while (yield from generators.fetch(self._pgconn)) is not None:
                    pass
                yield from self._conn.send_control(self._control)
                yield from self._stream_send_gen(query, params, binary=binary, size=size)
                return
            if result is None or result.status == ExecStatus.FATAL_ERROR:
                self._check_results([result] if result else [])
            elif result.status in END_OF_RESULT:
                remaining -= 1

    def _is_unparsed(self, result: Any, remaining: int) -> bool:
        """Return whether the first `result` says that not even BEGIN has happened."""
        failed = result is not None and result.status == ExecStatus.FATAL_ERROR
        if not (failed and self._control and remaining == self._prefix_results):
            return False
        # FATAL is the end of the connection, on which nothing can go again.
        severity: bytes | None = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
        cancelled = result.error_field(DiagnosticField.SQLSTATE) == CANCELLED
        return severity == b"ERROR" and not cancelled
