"""A PgBouncer in transaction mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from .postgres import Postgres
from .process import LOOPBACK, Child, ServerError, free_port, let_through, log_tail

CONSOLE_USER = "pgbouncer"


class PgBouncer:
    """A transaction pooler in front of `upstream`, for all of its databases.

    `users` may connect, without a password, and reach the server as themselves. `pool_size` server
    connections serve each pair of user and database. `settings` override pgbouncer.ini.
    """

    host = LOOPBACK

    def __init__(
        self,
        upstream: Postgres,
        directory: Path,
        *,
        users: Iterable[str],
        pool_size: int = 2,
        port: int | None = None,
        **settings: Any,
    ) -> None:
        self.upstream = upstream
        self.directory = directory.resolve()
        self.log = self.directory / "pgbouncer.log"
        self.users = [CONSOLE_USER, *users]
        self.pool_size = pool_size
        self.port = port or free_port()
        self.settings = settings
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def version(self) -> str:
        """The version of the running pooler."""
        version: str = self.admin("SHOW VERSION")[0]["version"]
        return version.removeprefix("PgBouncer ")

    def dsn(self, user: str, dbname: str) -> str:
        """Return a connection string through the pooler."""
        return make_conninfo(host=self.host, port=self.port, user=user, dbname=dbname)

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the pooler's log."""
        return log_tail(self.log, lines)

    def start(self) -> None:
        """Write the configuration, start the pooler and wait until it accepts connections."""
        program = pgbouncer_path()
        if program is None:
            raise ServerError("pgbouncer is not installed; try: apt install pgbouncer")
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.upstream.account:
            let_through(self.directory)
        self.log.unlink(missing_ok=True)
        ini = self._configure()
        # As the server's own OS user, who alone can reach a socket inside the data directory.
        self._child = Child([program, ini], self.log, cwd="/", **self.upstream.account)
        try:
            self._child.wait_until(self._accepts)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the pooler, disconnecting its clients."""
        child, self._child = self._child, None
        if child is not None:
            child.stop(grace=1)

    def kill(self) -> None:
        """End the pooler at once, as a crash would."""
        child, self._child = self._child, None
        if child is not None:
            child.process.kill()
            child.process.wait()

    def admin(self, command: str) -> list[dict[str, Any]]:
        """Run a command on the admin console, such as ``SHOW POOLS``, and return its rows."""
        dsn = self.dsn(CONSOLE_USER, "pgbouncer")
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(command.encode())
            return [] if cursor.description is None else cursor.fetchall()

    def _accepts(self) -> bool:
        try:
            return bool(self.admin("SHOW VERSION"))
        except psycopg.OperationalError:
            return False

    def _configure(self) -> Path:
        userlist = self.directory / "userlist.txt"
        userlist.write_text("".join(f'"{user}" ""\n' for user in self.users))
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": userlist,
            "admin_users": CONSOLE_USER,
            "pool_mode": "transaction",
            "default_pool_size": self.pool_size,
            "max_client_conn": 2000,
            "ignore_startup_parameters": "extra_float_digits,options",
            "log_connections": 0,
            "log_disconnections": 0,
            "log_stats": 0,
            # No waiting after a login that failed, as one does that PAUSE or a restart interrupts.
            "server_login_retry": 0,
        } | self.settings
        upstream = f"host='{self.upstream.host}' port={self.upstream.port}"
        lines = ["[databases]", f"* = {upstream}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        ini = self.directory / "pgbouncer.ini"
        ini.write_text("\n".join(lines) + "\n")
        for file in (ini, userlist):
            file.chmod(0o644)
        return ini


def pgbouncer_path() -> str | None:
    """Return the path of the pgbouncer program, or None when it is not installed."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("pgbouncer", path=places)
