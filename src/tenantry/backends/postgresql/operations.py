"""Database operations: Django's, with tenantry's compilers."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.backends.postgresql import operations

from ...mixins import Base
from ...protected import protections
from .apply import with_default, with_value
from .savepoints import SavepointSQL


class SavepointMixin(Base):  # type: ignore[misc]
    """Let savepoints wait in the connection for a message to ride with."""

    def savepoint_create_sql(self, sid: str) -> str:
        """Return the SQL that starts a savepoint."""
        return SavepointSQL(super().savepoint_create_sql(sid))

    def savepoint_commit_sql(self, sid: str) -> str:
        """Return the SQL that releases a savepoint."""
        return SavepointSQL(super().savepoint_commit_sql(sid))

    def savepoint_rollback_sql(self, sid: str) -> str:
        """Return the SQL that rolls back to a savepoint."""
        return SavepointSQL(super().savepoint_rollback_sql(sid))


# Django sets a sequence to the greatest key that is seen, which need not be the greatest.
RESET = (
    "SELECT setval(sequence, top) FROM ("
    "SELECT pg_get_serial_sequence('{table}', '{name}')::regclass AS sequence,"
    " max({column}) AS top FROM {table}"
    ") AS seen WHERE top > coalesce(pg_sequence_last_value(sequence), 0);"
)


class OperationsMixin(SavepointMixin):
    """Compile ORM queries with tenant predicates."""

    compiler_module = "tenantry.backends.postgresql.compiler"

    def with_tenant_value(self, expression: str) -> str:
        """Return a query of `expression` where its parameter has the tenant's place.

        Checks try a value so; they do not import the backend, whose driver may be missing.
        """
        return with_value(expression)

    def with_default(self, name: str) -> str:
        """Return what reads the default of a parameter, in the second of two statements."""
        return with_default(name)

    def sequence_reset_sql(self, style: Any, model_list: Any) -> list[str]:
        """Return SQL that moves sequences up to the keys; those of protected tables never back."""
        statements: list[str] = []
        for model in model_list:
            table = model._meta.db_table
            if protections(model._meta.apps).flags(table) is None:
                statements += super().sequence_reset_sql(style, [model])
            else:
                quote = self.quote_name
                statements += [
                    RESET.format(table=quote(table), name=key.column, column=quote(key.column))
                    for key in model._meta.local_fields
                    if isinstance(key, models.AutoField)
                ]
        return statements

    def execute_sql_flush(self, sql_list: Any) -> None:
        """Empty tables; in a test database as its owner, because an app role may not TRUNCATE."""
        connection: Any = self.connection
        if connection.creation.is_test_database():
            with connection.creation.as_owner():
                super().execute_sql_flush(sql_list)
        else:
            super().execute_sql_flush(sql_list)


class DatabaseOperations(OperationsMixin, operations.DatabaseOperations):
    """Django's operations, with tenant predicates and savepoints that wait."""
