"""SQL that protects a table, as pure text; templates are versioned and never change.

A migration keeps the version it was made with, so an old one never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .predicates import (
    admin_function,
    bypass_sql,
    identifier,
    is_admin_sql,
    literal,
    tenant_function,
    tenant_sql,
)
from .seal import NAMESPACE_1, verifier

VERSIONS = (1,)
LATEST = VERSIONS[-1]
POLICY = "tenantry_isolation"
ADMIN_POLICY = "tenantry_admin"
SHARING = "tenantry_sharing"
BYPASS = "tenantry_bypass"
RESTRICTION = "tenantry_restriction"

# Policies, and function bodies in SQL-standard form (RETURN), are parsed once, when they are
# created, so that no search_path of a caller can change what they mean (PostgreSQL documentation,
# CREATE FUNCTION). The functions are for raw SQL.
_FUNCTIONS_1 = """\
{namespace};
CREATE OR REPLACE FUNCTION {tenant_function}() RETURNS {key_type}
  {body};
CREATE OR REPLACE FUNCTION {admin_function}() RETURNS boolean
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN COALESCE({is_admin}, false)"""

_BODY_1 = """\
LANGUAGE sql STABLE PARALLEL SAFE
  RETURN {current_tenant}"""

# What is not SQL is not inlined, and so costs a call instead of planning.
_CALLED_1 = """\
LANGUAGE plpgsql STABLE PARALLEL SAFE
  SET search_path = pg_catalog, pg_temp
  AS $tenantry$ BEGIN RETURN {current_tenant}; END $tenantry$"""

_ENABLE_1 = """\
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY"""

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
END $tenantry$"""

_OPEN_1 = """\
ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;
ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"""

