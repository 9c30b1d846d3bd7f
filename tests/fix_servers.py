"""PostgreSQL and PgBouncer for the whole run, and a database that is logged in to as an app role.

``TENANTRY_PG_BINDIR`` names the programs of another PostgreSQL than the embedded one.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from pytest_django.plugin import DjangoDbBlocker

from example_asgi.servers import PgBouncer, Postgres, ensure_admin_role, grant_by_default
from tests.app.models import Tenant
from tests.fix_wire import Wire

BINDIR = Path(os.environ["TENANTRY_PG_BINDIR"]) if os.environ.get("TENANTRY_PG_BINDIR") else None
DATABASE = "tenantry"
WIRED = ("wire", "wire_server_side")
# What TRUNCATE ... RESTART IDENTITY CASCADE of the tenants and their users does, in a fiftieth of
# the time: that makes new files for tables, indexes and sequences, whether they held rows or not.
EMPTY = """
DO $$
DECLARE
    emptied regclass;
BEGIN
    -- Every table that refers to one of these is emptied too, so no foreign key is asked.
    SET LOCAL session_replication_role = replica;
    FOR emptied IN
        WITH RECURSIVE reached (relation) AS (
            VALUES ('app_tenant'::regclass::oid), ('app_user'::regclass::oid)
            UNION
            SELECT conrelid FROM pg_constraint JOIN reached ON confrelid = relation
            WHERE contype = 'f'
        )
        SELECT relation FROM reached
    LOOP
        EXECUTE format('DELETE FROM %s', emptied);
        PERFORM setval(seqrelid::regclass, seqstart, false)
        FROM pg_sequence JOIN pg_depend ON objid = seqrelid
        WHERE classid = 'pg_class'::regclass AND refobjid = emptied AND deptype IN ('a', 'i');
    END LOOP;
END $$
"""


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Return a folder with a path short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="tenantry-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def postgres(directory: Path) -> Iterator[Postgres]:
    with Postgres(directory / "pg", bindir=BINDIR) as server:
        yield server


@pytest.fixture(scope="session")
def superuser(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection that RLS does not bind: for arranging, never for asserting isolation."""
    with psycopg.connect(postgres.dsn("postgres", "postgres"), autocommit=True) as connection:
        # To compile a query takes longer than to run it, with tables as small as these.
        for setting in ("fsync", "synchronous_commit", "full_page_writes", "jit"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("CREATE ROLE owner LOGIN")
        connection.execute("CREATE ROLE app LOGIN")
        if settings.HAS_ADMIN_ROLE:
            ensure_admin_role(postgres.dsn(), "app_admin", members=["app", "owner"])
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER owner")
        if settings.IS_SEALED:
            connection.execute(f"REVOKE TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC")
    with psycopg.connect(postgres.dsn("postgres", DATABASE), autocommit=True) as connection:
        # Not to the admin role, which `migrate` grants what it needs.
        grant_by_default(postgres.dsn("postgres", DATABASE), owner="owner", to="app")
        yield connection


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres, directory: Path) -> Iterator[PgBouncer]:
    users = ["app", "owner"]
    with PgBouncer(postgres, directory / "pgbouncer", users=users, pool_size=2) as pooler:
        yield pooler


@pytest.fixture(scope="session")
def project(
    postgres: Postgres,
    pgbouncer: PgBouncer,
    proxy: Wire,
    superuser: psycopg.Connection[Any],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[None]:
    """Migrate the test project as the owner role; everything after runs as the app role."""
    addresses = {
        "default": (postgres.host, postgres.port),
        "owner": (postgres.host, postgres.port),
        "pool": (postgres.host, postgres.port),
        "pooled": (pgbouncer.host, pgbouncer.port),
        "wire": ("127.0.0.1", proxy.port),
        "wire_server_side": ("127.0.0.1", proxy.port),
    }
    for alias, (host, port) in addresses.items():
        connections.settings[alias].update(HOST=str(host), PORT=str(port))
    with django_db_blocker.unblock():
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)
        yield
        connections.close_all()


@pytest.fixture(scope="module")
def truncated(project: None, superuser: psycopg.Connection[Any]) -> None:
    """Leave no dead row, and no statistics, of the modules before."""
    superuser.execute("TRUNCATE app_tenant, app_user RESTART IDENTITY CASCADE")


@pytest.fixture
def tenants(truncated: None, superuser: psycopg.Connection[Any]) -> Iterator[tuple[Tenant, Tenant]]:
    """Return two tenants with one author and two notes each, in tables that hold nothing else."""
    superuser.execute(EMPTY)
    a, b = Tenant.objects.create(name="A"), Tenant.objects.create(name="B")
    for tenant in (a, b):
        superuser.execute(
            "INSERT INTO app_author (name, tenant_id) VALUES (%s, %s)",
            [f"author of {tenant.name}", tenant.pk],
        )
        superuser.execute(
            "INSERT INTO app_note (title, tenant_id, author_id)"
            " SELECT format('%%s %%s', %s::text, i), %s, a.id"
            " FROM generate_series(1, 2) i, app_author a WHERE a.tenant_id = %s",
            [tenant.name, tenant.pk, tenant.pk],
        )
    yield a, b
    connections.close_all()


@pytest.fixture
def renew(tenants: tuple[Tenant, Tenant], pgbouncer: PgBouncer) -> Iterator[Callable[[str], None]]:
    """Return a function that gives an alias server sessions that nobody has had."""
    renewed: set[str] = set()

    def renew(alias: str) -> None:
        renewed.add(alias)
        connection: Any = connections[alias]
        connection.close()
        if alias == "pool":
            connection.close_pool()
        elif alias == "pooled":
            pgbouncer.admin(f"RECONNECT {DATABASE}")

    yield renew
    for alias in list(renewed):
        renew(alias)


@pytest.fixture
def wire(proxy: Wire, tenants: tuple[Tenant, Tenant]) -> Wire:
    """Return what goes over the wire of the aliases "wire" and "wire_server_side"."""
    connect(proxy)
    return proxy


def connect(proxy: Wire) -> None:
    for alias in WIRED:
        connections[alias].ensure_connection()
    proxy.clear()


@contextmanager
def announcing(wire: Wire, version: bytes) -> Iterator[None]:
    """Let the server at the end of the wire say that it is of another version."""
    forget_server()
    wire.announced = version
    try:
        yield
    finally:
        wire.announced = b""
        forget_server()


def is_before_18() -> bool:
    """Return whether the server of the tests is older than the embedded one."""
    if BINDIR is None:
        return False
    said = subprocess.run([BINDIR / "postgres", "--version"], stdout=subprocess.PIPE, check=True)
    found = re.search(rb"\) (\d+)", said.stdout)
    assert found, said
    return int(found[1]) < 18


def forget_server() -> None:
    for alias in WIRED:
        connections[alias].close()
        # Django asks it for its version once.
        del connections[alias]


# What the server at the end of the wire says that it is. Before 18, statements go other ways.
SAID = {"as it is": b""} if is_before_18() else {"as it is": b"", "before 18": b"17"}


@pytest.fixture(params=[*SAID.values()], ids=[*SAID])
def each_version(request: pytest.FixtureRequest, wire: Wire) -> Iterator[None]:
    """Let the server at the end of the wire be told what it is told, and what older ones are."""
    with announcing(wire, request.param) if request.param else nullcontext():
        connect(wire)
        yield
