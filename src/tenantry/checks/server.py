"""The server: its version, and what it sets when a session starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import rls_tenants
from .findings import Finding

# The first release of each major version without a known way around policies. The documentation
# page of tenantry.W132 names the release notes.
FIXED = {15: 20, 16: 16, 17: 12, 18: 7}

DEFAULTS = """\
SELECT CASE
    WHEN setdatabase = 0 AND setrole = 0 THEN 'all roles'
    WHEN setdatabase = 0 THEN format('role %%s', rolname)
    WHEN setrole = 0 THEN format('database %%s', datname)
    ELSE format('role %%s in database %%s', rolname, datname)
  END,
  CASE
    WHEN setdatabase = 0 AND setrole = 0 THEN 'ALTER ROLE ALL'
    WHEN setdatabase = 0 THEN format('ALTER ROLE %%I', rolname)
    WHEN setrole = 0 THEN format('ALTER DATABASE %%I', datname)
    ELSE format('ALTER ROLE %%I IN DATABASE %%I', rolname, datname)
  END,
  split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
FROM pg_db_role_setting CROSS JOIN unnest(setconfig) setting
LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase
WHERE (setrole = 0 OR rolname = session_user)
  AND (setdatabase = 0 OR datname = current_database())
  AND (setting LIKE 'role=%%' OR setting = 'session_replication_role=replica'
    OR starts_with(setting, %s))
ORDER BY 1, 3"""


def inspect_defaults(cursor: Any) -> Iterator[Finding]:
    """Yield a finding for each default that binds sessions, or changes what holds in them."""
    prefix = rls_tenants().guc_prefix
    cursor.execute(DEFAULTS, [f"{prefix}."])
    found = cursor.fetchall()
    for subject, alter, name, value in found:
        begin = "start" if subject == "all roles" else "starts"
        if name == "role":
            yield Finding(
                "tenantry.W131",
                subject,
                f"{begin} every session as the role {value!r}, and not as the one that logs in",
                f"run {alter} RESET role, and log in as the role that is meant",
            )
        elif name == "session_replication_role":
            yield Finding(
                "tenantry.W134",
                subject,
                f"{begin} every session with session_replication_role = replica, in which"
                " PostgreSQL checks no foreign keys, those of SameTenant among them",
                f"run {alter} RESET session_replication_role",
            )
        else:
            yield Finding(
                "tenantry.E131",
                subject,
                f"{begin} every session with {name} = {value!r}, so that code without a scope is"
                " bound",
                f"run {alter} RESET {name}",
            )
    told = {name for _, _, name, _ in found}
    nobodies = {"current_tenant": "", "is_admin": "false"}
    if rls_tenants().bypass_flags:
        nobodies["bypass"] = ""
    for name, nobody in nobodies.items():
        if f"{prefix}.{name}" not in told:
            yield from inspect_default(cursor, f"{prefix}.{name}", nobody)


def inspect_default(cursor: Any, name: str, nobody: str) -> Iterator[Finding]:
    """Yield a finding if a parameter has a default from somewhere that the catalog does not know.

    Nor does pg_settings, which leaves out parameters of this kind. `nobody` is a value that binds
    nobody, as none does.
    """
    cursor.execute(cursor.db.ops.with_default(name))
    cursor.nextset()
    (value,) = cursor.fetchone()
    if value and value != nobody:
        yield Finding(
            "tenantry.E131",
            "server",
            f"starts every session with {name} = {value!r}, so that code without a scope is bound",
            "remove it from postgresql.conf and postgresql.auto.conf, or from OPTIONS['options'] in"
            " DATABASES",
        )


def inspect_version(number: int) -> Iterator[Finding]:
    """Yield a finding if the server has a known way around policies; 150018 is 15.18."""
    major, minor = divmod(number, 10000)
    fixed = FIXED.get(major, 0)
    if minor < fixed:
        yield Finding(
            "tenantry.W132",
            "server",
            f"is PostgreSQL {major}.{minor}, which has known ways around policies",
            f"upgrade to {major}.{fixed} or newer, preferably to the newest {major} release",
        )
