"""What the admin role may do: what the application does, on every table of the models.

The admin's statements run as the admin role, so it needs privileges on all tables that they meet,
shared ones too. ``migrate`` keeps them up; a new table gets them before the next operation, which
may be a data migration that opens the admin's scope.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.db import connections

from .binding import UNBOUND, running_as
from .conf import rls_tenants
from .engine import is_bound
from .routing import is_placed
from .seal import send_seal_keys

# Only what whoever migrates may grant, and what is not granted yet. A role that does not exist is
# NULL here, and lacks nothing; to ask by its name would be an error.
MISSING = """\
WITH tables AS (
  SELECT c.oid, c.relnamespace, to_regrole(quote_ident(%(role)s)) AS role
  FROM unnest(%(tables)s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
  WHERE pg_has_role(c.relowner, 'USAGE')
)
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE ON %%s TO %%I', oid::regclass, %(role)s)
  FROM tables WHERE NOT (
    has_table_privilege(role, oid, 'SELECT') AND has_table_privilege(role, oid, 'INSERT')
    AND has_table_privilege(role, oid, 'UPDATE') AND has_table_privilege(role, oid, 'DELETE'))
UNION
SELECT format('GRANT USAGE ON SEQUENCE %%s TO %%I', s.oid::regclass, %(role)s)
  FROM tables t
  JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid
    AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  JOIN pg_class s ON s.oid = d.objid
  WHERE CASE s.relkind WHEN 'S' THEN NOT has_sequence_privilege(role, s.oid, 'USAGE') END
UNION
SELECT format('GRANT USAGE ON SCHEMA %%I TO %%I', n.nspname, %(role)s)
  FROM tables t JOIN pg_namespace n ON n.oid = t.relnamespace
  WHERE pg_has_role(n.nspowner, 'USAGE') AND NOT has_schema_privilege(role, n.oid, 'USAGE')
"""


def keep_up(sender: Any, using: str, **kwargs: Any) -> None:
    """Bring the keys and the privileges of a database up to date; ``migrate`` calls it."""
    connection = connections[using]
    if is_bound(connection):
        settings = rls_tenants()
        if settings.sealed:
            send_seal_keys(connection)
        if settings.admin_role is not None:
            grant_on(tables_in(connection), connection, settings.admin_role)


def tables_in(connection: Any) -> list[str]:
    """Return the tables of the models that a database has, as models name them."""
    return [
        model._meta.db_table
        for model in apps.get_models(include_auto_created=True)
        if is_placed(connection.alias, model)
    ]


def grant_on(tables: Iterable[str], connection: Any, role: str) -> None:
    """Grant the admin role what is missing on those of `tables` that are there."""
    quoted = [*map(connection.ops.quote_name, tables)]
    # In a scope, too: it is several statements, of who owns the tables.
    with running_as(UNBOUND), connection.cursor() as cursor:
        cursor.execute(MISSING, {"role": role, "tables": quoted})
        if grants := [grant for (grant,) in cursor.fetchall()]:
            cursor.execute(";\n".join(grants))
