"""What pg_stat_statements keeps: an entry for a statement, not one for every tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections, transaction

from example_asgi.servers import Postgres, ensure_admin_role, grant_by_default
from tenantry import aconnection, arows, tenant_context
from tenantry.backends.postgresql import parsed
from tests import settings
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add

TENANTS = 20
PRELOAD = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}
NOTES = "SELECT title FROM app_note WHERE id > %s"
# For what takes no parameters.
ALL_NOTES = "SELECT title FROM app_note"
INSERT = "INSERT INTO app_shared (text) VALUES (%s)"
COPY_IN = "COPY app_shared (text) FROM STDIN"


@pytest.fixture
def watched(postgres: Postgres, directory: Path, alias: Add) -> Iterator[list[str]]:
    """Return aliases of a server of the same version that keeps statistics, with our tables.

    Their parameters are merged on the client, and left to the server.
    """
    server = Postgres(directory / "watched", bindir=postgres.bindir, **PRELOAD)
    with server, psycopg.connect(server.dsn(), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION pg_stat_statements")
        superuser.execute("CREATE ROLE app LOGIN")
        superuser.execute("GRANT pg_read_all_stats TO app")
        if settings.HAS_ADMIN_ROLE:
            ensure_admin_role(server.dsn(), "app_admin", members=["app"])
        grant_by_default(server.dsn(), owner="postgres", to="app")
        place = {"NAME": "postgres", "HOST": server.host, "PORT": str(server.port)}
        owner = alias("owner", USER="postgres", **place)
        call_command("migrate", database=owner, verbosity=0, run_syncdb=True)
        superuser.execute("SELECT pg_stat_statements_reset()")
        yield [alias(like, **place) for like in ("default", "wire_server_side")]
        connections.close_all()


def entries(using: str) -> int:
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_statements")
        return int(cursor.fetchone()[0])


def work(using: str) -> None:
    connection: Any = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(NOTES, [1])
        cursor.execute(ALL_NOTES)
        cursor.executemany(INSERT, [["one"], ["two"]])
        list(cursor.stream(NOTES, [1]))
        with connection.connection.pipeline():
            connection.connection.execute(NOTES, [1])
    list(Note.objects.using(using).select_related("author").filter(title="x"))
    Note.objects.using(using).filter(title="x").update(title="y")
    with transaction.atomic(using=using), connection.cursor() as cursor:
        with cursor.copy(f"COPY ({ALL_NOTES}) TO STDOUT") as copy:
            list(copy.rows())
        with cursor.copy(COPY_IN) as copy:
            copy.write_row(["three"])
        with connection.connection.cursor("named") as named:
            named.execute(ALL_NOTES)
            named.fetchmany(1)
            named.fetchall()
    connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute(ALL_NOTES)
    connection.commit()
    connection.set_autocommit(True)


async def awork(using: str) -> None:
    notes = Note.objects.using(using).filter(title="x")
    await arows(notes)
    async with aconnection(using) as connection:
        await connection.execute(NOTES, [1])
        await arows(notes, connection)
        cursor = connection.cursor()
        await cursor.executemany(INSERT, [["one"], ["two"]])
        assert [row async for row in cursor.stream(NOTES, [1])] == []
        async with cursor.copy(f"COPY ({ALL_NOTES}) TO STDOUT") as copy:
            assert [row async for row in copy.rows()] == []
        async with cursor.copy(COPY_IN) as copy:
            await copy.write_row(["three"])
        async with connection.cursor("named") as named:
            await named.execute(ALL_NOTES)
            assert await named.fetchall() == []
        async with connection.pipeline():
            await connection.execute(NOTES, [1])


def test_no_entry_per_tenant(watched: list[str]) -> None:
    async def awork_for(tenants: range) -> None:
        for tenant_id in tenants:
            async with tenant_context(tenant_id):
                for using in watched:
                    await awork(using)

    def work_for(tenants: range) -> None:
        for tenant_id in tenants:
            with tenant_context(tenant_id):
                for using in watched:
                    work(using)
        asyncio.run(awork_for(tenants))

    work_for(range(3))
    entries(watched[0])  # Counting is a statement as well.
    before = entries(watched[0])
    assert before > 20
    work_for(range(3, TENANTS))
    assert entries(watched[0]) == before


@pytest.mark.unsealed
def test_the_statement_before_a_savepoint_is_not_told_apart_by_tenant(
    wire: Any, tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A savepoint inside a transaction goes by the extended protocol, the tenant a parameter.

    The second time it goes as everything does that is counted above.
    """
    texts = []
    for tenant in tenants:
        monkeypatch.setattr(parsed, "_known", set())
        wire.clear()
        with tenant_context(tenant.pk), transaction.atomic(using="wire"):
            connections["wire"].cursor().execute("SELECT 1")
            with transaction.atomic(using="wire"):
                connections["wire"].cursor().execute("SELECT 1")
        texts.append([query for query in wire.queries if "$1" in query])
    assert texts[0] == texts[1]
    assert len(texts[0]) == 1
