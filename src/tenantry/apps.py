"""The Django app: ``INSTALLED_APPS = ["tenantry", ...]``."""

from __future__ import annotations

from django.apps import AppConfig

from .checks.registry import register
from .conf import require_engine, tenant_key


class TenantryConfig(AppConfig):
    """Refuse to start with settings that would leave tables unprotected."""

    name = "tenantry"
    verbose_name = "Tenants"

    def ready(self) -> None:
        """Check the settings and register the checks; errors name the fix."""
        require_engine()
        tenant_key()
        register()
