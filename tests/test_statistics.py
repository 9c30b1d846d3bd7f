"""What pg_stat_statements keeps: an entry for a statement, not one for every tenant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from example_asgi.servers import Postgres
from tenantry import tenant_context
from tenantry.backends.postgresql import parsed
from tests.app.models import Tenant

TENANTS = 50
PRELOAD = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "all"}


@pytest.fixture
def watched(postgres: Postgres, directory: Path, project: None) -> Iterator[Any]:
    """Return a connection of ours to a server of the same version that keeps statistics."""
    server = Postgres(directory / "watched", bindir=postgres.bindir, **PRELOAD)
    with server, psycopg.connect(server.dsn(), autocommit=True) as superuser:
        superuser.execute("CREATE EXTENSION pg_stat_statements")
        superuser.execute("CREATE ROLE app LOGIN")
        superuser.execute("CREATE TABLE numbers (n int)")
        superuser.execute("GRANT SELECT, INSERT ON numbers TO app")
        superuser.execute("GRANT pg_read_all_stats TO app")
        connection = connections.create_connection("default")
        connection.settings_dict = {
            **connection.settings_dict,
            "NAME": "postgres",
            "HOST": server.host,
            "PORT": str(server.port),
        }
        yield connection
        connection.close()


def entries(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_statements")
        return int(cursor.fetchone()[0])


def test_no_entry_per_tenant(watched: Any) -> None:
    def work() -> None:
        with watched.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM numbers WHERE n = %s", [1])
            cursor.executemany("INSERT INTO numbers VALUES (%s)", [[1], [2]])
            list(cursor.stream("SELECT n FROM numbers LIMIT %s", [1]))
        watched.set_autocommit(False)
        with watched.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            cursor.execute("SELECT n FROM numbers LIMIT 1")
        watched.commit()
        watched.set_autocommit(True)

    for tenant_id in range(3):
        with tenant_context(tenant_id):
            work()
    entries(watched)  # Counting is a statement as well.
    before = entries(watched)
    assert before > 5
    for tenant_id in range(3, TENANTS):
        with tenant_context(tenant_id):
            work()
    assert entries(watched) == before


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
