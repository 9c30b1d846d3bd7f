"""Pipeline mode that ends with a Sync and nothing after it, safe behind a transaction pooler."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus

from ...mixins import Base
from .advice import tell_of_pooler

if TYPE_CHECKING:
    from psycopg.abc import PQGen

# Stands for a Sync among the results that are waited for.
SYNC: Any = object()
# The severities of errors that end the session (PostgreSQL documentation, "Error Message Levels").
ENDINGS = ("FATAL", "PANIC")


def refuse_interrupted(pgconn: Any) -> None:
    """Close a connection that is in a flush nobody waits for: the next results would be its own.

    Raises OperationalError if it was.
    """
    if pgconn.pipeline_status != PipelineStatus.OFF:
        pgconn.finish()
        raise psycopg.OperationalError(
            "the connection was closed, because an exception interrupted a statement on it; run the"
            " statement again on a new connection"
        )


class SyncedPipelineMixin(Base):  # type: ignore[misc]
    """End with a Sync and nothing after it.

    psycopg asks for a Flush after the Sync. A transaction pooler that has taken the server back by
    then lends out another one for the Flush, which answers nothing, and so never comes back.
    """

    # Whether all results have been waited for.
    ended = False
    # Why the server has ended the session, if it has said so.
    ending: psycopg.Error | None = None

    def __init__(self, connection: Any, *, own: bool) -> None:
        super().__init__(connection)
        # Whether it is open for one statement of a cursor only, and not for somebody's block.
        self.own = own

    def _enter_gen(self) -> PQGen[None]:
        if self.level == 0:
            refuse_interrupted(self.pgconn)
        yield from super()._enter_gen()

    def _exit_gen(self) -> PQGen[None]:
        self.ended = False
        yield from self._sync_gen()
        self.ended = True

    def _sync_gen(self) -> PQGen[None]:
        # psycopg does not wait for the Sync if an error has come before it is sent. Until it is
        # there, libpq takes the transaction for one that goes on.
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        except GeneratorExit:
            # Whoever waited was cancelled, before anything was sent or once more after that, and
            # waits for nothing any more. psycopg closes what has results to come.
            raise
        except BaseException:
            # From a connection that is lost nothing comes but an error that says less.
            if self.pgconn.status == ConnStatus.OK:
                # As does that of what is not run after an error.
                with suppress(psycopg.errors.PipelineAborted):
                    yield from self._fetch_gen(flush=False)
            raise
        yield from self._fetch_gen(flush=False)

    def _exit(self, exc: BaseException | None) -> None:
        # psycopg knows of what has ended the block, but not of a signal's handler that raises while
        # it waits for results, and would raise that the connection is busy instead.
        try:
            super()._exit(exc if exc or self.ended else sys.exception())
        finally:
            # Its traceback holds this pipeline.
            self.ending = None
            if self.level == 0:
                self._conn._pipeline = None

    def _fetch_gen(self, *, flush: bool) -> PQGen[None]:
        try:
            yield from super()._fetch_gen(flush=flush)
        except psycopg.OperationalError:
            if self.ending is None:
                raise
            raise self.ending from None

    def _enqueue_sync(self) -> None:
        self.command_queue.append(self.pgconn.pipeline_sync)
        self.result_queue.append(SYNC)

    def _process_results(self, queued: Any, results: Any) -> None:
        if callable(queued):
            # Who has to know what came of it.
            queued(results)
            queued = None
        if queued is SYNC:
            queued = None
            if results[-1].status == ExecStatus.FATAL_ERROR:
                # The Sync commits, which has failed. Its own result is yet to come.
                self.result_queue.appendleft(SYNC)
        # libpq keeps the single-row mode of a stream for the first statement of the pipeline after
        # it, the binding, whose one row then comes as a result of its own.
        try:
            super()._process_results(queued, results if queued else results[-1:])
        except psycopg.Error as error:
            tell_of_pooler(error)
            if error.diag.severity_nonlocalized in ENDINGS:
                self.ending = error
            raise


class SyncedPipeline(SyncedPipelineMixin, psycopg.Pipeline):
    """End with a Sync and nothing after it; whoever enters it has the connection's lock."""

    def __enter__(self) -> Self:
        self._conn.wait(self._enter_gen())
        return self


class AsyncSyncedPipeline(SyncedPipelineMixin, psycopg.AsyncPipeline):
    """End with a Sync and nothing after it; whoever enters it has the connection's lock."""

    async def __aenter__(self) -> Self:
        level = self.level
        try:
            await self._conn.wait(self._enter_gen())
            return self
        except BaseException as error:
            # psycopg lets others run once it has entered, and may be cancelled there: nobody would
            # leave pipeline mode, and the connection would go back to the pool in it.
            if self.level > level:
                self._exit(error)
            raise