# Somebody else's policies would go on showing less than all, and may have been made meanwhile.
_REOPEN_1 = f"""\
DO $tenantry$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polrelid = {{name}}::regclass) THEN
{_OPEN_1};
  END IF;
END $tenantry$"""


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of a table, as PostgreSQL knows it."""

    name: str
    using: str | None
    check: str | None
    command: str = "ALL"
    permissive: bool = True
    role: str | None = None

    def create(self, table: str) -> str:
        """Return the SQL that creates it on the quoted `table`."""
        kind = "PERMISSIVE" if self.permissive else "RESTRICTIVE"
        role = "PUBLIC" if self.role is None else identifier(self.role)
        lines = [f"CREATE POLICY {self.name} ON {table} AS {kind} FOR {self.command} TO {role}"]
        if self.using is not None:
            lines.append(f"  USING ({self.using})")
        if self.check is not None:
            lines.append(f"  WITH CHECK ({self.check})")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that the policies of one table depend on, but for the table itself.

    With `admin_role` the admin is that role, and otherwise a GUC. `app_role` gets restrictive
    policies beside the permissive ones. Where `sealed`, the binding is signed.
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

    @property
    def tenant(self) -> str:
        """The tenant, as a subquery, which PostgreSQL evaluates once per statement.

        Where the admin is a role it is the function, as whoever reads or proves policies expects.
        That one is not planned with the statement; planning the other would cost every statement
        about a tenth of a read.
        """
        if self.admin_role is not None and not self.sealed:
            return f"(SELECT {tenant_function(self.guc_prefix, self.key_type)}())"
        return f"(SELECT {tenant_sql(self.guc_prefix, self.key_type, sealed=self.sealed)})"

    def policies(
        self, holds: str, shared: str | None = None, flags: Iterable[str] = ()
    ) -> list[Policy]:
        """Return the policies of a table.

        `holds` says of a row that it is the :attr:`tenant`'s, `shared` that it may be read
        nevertheless; `flags` are the bypass flags that may read every row.
        """
        own = holds
        if self.admin_role is None:
            admin = is_admin_sql(self.guc_prefix, sealed=self.sealed)
            # PostgreSQL expects half of the rows to pass a condition that it cannot estimate, and
            # almost all to pass one that ends like this. The filter that a query has besides is
            # what selects, and is estimated as if there were no policy.
            own = f"CASE WHEN (SELECT {admin}) THEN 1 WHEN {holds} THEN 1 END IS NOT NULL"
        policies = [Policy(POLICY, own, own)]
        if self.admin_role is not None:
            # To become the role is not enough where bindings are sealed.
            admin = (
                f"(SELECT {is_admin_sql(self.guc_prefix, sealed=True)})" if self.sealed else "true"
            )
            policies.append(Policy(ADMIN_POLICY, admin, admin, role=self.admin_role))
        readable = []
        if shared is not None:
            readable.append(shared)
            policies.append(Policy(SHARING, shared, None, "SELECT"))
        if flags:
            flag = bypass_sql(self.guc_prefix, sealed=self.sealed)
            readable.append(f"(SELECT {flag}) IN ({', '.join(map(literal, sorted(flags)))})")
            policies.append(Policy(BYPASS, readable[-1], None, "SELECT"))
        return policies + self.restrictions(own, readable)

    def restrictions(self, own: str, readable: Sequence[str] = ()) -> list[Policy]:
        """Return what says the same once more of the app role, if there is one.

        So a permissive policy of somebody else adds nothing.
        """
        role = self.app_role
        if role is None:
            return []
        if not readable:
            return [Policy(RESTRICTION, own, own, permissive=False, role=role)]
        both = " OR ".join([own, *readable])
        return [
            Policy(RESTRICTION, both, None, "SELECT", permissive=False, role=role),
            Policy(f"{RESTRICTION}_insert", None, own, "INSERT", permissive=False, role=role),
            Policy(f"{RESTRICTION}_update", own, own, "UPDATE", permissive=False, role=role),
            Policy(f"{RESTRICTION}_delete", own, None, "DELETE", permissive=False, role=role),
        ]

    def protect(self, table: str, policies: Iterable[Policy]) -> str:
        """Return the SQL that protects the quoted `table` by `policies`."""
        parts = [self.functions(), _ENABLE_1.format(table=table)]
        if self.admin_role is not None:
            parts.insert(0, self.require_admin_role())
        return ";\n".join([*parts, *(policy.create(table) for policy in policies)])

    def require_admin_role(self) -> str:
        """Return the SQL that raises an error where the admin role is missing or not safe."""
        admin = identifier(self.admin_role or "")
        return _REQUIRE_ROLE_1.format(
            admin=admin, admin_ident=literal(admin), admin_text=literal(self.admin_role or "")
        )

    def functions(self) -> str:
        """Return the SQL that creates the functions for raw SQL."""
        admin = is_admin_sql(self.guc_prefix, sealed=self.sealed)
        if self.admin_role is not None and not self.sealed:
            admin = f"CURRENT_USER = {literal(self.admin_role)}"
        body = _BODY_1 if self.admin_role is None or self.sealed else _CALLED_1
        tenant = tenant_sql(self.guc_prefix, self.key_type, sealed=self.sealed)
        seal = ";\n" + verifier(self.guc_prefix) if self.sealed else ""
        return _FUNCTIONS_1.format(
            namespace=NAMESPACE_1 + seal,
            tenant_function=tenant_function(self.guc_prefix, self.key_type),
            admin_function=admin_function(self.guc_prefix),
            key_type=self.key_type,
            body=body.format(current_tenant=tenant),
            is_admin=admin,
        )


def close(table: str) -> str:
    """Return the SQL after which a table shows nothing that no policy of it shows."""
    return _ENABLE_1.format(table=table)


def uncover(table: str) -> str:
    """Return the SQL after which everybody sees a table, whatever policies it has."""
    return _OPEN_1.format(table=table)


def reopen(table: str, name: str) -> str:
    """Return the SQL after which everybody sees a table, unless it has policies.

    `name` is the quoted `table` as a string of SQL.
    """
    return _REOPEN_1.format(table=table, name=name)


def drop(table: str, policies: Iterable[Policy]) -> str:
    """Return the SQL that drops policies of a table, which shows nothing from then on."""
    return ";\n".join(f"DROP POLICY IF EXISTS {policy.name} ON {table}" for policy in policies)


def unprotect(table: str, policies: Iterable[Policy]) -> str:
    """Return the SQL that undoes :meth:`Shape.protect`, but for functions others use.

    A policy is gone already where a column is that it speaks of (PostgreSQL documentation, "ALTER
    TABLE", DROP COLUMN ... CASCADE).
    """
    return f"{drop(table, policies)};\n{uncover(table)}"
