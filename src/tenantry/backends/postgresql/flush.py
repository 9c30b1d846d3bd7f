"""Statements that share a flush with the binding, where there is no text to put it into.

Server-side parameters have no text to ride in front of, and a secret must not be in one. So they
share a flush instead: that of libpq's pipeline mode, in which all statements until a Sync are one
transaction (PostgreSQL documentation, "Pipelining"). psycopg's own pipelines have no streams and no
named cursors.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators
from psycopg.client_cursor import ClientCursorMixin
from psycopg.pq import ConnStatus, ExecStatus, Format, PipelineStatus, TransactionStatus

from ...exceptions import UnbindableStatementError
from ...mixins import Base
from .apply import GAP, first_word
from .copying import COPY_STARTED

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

# What may commit, and go on after that, as somebody else.
PROCEDURES = frozenset({b"CALL", b"DO"})
# What hides the first word: an empty statement, or comments in comments of any depth.
HIDDEN = re.compile(GAP + rb"(?:;|/\*|\*/)")
# From this version on PostgreSQL refuses that in a pipeline, too.
PIPELINE_IS_BLOCK = 180000


class FlushMixin(Base):  # type: ignore[misc]
    """Send BEGIN, the binding and a statement in one flush, and read their results."""

    # Whether the last statement went that way.
    _together = False

    def may_commit(self, query: Any) -> bool:
        """Return whether a procedure in `query` could commit in a pipeline, and end the binding.

        In a simple message, and in a transaction block, PostgreSQL refuses that.
        """
        if self._pgconn.server_version >= PIPELINE_IS_BLOCK or not self._conn.autocommit:
            return False
        if self._pgconn.transaction_status == TransactionStatus.INTRANS:
            return False
        text = self.text_of(query)
        return first_word(text) in PROCEDURES or HIDDEN.match(text) is not None

    def text_of(self, query: Any) -> bytes:
        """Return the text of a statement, without its parameters; nothing for what has none."""
        if isinstance(query, str):
            return query.encode(errors="replace")
        if isinstance(query, psycopg.sql.Composable):
            return query.as_bytes(self)
        text = query if isinstance(query, bytes) else self.converted(query).query
        return text if isinstance(text, bytes) else b""

    def has_values(self, query: Any) -> bool:
        """Return whether `query` is a template string (Python 3.14) with values in it."""
        if isinstance(query, str | bytes | psycopg.sql.Composable):
            return False
        return bool(self.converted(query).params)

    def converted(self, query: Any) -> Any:
        """Return `query` as a cursor would send it that leaves parameters to the server."""
        converted: Any = psycopg.Cursor._query_cls(psycopg.adapt.Transformer(self))
        converted.convert(query, None)
        return converted

    def _execute_together(self, pgq: Any, binary: bool | None) -> PQGen[None]:
        """Run a statement and a secret binding in one flush."""
        wanted = self.format if binary is None else Format(binary)
        if wanted == Format.BINARY and isinstance(self, ClientCursorMixin):
            raise psycopg.NotSupportedError("client-side cursors don't support binary results")
        self._together = True
        ahead = yield from self._send_flush(pgq, wanted)
        yield from self._fetch_ahead(ahead)
        results = yield from generators.execute(self._pgconn)
        yield from self._end_flush(results[-1])
        self._check_results(results)
        self._set_results(results)

    def _stream_send_flush(
        self, query: Any, params: Any, binary: bool | None, size: int
    ) -> PQGen[None]:
        if size < 1:
            raise ValueError("size must be >= 1")
        if size > 1:
            psycopg.capabilities.has_stream_chunked(check=True)
        yield from self._start_query(query)
        statement = self._convert_query(query, params)
        if self._conn.per_transaction:
            self.refuse_session_state(statement.query)
        if self.may_commit(statement.query):
            raise UnbindableStatementError(
                "stream() cannot carry the tenant with a procedure outside a transaction; use"
                " execute(), or open atomic()"
            )
        wanted = self.format if binary is None else Format(binary)
        ahead = yield from self._send_flush(statement, wanted)
        yield from self._fetch_ahead(ahead)
        if size == 1:
            self._pgconn.set_single_row_mode()
        else:
            self._pgconn.set_chunked_rows_mode(size)
        self._last_query = query

    def _stream_fetchone_gen(self, first: bool) -> PQGen[PGresult | None]:
        try:
            row: PGresult | None = yield from super()._stream_fetchone_gen(first)
        except psycopg.Error:
            # If the session has ended, this error may say why.
            with suppress(psycopg.OperationalError):
                yield from self._end_flush()
            raise
        if row is None:
            yield from self._end_flush()
        return row

    def _send_flush(self, query: Any, result_format: Format = Format.TEXT) -> PQGen[int]:
        """Send BEGIN, the binding and `query` together; return how many results come first.

        Raises what psycopg does for what libpq does not send, such as too many parameters, or what
        a dumper of the project's makes that is not bytes.
        """
        # First, as it raises for a tenant that the encoding lacks, and what is taken has to go.
        binding = self._conn.query_of(self._binding())
        ahead: list[tuple[bytes, list[bytes] | None]] = [
            *((control, None) for control in self._conn.take_control()),
            binding,
        ]
        self._query = query
        self._prefix_results = 0
        self._control: list[bytes] = []
        self._pgconn.enter_pipeline_mode()
        merged = isinstance(self, ClientCursorMixin)
        try:
            for statement, values in ahead:
                self._pgconn.send_query_params(statement, values)
            self._pgconn.send_query_params(
                query.query,
                None if merged else query.params,
                param_formats=None if merged else query.formats,
                param_types=None if merged else query.types,
                result_format=result_format,
            )
        except Exception:
            # What is ahead of it has gone, as it does where it goes first.
            self._pgconn.pipeline_sync()
            yield from self._end_flush()
            raise
        self._pgconn.pipeline_sync()
        return len(ahead)

    def _fetch_ahead(self, count: int) -> PQGen[None]:
        """Read the results that come first; raise psycopg's error for one that failed."""
        for _ in range(count):
            results = yield from generators.execute(self._pgconn)
            if results[-1].status == ExecStatus.FATAL_ERROR:
                yield from self._end_flush(results[-1])

    def _end_flush(self, last: PGresult | None = None) -> PQGen[None]:
        """Read what is left of a flush after its `last` result, and leave libpq's pipeline mode.

        Raises psycopg's error for a result that has failed, when the transaction of the flush
        cannot be committed, and for a COPY, which cannot be left.
        """
        failed = last if last and last.status == ExecStatus.FATAL_ERROR else None
        own = not self._conn._pipeline and self._pgconn.status == ConnStatus.OK
        try:
            while own and self._pgconn.pipeline_status != PipelineStatus.OFF:
                results = yield from generators.execute(self._pgconn)
                for result in results:
                    if result.status in COPY_STARTED:
                        # Of which libpq would tell for ever.
                        self._pgconn.finish()
                        raise psycopg.ProgrammingError(
                            "COPY cannot be used with this method; use copy() instead"
                        )
                    if result.status == ExecStatus.FATAL_ERROR:
                        # A pooler may add one of its own, that the server is gone.
                        failed = failed or result
                    elif result.status == ExecStatus.PIPELINE_SYNC:
                        self._pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            # The session has ended, and the server may have said why.
            if failed is None:
                raise
        if failed is not None:
            self._raise_for_result(failed)
