"""The database whose connections are checked out for a transaction at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
