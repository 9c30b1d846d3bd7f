"""SQL that protects a table, as pure text; templates are versioned and never change.

A migration keeps the version it was made with, so an old one never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .predicates import (
    admin_function,
    current_tenant,
    identifier,
    is_admin,
    literal,
    tenant_equals,
    tenant_function,
    tenant_or_admin,
)
from .seal import NAMESPACE_1, verifier

VERSIONS = (1,)
LATEST = VERSIONS[-1]
POLICY = "tenantry_isolation"
ADMIN_POLICY = "tenantry_admin"
RESTRICTION = "tenantry_restriction"

# Policies, and function bodies in SQL-standard form (RETURN), are parsed once, when they are
# created, so that no search_path of a caller can change what they mean (PostgreSQL documentation,
# CREATE FUNCTION). The functions are for raw SQL.
_FUNCTIONS_1 = """\
{namespace};
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

# A policy for a role is one for all who inherit its privileges, too (PostgreSQL documentation,
# "CREATE POLICY"); memberships that do not inherit exist from PostgreSQL 16 on ("GRANT").
_REQUIRE_ROLE_1 = """\
DO $tenantry$ DECLARE heirs text; BEGIN
  IF current_setting('server_version_num')::int < 160000 THEN
    RAISE EXCEPTION 'ADMIN_ROLE needs PostgreSQL 16 or newer, where a role can be a member of'
      ' another without inheriting from it'
      USING HINT = 'Leave ADMIN_ROLE out of RLS_TENANTS, or upgrade the server.';
  ELSIF to_regrole({admin_ident}) IS NULL THEN
    RAISE EXCEPTION 'ADMIN_ROLE is %, which is no role of this server', {admin_text}
      USING HINT = 'As a superuser, run: CREATE ROLE {admin} NOLOGIN; and for the role that serves'
        ' requests: GRANT {admin} TO <role> WITH INHERIT FALSE, SET TRUE;';
  END IF;
  SELECT string_agg(quote_ident(rolname), ', ' ORDER BY rolname) INTO heirs FROM pg_roles
    WHERE NOT rolsuper AND rolname <> {admin_text}
      AND pg_has_role(oid, to_regrole({admin_ident}), 'USAGE');
  IF heirs IS NOT NULL THEN
    RAISE EXCEPTION 'ADMIN_ROLE is %, from which % inherit, who would see every tenant',
      {admin_text}, heirs
      USING HINT = format('Run: GRANT {admin} TO %s WITH INHERIT FALSE, SET TRUE;', heirs);
  END IF;
END $tenantry$;
"""

_ADMIN_1 = """;
CREATE POLICY {policy} ON {table} AS PERMISSIVE FOR ALL TO {role}
  USING ({predicate})
  WITH CHECK ({predicate})"""

# It says the same once more, so that a permissive policy of somebody else adds nothing.
_RESTRICT_1 = """;
CREATE POLICY {policy} ON {table} AS RESTRICTIVE FOR ALL TO {role}
  USING ({predicate})
  WITH CHECK ({predicate})"""

_INDEPENDENT = """\
DROP POLICY IF EXISTS {policy} ON {table};
DROP POLICY IF EXISTS {restriction} ON {table};
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"""

_UNPROTECT_1 = """\
DROP POLICY {policy} ON {table};
{others}\
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"""

# For a table whose rows belong to rows of protected tables. The subqueries are subject to the
# policies of those (PostgreSQL documentation, "Row Security Policies"), so they find what the
# binding may see.
_DEPEND_1 = """\
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS {policy} ON {table};
DROP POLICY IF EXISTS {restriction} ON {table};
CREATE POLICY {policy} ON {table} AS PERMISSIVE FOR ALL TO PUBLIC
  USING ({predicate})
  WITH CHECK ({predicate})"""


