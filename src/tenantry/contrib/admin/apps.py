"""The Django app that brings the template; put it before the admin in ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig


class TenantryAdminConfig(AppConfig):
    """Bring the template of the switcher."""

    name = "tenantry.contrib.admin"
    # "admin" is Django's.
    label = "tenantry_admin"
    verbose_name = "Tenants in the admin"
