"""Dumps of a protected database: they hold the rows of all tenants, and restore its protection."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections

from example_asgi.servers import Postgres
from tenantry import admin_context, tenant_context
from tests.app.models import Note, Tenant
from tests.fix_checks import broken, findings
from tests.settings import HAS_ADMIN_ROLE, IS_SEALED

Tenants = tuple[Tenant, Tenant]
NAME = "restored"
# What the admin role is not granted by `migrate`, and a dump asks for.
READ_SEQUENCES = "SELECT ON ALL SEQUENCES IN SCHEMA public"
# Routines that other tests have left, which nobody but a superuser could restore as they are.
LEFT = """
SELECT format('DROP ROUTINE %s', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'public'::regnamespace AND proowner = 'postgres'::regrole
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
"""


class Programs:
    """PostgreSQL's programs, run as somebody."""

    def __init__(self, server: Postgres) -> None:
        self.server = server

    def run(self, program: str, user: str, *arguments: str, options: str = "") -> str:
        """Return the output; raise AssertionError with the errors if there are any."""
        where = {"PGHOST": str(self.server.host), "PGPORT": str(self.server.port)}
        done = subprocess.run(
            [self.server.bindir / program, "-U", user, *arguments],
            env={**os.environ, **where, "PGOPTIONS": options},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not done.returncode, done.stderr
        return done.stdout


@pytest.fixture
def programs(tenants: Tenants, postgres: Postgres, superuser: Any) -> Iterator[Programs]:
    """Return the programs, with a role for backups and an empty database to restore into."""
    for (drop,) in superuser.execute(LEFT).fetchall():
        superuser.execute(drop)
    superuser.execute("CREATE ROLE backup LOGIN BYPASSRLS; GRANT owner TO backup")
    superuser.execute(f"CREATE DATABASE {NAME} OWNER owner")
    if IS_SEALED:
        superuser.execute(f"REVOKE TEMPORARY ON DATABASE {NAME} FROM PUBLIC")
    try:
        yield Programs(postgres)
    finally:
        superuser.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
        superuser.execute("DROP ROLE backup")


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """Let the application log in to the restored database."""
    connection = connections["default"]
    connection.close()
    name, connection.settings_dict["NAME"] = connection.settings_dict["NAME"], NAME
    yield
    connection.close()
    connection.settings_dict["NAME"] = name


SCHEMA = """
SELECT 'policy', to_jsonb(p)::text FROM pg_policies p
UNION ALL SELECT 'table', concat_ws(' ', relname, relrowsecurity, relforcerowsecurity)
  FROM pg_class WHERE relkind = 'r'
    AND relnamespace IN ('public'::regnamespace, 'tenantry'::regnamespace)
UNION ALL SELECT 'constraint', pg_get_constraintdef(oid) || convalidated
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'function', concat_ws(' ', pg_get_functiondef(oid), proacl)
  FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace
ORDER BY 1, 2
"""


def schema(server: Postgres, database: str) -> list[tuple[str, str]]:
    with psycopg.connect(server.dsn("postgres", database)) as connection:
        return connection.execute(SCHEMA).fetchall()


def check_restored(server: Postgres, tenants: Tenants) -> None:
    assert schema(server, NAME) == schema(server, "tenantry")
    assert findings() == []
    assert Note.objects.count() == 0
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert {note.title[0] for note in Note.objects.all()} == {tenant.name}
            Note.objects.create(title="after")
    with admin_context():
        assert Note.objects.count() == 6


@pytest.mark.parametrize("user", ["backup", "postgres"])
def test_a_dump_is_restored_by_several_processes(
    user: str, programs: Programs, tenants: Tenants, tmp_path: Path, elsewhere: None
) -> None:
    """A role that no policy binds makes foreign keys of tables that are protected by then."""
    path = str(tmp_path / "dump")
    programs.run("pg_dump", "backup", "-Fc", "-d", "tenantry", "-f", path)
    programs.run("pg_restore", user, "--jobs=4", "-d", NAME, path)
    check_restored(programs.server, tenants)


@pytest.mark.unsealed
def test_the_admin_dumps_all_rows(
    programs: Programs,
    tenants: Tenants,
    arrange: psycopg.Connection[Any],
    tmp_path: Path,
    elsewhere: None,
) -> None:
    path = str(tmp_path / "dump.sql")
    dump = ["--enable-row-security", "-d", "tenantry", "-f", path]
    if HAS_ADMIN_ROLE:
        grant, revoke = f"GRANT {READ_SEQUENCES} TO app_admin", f"REVOKE {READ_SEQUENCES} FROM "
        with broken(arrange, grant, revoke + "app_admin"):
            programs.run("pg_dump", "owner", "--role=app_admin", *dump)
    else:
        programs.run("pg_dump", "owner", *dump, options="-c rls.is_admin=true")
    programs.run("psql", "owner", "-q", "-v", "ON_ERROR_STOP=1", "-d", NAME, "-f", path)
    check_restored(programs.server, tenants)


def test_whoever_is_bound_is_refused_a_dump(programs: Programs, tmp_path: Path) -> None:
    """It would lack rows, of which nobody is told."""
    message = "would be affected by row-level security policy"
    with pytest.raises(AssertionError, match=message):
        programs.run("pg_dump", "owner", "-d", "tenantry", "-f", str(tmp_path / "dump.sql"))
