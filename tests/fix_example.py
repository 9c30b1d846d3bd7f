"""The example project, served by Uvicorn through a PgBouncer with two server sessions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import httpx
import psycopg
import pytest

from example_asgi.servers import (
    LOOPBACK,
    Child,
    PgBouncer,
    Postgres,
    ensure_admin_role,
    ensure_database,
    ensure_role,
    free_port,
    grant_by_default,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "example_asgi"
OWNER, APP, ADMIN, DATABASE = "notes_owner", "notes_app", "notes_admin", "notes"
SESSIONS = 2
MODERN = 160000


@dataclass
class Example:
    """Where the running example is, and the pooler that it uses."""

    url: str
    pooler: PgBouncer
    log: Path
    server: Child

    def dsn(self) -> str:
        """Return a connection string for another client of the same pool."""
        return self.pooler.dsn(APP, DATABASE)


def environment(user: str, host: str, port: int) -> dict[str, str]:
    paths = [str(EXAMPLE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TENANTRY_DB_NAME": DATABASE,
        "TENANTRY_DB_USER": user,
        "TENANTRY_DB_HOST": host,
        "TENANTRY_DB_PORT": str(port),
        "TENANTRY_DEBUG": "0",
        "TENANTRY_BOOM": "1",
    }


def manage(command: str, env: dict[str, str], directory: Path) -> None:
    child = Child(
        [sys.executable, EXAMPLE / "manage.py", command], directory / f"{command}.log", env=env
    )
    assert child.finish() == 0, child.report("failed")


@pytest.fixture(scope="session")
def modern(postgres: Postgres, directory: Path) -> Iterator[Postgres]:
    """Return a server that knows memberships without inheritance."""
    with psycopg.connect(postgres.dsn()) as connection:
        enough = connection.info.server_version >= MODERN
    if enough:
        yield postgres
    else:
        with Postgres(directory / "modern", fsync="off") as server:
            yield server


@pytest.fixture(scope="session")
def example_pooler(modern: Postgres, directory: Path) -> Iterator[PgBouncer]:
    """Return a pooler with two server sessions, in front of the example's data."""
    postgres = modern
    for role in (OWNER, APP):
        ensure_role(postgres.dsn(), role)
    ensure_admin_role(postgres.dsn(), ADMIN, members=[OWNER, APP])
    ensure_database(postgres.dsn(), DATABASE, owner=OWNER)
    grant_by_default(postgres.dsn(dbname=DATABASE), owner=OWNER, to=APP)
    manage("migrate", environment(OWNER, postgres.host, postgres.port), directory)
    with PgBouncer(
        postgres, directory / "example", users=[APP], pool_size=SESSIONS, query_wait_timeout=60
    ) as pooler:
        manage("seed", environment(APP, pooler.host, pooler.port), directory)
        yield pooler


def environment_of_example(pooler: PgBouncer) -> dict[str, str]:
    """Return the environment of a process that uses the example's data."""
    return environment(APP, pooler.host, pooler.port)


@contextmanager
def served(
    pooler: PgBouncer, name: str, command: list[str], more: dict[str, str] | None = None
) -> Iterator[Example]:
    """Run a server of the example; ``{port}`` in `command` is where."""
    port = free_port()
    args = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    log = pooler.directory / f"{name}.log"
    env = environment_of_example(pooler) | (more or {}) | {"PGAPPNAME": name}
    server = Child(args, log, env=env, cwd=EXAMPLE)
    url = f"http://{LOOPBACK}:{port}"
    try:
        server.wait_until(lambda: answers(url))
        yield Example(url, pooler, log, server)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def example(example_pooler: PgBouncer) -> Iterator[Example]:
    command = ["uvicorn", "project.asgi:application", "--lifespan", "on"]
    command += ["--host", LOOPBACK, "--port", "{port}"]
    with served(example_pooler, "example", command) as running:
        yield running


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/login/").status_code == HTTPStatus.OK
    except httpx.TransportError:
        return False
