"""Tenant isolation for Django that PostgreSQL enforces with Row-Level Security."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.postgresql.aio import aconnection
    from .backends.postgresql.async_rows import arows
    from .backends.postgresql.loops import aclose_pools, apool_stats
    from .constraints import RLSConstraint
    from .context import admin_context, bypass_flag, tenant_context, with_rls_context
    from .expressions import CurrentTenant, current_tenant_sql
    from .managers import RLSManager
    from .models import RLSProtectedModel
    from .rebinding import abind_request, allow_writes, bind_request
    from .samekeys import SameTenant
    from .selection import (
        aclear_tenant_selection,
        aswitch_tenant,
        clear_tenant_selection,
        switch_tenant,
    )
    from .sharing import RawPredicate, SharedWith, TenantField
    from .users import MultiTenantUser, TenantUser

__all__ = [
    "CurrentTenant",
    "MultiTenantUser",
    "RLSConstraint",
    "RLSManager",
    "RLSProtectedModel",
    "RawPredicate",
    "SameTenant",
    "SharedWith",
    "TenantField",
    "TenantUser",
    "abind_request",
    "aclear_tenant_selection",
    "aclose_pools",
    "aconnection",
    "admin_context",
    "allow_writes",
    "apool_stats",
    "arows",
    "aswitch_tenant",
    "bind_request",
    "bypass_flag",
    "clear_tenant_selection",
    "current_tenant_sql",
    "switch_tenant",
    "tenant_context",
    "with_rls_context",
]

# Django imports this package before models may be imported, and pytest before it imports Django.
_LATER = {
    "CurrentTenant": "expressions",
    "MultiTenantUser": "users",
    "RLSConstraint": "constraints",
    "RLSManager": "managers",
    "RLSProtectedModel": "models",
    "RawPredicate": "sharing",
    "SameTenant": "samekeys",
    "SharedWith": "sharing",
    "TenantField": "sharing",
    "TenantUser": "users",
    "abind_request": "rebinding",
    "aclear_tenant_selection": "selection",
    "aclose_pools": "backends.postgresql.loops",
    "aconnection": "backends.postgresql.aio",
    "admin_context": "context",
    "allow_writes": "rebinding",
    "apool_stats": "backends.postgresql.loops",
    "arows": "backends.postgresql.async_rows",
    "aswitch_tenant": "selection",
    "bind_request": "rebinding",
    "bypass_flag": "context",
    "clear_tenant_selection": "selection",
    "current_tenant_sql": "expressions",
    "switch_tenant": "selection",
    "tenant_context": "context",
    "with_rls_context": "context",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
