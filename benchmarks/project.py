"""A Django project without files, on servers that live as long as the benchmark."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
import psycopg
from django.conf import settings
from django.db import connections

from example_asgi.servers import (
    PgBouncer,
    Postgres,
    ensure_database,
    ensure_role,
    grant_by_default,
)

DATABASE, OWNER, APP = "benchmark", "owner", "app"
STOCK, TENANTRY = "django.db.backends.postgresql", "tenantry.backends.postgresql"
# How statements reach the server; PgBouncer is in transaction mode.
ROUTES = ("direct", "pgbouncer")


@contextmanager
def project() -> Iterator[dict[str, str | int]]:
    """Start the servers and set Django up on them; yield the facts that results depend on.

    There is one alias for each route with each ENGINE, such as ``"direct stock"``, and ``"owner"``
    to make tables with. All but that one log in as the same role, which policies bind.
    ``TENANTRY_PG_BINDIR`` names the programs of another PostgreSQL than the embedded one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with (
            postgres(directory) as server,
            PgBouncer(server, directory / "pgbouncer", users=[APP]) as pgbouncer,
        ):
            databases = {}
            servers: tuple[Postgres | PgBouncer, ...] = (server, pgbouncer)
            for route, each in zip(ROUTES, servers, strict=True):
                databases[f"{route} stock"] = database(each, STOCK, APP)
                databases[f"{route} tenantry"] = database(each, TENANTRY, APP)
            set_up(server, databases)
            try:
                yield facts(server) | {"pgbouncer": pgbouncer.version}
            finally:
                connections.close_all()


@contextmanager
def postgres(directory: Path, **server_settings: Any) -> Iterator[Postgres]:
    """Start PostgreSQL with the benchmark's database and roles."""
    bindir = os.environ.get("TENANTRY_PG_BINDIR")
    with Postgres(
        directory / "pg",
        bindir=Path(bindir) if bindir else None,
        fsync="off",
        # It would wake up in the middle of a round.
        autovacuum="off",
        **server_settings,
    ) as server:
        create_database(server)
        yield server


def create_database(postgres: Postgres) -> None:
    """Create a database whose tables belong to one role and are used by another."""
    for role in (OWNER, APP):
        ensure_role(postgres.dsn(), role)
    ensure_database(postgres.dsn(), DATABASE, owner=OWNER)
    grant_by_default(postgres.dsn(dbname=DATABASE), owner=OWNER, to=APP)


def set_up(server: Postgres, databases: dict[str, dict[str, object]], **more: Any) -> None:
    """Set Django up with `databases`, ``"owner"``, and `more` settings."""
    owner = database(server, TENANTRY, OWNER)
    settings.configure(
        DATABASES={"default": owner, "owner": owner, **databases},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["tenantry", "benchmarks"],
        RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
        USE_TZ=True,
        **more,
    )
    django.setup()


def database(server: Postgres | PgBouncer, engine: str, user: str) -> dict[str, object]:
    """Return an entry of DATABASES."""
    return {
        "ENGINE": engine,
        "NAME": DATABASE,
        "USER": user,
        "HOST": server.host,
        "PORT": server.port,
        "CONN_MAX_AGE": None,
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }


def facts(server: Postgres) -> dict[str, str | int]:
    """Return the versions and the number of processors."""
    return {
        "python": platform.python_version(),
        "django": django.get_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "postgresql": server.version,
        "cpus": os.cpu_count() or 0,
    }
