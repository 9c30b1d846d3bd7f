"""``ENGINE = "tenantry.backends.postgis"``: Django's PostGIS backend, bound.

Everything of ``tenantry.backends.postgresql`` works here as it does there.
"""

from __future__ import annotations

from typing import Any

from django.contrib.gis.db.backends.postgis import base, operations, schema

from ..postgresql import driver
from ..postgresql.base import BoundConnections, RidingSavepoints
from ..postgresql.client import DatabaseClient
from ..postgresql.operations import OperationsMixin
from ..postgresql.pool import PoolingMixin
from ..postgresql.schema import SchemaEditorMixin


class DatabaseOperations(OperationsMixin, operations.PostGISOperations):
    """The operations of Django's PostGIS backend, with tenant predicates."""


class DatabaseSchemaEditor(SchemaEditorMixin, schema.PostGISSchemaEditor):
    """The schema editor of Django's PostGIS backend, for protected tables."""


class DatabaseWrapper(PoolingMixin, RidingSavepoints, BoundConnections, base.DatabaseWrapper):
    """Django's PostGIS backend, with bound cursors and tenant predicates in ORM SQL."""

    Database = driver
    SchemaEditorClass = DatabaseSchemaEditor
    ops_class = DatabaseOperations
    client_class = DatabaseClient

    # Django's: what each alias knows of the types of PostGIS.
    _type_infos: dict[str, dict[str, Any]]

    def checkout(self, pool: Any) -> Any:
        """Return a connection that knows the types of PostGIS, which may be newer than it."""
        connection = super().checkout(pool)
        self.register_geometry_adapters(connection)
        return connection

    def recovered(self, error: Any) -> Any:
        """Return a connection that knows the types of PostGIS, though it came late."""
        connection = super().recovered(error)
        self.register_geometry_adapters(connection)
        return connection

    async def aprepare_connection(self, connection: Any) -> None:
        """Register the types of PostGIS with an async connection."""
        await super().aprepare_connection(connection)
        fetch: Any = base.TypeInfo.fetch  # type: ignore[attr-defined]
        for name, infos in self._type_infos.items():
            if infos.get(self.alias) is None:
                infos[self.alias] = await fetch(connection, name)
        self.register_geometry_adapters(connection)
