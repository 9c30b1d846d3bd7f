"""Django's admin, in the binding of each request: see the guide "Use the admin"."""

from __future__ import annotations

from .options import (
    RLSTenantInlineMixin,
    RLSTenantModelAdmin,
    RLSTenantStackedInline,
    RLSTenantTabularInline,
)
from .sites import RLSAdminConfig, RLSAdminSite, TenantAdminSiteMixin

__all__ = [
    "RLSAdminConfig",
    "RLSAdminSite",
    "RLSTenantInlineMixin",
    "RLSTenantModelAdmin",
    "RLSTenantStackedInline",
    "RLSTenantTabularInline",
    "TenantAdminSiteMixin",
]
