"""A hot standby, which streams from the server that is written to, is read as whoever is bound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import InternalError, connections, transaction

from example_asgi.servers import Child, Postgres
from tenantry import admin_context, tenant_context
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import check

Tenants = tuple[Tenant, Tenant]


@pytest.fixture
def standby(postgres: Postgres, directory: Path, tenants: Tenants) -> Iterator[Postgres]:
    """Return a standby that has the rows of the tenants, as they were there before it was made."""
    datadir = directory / "standby"
    datadir.mkdir(mode=0o700)
    if postgres.account:
        os.chown(datadir, postgres.account["user"], postgres.account["group"])
    command: list[str | Path] = [postgres.bindir / "pg_basebackup", "-D", datadir]
    command += ["-d", postgres.dsn(), "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    log = directory / "pg_basebackup.log"
    backup = Child(command, log, cwd="/", **postgres.account)
    assert backup.finish() == 0, backup.report("failed")
    # That of the other server's socket, which is in the directory of its data.
    (datadir / f".s.PGSQL.{postgres.port}.lock").unlink()
    with Postgres(datadir, bindir=postgres.bindir) as server:
        yield server


def titles(alias: str) -> list[str]:
    with transaction.atomic(using=alias):
        found = list(Note.objects.using(alias).order_by("title").iterator(chunk_size=1))
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note ORDER BY title")
        raw = [title for (title,) in cursor.fetchall()]
    assert [note.title for note in found] == raw
    return raw


def test_a_standby_is_read_as_whoever_is_bound(
    tenants: Tenants, standby: Postgres, alias: Add
) -> None:
    for like in ("default", "wire_server_side", "pool"):
        name = alias(like, HOST=standby.host, PORT=str(standby.port))
        with connections[name].cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            assert cursor.fetchone() == (True,)
        for tenant in tenants:
            with tenant_context(tenant.pk):
                assert titles(name) == [f"{tenant.name} 1", f"{tenant.name} 2"]
                with pytest.raises(InternalError, match="read-only transaction"):
                    Note.objects.using(name).create(title="new")
        assert titles(name) == []
        with admin_context():
            assert titles(name) == ["A 1", "A 2", "B 1", "B 2"]
        output, status = check("--database", name, "--fail-level", "WARNING")
        assert (output.endswith(" OK, 0 wrong\n"), status) == (True, 0), output
