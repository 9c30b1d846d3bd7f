"""Tables that name the tenant and have no policy, and that no model protects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps

from ..conf import is_shared, tenant_model
from ..dependents import has_constraint, is_protected
from ..protected import column_of, external_column, external_models
from .findings import Finding
from .models import refers_to_tenant
from .privileges import FOREIGN
from .reach import USABLE, USES, reached

# Tables without policies, that are none of the known ones, nor partitions of these, which are
# looked at with them.
OPEN = """\
relkind IN ('r', 'p', 'f') AND NOT relrowsecurity
  AND nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM known WHERE known.oid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')"""

KNOWN = """\
known(oid) AS (
  SELECT to_regclass(name)::oid FROM unnest(%(known)s::text[]) name
  UNION SELECT inhrelid FROM known JOIN pg_inherits ON inhparent = known.oid
)"""

# Those that one of the roles may use, itself or by a view, which reads with the rights of its
# owner.
STRANGERS = f"""\
WITH RECURSIVE {KNOWN}, {USES}, reach(top, oid) AS (
  SELECT c.oid, lower FROM uses JOIN pg_class c ON c.oid = upper
  WHERE {USABLE} AND NOT COALESCE((SELECT option_value::boolean
    FROM pg_options_to_table(reloptions) WHERE option_name = 'security_invoker'), false)
  UNION SELECT top, lower FROM reach JOIN uses ON upper = reach.oid
)
SELECT c.oid::regclass::text, min(attname::text), relkind = 'f', views
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
CROSS JOIN LATERAL (SELECT ARRAY(
  SELECT top::regclass::text FROM reach WHERE reach.oid = c.oid ORDER BY 1)) by_views(views)
WHERE {OPEN} AND ({USABLE} OR views <> '{{}}')
  AND (attname = ANY(%(columns)s) OR EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = c.oid AND contype = 'f' AND confrelid = to_regclass(%(tenants)s)
      AND attnum = ANY(conkey)))
GROUP BY c.oid, views ORDER BY 1"""  # noqa: S608 - a constant

# Those into which triggers of protected tables write, and that one of the roles may read. Only the
# text of a function says what it does.
LOGS = f"""\
WITH RECURSIVE {KNOWN}
SELECT c.oid::regclass::text, min(tgname), min(tgrelid::regclass::text), relkind = 'f'
FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
-- A search for the name first, as the pattern is another one for each table.
JOIN pg_class c ON CASE WHEN strpos(lower(prosrc), lower(relname)) > 0 AND relname ~ '^\\w+$'
  THEN prosrc ~* format('\\minsert\\s+into\\s+("?\\w+"?[.])?"?%%s\\M', relname) END
JOIN pg_namespace n ON n.oid = relnamespace
WHERE tgrelid IN (SELECT to_regclass(name)::oid FROM unnest(%(protected)s::text[]) name)
  AND NOT tgisinternal AND {OPEN} AND EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
    WHERE has_any_column_privilege(role, c.oid, 'SELECT'))
GROUP BY c.oid ORDER BY 1"""  # noqa: S608 - a constant

INSTEAD = "or add a policy like those of other tables and ENABLE ROW LEVEL SECURITY"


def inspect_strangers(connection: Any, tables: list[str], cursor: Any) -> Iterator[Finding]:
    """Yield tables that name the tenant, or get rows of `tables`, and show every tenant's rows."""
    quote = connection.ops.quote_name
    parameters = {
        "known": [quote(model._meta.db_table) for model in known_models()],
        "columns": sorted(tenant_columns()),
        "protected": tables,
        "roles": reached(cursor),
        "tenants": quote(tenant_model()._meta.db_table),
    }
    told = set()
    cursor.execute(STRANGERS, parameters)
    for table, column, is_foreign, views in cursor.fetchall():
        told.add(table)
        message = f"has the tenant column {column} but no policy"
        yield stranger(table, message, ", ".join([table, *views]), is_foreign)
    cursor.execute(LOGS, parameters)
    for table, trigger, writer, is_foreign in cursor.fetchall():
        if table not in told:
            message = f"gets rows from the trigger {trigger} of {writer}, but has no policy"
            yield stranger(table, message, table, is_foreign)


def stranger(table: str, message: str, names: str, is_foreign: bool) -> Finding:
    """Return the finding that a table shows every tenant's rows; `names` are what may be used."""
    return Finding(
        "tenantry.W124",
        f"table {table}",
        f"{message}, and no model whose migrations would create one",
        f"run REVOKE ALL ON {names} FROM PUBLIC and the role that serves requests, "
        + (FOREIGN if is_foreign else INSTEAD),
    )


def known_models() -> Iterator[Any]:
    """Yield the models whose tables other checks look at, or that are shared on purpose.

    Unmanaged models are looked at in the database: a view needs no policy.
    """
    for model in apps.get_models(include_auto_created=True):
        if (
            model._meta.managed
            or external_column(model)
            or is_shared(model)
            or is_protected(model, apps)
        ):
            yield model


def tenant_columns() -> set[str]:
    """Return the names of the columns that hold the tenant, in any table."""
    columns = {column_of(model, column) for model, column in external_models()}
    for model in apps.get_models(include_auto_created=True):
        if has_constraint(model) or not model._meta.managed:
            fields: Any = model._meta.local_concrete_fields
            columns |= {field.column for field in fields if refers_to_tenant(field)}
    return columns
