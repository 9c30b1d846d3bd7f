"""The database whose connections are checked out for a transaction at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.app.models import Tenant

ALIAS = "pool"
SIZE = 2


@pytest.fixture
def pool(tenants: tuple[Tenant, Tenant]) -> Iterator[Any]:
    connection: Any = connections[ALIAS]
    # One who finds no connection yet makes the pool grow meanwhile.
    connection.pool.open(wait=True)
    yield connection
    connection.close()
    connection.close_pool()


@pytest.fixture
def assumed(tenants: tuple[Tenant, Tenant], superuser: psycopg.Connection[Any]) -> Iterator[str]:
    """Return a role to assume, for an app role in another time zone than Django's."""
    superuser.execute("CREATE ROLE assumed NOLOGIN")
    superuser.execute("GRANT assumed TO app")
    superuser.execute("GRANT SELECT ON app_note TO assumed")
    superuser.execute("ALTER ROLE app SET timezone = 'Europe/Berlin'")
    yield "assumed"
    superuser.execute("ALTER ROLE app RESET timezone")
    superuser.execute("DROP OWNED BY assumed")
    superuser.execute("DROP ROLE assumed")
