"""Database operations: Django's, with tenantry's compilers."""

from __future__ import annotations

from django.db.backends.postgresql import operations

from .connection import SavepointSQL


class DatabaseOperations(operations.DatabaseOperations):
    """Compile ORM queries with tenant predicates, and let savepoints wait."""

    compiler_module = "tenantry.backends.postgresql.compiler"

    # Statements of these types wait in the connection for a message to ride with.

    def savepoint_create_sql(self, sid: str) -> str:
        """Return the SQL that starts a savepoint."""
        return SavepointSQL(super().savepoint_create_sql(sid))

    def savepoint_commit_sql(self, sid: str) -> str:
        """Return the SQL that releases a savepoint."""
        return SavepointSQL(super().savepoint_commit_sql(sid))

    def savepoint_rollback_sql(self, sid: str) -> str:
        """Return the SQL that rolls back to a savepoint."""
        return SavepointSQL(super().savepoint_rollback_sql(sid))
