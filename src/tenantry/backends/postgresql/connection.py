"""The driver connection: transaction control waits for a message to ride with.

psycopg sends BEGIN as a message of its own before the first statement of a transaction, and Django
sends SAVEPOINT and RELEASE as statements. Here BEGIN goes in front of the first statement, and
SAVEPOINT and RELEASE go in front of the next one or of COMMIT. A savepoint that no statement
followed is never sent, nor is a transaction without a statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, generators
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus

from ...binding import UNBOUND, Binding, current_binding
from ...conf import rls_tenants
from ...exceptions import UnbindableStatementError
from ...mixins import Base
from .apply import IMMEDIATE, LOGGED_IN, NO_ROLE, Session, before_commit, binding_query
from .cursor import bound
from .named import refuse_fetch
from .preferences import NAMES, preferences
from .savepoints import SAVEPOINT, Savepoints, SavepointSQL
from .synced import SyncedPipeline, refuse_interrupted

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult

COMMIT = b"COMMIT"


class ControlMixin(Base):  # type: ignore[misc]
    """Let the transaction control of a connection, sync or async, ride along."""

    # Whether it does; if not, BEGIN, SAVEPOINT and RELEASE are messages of their own.
    rides = True
    # Whether the cursor that starts a query now carries BEGIN and the binding itself.
    carried = False
    # Whether the next statement is the only one of its transaction, and needs no BEGIN for it.
    single = False
    # Whether it is returned to a pool after each transaction, so that session state gets lost.
    per_transaction = False
    session = LOGGED_IN
    # The binding that goes in front of psycopg's next command, a FETCH; None if nobody knows it.
    ahead: bytes | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.savepoints = Savepoints()

    def use_options(self, options: Mapping[str, Any]) -> None:
        """Do as OPTIONS in DATABASES say."""
        self.rides = options.get("ride_along", True)
        database = options.get("sealed_database") or self.info.dbname
        self.session = Session(options.get("assume_role") or NO_ROLE, database)

    def defer(self, statement: SavepointSQL) -> bool:
        """Keep `statement` for the next message; return False if it must be sent now."""
        if self.keep(statement):
            return True
        self.savepoints.note(statement)
        return False

    def keep(self, statement: SavepointSQL) -> bool:
        """Keep `statement` for the next message if it can wait; return whether it does."""
        status = self.pgconn.transaction_status
        if status == TransactionStatus.IDLE:
            self.savepoints.sent.clear()
        waiting_for_begin = status == TransactionStatus.IDLE and not self.autocommit
        in_transaction = waiting_for_begin or status == TransactionStatus.INTRANS
        return self.rides and in_transaction and self.savepoints.defer(statement)

    def must_not_share(self) -> bool:
        """Return whether what is pending has to reach the server whatever becomes of a statement.

        A message that cannot be parsed does nothing. Inside a transaction it would take a
        savepoint with it, without which the error cannot be undone.
        """
        return bool(
            self.savepoints.pending
            and self.pgconn.transaction_status == TransactionStatus.INTRANS
            and any(each.startswith(SAVEPOINT) for each in self.savepoints.pending)
        )

    def take_control(self) -> list[bytes]:
        """Return the statements that go in front of the next one, which must now be sent."""
        control: list[bytes] = []
        if not self.rides:
            return control
        idle = self.pgconn.transaction_status == TransactionStatus.IDLE
        if idle and not (self.autocommit or self.single):
            control.append(self._get_tx_start_command())
        if self.savepoints.pending:
            control += self.savepoints.take()
        return control

    def begins_alone(self) -> bool:
        """Return whether BEGIN goes ahead of the statement that starts, and not with it.

        In somebody's pipeline a Sync follows it: once all results are read, libpq would say until
        the next Sync that there is no transaction.
        """
        if not (self.carried and self.rides):
            return True
        return self._pipeline is not None and not self._pipeline.own

    def start(self) -> PQGen[None]:
        """Send BEGIN in a message of its own, if a transaction is to begin."""
        yield from super()._start_query()

    def settle(self) -> PQGen[None]:
        """Send pending savepoints before a message that may come to nothing."""
        if self.savepoints.pending:
            yield from self.send_control(self.take_control())

    def send_control(self, control: list[bytes]) -> PQGen[PGresult | None]:
        """Send statements without results in one message, and return the last one's status."""
        if not control:
            return None
        if self._pipeline:
            self.queue(control)
            return None
        self.pgconn.send_query(b";".join(control))
        results = yield from generators.execute(self.pgconn)
        if results[-1].status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(results[-1], encoding=self.info.encoding)
        last: PGresult = results[-1]
        return last

    def queue(self, statements: list[bytes], params: list[bytes] | None = None) -> None:
        """Queue statements whose results nobody reads in the pipeline that is open."""
        pipeline = self._pipeline
        assert pipeline is not None  # noqa: S101 - the caller looked
        for statement in statements:
            send = partial(self.pgconn.send_query_params, statement, params)
            pipeline.command_queue.append(send)
            pipeline.result_queue.append(None)

    def query_of(self, binding: Binding) -> tuple[bytes, list[bytes]]:
        """Return the statement that applies `binding` in this session, and its parameters."""
        return binding_query(binding, self.session, self.info.encoding)

    def apply(self, binding: Binding) -> PQGen[None]:
        """Send `binding` in a message of its own, for the transaction that is open."""
        statement, values = self.query_of(binding)
        self.pgconn.send_query_params(statement, values)
        results = yield from generators.execute(self.pgconn)
        if results[-1].status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(results[-1], encoding=self.info.encoding)

    def is_left_open(self) -> bool:
        """Return whether a block of psycopg's has not ended, or a two-phase transaction."""
        in_pipeline = self.pgconn.pipeline_status != PipelineStatus.OFF
        # A transaction's block goes on though SQL has ended the transaction itself.
        in_block = self._pipeline is not None or self._num_transactions > 0
        return in_pipeline or in_block or self._tpc is not None

    # What follows overrides psycopg's internals.

    def _start_query(self) -> PQGen[None]:
        if not self._pipeline:
            refuse_interrupted(self.pgconn)
        elif not self.carried and self.pgconn.transaction_status == TransactionStatus.INERROR:
            # Perhaps that has been rolled back, which libpq hears of at a Sync.
            yield from self._pipeline._sync_gen()
        if self.begins_alone():
            yield from super()._start_query()
        if self.carried:
            return
        # A cursor that was made by hand, of a class that knows nothing of bindings.
        yield from self.send_control(self.take_control())
        status = self.pgconn.transaction_status
        if status == TransactionStatus.IDLE and not self._pipeline:
            raise UnbindableStatementError(
                "a cursor made by hand cannot carry the tenant outside a transaction; get it from"
                " connection.cursor(), or open a transaction with atomic()"
            )
        if status != TransactionStatus.INERROR:
            if self._pipeline:
                statement, values = self.query_of(current_binding())
                self.queue([statement], values)
            else:
                yield from self.apply(current_binding())

    def _commit_gen(self) -> PQGen[None]:
        if self.pgconn.transaction_status == TransactionStatus.IDLE:
            self.savepoints.clear()
        yield from super()._commit_gen()
        self.savepoints.clear()

    def _rollback_gen(self) -> PQGen[None]:
        self.savepoints.clear()
        yield from super()._rollback_gen()

    def _exec_command(
        self, command: Any, result_format: Format = Format.TEXT
    ) -> PQGen[PGresult | None]:
        ahead, self.ahead = self.ahead, self.ahead and b""
        if command == COMMIT:
            if rls_tenants().sealed:
                if self._pipeline:
                    yield from self._unbind_in_pipeline()
                ahead = before_commit(self.pgconn.server_version, self.session)
        elif ahead is None and isinstance(command, psycopg.sql.Composable):
            refuse_fetch(command.as_bytes(self))
        if (
            not (self.savepoints.pending or ahead)
            or self._pipeline
            or result_format != Format.TEXT
            or self.pgconn.transaction_status != TransactionStatus.INTRANS
        ):
            result: PGresult | None = yield from super()._exec_command(command, result_format)
            return result
        if isinstance(command, psycopg.sql.Composable):
            command = command.as_bytes(self)
        try:
            return (yield from self.send_control([*self.take_control(), (ahead or b"") + command]))
        except psycopg.Error:
            if command == COMMIT and self.pgconn.transaction_status == TransactionStatus.INERROR:
                # A COMMIT that fails ends the transaction. This one has not been reached.
                yield from super()._exec_command(b"ROLLBACK")
            raise

    def _unbind_in_pipeline(self) -> PQGen[None]:
        """Send what goes in front of COMMIT, and wait: a COMMIT after what fails is not run."""
        try:
            if self.pgconn.transaction_status == TransactionStatus.INERROR:
                # Perhaps that has been rolled back, which libpq hears of at a Sync.
                yield from self._pipeline._sync_gen()
                if self.pgconn.transaction_status == TransactionStatus.INERROR:
                    return
            self.queue([IMMEDIATE])
            yield from self._pipeline._sync_gen()
        except psycopg.Error:
            if self.pgconn.transaction_status == TransactionStatus.INERROR:
                yield from super()._exec_command(b"ROLLBACK")
                yield from self._pipeline._sync_gen()
            raise
        statement, values = self.query_of(UNBOUND)
        self.queue([statement], values)


