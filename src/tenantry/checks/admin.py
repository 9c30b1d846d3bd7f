"""The roles of the settings: the admin's, and the one that requests log in as."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..conf import rls_tenants
from ..policies.predicates import readable
from .findings import Finding
from .role import Row, exemptions, inherits, read_role

# From here on a membership that may SET is another than one that inherits (release notes of 16).
FIRST_WITH_SET = 160000

# A default that takes the next value of a sequence needs a privilege, an identity column does not.
ADMIN = """\
WITH tables AS (
  SELECT name, c.oid, relnamespace, relowner, nspowner
  FROM unnest(%(tables)s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
  JOIN pg_namespace n ON n.oid = relnamespace
)
SELECT pg_has_role(session_user, oid, 'SET'),
  ARRAY(SELECT heir.rolname::text FROM pg_roles heir
    WHERE NOT heir.rolsuper AND heir.oid <> admin.oid AND pg_has_role(heir.oid, admin.oid, 'USAGE')
    ORDER BY 1),
  ARRAY(SELECT name FROM tables t WHERE NOT (
      has_table_privilege(admin.oid, t.oid, 'SELECT')
      AND has_table_privilege(admin.oid, t.oid, 'INSERT')
      AND has_table_privilege(admin.oid, t.oid, 'UPDATE')
      AND has_table_privilege(admin.oid, t.oid, 'DELETE'))
    UNION SELECT 'the sequence ' || s.oid::regclass FROM tables t
      JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
      JOIN pg_class s ON s.oid = d.objid
      WHERE CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(admin.oid, s.oid, 'USAGE') END
    UNION SELECT 'the schema ' || relnamespace::regnamespace FROM tables
      WHERE NOT has_schema_privilege(admin.oid, relnamespace, 'USAGE')
    ORDER BY 1),
  (SELECT bool_and(pg_has_role(relowner, 'USAGE') AND (pg_has_role(nspowner, 'USAGE')
      OR has_schema_privilege(admin.oid, relnamespace, 'USAGE'))) FROM tables)
FROM pg_roles admin WHERE rolname = %(role)s"""


def inspect_admin(
    cursor: Any, version: int, tables: list[str], options: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield what is wrong with ``RLS_TENANTS["ADMIN_ROLE"]``, if there is one.

    `version` is the server's, such as 150018 for 15.18; `tables` are those of all models, quoted;
    `options` are the OPTIONS of the database. That requests run as heirs of the role is reported of
    the role that serves them.
    """
    role = rls_tenants().admin_role
    if role is None:
        return
    subject, quoted = f"role {role}", readable(role)
    if version < FIRST_WITH_SET:
        yield Finding(
            "tenantry.E108",
            subject,
            f"is the ADMIN_ROLE, which needs PostgreSQL 16 or newer; this server is PostgreSQL"
            f" {version // 10000}",
            "leave ADMIN_ROLE out of RLS_TENANTS, or upgrade the server",
        )
        return
    cursor.execute(ADMIN, {"role": role, "tables": tables})
    row = cursor.fetchone()
    if row is None:
        yield Finding(
            "tenantry.E104",
            subject,
            "is the ADMIN_ROLE, and does not exist",
            f"as a superuser, run CREATE ROLE {quoted} NOLOGIN, and GRANT {quoted} TO the role"
            " that serves requests WITH INHERIT FALSE, SET TRUE, or correct ADMIN_ROLE in"
            " RLS_TENANTS",
        )
        return
    yield from inspect_membership(role, row, read_role(cursor, options))


def inspect_membership(role: str, row: Any, login: Row) -> Iterator[Finding]:
    """Yield what is wrong with the admin `role`, as :data:`ADMIN` and :data:`ROLE` found it."""
    subject, quoted = f"role {role}", readable(role)
    may_set, heirs, lacking, may_grant = row
    if not may_set:
        yield Finding(
            "tenantry.W102",
            subject,
            "is the ADMIN_ROLE, which the role that logs in cannot become, so that admin_context()"
            " fails",
            f"run GRANT {quoted} TO the role that serves requests WITH INHERIT FALSE, SET TRUE",
        )
    told = list(exemptions(login))
    for found in (inherits(role, heir) for heir in heirs):
        if found not in told:
            yield found
    if lacking:
        yield Finding(
            "tenantry.W103",
            subject,
            f"is the ADMIN_ROLE, and may not use {', '.join(lacking)}",
            "run migrate as the owner of the tables, and of their schema",
            awaited=may_grant,
        )


def inspect_app(cursor: Any) -> Iterator[Finding]:
    """Yield a finding if ``RLS_TENANTS["APP_ROLE"]`` names a role that does not exist."""
    role = rls_tenants().app_role
    if role is None:
        return
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [role])
    if cursor.fetchone() is None:
        yield Finding(
            "tenantry.E109",
            f"role {role}",
            "is the APP_ROLE, and does not exist",
            f"run CREATE ROLE {readable(role)} LOGIN, or correct APP_ROLE in RLS_TENANTS",
        )
