"""The database that a command works on."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from ..binding import TenantId
from ..conf import rls_tenants
from ..engine import is_bound
from ..routers import shard_of


def bound_database(alias: str) -> Any:
    """Return the connection of a database to which a tenant can be told.

    Raises CommandError for one of another ENGINE, where statements would find no rows.
    """
    connection: Any = connections[alias]
    if not is_bound(connection):
        raise CommandError(
            f"the database {alias!r} has the ENGINE {connection.settings_dict['ENGINE']!r}, which"
            " does not inherit from tenantry's; name another one with --database"
        )
    return connection


def home_of(tenant_id: TenantId) -> str:
    """Return the alias of the database that has the rows of a tenant."""
    return DEFAULT_DB_ALIAS if rls_tenants().shard_of is None else shard_of(tenant_id)
