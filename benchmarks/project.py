"""A Django project without files, on servers that live as long as the benchmark."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import django
import psycopg
from django.conf import settings
from django.db import connections

from benchmarks.delay import LOOPBACK, delayed
from example_asgi.servers import (
    PgBouncer,
    Postgres,
    ensure_database,
    ensure_role,
    grant_by_default,
)

DATABASE, OWNER, APP = "benchmark", "owner", "app"
STOCK, TENANTRY = "django.db.backends.postgresql", "tenantry.backends.postgresql"
# How statements reach the server. PgBouncer is in transaction mode; the last one takes 1 ms for a
# round trip.
ROUTES = ("direct", "pgbouncer", "1 ms")
ROUND_TRIP = 1.0


@contextmanager
def project() -> Iterator[dict[str, str | int]]:
    """Start the servers and set Django up on them; yield the facts that results depend on.

    There is one alias for each route with each ENGINE, such as ``"direct stock"``, and ``"owner"``
    to make tables with. All but that one log in as the same role, which policies bind.
    ``TENANTRY_PG_BINDIR`` names the programs of another PostgreSQL than the embedded one.
    """
    bindir = os.environ.get("TENANTRY_PG_BINDIR")
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with (
            Postgres(
                directory / "pg",
                bindir=Path(bindir) if bindir else None,
                fsync="off",
                # It would wake up in the middle of a round.
                autovacuum="off",
            ) as postgres,
            PgBouncer(postgres, directory / "pgbouncer", users=[APP]) as pgbouncer,
            delayed(f"{postgres.host}/.s.PGSQL.{postgres.port}", ROUND_TRIP) as port,
        ):
            create_database(postgres)
            addresses = [(postgres.host, postgres.port), (pgbouncer.host, pgbouncer.port)]
            configure([*addresses, (LOOPBACK, port)])
            try:
                yield facts(postgres, pgbouncer) | {"round_trip_us": measured_round_trip()}
            finally:
                connections.close_all()


def create_database(postgres: Postgres) -> None:
    """Create a database whose tables belong to one role and are used by another."""
    for role in (OWNER, APP):
        ensure_role(postgres.dsn(), role)
    ensure_database(postgres.dsn(), DATABASE, owner=OWNER)
    grant_by_default(postgres.dsn(dbname=DATABASE), owner=OWNER, to=APP)


def configure(addresses: Sequence[tuple[Path | str, int]]) -> None:
    """Set Django up; `addresses` are those of the routes."""
    owner = database(addresses[0], TENANTRY, OWNER)
    databases = {"default": owner, "owner": owner}
    for route, address in zip(ROUTES, addresses, strict=True):
        for name, engine in (("stock", STOCK), ("tenantry", TENANTRY)):
            databases[f"{route} {name}"] = database(address, engine, APP)
            on_server = database(address, engine, APP, server_side_binding=True)
            databases[f"{route} {name} on server"] = on_server
    settings.configure(
        DATABASES=databases,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["tenantry", "benchmarks"],
        RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
        USE_TZ=True,
    )
    django.setup()


def database(
    address: tuple[Path | str, int], engine: str, user: str, **options: object
) -> dict[str, object]:
    """Return an entry of DATABASES."""
    return {
        "ENGINE": engine,
        "NAME": DATABASE,
        "USER": user,
        "HOST": str(address[0]),
        "PORT": str(address[1]),
        "CONN_MAX_AGE": None,
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {"sslmode": "disable", "gssencmode": "disable", **options},
    }


def measured_round_trip() -> int:
    """Return the median microseconds of an empty statement over the slow route."""
    times = []
    with connections["1 ms stock"].cursor() as cursor:
        for _ in range(50):
            start = time.perf_counter()
            cursor.execute("")
            times.append(time.perf_counter() - start)
    return round(1e6 * statistics.median(times))


def facts(postgres: Postgres, pgbouncer: PgBouncer) -> dict[str, str | int]:
    """Return the versions and the number of processors."""
    return {
        "python": platform.python_version(),
        "django": django.get_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "postgresql": postgres.version,
        "pgbouncer": pgbouncer.version,
        "cpus": os.cpu_count() or 0,
    }