class BoundConnection(ControlMixin, psycopg.Connection[Any]):
    """A psycopg connection whose transaction control rides along."""

    # Whether receivers of Django's connection_created have seen it.
    announced = False
    # What the settings say about it, and receivers of that signal.
    preferred: tuple[Any, ...] = ()
    # The handlers of notices, and of notifications, that those receivers have added.
    handlers: tuple[Any, ...] = ((), ())
    # The class of cursors that was chosen, whether they tell that they are closed, and what binds.
    cursor_class: tuple[Any, bool, Any] = (None, False, None)

    def keep_preferences(self) -> None:
        """Remember what the settings, and the receivers of Django's signal, have set on it."""
        self.preferred = preferences(self)
        self.handlers = tuple(self._notice_handlers), tuple(self._notify_handlers)
        self.announced = True

    def restore(self) -> None:
        """Undo what whoever had the connection before has set on it."""
        self._notice_handlers[:], self._notify_handlers[:] = self.handlers
        if self.preferred and preferences(self) != self.preferred and not self.closed:
            for name, preferred in zip(NAMES, self.preferred, strict=True):
                setattr(self, name, preferred)

    def is_between_transactions(self) -> bool:
        """Return whether neither SQL nor psycopg's own blocks have left something open."""
        status = self.pgconn.transaction_status
        # A broken one is for its pool to replace, whatever it has left open.
        return status == TransactionStatus.UNKNOWN or (
            status == TransactionStatus.IDLE and not self.is_left_open()
        )

    def cursor(
        self, name: str = "", *, binary: bool = False, row_factory: Any = None, **options: Any
    ) -> Any:
        """Return a bound cursor; see ``psycopg.Connection.cursor``."""
        if name:
            return super().cursor(name, binary=binary, row_factory=row_factory, **options)
        self._check_connection_ok()
        # Bound here, so that cursor_factory stays the class that somebody chose, and kept here: an
        # instrumentation may choose one for each connection.
        chosen, closing, factory = self.cursor_class
        if chosen is not self.cursor_factory or closing is not self.per_transaction:
            chosen, closing = self.cursor_factory, self.per_transaction
            factory = bound(chosen, closing=closing)  # type: ignore[arg-type]  # classes are hashable
            self.cursor_class = chosen, closing, factory
        cursor = factory(self, row_factory=row_factory or self.row_factory)
        if binary:
            cursor.format = Format.BINARY
        return cursor

    def set_autocommit(self, value: bool) -> None:
        """Change it; see ``psycopg.Connection.set_autocommit``."""
        if self._pipeline or self.pgconn.transaction_status != TransactionStatus.IDLE:
            super().set_autocommit(value)
        else:
            # There is nothing to send and to wait for, which takes psycopg a lock and a generator.
            self._autocommit = bool(value)

    def flush(self) -> None:
        """Send what is pending, and BEGIN, in a message of its own."""
        self.begin(self.take_control())

    def begin(self, control: list[bytes]) -> None:
        """Send statements of :meth:`take_control` in a message of their own."""
        with self.lock:
            self.wait(self.send_control(control))

    @contextmanager
    def pipeline(self, *, own: bool = False) -> Iterator[psycopg.Pipeline]:
        """Open psycopg's pipeline mode, safe behind a transaction pooler.

        It is `own` where a cursor opens it for a statement.
        """
        with ExitStack() as stack:
            # Whoever has the lock looks whether the connection is in a pipeline.
            with self.lock:
                self._check_connection_ok()
                pipeline = self._pipeline or SyncedPipeline(self, own=own)
                self._pipeline = stack.enter_context(pipeline)
            yield pipeline

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Transaction]:
        """Open psycopg's own transaction block, after the savepoints around it."""
        # psycopg before 3.3.9 counts a block that it refuses, which whoever is next could not end.
        self._check_connection_ok()
        if self.savepoints.pending:
            self.flush()
        with super().transaction(*args, **kwargs) as transaction:
            yield transaction
