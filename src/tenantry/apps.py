"""The Django app: ``INSTALLED_APPS = ["tenantry", ...]``."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import class_prepared

from .conf import require_engine, tenant_key
from .samekeys import settle


class TenantryConfig(AppConfig):
    """Refuse to start with settings that would leave tables unprotected."""

    name = "tenantry"
    verbose_name = "Tenants"

    def ready(self) -> None:
        """Check the settings; RLSConfigurationError and ImproperlyConfigured name the fix."""
        require_engine()
        tenant_key()


# Not in ready(): models are imported before, after this module.
class_prepared.connect(settle, dispatch_uid="tenantry.samekeys.settle")
