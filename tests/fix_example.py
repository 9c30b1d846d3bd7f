"""The example project, served by Uvicorn through a PgBouncer with two server sessions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
def example(modern: Postgres, directory: Path) -> Iterator[Example]:
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
        env = environment(APP, pooler.host, pooler.port)
        manage("seed", env, directory)
        port = free_port()
        log = directory / "uvicorn.log"
        args = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--lifespan", "on"]
        args += ["--app-dir", str(EXAMPLE), "--host", LOOPBACK, "--port", str(port)]
        uvicorn = Child(args, log, env=env)
        url = f"http://{LOOPBACK}:{port}"
        try:
            uvicorn.wait_until(lambda: answers(url))
            yield Example(url, pooler, log)
        finally:
            uvicorn.stop()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/login/").status_code == HTTPStatus.OK
    except httpx.TransportError:
        return False
