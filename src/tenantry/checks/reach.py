"""Whose privileges a session has, or takes when it becomes another role."""

from __future__ import annotations

from typing import Any

from ..policies.predicates import readable
from .exempt import exempt_admin

# For pg_has_role: that a role can become another one. From PostgreSQL 16 on there are memberships
# that only inherit, and such that only administer, by which a role grants itself the others.
BECOME = """\
CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER'
  ELSE 'SET, MEMBER WITH ADMIN OPTION' END"""

# What a role inherits is asked for with its own privileges.
ROLES = f"""\
SELECT oid FROM pg_roles WHERE rolname IS DISTINCT FROM %(admin)s AND NOT rolsuper
AND pg_has_role(session_user, oid, {BECOME})"""  # noqa: S608 - a constant

# Whether one of the given roles may read or write a relation c. TRUNCATE does not count.
USABLE = """\
EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
  WHERE has_any_column_privilege(role, c.oid, 'SELECT, INSERT, UPDATE')
    OR has_table_privilege(role, c.oid, 'DELETE'))"""

# What views, and rules of tables, use, as a part of WITH.
USES = """\
uses(upper, lower) AS MATERIALIZED (
  SELECT DISTINCT ev_class, refobjid FROM pg_rewrite r
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_class'::regclass
  WHERE ev_class <> refobjid
)"""

# The same for what no policy limits: TRUNCATE, REFERENCES and TRIGGER.
UNLIMITED = """\
EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
  WHERE has_table_privilege(role, c.oid, 'TRUNCATE')),
EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
  WHERE has_any_column_privilege(role, c.oid, 'REFERENCES')),
EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
  WHERE has_table_privilege(role, c.oid, 'TRIGGER'))"""

# One of these tables that is another owner's.
OTHERS = """\
SELECT FROM unnest(%s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
WHERE NOT pg_has_role(session_user, relowner, 'MEMBER') LIMIT 1"""


def owns_all(cursor: Any, tables: list[str]) -> bool:
    """Return whether the session can become the owner of all quoted `tables`.

    It can switch Row-Level Security off then, which is reported.
    """
    cursor.execute(OTHERS, [tables])
    return cursor.fetchone() is None


def reached(cursor: Any) -> list[int]:
    """Return the roles whose privileges a statement may have: that of the login, and others.

    Not the admin role, where a policy asks for nothing else, since that may see everything; and not
    superusers, which are reported.
    """
    cursor.execute(ROLES, {"admin": exempt_admin()})
    return [oid for (oid,) in cursor.fetchall()]


def holding(role: str, name: str, attribute: str) -> tuple[str, str]:
    """Return how `name` has an attribute of `role`, which may be itself, and how it loses that."""
    if role == name:
        return f"has {attribute}", f"run ALTER ROLE {readable(name)} NO{attribute}"
    return f"can become {role}, which has {attribute}", leaving(role, name)


def leaving(role: str, name: str) -> str:
    """Return the advice that ends a membership of `name` in `role`."""
    return (
        f"run REVOKE {readable(role)} FROM {readable(name)}, or from the role through which it is a"
        " member"
    )
