"""The Django app: ``INSTALLED_APPS = ["tenantry", ...]``."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import class_prepared, post_migrate, pre_migrate

from .checks.registry import register
from .conf import tenant_key, tenant_model
from .elsewhere import stay_away
from .engine import require_engine
from .relating import settle


class TenantryConfig(AppConfig):
    """Refuse to start with settings that would leave tables unprotected."""

    name = "tenantry"
    verbose_name = "Tenants"

    def ready(self) -> None:
        """Check the settings and register the checks; errors name the fix."""
        require_engine()
        tenant_key()
        # tenant_key() does not look at the model where the settings give the type of its key.
        tenant_model()
        register()
        from .functions import keep_functions  # noqa: PLC0415 - it needs the registry of apps
        from .grants import keep_up  # noqa: PLC0415 - so does it
        from .protected import external_models  # noqa: PLC0415 - so does this
        from .undoing import protect_dependents  # noqa: PLC0415 - and this

        # Raises for a label that is not installed, or of a model without a table.
        list(external_models())
        pre_migrate.connect(stay_away, sender=self, dispatch_uid="tenantry.elsewhere.stay_away")
        # Before, because a migration may write rows, and after, for the new tables.
        for signal in (pre_migrate, post_migrate):
            signal.connect(keep_up, sender=self, dispatch_uid="tenantry.grants.keep_up")
        uid = "tenantry.functions.keep_functions"
        post_migrate.connect(keep_functions, sender=self, dispatch_uid=uid)
        uid = "tenantry.undoing.protect_dependents"
        post_migrate.connect(protect_dependents, sender=self, dispatch_uid=uid)


# Not in ready(): models are imported before, after this module.
class_prepared.connect(settle, dispatch_uid="tenantry.relating.settle")
