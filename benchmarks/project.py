"""A Django project without files, on servers that live as long as the benchmark."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import django
from django.conf import settings
from django.db import connections

from benchmarks import processors
from benchmarks.delay import LOOPBACK, delayed
from benchmarks.facts import facts
from example_asgi.servers import (
    PgBouncer,
    Postgres,
    ensure_admin_role,
    ensure_database,
    ensure_role,
    grant_by_default,
)

DATABASE, OWNER, APP, ADMIN = "benchmark", "owner", "app", "app_admin"
# The shapes of policies, as settings.
SHAPES: dict[str, dict[str, Any]] = {
    "guc": {},
    "role": {"ADMIN_ROLE": ADMIN, "APP_ROLE": APP},
    "sealed": {
        "ADMIN_ROLE": ADMIN,
        "APP_ROLE": APP,
        "SEALED": True,
        "SEAL_KEYS": ["a secret that is long enough for a benchmark"],
    },
}
STOCK, TENANTRY = "django.db.backends.postgresql", "tenantry.backends.postgresql"
# How statements reach the server. PgBouncer is in transaction mode; the last one takes 1 ms for a
# round trip.
ROUTES = ("direct", "pgbouncer", "1 ms")
ROUND_TRIP = 1.0


class Address(NamedTuple):
    """Where a server is, or what stands in front of it."""

    host: str
    port: int


Place = Postgres | PgBouncer | Address


@contextmanager
def project(shape: str = "guc", **server_settings: Any) -> Iterator[dict[str, str | int]]:
    """Start the servers and set Django up on them; yield the facts that results depend on.

    The policies have one of the :data:`SHAPES`.

    There is one alias for each route with each ENGINE, such as ``"direct stock"``, one more with
    server-side binding, such as ``"direct stock on server"``, and ``"owner"`` to make tables with.
    All but that one log in as the same role, which policies bind. ``TENANTRY_PG_BINDIR`` names the
    programs of another PostgreSQL than the embedded one.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with (
            processors.apart() as apart,
            postgres(directory, **server_settings) as server,
            PgBouncer(server, directory / "pgbouncer", users=[APP]) as pgbouncer,
            delayed(f"{server.host}/.s.PGSQL.{server.port}", ROUND_TRIP) as port,
        ):
            apart.leave()
            databases = {}
            places: tuple[Place, ...] = (server, pgbouncer, Address(LOOPBACK, port))
            for route, place in zip(ROUTES, places, strict=True):
                for name, engine in (("stock", STOCK), ("tenantry", TENANTRY)):
                    databases[f"{route} {name}"] = database(place, engine, APP)
                    databases[f"{route} {name} on server"] = database(
                        place, engine, APP, server_side_binding=True
                    )
            tenants = {"TENANT_MODEL": "benchmarks.Tenant", **SHAPES[shape]}
            if shape != "guc":
                ensure_admin_role(server.dsn(), ADMIN, members=[OWNER, APP])
                grant_by_default(server.dsn(dbname=DATABASE), owner=OWNER, to=ADMIN)
            set_up(server, databases, RLS_TENANTS=tenants)
            try:
                yield facts(server, pgbouncer, placement=apart.placement) | {
                    "round_trip_us": measured_round_trip()
                }
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
        USE_TZ=True,
        **{"RLS_TENANTS": {"TENANT_MODEL": "benchmarks.Tenant"}, **more},
    )
    django.setup()


def database(place: Place, engine: str, user: str, **options: object) -> dict[str, object]:
    """Return an entry of DATABASES."""
    return {
        "ENGINE": engine,
        "NAME": DATABASE,
        "USER": user,
        "HOST": str(place.host),
        "PORT": str(place.port),
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
