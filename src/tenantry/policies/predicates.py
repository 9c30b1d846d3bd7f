"""SQL expressions about the binding, as pure text."""

from __future__ import annotations

import re

from ..keywords import RESERVED

SCHEMA = "tenantry"


def tenant_function(guc_prefix: str, key_type: str) -> str:
    """Return the name of the function that reads the tenant, for one GUC prefix and key type."""
    return f"{SCHEMA}.{guc_prefix}_current_tenant_{key_type}"


def admin_function(guc_prefix: str) -> str:
    """Return the name of the function that reads the admin flag."""
    return f"{SCHEMA}.{guc_prefix}_is_admin"


def sealed_function(guc_prefix: str) -> str:
    """Return the name of the function that verifies a sealed binding."""
    return f"{SCHEMA}.{guc_prefix}_sealed"


def tenant_sql(guc_prefix: str, key_type: str, *, sealed: bool = False) -> str:
    """Return the expression that reads the tenant; NULL when there is none.

    current_setting() gives '' and not NULL once a transaction has set the value locally.
    """
    if sealed:
        return f"{sealed_function(guc_prefix)}('tenant')::{key_type}"
    setting = f"pg_catalog.current_setting('{guc_prefix}.current_tenant', true)"
    return f"NULLIF({setting}, '')::{key_type}"


def is_admin_sql(guc_prefix: str, *, sealed: bool = False) -> str:
    """Return the expression that reads the admin flag; NULL when nothing has set it."""
    if sealed:
        return f"{sealed_function(guc_prefix)}('grant') = 'admin'"
    return f"pg_catalog.current_setting('{guc_prefix}.is_admin', true) = 'true'"


def bypass_sql(guc_prefix: str, *, sealed: bool = False) -> str:
    """Return the expression that reads the bypass flag; NULL or empty when there is none."""
    if sealed:
        return f"{sealed_function(guc_prefix)}('grant')"
    return f"pg_catalog.current_setting('{guc_prefix}.bypass', true)"


def identifier(name: str) -> str:
    """Return `name` quoted as an identifier."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def readable(name: str) -> str:
    """Return `name` as an identifier for people to read: quoted only where it has to be."""
    if re.fullmatch("[a-z_][a-z0-9_]*", name) and name not in RESERVED:
        return name
    return identifier(name)


def unlike(name: str, table: str) -> str:
    """Return an alias, `name` or a longer one, for a subquery that speaks of a row of `table`.

    An alias hides the table around the subquery if that is called the same. If it has a schema,
    too, it is not hidden, but PostgreSQL prints another alias than the policy was made with. It
    names partitions, and quotes `table` then only where it has to.
    """
    forms = (name, identifier(name))
    is_same = table in forms or table.endswith(tuple(f".{form}" for form in forms))
    return f"{name}_" if is_same else name


def literal(text: str) -> str:
    """Return `text` quoted as a string."""
    escaped = text.replace("'", "''")
    return f"'{escaped}'"
