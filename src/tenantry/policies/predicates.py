"""SQL expressions about the binding, as pure text."""

from __future__ import annotations

SCHEMA = "tenantry"


def tenant_function(guc_prefix: str, key_type: str) -> str:
    """Return the name of the function that reads the tenant, for one GUC prefix and key type."""
    return f"{SCHEMA}.{guc_prefix}_current_tenant_{key_type}"


def admin_function(guc_prefix: str) -> str:
    """Return the name of the function that reads the admin flag."""
    return f"{SCHEMA}.{guc_prefix}_is_admin"


def tenant_or_admin(column: str, guc_prefix: str, key_type: str) -> str:
    """Return the predicate of a policy on the quoted `column`, admin by GUC.

    Each function stands in a subquery, which PostgreSQL evaluates once per statement.
    """
    return (
        f"CASE WHEN (SELECT {admin_function(guc_prefix)}()) THEN true"
        f" ELSE {column} = (SELECT {tenant_function(guc_prefix, key_type)}()) END"
    )
