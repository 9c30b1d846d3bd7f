"""Database operations: Django's, with tenantry's compilers."""

from __future__ import annotations

from django.db.backends.postgresql import operations


class DatabaseOperations(operations.DatabaseOperations):
    """Compile ORM queries with tenant predicates."""

    compiler_module = "tenantry.backends.postgresql.compiler"
