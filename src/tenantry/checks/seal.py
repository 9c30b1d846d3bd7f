"""The keys of seals: who may use them, and whether the database knows them."""

from __future__ import annotations

from collections.abc import Iterator
from time import time
from typing import Any

from django.db import Error, transaction

from ..binding import UNBOUND, Binding, running_as
from ..conf import rls_tenants
from ..policies.predicates import SCHEMA, readable, sealed_function
from ..policies.seal import KEYS
from ..seal import owns_keys, seal_keys, sign
from .findings import Finding
from .migrations import Migrations
from .reach import owns_all

# insufficient_privilege, which the function raises that verifies seals.
REFUSED = "42501"

# Superusers have the privileges of the owner, too.
READERS = """\
SELECT rolname::text, ARRAY(SELECT p.rolname::text FROM pg_roles p
  WHERE p.rolname IN ('pg_read_all_data', 'pg_write_all_data')
    AND pg_has_role(r.oid, p.oid, 'USAGE') ORDER BY 1)
FROM pg_roles r, pg_class c
WHERE c.oid = to_regclass(%(keys)s) AND rolname NOT LIKE 'pg\\_%%'
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
    try:
        with running_as(Binding("0")):
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
