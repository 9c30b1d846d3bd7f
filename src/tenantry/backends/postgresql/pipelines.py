"""Statements in a pipeline of psycopg's, with the binding queued in front of them."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

from psycopg.pq import TransactionStatus

from ...binding import Binding
from ...exceptions import UnbindableStatementError
from ...mixins import Base
from .apply import excerpt, first_word, is_secret
from .several import ROLLBACKS, ends


class PipelineMixin(Base):  # type: ignore[misc]
    """Queue BEGIN, savepoints and the binding before what psycopg queues for a statement."""

    # The binding that all rows of this executemany() run in, and the values of it that are queued.
    _many: tuple[Binding, list[bytes]] | None = None
    # Whether the binding of the next statement is queued, in front of what prepares it.
    _queued = False

    def pipeline_around(self) -> Any:
        """Return a pipeline for all rows; inside of somebody's, which goes on after them, none.

        One more would end with a Sync, and commit what has to wait for the rest of somebody's.
        """
        return nullcontext() if self._conn._pipeline else self._conn.pipeline(own=True)

    def _send_prepare(self, name: bytes, query: Any) -> None:
        # It takes a snapshot, which BEGIN with an isolation level must not find, and where it fails
        # nothing after it is run.
        self._queue_ahead(query.query)
        super()._send_prepare(name, query)
        self._queued = True
        # psycopg takes it for prepared from now on, and may not look whether it is.
        prepared = self._conn._prepared
        learn = partial(prepared.validate, prepared.key(query), None, name)
        self._conn._pipeline.result_queue[-1] = learn

    def _send_query_prepared(self, name: bytes, pgq: Any, *, binary: bool | None = None) -> None:
        if not self._queued:
            self._queue_ahead(pgq.query)
        self._queued = False
        super()._send_query_prepared(name, pgq, binary=binary)

    def _queue_ahead(self, statement: bytes) -> None:
        self._prefix_results = 0
        self._control: list[bytes] = []
        if not self.goes_bare():
            self._queue_binding(statement)

    def _rolls_back(self, statement: bytes) -> bool:
        """Return whether `statement` reads nothing, and fails in a failed transaction if bound."""
        if first_word(statement) in ROLLBACKS:
            return True
        return self._pgconn.transaction_status == TransactionStatus.INERROR and ends(statement)

    def _queue_binding(self, query: bytes) -> None:
        many = self._execmany_returning is not None
        queued: list[bytes] | None = None
        if many and self._many is not None:
            binding, queued = self._many
            # A seal is not good for as long as all rows may take.
            if not is_secret(binding):
                return
        elif self.may_commit(query):
            raise UnbindableStatementError(
                f"{excerpt(query)!r} cannot carry the tenant in a pipeline"
                " outside a transaction, because a procedure could end the binding there; open"
                " atomic() around the pipeline"
            )
        else:
            binding = self._binding()
            self._conn.queue(self._conn.take_control())
            if not self._conn._pipeline.own and self._rolls_back(query):
                return
            if self.is_outside() and first_word(query) == b"LOCK":
                # The first of its pipeline, and it reads no rows. Behind others it is taken, from
                # PostgreSQL 18 on, although it may end at once.
                return
        statement, values = self._conn.query_of(binding)
        if values != queued:
            self._conn.queue([statement], values)
        if many:
            self._many = binding, values