@dataclass(frozen=True, slots=True)
class Policy:
    """Name everything that the policies of one table depend on.

    With `admin_role` the admin is that role, and otherwise a GUC. `app_role` gets a restrictive
    policy beside the permissive one.
    """

    guc_prefix: str
    key_type: str
    version: int = LATEST
    admin_role: str | None = None
    app_role: str | None = None
    sealed: bool = False

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise ValueError(
                f"version {self.version!r} of a policy is not among those that this release of"
                f" tenantry knows, {VERSIONS}; a migration that says so needs a newer release"
            )

    def protect(self, table: str, column: str) -> str:
        """Return the SQL that protects `table` by its tenant `column`, both quoted."""
        names = {"table": table, "predicate": self.predicate(column)}
        sql = _PROTECT_1.format(functions=self.functions(), policy=POLICY, **names)
        if self.admin_role is not None:
            role = identifier(self.admin_role)
            sql = self.require_admin_role() + sql
            # To become the role is not enough where bindings are sealed.
            admin = f"(SELECT {is_admin(self.guc_prefix, sealed=True)})" if self.sealed else "true"
            sql += _ADMIN_1.format(policy=ADMIN_POLICY, table=table, role=role, predicate=admin)
        return sql + self.restrict(table, names["predicate"])

    def restrict(self, table: str, predicate: str) -> str:
        """Return the SQL that goes on to restrict the app role to `predicate`, if there is one."""
        if self.app_role is None:
            return ""
        role = identifier(self.app_role)
        return _RESTRICT_1.format(policy=RESTRICTION, table=table, role=role, predicate=predicate)

    def require_admin_role(self) -> str:
        """Return the SQL that raises an error where the admin role is missing or not safe."""
        admin = identifier(self.admin_role or "")
        return _REQUIRE_ROLE_1.format(
            admin=admin, admin_ident=literal(admin), admin_text=literal(self.admin_role or "")
        )

    def functions(self) -> str:
        """Return the SQL that creates the functions for raw SQL."""
        admin = is_admin(self.guc_prefix, sealed=self.sealed)
        if self.admin_role is not None and not self.sealed:
            admin = f"CURRENT_USER = {literal(self.admin_role)}"
        seal = ";\n" + verifier(self.guc_prefix) if self.sealed else ""
        return _FUNCTIONS_1.format(
            namespace=NAMESPACE_1 + seal,
            tenant_function=tenant_function(self.guc_prefix, self.key_type),
            admin_function=admin_function(self.guc_prefix),
            key_type=self.key_type,
            current_tenant=current_tenant(self.guc_prefix, self.key_type, sealed=self.sealed),
            is_admin=admin,
        )

    def predicate(self, column: str) -> str:
        """Return what the policy says of a row, by its tenant `column`, quoted."""
        predicate = tenant_or_admin if self.admin_role is None else tenant_equals
        return predicate(column, self.guc_prefix, self.key_type, sealed=self.sealed)

    def unprotect(self, table: str) -> str:
        """Return the SQL that undoes :meth:`protect`, but for the functions other tables use."""
        others = [
            f"DROP POLICY {policy} ON {table};\n"
            for policy, role in ((ADMIN_POLICY, self.admin_role), (RESTRICTION, self.app_role))
            if role is not None
        ]
        return _UNPROTECT_1.format(table=table, policy=POLICY, others="".join(others))


@dataclass(frozen=True, slots=True)
class Reference:
    """Name a column and what it refers to: a table and its key. All are quoted."""

    column: str
    table: str
    key: str


def depend(table: str, references: Iterable[Reference], policy: Policy) -> str:
    """Return the SQL that shows rows of the quoted `table` with all rows that they refer to.

    `policy` is that of a table that they refer to.
    """
    predicate = all_exist(table, references)
    sql = _DEPEND_1.format(table=table, policy=POLICY, restriction=RESTRICTION, predicate=predicate)
    return sql + policy.restrict(table, predicate)


def all_exist(table: str, references: Iterable[Reference]) -> str:
    """Return the predicate of :func:`depend`."""
    return " AND ".join(
        f"EXISTS (SELECT FROM {reference.table} AS owner"
        f" WHERE owner.{reference.key} = {table}.{reference.column})"
        for reference in references
    )


def independ(table: str) -> str:
    """Return the SQL that undoes :func:`depend`, also where there is nothing to undo."""
    return _INDEPENDENT.format(table=table, policy=POLICY, restriction=RESTRICTION)
