"""The role that logs in: whether any policy binds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..policies.ddl import POLICY
from ..policies.predicates import readable
from .exempt import EXEMPT, exempt_admin
from .findings import Finding
from .reach import BECOME, holding, leaving

# What the login role may do, to which a session that has assumed another one can always return; and
# which of the two the admin role's policy is for. Not the current role: it may be a scope's admin.
ROLE = f"""\
SELECT rolname::text, rolsuper, rolbypassrls, ARRAY(
  SELECT other.rolname::text FROM pg_roles other
  WHERE other.rolcreaterole AND NOT other.rolsuper
    AND NOT mine.rolsuper AND pg_has_role(mine.oid, other.oid, {BECOME})
  ORDER BY other.rolname
), ARRAY(
  SELECT other.rolname::text FROM pg_roles other
  WHERE (other.rolsuper OR other.rolbypassrls) AND other.oid <> mine.oid
    AND NOT mine.rolsuper AND pg_has_role(mine.oid, other.oid, {BECOME})
  ORDER BY other.rolname
), ARRAY(
  SELECT heir.rolname::text FROM pg_roles heir
  WHERE heir.rolname IN (session_user, %(assumed)s) AND NOT mine.rolsuper
    AND pg_has_role(heir.oid, (SELECT oid FROM pg_roles WHERE rolname = %(admin)s), 'USAGE')
  ORDER BY heir.rolname
) FROM pg_roles mine WHERE rolname = session_user"""  # noqa: S608 - a constant

# Where there are policies of ours, that of a session that no binding is sent to.
UNLIMITED = f"""\
SELECT rolname::text FROM pg_roles o WHERE rolname IN (session_user, current_user) AND {EXEMPT}
  AND EXISTS (SELECT FROM pg_policy WHERE polname = %(policy)s) LIMIT 1"""  # noqa: S608 - a constant

Row = tuple[str, bool, bool, list[str], list[str], list[str]]


def role_parameters(options: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the parameters of :data:`ROLE` for a database with these OPTIONS."""
    return {"admin": exempt_admin(), "assumed": options.get("assume_role")}


def subject_of(row: Row) -> str:
    """Return what findings about the role are about."""
    return f"role {row[0]}"


def exemptions(row: Row) -> Iterator[Finding]:
    """Yield a finding for each reason why the role, as :data:`ROLE` found it, sees every row."""
    name, superuser, bypasses, _, others, heirs = row
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
            leaving(other, name),
        )
    for heir in heirs:
        yield inherits(str(exempt_admin()), heir)


def inherits(admin: str, heir: str) -> Finding:
    """Return the finding that the policy for the admin role is one for `heir`, too."""
    if heir == admin:
        return Finding(
            "tenantry.E105",
            f"role {admin}",
            "is the ADMIN_ROLE, and requests run as it, so they see every tenant's rows",
            f"let requests log in as another role, and run GRANT {readable(admin)} TO that role"
            " WITH INHERIT FALSE, SET TRUE",
        )
    return Finding(
        "tenantry.E105",
        f"role {admin}",
        f"is the ADMIN_ROLE, and {heir} inherits from it, so {heir} sees every tenant's rows",
        f"run GRANT {readable(admin)} TO {readable(heir)} WITH INHERIT FALSE, SET TRUE",
    )


def read_role(cursor: Any, options: Mapping[str, Any]) -> Row:
    """Return what the server knows of the login role of a database with these OPTIONS."""
    cursor.execute(ROLE, role_parameters(options))
    row: Row = cursor.fetchone()
    return row


def inspect_role(cursor: Any, options: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each reason why the role sees everything, now or soon."""
    row = read_role(cursor, options)
    yield from exemptions(row)
    name, _, _, creating, *_ = row
    for other in creating:
        how, fix = holding(other, name, "CREATEROLE")
        yield Finding(
            "tenantry.W101",
            subject_of(row),
            f"{how}, and may make itself a member of roles that no policy binds",
            fix,
        )


def inspect_unlimited(cursor: Any, subject: str, engine: str) -> Iterator[Finding]:
    """Yield a finding if a database of another `engine` than tenantry's shows every row."""
    cursor.execute(UNLIMITED, {"admin": exempt_admin(), "policy": POLICY})
    for (name,) in cursor.fetchall():
        yield Finding(
            "tenantry.W104",
            subject,
            f"has the ENGINE {engine!r}, which limits no query to a tenant, and logs in as {name},"
            " whom no policy binds, so that all code that uses it sees every tenant's rows",
            "log in as another role, or let it have tenantry's ENGINE",
        )
