"""SQL that protects the tables of other packages, whose models have no field for a tenant."""

from __future__ import annotations

from typing import Any

from .policies.ddl import Shape, drop, unprotect
from .policies.predicates import tenant_sql
from .policies.ways import Quote, Way


def add_external(
    shape: Shape, model: Any, column: str, quote: Quote, tenant_model: Any = None
) -> list[str]:
    """Return the statements that protect the table of `model` by a column.

    They make it, a foreign key to ``tenant_model``, if there is one.
    """
    table = quote(model._meta.db_table)
    policies = shape.policies(Way(column).holds_sql(table, shape.tenant, quote))
    # The functions first, which the default of the column may call.
    statements = [shape.functions()]
    if tenant_model is not None:
        tenants = tenant_model._meta
        # Without the default at first, which would be taken for the rows that are there.
        statements += [
            f"ALTER TABLE {table} ADD COLUMN {quote(column)} {shape.key_type}"
            f" REFERENCES {quote(tenants.db_table)} ({quote(tenants.pk.column)})"
            " ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
            set_default(shape, table, quote(column)),
            f"CREATE INDEX ON {table} ({quote(column)})",
        ]
    return [*statements, shape.protect(table, policies)]


def set_default(shape: Shape, table: str, column: str) -> str:
    """Return the SQL that fills a quoted `column` with the current tenant."""
    default = tenant_sql(shape.guc_prefix, shape.key_type, sealed=shape.sealed)
    return f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {default}"


def alter_external(
    old: Shape, new: Shape, model: Any, column: str, quote: Quote, with_default: bool
) -> list[str]:
    """Return the statements that put the policies of `new` in the place of those of `old`.

    The table shows nothing in between, also where one of them fails outside of a transaction.
    """
    table = quote(model._meta.db_table)
    statements = [new.functions(), drop(table, old.policies("true"))]
    if with_default:
        statements.append(set_default(new, table, quote(column)))
    policies = new.policies(Way(column).holds_sql(table, new.tenant, quote))
    return [*statements, new.protect(table, policies)]


def remove_external(
    shape: Shape, model: Any, column: str, quote: Quote, create_column: bool
) -> list[str]:
    """Return the statements that undo :func:`add_external`."""
    table = quote(model._meta.db_table)
    statements = [unprotect(table, shape.policies("true"))]
    if create_column:
        statements.append(f"ALTER TABLE {table} DROP COLUMN {quote(column)}")
    return statements
