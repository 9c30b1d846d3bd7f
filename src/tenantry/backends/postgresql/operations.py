"""Database operations: Django's, with tenantry's compilers."""

from __future__ import annotations

from django.db.backends.postgresql import operations

from .savepoints import SavepointSQL


class SavepointMixin:
    """Let savepoints wait in the connection for a message to ride with."""

    def savepoint_create_sql(self, sid: str) -> str:
        """Return the SQL that starts a savepoint."""
        return SavepointSQL(super().savepoint_create_sql(sid))  # type: ignore[misc]

    def savepoint_commit_sql(self, sid: str) -> str:
        """Return the SQL that releases a savepoint."""
        return SavepointSQL(super().savepoint_commit_sql(sid))  # type: ignore[misc]

    def savepoint_rollback_sql(self, sid: str) -> str:
        """Return the SQL that rolls back to a savepoint."""
        return SavepointSQL(super().savepoint_rollback_sql(sid))  # type: ignore[misc]


class OperationsMixin(SavepointMixin):
    """Compile ORM queries with tenant predicates."""

    compiler_module = "tenantry.backends.postgresql.compiler"


class DatabaseOperations(OperationsMixin, operations.DatabaseOperations):
    """Be Django's operations, with tenant predicates and savepoints that wait."""
