"""SQL that protects a table, as pure text; templates are versioned and never change.

A migration keeps the version it was made with, so an old one never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .predicates import (
    SCHEMA,
    admin_function,
    current_tenant,
    is_admin,
    tenant_function,
    tenant_or_admin,
)

LATEST = 1
POLICY = "tenantry_isolation"

# Policies, and function bodies in SQL-standard form (RETURN), are parsed once, when they are
# created, so that no search_path of a caller can change what they mean (PostgreSQL documentation,
# CREATE FUNCTION). The functions are for raw SQL.
_FUNCTIONS_1 = """\
DO $tenantry$ BEGIN
  IF to_regnamespace('{schema}') IS NULL THEN
    CREATE SCHEMA {schema};
    GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
  END IF;
END $tenantry$;
CREATE OR REPLACE FUNCTION {tenant_function}() RETURNS {key_type}
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN {current_tenant};
CREATE OR REPLACE FUNCTION {admin_function}() RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN COALESCE({is_admin}, false)"""

_PROTECT_1 = """\
{functions};
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY {policy} ON {table} AS PERMISSIVE FOR ALL TO PUBLIC
  USING ({predicate})
  WITH CHECK ({predicate})"""

_INDEPENDENT = """\
DROP POLICY IF EXISTS {policy} ON {table};
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"""

_UNPROTECT_1 = """\
DROP POLICY {policy} ON {table};
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"""

# For a table whose rows belong to rows of protected tables. The subqueries are subject to the
# policies of those (PostgreSQL documentation, "Row Security Policies"), so they find what the
# binding may see.
_DEPEND_1 = """\
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS {policy} ON {table};
CREATE POLICY {policy} ON {table} AS PERMISSIVE FOR ALL TO PUBLIC
  USING ({predicate})
  WITH CHECK ({predicate})"""

_TEMPLATES = {1: (_FUNCTIONS_1, _PROTECT_1, _UNPROTECT_1)}


@dataclass(frozen=True, slots=True)
class Policy:
    """Name everything that the policy of one table depends on."""

    guc_prefix: str
    key_type: str
    version: int = LATEST

    def protect(self, table: str, column: str) -> str:
        """Return the SQL that protects `table` by its tenant `column`, both quoted."""
        functions, protect, _ = _TEMPLATES[self.version]
        return protect.format(
            functions=functions.format(
                schema=SCHEMA,
                tenant_function=tenant_function(self.guc_prefix, self.key_type),
                admin_function=admin_function(self.guc_prefix),
                key_type=self.key_type,
                current_tenant=current_tenant(self.guc_prefix, self.key_type),
                is_admin=is_admin(self.guc_prefix),
            ),
            table=table,
            policy=POLICY,
            predicate=self.predicate(column),
        )

    def predicate(self, column: str) -> str:
        """Return what the policy says of a row, by its tenant `column`, quoted."""
        return tenant_or_admin(column, self.guc_prefix, self.key_type)

    def unprotect(self, table: str) -> str:
        """Return the SQL that undoes :meth:`protect`, but for the functions other tables use."""
        return _TEMPLATES[self.version][2].format(table=table, policy=POLICY)


@dataclass(frozen=True, slots=True)
class Reference:
    """Name a column and what it refers to: a table and its key. All are quoted."""

    column: str
    table: str
    key: str


def depend(table: str, references: Iterable[Reference]) -> str:
    """Return the SQL that shows rows of the quoted `table` with all rows that they refer to."""
    predicate = all_exist(table, references)
    return _DEPEND_1.format(table=table, policy=POLICY, predicate=predicate)


def all_exist(table: str, references: Iterable[Reference]) -> str:
    """Return the predicate of :func:`depend`."""
    return " AND ".join(
        f"EXISTS (SELECT FROM {reference.table} AS owner"
        f" WHERE owner.{reference.key} = {table}.{reference.column})"
        for reference in references
    )


def independ(table: str) -> str:
    """Return the SQL that undoes :func:`depend`, also where there is nothing to undo."""
    return _INDEPENDENT.format(table=table, policy=POLICY)
