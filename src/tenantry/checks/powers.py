"""What the login role may do beside reading and writing rows, by which it gets around policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import rls_tenants
from ..policies.predicates import readable
from .findings import Finding
from .reach import BECOME, holding, leaving, owns_all, reached

# A superuser has them all, which is reported already. The predefined roles that count are those
# that reach the server's files or start programs on it. Attributes take SET ROLE: they are not
# inherited.
POWERS = f"""\
SELECT rolname::text, ARRAY(
  SELECT other.rolname::text FROM pg_roles other
  WHERE rolreplication AND NOT rolsuper AND pg_has_role(mine.oid, other.oid, {BECOME})
  ORDER BY 1
), ARRAY(
  SELECT other.rolname::text FROM pg_roles other
  WHERE other.rolname IN
      ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')
    AND pg_has_role(mine.oid, other.oid, 'MEMBER')
  ORDER BY 1
) FROM pg_roles mine WHERE rolname = session_user AND NOT rolsuper"""  # noqa: S608 - a constant

# What PostgreSQL keeps from PUBLIC, and somebody may have granted.
FILES = """\
SELECT DISTINCT session_user::text, p.oid::regprocedure::text
FROM pg_proc p CROSS JOIN unnest(%(roles)s::oid[]) role
WHERE pronamespace = 'pg_catalog'::regnamespace
  AND proname IN ('lo_export', 'lo_import', 'pg_read_binary_file', 'pg_read_file')
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
  AND has_function_privilege(role, p.oid, 'EXECUTE')
ORDER BY 2"""

# A superuser among them is reported already. The views over these show what policies let through.
STATISTICS = """\
SELECT DISTINCT session_user::text, pg_has_role(session_user, 'pg_read_all_data', 'MEMBER')
FROM pg_roles r CROSS JOIN unnest(ARRAY['pg_statistic', 'pg_statistic_ext_data']) kept
WHERE r.oid = ANY(%(roles)s::oid[]) AND NOT rolsuper
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user)
  AND has_any_column_privilege(r.oid, 'pg_catalog.' || kept, 'SELECT')"""

# Triggers check foreign keys, and as a replica a session has none.
REPLICA = """\
SELECT session_user::text FROM unnest(%(roles)s::oid[]) role
WHERE has_parameter_privilege(role, 'session_replication_role', 'SET')
  AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) LIMIT 1"""

# For every role that the session can become. PUBLIC has this privilege until somebody revokes it.
TEMPORARY = """\
SELECT quote_ident(current_database()),
  has_database_privilege('public', current_database(), 'TEMPORARY'),
  string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname)
FROM pg_roles r, pg_roles mine
WHERE mine.rolname = session_user AND NOT mine.rolsuper AND pg_has_role(mine.oid, r.oid, 'MEMBER')
  AND has_database_privilege(r.oid, current_database(), 'TEMPORARY')
HAVING count(*) > 0"""

# Where others' statements may find an object of such a role instead of the one that they mean: in a
# schema, or in one that is named like the role, which comes first.
CREATE = """\
SELECT kind, quote_ident(name), string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname)
FROM pg_roles r, pg_roles mine, (
  SELECT 'database' AS kind, current_database() AS name, 0::oid AS schema
  UNION ALL SELECT 'schema', nspname, oid FROM pg_namespace
  WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
) place
WHERE mine.rolname = session_user AND NOT mine.rolsuper AND pg_has_role(mine.oid, r.oid, 'MEMBER')
  AND CASE kind WHEN 'database' THEN has_database_privilege(r.oid, current_database(), 'CREATE')
    ELSE has_schema_privilege(r.oid, schema, 'CREATE') END
GROUP BY kind, name ORDER BY kind, name"""


def inspect_powers(cursor: Any) -> Iterator[Finding]:
    """Yield a finding for each way in which the role gets around policies and foreign keys."""
    cursor.execute(POWERS)
    for name, replicating, others in cursor.fetchall():
        subject = f"role {name}"
        for other in replicating:
            how, fix = holding(other, name, "REPLICATION")
            yield Finding(
                "tenantry.E135",
                subject,
                f"{how}, and may copy the whole server, or stream all changes of it, to which no"
                " policy applies",
                fix,
            )
        for other in others:
            yield Finding(
                "tenantry.E136",
                subject,
                f"is a member of {other}, so it can reach the server's files, where no policy"
                " applies",
                leaving(other, name),
            )
    roles = reached(cursor)
    cursor.execute(FILES, {"roles": roles})
    for name, function in cursor.fetchall():
        yield Finding(
            "tenantry.E136",
            f"role {name}",
            f"may execute {function}, so it can reach the server's files, where no policy applies",
            f"run REVOKE EXECUTE ON FUNCTION {function} FROM {readable(name)}, or from the role"
            " through which it may",
        )
    cursor.execute(STATISTICS, {"roles": roles})
    for name, is_reader in cursor.fetchall():
        what = "pg_read_all_data" if is_reader else "SELECT ON pg_statistic, pg_statistic_ext_data"
        yield Finding(
            "tenantry.E139",
            f"role {name}",
            "may read the statistics of the server, which hold the most common values of all"
            " tenants' rows, and to which no policy applies",
            f"run REVOKE {what} FROM {readable(name)}, or from the role through which it has it",
        )
    cursor.execute(REPLICA, {"roles": roles})
    for (name,) in cursor.fetchall():
        yield Finding(
            "tenantry.W134",
            f"role {name}",
            "may set session_replication_role, and so keep PostgreSQL from checking foreign keys,"
            " those of SameTenant among them",
            f"run REVOKE SET ON PARAMETER session_replication_role FROM {readable(name)}, or from"
            " the role through which it may",
        )


def inspect_traps(cursor: Any, tables: list[str]) -> Iterator[Finding]:
    """Yield a finding for each way for an injection to read the seal of the session's next tenant.

    The owner of the protected tables is not reported: it has to create objects.
    """
    if not rls_tenants().sealed or owns_all(cursor, tables):
        return
    cursor.execute(TEMPORARY)
    for database, is_public, roles in cursor.fetchall():
        yield Finding(
            "tenantry.E134",
            f"database {database}",
            f"lets {roles} create temporary tables and views, which can shadow those that the next"
            " tenant's statements name, and so read its seal",
            f"run REVOKE TEMPORARY ON DATABASE {database} FROM {'PUBLIC' if is_public else roles}",
        )
    cursor.execute(CREATE)
    for kind, name, roles in cursor.fetchall():
        yield Finding(
            "tenantry.E137",
            f"{kind} {name}",
            f"lets {roles} create objects, which can shadow those that the next tenant's statements"
            " name, and so read its seal",
            f"run REVOKE CREATE ON {kind.upper()} {name} FROM {roles}, or from the role through"
            " which it has it",
        )
