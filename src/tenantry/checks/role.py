"""The role that logs in: whether any policy binds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..policies.predicates import readable
from .findings import Finding

# Of the login role, to which a session that has assumed another one can always return.
ROLE = """\
SELECT rolname::text, rolsuper, rolbypassrls, rolcreaterole, ARRAY(
  SELECT other.rolname::text FROM pg_roles other
  WHERE (other.rolsuper OR other.rolbypassrls) AND other.oid <> mine.oid
    AND NOT mine.rolsuper AND pg_has_role(mine.oid, other.oid, 'MEMBER')
  ORDER BY other.rolname
) FROM pg_roles mine WHERE rolname = session_user"""

Row = tuple[str, bool, bool, bool, list[str]]


def subject_of(row: Row) -> str:
    """Return what findings about the role are about."""
    return f"role {row[0]}"


def exemptions(row: Row) -> Iterator[Finding]:
    """Yield why the role, as :data:`ROLE` found it, may see every row."""
    name, superuser, bypasses, _, others = row
    subject = subject_of(row)
    if superuser:
        yield Finding(
            "tenantry.E101",
            subject,
            "is a superuser, whom no policy binds",
            "log in as another role",
        )
    elif bypasses:
        yield Finding(
            "tenantry.E102",
            subject,
            "has BYPASSRLS, so that no policy binds it",
            f"run ALTER ROLE {readable(name)} NOBYPASSRLS",
        )
    for other in others:
        yield Finding(
            "tenantry.E103",
            subject,
            f"can become {other}, whom no policy binds",
            f"run REVOKE {readable(other)} FROM {readable(name)}, or from the role through which it"
            " is a member",
        )


def read_role(cursor: Any) -> Row:
    """Return what the server knows of the login role."""
    cursor.execute(ROLE)
    row: Row = cursor.fetchone()
    return row


def inspect_role(cursor: Any) -> Iterator[Finding]:
    """Yield what lets the role see everything, now or soon."""
    row = read_role(cursor)
    yield from exemptions(row)
    name, superuser, _, creates, _ = row
    if creates and not superuser:
        yield Finding(
            "tenantry.W101",
            subject_of(row),
            "has CREATEROLE, and may make itself a member of roles that no policy binds",
            f"run ALTER ROLE {readable(name)} NOCREATEROLE",
        )
