"""Settings of a project that has names of its own for all that a setting can name."""

from __future__ import annotations

import os

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["tenantry", "tests.renamed"]
# Of a server that is not the newest release, as that of the tests may be.
SILENCED_SYSTEM_CHECKS = ["tenantry.W132"]
MIGRATION_MODULES = {"renamed": "migrations_of_renamed"}
RLS_TENANTS = {
    "TENANT_MODEL": "renamed.Tenant",
    "TENANT_FK_FIELD": "customer",
    "GUC_PREFIX": "acme",
}


def database(user: str) -> dict[str, str]:
    return {
        "ENGINE": "tenantry.backends.postgresql",
        "NAME": os.environ["TENANTRY_TEST_DATABASE"],
        "USER": user,
        "HOST": os.environ["TENANTRY_TEST_HOST"],
        "PORT": os.environ["TENANTRY_TEST_PORT"],
    }


DATABASES = {"default": database("app"), "owner": database("owner")}
