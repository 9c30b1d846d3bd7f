"""SQL that protects the tables of other packages, whose models have no field for a tenant."""

from __future__ import annotations

from typing import Any

from .policies.ddl import Policy, drop, unprotect
from .policies.predicates import tenant_sql
from .policies.ways import Quote, Way


def add_external(
    policy: Policy, model: Any, column: str, quote: Quote, tenant_model: Any = None
) -> list[str]:
    """Return the statements that protect the table of `model` by a column.

    They make it, a foreign key to ``tenant_model``, if there is one.
    """
    table = quote(model._meta.db_table)
    rules = policy.rules(Way(column).holds_sql(table, policy.tenant, quote))
    # The functions first, which the default of the column may call.
    statements = [policy.functions()]
    if tenant_model is not None:
        tenants = tenant_model._meta
        # Without the default at first, which would be taken for the rows that are there.
        statements += [
            f"ALTER TABLE {table} ADD COLUMN {quote(column)} {policy.key_type}"
            f" REFERENCES {quote(tenants.db_table)} ({quote(tenants.pk.column)})"
            " ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
            set_default(policy, table, quote(column)),
            f"CREATE INDEX ON {table} ({quote(column)})",
        ]
    return [*statements, policy.protect(table, rules)]


def set_default(policy: Policy, table: str, column: str) -> str:
    """Return the SQL that fills a quoted `column` with the current tenant."""
    default = tenant_sql(policy.guc_prefix, policy.key_type, sealed=policy.sealed)
    return f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT {default}"


def alter_external(
    old: Policy, new: Policy, model: Any, column: str, quote: Quote, with_default: bool
) -> list[str]:
    """Return the statements that put the policies of `new` in the place of those of `old`.

    The table shows nothing in between, also where one of them fails outside of a transaction.
    """
    table = quote(model._meta.db_table)
    statements = [new.functions(), drop(table, old.rules("true"))]
    if with_default:
        statements.append(set_default(new, table, quote(column)))
    rules = new.rules(Way(column).holds_sql(table, new.tenant, quote))
    return [*statements, new.protect(table, rules)]


def remove_external(
    policy: Policy, model: Any, column: str, quote: Quote, create_column: bool
) -> list[str]:
    """Return the statements that undo :func:`add_external`."""
    table = quote(model._meta.db_table)
    statements = [unprotect(table, policy.rules("true"))]
    if create_column:
        statements.append(f"ALTER TABLE {table} DROP COLUMN {quote(column)}")
    return statements
