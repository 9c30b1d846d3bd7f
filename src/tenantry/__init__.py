"""Tenant isolation for Django that PostgreSQL enforces with Row-Level Security."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .context import admin_context, bypass_flag, tenant_context, with_rls_context

if TYPE_CHECKING:
    from .backends.postgresql.aio import aclose_pools, aconnection, arows
    from .constraints import RLSConstraint
    from .expressions import CurrentTenant, current_tenant_sql
    from .managers import RLSManager
    from .models import RLSProtectedModel
    from .samekeys import SameTenant
    from .sharing import RawPredicate, SharedWith, TenantField
    from .users import TenantUser

__all__ = [
    "CurrentTenant",
    "RLSConstraint",
    "RLSManager",
    "RLSProtectedModel",
    "RawPredicate",
    "SameTenant",
    "SharedWith",
    "TenantField",
    "TenantUser",
    "aclose_pools",
    "aconnection",
    "admin_context",
    "arows",
    "bypass_flag",
    "current_tenant_sql",
    "tenant_context",
    "with_rls_context",
]

# Django imports this package before models may be imported.
_LATER = {
    "CurrentTenant": "expressions",
    "RLSConstraint": "constraints",
    "RLSManager": "managers",
    "RLSProtectedModel": "models",
    "RawPredicate": "sharing",
    "SameTenant": "samekeys",
    "SharedWith": "sharing",
    "TenantField": "sharing",
    "TenantUser": "users",
    "aclose_pools": "backends.postgresql.aio",
    "aconnection": "backends.postgresql.aio",
    "arows": "backends.postgresql.aio",
    "current_tenant_sql": "expressions",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
