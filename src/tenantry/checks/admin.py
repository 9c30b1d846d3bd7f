"""The roles of the settings and the keys of seals: who is the admin, and who reads the keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import time
from typing import Any

from django.db import Error, transaction

from ..binding import UNBOUND, Binding, pop, push
from ..conf import rls_tenants
from ..policies.predicates import SCHEMA, readable, sealed_function
from ..policies.seal import KEYS
from ..seal import owns_keys, seal_keys, sign
from .findings import Finding
from .migrations import Migrations
from .reach import owns_all
from .role import Row, exemptions, inherits, read_role

# From here on a membership that may SET is another than one that inherits (release notes of 16).
FIRST_WITH_SET = 160000
# insufficient_privilege, which the function raises that verifies seals.
REFUSED = "42501"

# A default that takes the next value of a sequence needs a privilege, an identity column does not.
ADMIN = """\
WITH tables AS (
  SELECT name, c.oid, relnamespace
  FROM unnest(%(tables)s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
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
    ORDER BY 1)
FROM pg_roles admin WHERE rolname = %(role)s"""

READERS = """\
SELECT rolname::text, ARRAY(SELECT p.rolname::text FROM pg_roles p
  WHERE p.rolname IN ('pg_read_all_data', 'pg_write_all_data')
    AND pg_has_role(r.oid, p.oid, 'USAGE') ORDER BY 1)
FROM pg_roles r, pg_class c
WHERE c.oid = to_regclass(%(keys)s) AND NOT rolsuper AND rolname NOT LIKE 'pg\\_%%'
  AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
  AND has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE') ORDER BY 1"""

# The parts of what verifies seals that the session owns, or could.
OWNED = """\
SELECT kind, name, pg_get_userbyid(owner) FROM (
  SELECT 'schema' AS kind, nspname::text AS name, nspowner AS owner
    FROM pg_namespace WHERE nspname = %(schema)s
  UNION ALL SELECT 'table', %(keys)s, relowner FROM pg_class WHERE oid = to_regclass(%(keys)s)
  UNION ALL SELECT 'function', %(function)s, proowner FROM pg_proc
    WHERE oid = to_regprocedure(%(function)s)
) found WHERE pg_has_role(session_user, owner, 'MEMBER') ORDER BY kind DESC"""


def inspect_admin(
    cursor: Any, version: int, tables: list[str], options: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield what is wrong with ``RLS_TENANTS["ADMIN_ROLE"]``, if there is one; 150018 is 15.18.

    `options` are the OPTIONS of the database. That requests run as its heirs is reported of the
    role that serves them.
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
            " that serves requests WITH INHERIT FALSE, SET TRUE",
        )
        return
    yield from inspect_membership(role, row, read_role(cursor, options))


def inspect_membership(role: str, row: Any, login: Row) -> Iterator[Finding]:
    """Yield what is wrong with the admin `role`, as :data:`ADMIN` and :data:`ROLE` found it."""
    subject, quoted = f"role {role}", readable(role)
    may_set, heirs, lacking = row
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


def inspect_seal(cursor: Any, migrations: Migrations, tables: list[str]) -> Iterator[Finding]:
    """Yield a finding for each role that may use the keys of seals, and if no seal can be verified.

    The owner of the protected `tables` is not reported here: it may do everything.
    """
    if not rls_tenants().sealed:
        return
    if not owns_all(cursor, tables):
        yield from inspect_owner_of_seals(cursor)
    cursor.execute(READERS, {"keys": KEYS})
    for reader, through in cursor.fetchall():
        roles = ", ".join(through)
        yield Finding(
            "tenantry.E106",
            f"table {KEYS}",
            f"is readable or writable by the role {reader}; whoever has a key can act as any"
            " tenant",
            f"run REVOKE {roles} FROM {readable(reader)}, or from the role through which it is a"
            " member"
            if through
            else "run migrate as the owner of the table, which revokes it",
        )
    key = seal_keys()[0].name
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [KEYS])
    if cursor.fetchone() != (True,):
        yield Finding(
            "tenantry.E107",
            f"table {KEYS}",
            f"does not exist, so the database can verify nothing that is sealed with the key {key}",
            "run makemigrations and migrate",
            migrations.pending(),
        )
    else:
        yield from inspect_later_keys(cursor)
        yield from inspect_opening(cursor)


def inspect_owner_of_seals(cursor: Any) -> Iterator[Finding]:
    """Yield a finding for each part of what verifies seals that belongs to the role."""
    function = f"{sealed_function(rls_tenants().guc_prefix)}(text)"
    cursor.execute(OWNED, {"schema": SCHEMA, "keys": KEYS, "function": function})
    for kind, name, owner in cursor.fetchall():
        yield Finding(
            "tenantry.E106",
            f"{kind} {name}",
            f"belongs to {owner}, which this role is or can become; its owner can read the keys, or"
            " put others in their place, and so act as any tenant",
            f"run ALTER {kind.upper()} {name} OWNER TO the owner of the protected tables",
        )


def inspect_later_keys(cursor: Any) -> Iterator[Finding]:
    """Yield a finding for each key that does not sign yet, and that the database lacks."""
    probe = cursor.db.ops.with_tenant_value(
        f"{sealed_function(rls_tenants().guc_prefix)}('tenant')"
    )
    cursor.execute("SELECT current_database()")
    (database,) = cursor.fetchone()
    for key in seal_keys()[1:]:
        # Of nobody: whoever sees it can do nothing with it.
        seal = sign(UNBOUND, database, int(time()) + rls_tenants().seal_lifetime, key)
        refusal: Any = None
        try:
            with transaction.atomic(using=cursor.db.alias):
                cursor.execute(probe, [seal])
        except Error as error:
            refusal = getattr(error.__cause__, "diag", None)
        # Any other answer is not about the key, and the first one gets it, too.
        if not refusal or key.name not in (refusal.message_primary or ""):
            continue
        yield Finding(
            "tenantry.W133",
            f"table {KEYS}",
            f"lacks the key {key.name}, which is in SEAL_KEYS and does not sign yet; once it does,"
            " every statement of a tenant or of the admin fails",
            "run migrate with these SEAL_KEYS as the owner of the tables, before the key is put"
            " first",
            owns_keys(cursor),
        )


def inspect_opening(cursor: Any) -> Iterator[Finding]:
    """Yield a finding if the database refuses a seal that is made with the settings."""
    function = sealed_function(rls_tenants().guc_prefix)
    # Nothing is compared with it, so that any tenant will do.
    frame = push(Binding("0"))
    try:
        cursor.execute(f"SELECT {function}('tenant')")
    except Error as error:
        refusal = getattr(error.__cause__, "diag", None)
        # What the function raises has a hint; it may be missing, or not to be called, too.
        hint = refusal and refusal.sqlstate == REFUSED and refusal.message_hint
        if not refusal or not hint:
            raise
        yield Finding(
            "tenantry.E138",
            f"function {function}(text)",
            "refuses what is sealed with these settings, so that every statement of a tenant or of"
            f" the admin fails: {refusal.message_primary}",
            hint[0].lower() + hint[1:].rstrip("."),
        )
    finally:
        pop(frame)
