"""Run the example project for real: ``python example_asgi/demo.py``.

PostgreSQL, PgBouncer in transaction mode and Uvicorn, all ended again by Ctrl-C. The data stay in
``.data/demo`` for the next time.
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from notes.sampledata import LOGINS, PASSWORD
from servers import (
    LOOPBACK,
    Child,
    PgBouncer,
    Postgres,
    ServerError,
    ensure_admin_role,
    ensure_database,
    ensure_role,
    grant_by_default,
    pgbouncer_path,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OWNER, APP, ADMIN, DATABASE = "notes_owner", "notes_app", "notes_admin", "notes"
POOL_SIZE = 5
PORTS = 65536


class Demo:
    """What runs together, in a directory for its data and logs."""

    def __init__(self, data: Path, port: int, *, pool: bool) -> None:
        self.data = data.resolve()
        self.port = port
        self.pool = pool
        self.postgres = Postgres(self.data / "postgres")
        self.running = ExitStack()

    def start(self) -> str:
        """Start everything and return what there is to say about it."""
        self.running.enter_context(self.postgres)
        self.prepare_roles()
        direct = environment(OWNER, self.postgres.host, self.postgres.port)
        self.manage("migrate", direct)
        database, pooler = self.connect_through()
        self.manage("seed", database)
        self.serve(database)
        return self.describe(pooler)

    def prepare_roles(self) -> None:
        """Create the roles and the database that the migrations and the application use."""
        admin = self.postgres.dsn()
        for role in (OWNER, APP):
            ensure_role(admin, role)
        ensure_admin_role(admin, ADMIN, members=[OWNER, APP])
        ensure_database(admin, DATABASE, owner=OWNER)
        grant_by_default(self.postgres.dsn(dbname=DATABASE), owner=OWNER, to=APP)

    def connect_through(self) -> tuple[dict[str, str], str]:
        """Start the pooler; return the application's environment and a line about the pooler."""
        direct = environment(APP, self.postgres.host, self.postgres.port)
        if not self.pool:
            return direct, "no pooler, as asked"
        if pgbouncer_path() is None:
            return direct, "PgBouncer is not installed (apt install pgbouncer): no pooler"
        bouncer = PgBouncer(
            self.postgres, self.data / "pgbouncer", users=[APP], pool_size=POOL_SIZE
        )
        self.running.enter_context(bouncer)
        line = f"PgBouncer {bouncer.version} in transaction mode on port {bouncer.port}"
        return environment(APP, bouncer.host, bouncer.port), line

    def manage(self, command: str, env: dict[str, str]) -> None:
        """Run a management command to its end."""
        child = Child(
            [sys.executable, HERE / "manage.py", command],
            self.log(command),
            name=f"manage.py {command}",
            env=env,
        )
        if child.finish() != 0:
            raise ServerError(child.report("failed"))

    def serve(self, env: dict[str, str]) -> None:
        """Start Uvicorn and wait until it answers."""
        args = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--app-dir", str(HERE)]
        args += ["--host", LOOPBACK, "--port", str(self.port)]
        args += ["--timeout-graceful-shutdown", "2"]
        uvicorn = Child(args, self.log("uvicorn"), name="Uvicorn", env=env)
        self.running.callback(uvicorn.stop)
        uvicorn.wait_until(lambda: login_status(self.port) is not None)
        status = login_status(self.port)
        if status != http.HTTPStatus.OK:
            raise ServerError(uvicorn.report(f"answers with status {status}"))

    def describe(self, pooler: str) -> str:
        """Return the address, the logins and what runs where."""
        lines = [
            "",
            f"  http://{LOOPBACK}:{self.port}/",
            "",
            *(f"  {name:<8}{tenant:<15}password: {PASSWORD}" for name, tenant in LOGINS),
            "",
            f"  PostgreSQL {self.postgres.version} in {self.postgres.datadir}",
            f"  {pooler}",
            f"  Uvicorn on port {self.port}, its log in {self.data / 'uvicorn.log'}",
            "",
            "  Ctrl-C stops all of it.",
            "",
        ]
        return "\n".join(lines)

    def log(self, name: str) -> Path:
        """Return an empty log file."""
        path = self.data / f"{name}.log"
        path.write_bytes(b"")
        return path

    def stop(self) -> None:
        """End what was started, the last first."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.running.close()


def environment(user: str, host: str, port: int) -> dict[str, str]:
    """Return the environment of a process that uses the database as `user`."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TENANTRY_DB_NAME": DATABASE,
        "TENANTRY_DB_USER": user,
        "TENANTRY_DB_HOST": host,
        "TENANTRY_DB_PORT": str(port),
    }


def login_status(port: int) -> int | None:
    """Return the status of the application's login page, or None when nothing answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", "/login/")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def next_free(port: int) -> int:
    """Return `port`, or the next one that nobody listens on."""
    for candidate in range(port, min(port + 100, PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, candidate))
            except OSError:
                continue
        return candidate
    raise ServerError(f"port {port} and those after it are taken; choose another with --port")


def lock(data: Path) -> int:
    """Keep the data for this process, as long as it lives."""
    data.mkdir(parents=True, exist_ok=True)
    file = os.open(data / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServerError(f"another demo uses {data}; choose another place with --data") from None
    return file


def port_number(text: str) -> int:
    """Return the port that an argument names."""
    if text.isdecimal() and 0 < int(text) < PORTS:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port")


def interrupt(*args: object) -> NoReturn:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Start, wait for Ctrl-C, stop."""
    parser = argparse.ArgumentParser(description="Run the example project.")
    parser.add_argument(
        "--port", type=port_number, default=8000, metavar="PORT", help="of the web server (8000)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".data" / "demo",
        metavar="DIRECTORY",
        help="of the data and logs (.data/demo)",
    )
    parser.add_argument("--no-pgbouncer", action="store_true", help="connect directly")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        lock(options.data)
        port = next_free(options.port)
        if port != options.port:
            print(f"Port {options.port} is taken; using {port}.")
        demo = Demo(options.data, port, pool=not options.no_pgbouncer)
        try:
            print("Starting PostgreSQL and the example project ...", flush=True)
            print(demo.start(), flush=True)
            while True:
                # Not signal.pause(): a signal that arrives just before it would not end it.
                time.sleep(1)
        finally:
            demo.stop()
            print("stopped", flush=True)
    except KeyboardInterrupt:
        return 0
    except (ServerError, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
