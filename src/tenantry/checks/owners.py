"""Who owns what the protected tables are in: schemas, and the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .findings import Finding

# Only for tables of other owners: a role that can become the owner of one is reported anyway.
OWNERS = """\
WITH mine AS (
  SELECT relnamespace FROM unnest(%s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
  WHERE NOT pg_has_role(session_user, relowner, 'MEMBER')
)
SELECT kind, quote_ident(name), pg_get_userbyid(owner) FROM (
  SELECT 'schema' AS kind, nspname AS name, nspowner AS owner FROM pg_namespace
  WHERE oid IN (SELECT relnamespace FROM mine)
  UNION ALL SELECT 'database', datname, datdba FROM pg_database
  WHERE datname = current_database() AND EXISTS (SELECT FROM mine)
) place WHERE pg_has_role(session_user, owner, 'MEMBER') ORDER BY 1, 2"""


def inspect_owners(cursor: Any, tables: list[str]) -> Iterator[Finding]:
    """Yield a finding for each schema, or database, by which the role may drop others' `tables`."""
    cursor.execute(OWNERS, [tables])
    for kind, name, owner in cursor.fetchall():
        yield Finding(
            "tenantry.E120",
            f"{kind} {name}",
            f"belongs to {owner}, which this role is or can become, and so can drop protected"
            " tables, with the rows of all tenants",
            f"run ALTER {kind.upper()} {name} OWNER TO the owner of the tables",
        )
