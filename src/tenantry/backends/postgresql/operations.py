"""Database operations: Django's, with tenantry's compilers."""

from __future__ import annotations

from typing import Any

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

    def execute_sql_flush(self, sql_list: Any) -> None:
        """Empty tables; in a test database, as its owner, because TRUNCATE is no app role's."""
        connection: Any = self.connection  # type: ignore[attr-defined]
        if connection.creation.is_test_database():
            with connection.creation.as_owner():
                super().execute_sql_flush(sql_list)  # type: ignore[misc]
        else:
            super().execute_sql_flush(sql_list)  # type: ignore[misc]


class DatabaseOperations(OperationsMixin, operations.DatabaseOperations):
    """Be Django's operations, with tenant predicates and savepoints that wait."""
