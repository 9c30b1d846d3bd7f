"""SQL that protects the tables of other packages, whose models have no field for a tenant."""

from __future__ import annotations

from typing import Any

from django.apps import apps

from .conf import rls_tenants
from .policies.ddl import Policy, unprotect
from .policies.owners import Owner, Quote
from .policies.predicates import current_tenant


def add_external(
    policy: Policy, model: Any, column: str, quote: Quote, create_column: bool
) -> list[str]:
    """Return the statements that protect the table of `model` by a column, and may create it."""
    table = quote(model._meta.db_table)
    rules = policy.rules(Owner(column).holds(table, policy.tenant, quote))
    # The functions first, which the default of the column may call.
    statements = [policy.functions()]
    if create_column:
        tenants = apps.get_model(rls_tenants().tenant_model)._meta
        default = current_tenant(policy.guc_prefix, policy.key_type, sealed=policy.sealed)
        # Without the default at first, which would be taken for the rows that are there.
        statements += [
            f"ALTER TABLE {table} ADD COLUMN {quote(column)} {policy.key_type}"
            f" REFERENCES {quote(tenants.db_table)} ({quote(tenants.pk.column)})"
            " ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
            f"ALTER TABLE {table} ALTER COLUMN {quote(column)} SET DEFAULT {default}",
            f"CREATE INDEX ON {table} ({quote(column)})",
        ]
    return [*statements, policy.protect(table, rules)]


def remove_external(
    policy: Policy, model: Any, column: str, quote: Quote, create_column: bool
) -> list[str]:
    """Return the statements that undo :func:`add_external`."""
    table = quote(model._meta.db_table)
    statements = [unprotect(table, policy.rules("true"))]
    if create_column:
        statements.append(f"ALTER TABLE {table} DROP COLUMN {quote(column)}")
    return statements
