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
from .reach import USABLE, reached

# Those that one of the roles may use. A partition of a table that is known is looked at with that.
STRANGERS = f"""\
WITH RECURSIVE known(oid) AS (
  SELECT to_regclass(name)::oid FROM unnest(%(known)s::text[]) name
  UNION SELECT inhrelid FROM known JOIN pg_inherits ON inhparent = known.oid
)
SELECT c.oid::regclass::text, min(attname::text), relkind = 'f'
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
WHERE relkind IN ('r', 'p', 'f') AND NOT relrowsecurity
  AND nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'
  AND {USABLE}
  AND NOT EXISTS (SELECT FROM known WHERE known.oid = c.oid)
  AND NOT EXISTS (SELECT FROM pg_depend
    WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
  AND (attname = ANY(%(columns)s) OR EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = c.oid AND contype = 'f' AND confrelid = to_regclass(%(tenants)s)
      AND attnum = ANY(conkey)))
GROUP BY c.oid ORDER BY 1"""  # noqa: S608 - a constant

INSTEAD = "or add a policy like those of other tables and ENABLE ROW LEVEL SECURITY"


def inspect_strangers(connection: Any, cursor: Any) -> Iterator[Finding]:
    """Yield tables that name the tenant, and show every tenant's rows."""
    quote = connection.ops.quote_name
    cursor.execute(
        STRANGERS,
        {
            "known": [quote(model._meta.db_table) for model in known_models()],
            "columns": sorted(tenant_columns()),
            "roles": reached(cursor),
            "tenants": quote(tenant_model()._meta.db_table),
        },
    )
    for table, column, is_foreign in cursor.fetchall():
        yield Finding(
            "tenantry.W124",
            f"table {table}",
            f"has the tenant column {column} but no policy, and no model whose migrations would"
            " create one",
            f"run REVOKE ALL ON {table} FROM PUBLIC and the role that serves requests, "
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
