"""An exception in the midst of a statement, such as one of a job's time limit, comes through."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any

import psycopg
import pytest
from django.db import InterfaceError, OperationalError, connections, transaction

from tenantry import tenant_context
from tests.app.models import Note, Tenant
from tests.fix_faults import wait_for

Tenants = tuple[Tenant, Tenant]
BLOCKS = "SELECT pg_advisory_xact_lock(%s)"


class Interrupted(Exception):
    """Be what a signal's handler raises."""


@pytest.fixture
def interrupt(tenants: Tenants, postgres: Any) -> Iterator[Callable[[], None]]:
    """Return a function that interrupts this thread once it waits for a lock."""

    def handle(*args: Any) -> None:
        raise Interrupted

    def work() -> None:
        waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_for(lambda: server.execute(waits).fetchone() == (1,))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=work)
    with psycopg.connect(postgres.dsn("postgres", "tenantry"), autocommit=True) as server:
        server.execute("SELECT pg_advisory_lock(1)")
        yield thread.start
        thread.join()
    signal.signal(signal.SIGUSR1, before)


def execute(cursor: Any) -> None:
    cursor.execute(BLOCKS, [1])


def execute_text(cursor: Any) -> None:
    cursor.execute(BLOCKS.replace("%s", "1"))


def executemany(cursor: Any) -> None:
    cursor.executemany(BLOCKS, [[1]])


def stream(cursor: Any) -> None:
    list(cursor.stream(BLOCKS, [1]))


def pipeline(cursor: Any) -> None:
    with cursor.connection.pipeline():
        cursor.connection.execute(BLOCKS, [1])


def copy(cursor: Any) -> None:
    with cursor.copy("COPY (SELECT pg_advisory_xact_lock(1)) TO STDOUT"):
        pass


def again(cursor: Any) -> None:
    cursor.execute("SELECT title FROM app_note WHERE id > %s", [0])
    assert cursor.fetchall() == []


def again_many(cursor: Any) -> None:
    with cursor.connection.cursor() as own:
        own.executemany("SELECT title FROM app_note WHERE id > %s", [[0], [0]], returning=True)
        assert own.fetchall() == []


@pytest.mark.parametrize("next_one", [again, again_many])
@pytest.mark.parametrize("act", [execute, execute_text, executemany, stream, pipeline, copy])
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
@pytest.mark.parametrize("atomic", [False, True])
def test_it_comes_through(
    atomic: bool,
    alias: str,
    act: Callable[[Any], None],
    next_one: Callable[[Any], None],
    interrupt: Callable[[], None],
    tenants: Tenants,
) -> None:
    connection = connections[alias]
    with tenant_context(tenants[0].pk):
        assert Note.objects.using(alias).count() == 2
        # Where only a transaction can carry a seal, there is one.
        block = transaction.atomic(using=alias) if atomic or act is copy else nullcontext()
        with pytest.raises(Interrupted), block, connection.cursor() as cursor:
            interrupt()
            act(cursor)
    # Nobody is given what the statement would have returned: as with Django's backend, the
    # connection is lost, and the end of the request or the job closes it.
    for _ in range(2):
        with (
            suppress(OperationalError, psycopg.OperationalError, InterfaceError),
            connection.cursor() as cursor,
        ):
            next_one(cursor)
    connection.close_if_unusable_or_obsolete()
    with tenant_context(tenants[1].pk):
        assert [note.title for note in Note.objects.using(alias)] == ["B 1", "B 2"]
