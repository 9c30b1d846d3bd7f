"""Tenant isolation for Django that PostgreSQL enforces with Row-Level Security."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .context import admin_context, tenant_context

if TYPE_CHECKING:
    from .backends.postgresql.aio import aclose_pools, aconnection, arows
    from .constraints import RLSConstraint
    from .expressions import CurrentTenant
    from .managers import RLSManager
    from .models import RLSProtectedModel
    from .samekeys import SameTenant
    from .users import TenantUser

__all__ = [
    "CurrentTenant",
    "RLSConstraint",
    "RLSManager",
    "RLSProtectedModel",
    "SameTenant",
    "TenantUser",
    "aclose_pools",
    "aconnection",
    "admin_context",
    "arows",
    "tenant_context",
]

# Django imports this package before models may be imported.
_LATER = {
    "CurrentTenant": "expressions",
    "RLSConstraint": "constraints",
    "RLSManager": "managers",
    "RLSProtectedModel": "models",
    "SameTenant": "samekeys",
    "TenantUser": "users",
    "aclose_pools": "backends.postgresql.aio",
    "aconnection": "backends.postgresql.aio",
    "arows": "backends.postgresql.aio",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
