"""A site that serves requests, while a reader of the documentation changes its database."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from example_asgi.servers import Postgres
from tests.fix_docs import APP, DATABASE, OWNER, Reader
from tests.fix_faults import wait_for

Run = Callable[[], str]
ROWS = 100_000
WAITING = (
    "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND usename = %s AND wait_event_type = 'Lock'"
)
# Those that a batch must not have.
TOO_MUCH = {
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
}


@dataclass(frozen=True)
class Site:
    """Be a site that serves requests while its reader follows a page."""

    reader: Reader
    app: psycopg.Connection[Any]
    superuser: psycopg.Connection[Any]

    def value(self, sql: str, *parameters: object) -> Any:
        row = self.superuser.execute(sql.encode(), parameters).fetchone()
        assert row
        return row[0]

    def seen(self, table: str, tenant: object = "", *, admin: bool = False) -> int:
        """Return how many rows of a table the app role sees in a binding."""
        with self.app.transaction():
            self.app.execute("SELECT set_config('rls.current_tenant', %s, true)", [str(tenant)])
            self.app.execute("SELECT set_config('rls.is_admin', %s, true)", [str(admin).lower()])
            row = self.app.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row
        return int(row[0])

    def serve(self) -> None:
        """Read and write orders as requests do; a lock that keeps them waiting is an error."""
        with self.app.transaction(force_rollback=True):
            self.app.execute("SET LOCAL rls.current_tenant = '1'")
            assert self.app.execute("SELECT FROM shop_order WHERE id = 7").rowcount == 1
            self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 7")
            self.app.execute(
                "INSERT INTO shop_order (author_id, placed) SELECT id, now()"
                " FROM notes_user WHERE username = 'ada'"
            )

    @contextmanager
    def started(self, command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command beside the block; kill it if the block fails."""
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.reader.folder,
            env=self.reader.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            except BaseException:
                kill(process)
                raise

    def waiting(self, *, but: object = None) -> Any:
        """Return the server session of the owner that waits for a lock, when there is one."""
        wait_for(lambda: self.value(WAITING, OWNER) not in (None, but), 30)
        return self.value(WAITING, OWNER)

    # Around the commands of the page.

    def tried_again(self, run: Run) -> str:
        """Let a request keep the table longer than the command waits for it."""
        with self.started("sh migrate.sh shop 0002", LOCK_TIMEOUT="200ms") as process:
            with self.app.transaction():
                self.app.execute("SELECT FROM shop_order LIMIT 1")
                first = self.waiting()
                self.waiting(but=first)
            output, _ = process.communicate(timeout=60)
        assert "canceling statement due to lock timeout" in output
        assert process.returncode == 0, output
        return output

    def interrupted(self, run: Run) -> str:
        """Kill the command in the middle of its work, then run it again."""
        with self.app.transaction():
            self.app.execute("SELECT FROM shop_order WHERE id = %s FOR UPDATE", [ROWS // 2])
            with self.started("sh migrate.sh shop 0003", LOCK_TIMEOUT="0") as process:
                pid = self.waiting()
                locks = self.superuser.execute(
                    "SELECT mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
                    " AND relation::regclass::text LIKE ANY ('{shop%%,notes%%}')",
                    [pid],
                )
                modes = {mode for (mode,) in locks}
                assert "RowExclusiveLock" in modes
                assert not modes & TOO_MUCH
                self.serve_beside()
                kill(process)
            self.superuser.execute("SELECT pg_terminate_backend(%s)", [pid])
            wait_for(lambda: self.value(WAITING, OWNER) is None)
        stamped = self.value("SELECT count(tenant_id) FROM shop_order WHERE id <= %s", ROWS)
        assert 0 < stamped < ROWS // 2
        first = self.value("SELECT xmin::text FROM shop_order WHERE id = 1")
        output = run()
        assert self.value("SELECT count(*) FROM shop_order WHERE tenant_id IS NULL") == 0
        assert self.value("SELECT xmin::text FROM shop_order WHERE id = 1") == first
        return output

    def serve_beside(self) -> None:
        """Serve from another session than the one that is in a transaction."""
        with psycopg.connect(self.app.info.dsn, autocommit=True) as other:
            other.execute("SET lock_timeout = '1s'")
            replace(self, app=other).serve()

    def beside_a_request(self, run: Run) -> str:
        """Let a request have what it wrote while the command runs."""
        with self.app.transaction():
            self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 7")
            return run()

    def without_a_scan(self, run: Run) -> str:
        """See that PostgreSQL needs not look at the rows."""
        notices: list[str] = []

        def note(notice: psycopg.errors.Diagnostic) -> None:
            notices.append(notice.message_primary or "")

        self.superuser.add_notice_handler(note)
        with self.superuser.transaction(force_rollback=True):
            self.superuser.execute("SET LOCAL client_min_messages = debug1")
            self.superuser.execute("ALTER TABLE shop_order ALTER tenant_id SET NOT NULL")
        self.superuser.remove_notice_handler(note)
        assert any("sufficient to prove that it does not contain nulls" in each for each in notices)
        return run()

    def patient(self, run: Run) -> str:
        """Let the command wait for a transaction, and others be served while it does."""
        with self.started("LOCK_TIMEOUT=0 sh migrate.sh shop 0007") as process:
            with self.app.transaction():
                self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 8")
                self.waiting()
                self.serve_beside()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def served(reader: Reader, postgres: Postgres) -> Iterator[Site]:
    with (
        psycopg.connect(postgres.dsn(APP, DATABASE), autocommit=True) as app,
        psycopg.connect(postgres.dsn("postgres", DATABASE), autocommit=True) as superuser,
    ):
        app.execute("SET lock_timeout = '1s'")
        yield Site(reader, app, superuser)
