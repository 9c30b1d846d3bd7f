"""Settings for Django's ``runtests.py``; ``run.py`` says in the environment what differs.

The rest is what Django runs its suite with on SQLite, which depends on the version.
"""

from __future__ import annotations

import os

from django.db.backends.postgresql.features import DatabaseFeatures
from test_sqlite import *  # type: ignore[import-not-found]  # noqa: F403


def database(name: str) -> dict[str, object]:
    """Return an entry of DATABASES, of a superuser, as Django's suite is usually run."""
    options: dict[str, object] = {}
    if "DJANGO_SUITE_POOL_MODE" in os.environ:
        options["pool"] = {"min_size": 1, "max_size": 6, "timeout": 10}
        if (mode := os.environ["DJANGO_SUITE_POOL_MODE"]) != "stock":
            options["pool_mode"] = mode
    return {
        "ENGINE": os.environ["DJANGO_SUITE_ENGINE"],
        "NAME": name,
        "USER": "postgres",
        "HOST": os.environ["DJANGO_SUITE_HOST"],
        "PORT": os.environ["DJANGO_SUITE_PORT"],
        "OPTIONS": options,
    }


NAME = os.environ["DJANGO_SUITE_NAME"]
DATABASES = {"default": database(NAME), "other": database(f"{NAME}_other")}
TEST_RUNNER = "tests.django_suite.runner.RecordingRunner"

# No model of Django's suite is protected, and the app is not installed: it is about the ENGINE.
RLS_TENANTS = {"TENANT_MODEL": "suite.Tenant", "TENANT_PK_TYPE": "bigint"}

if "DJANGO_SUITE_LACKS_ICU" in os.environ:
    # Models have a column of such a collation; tests without one are skipped.
    DatabaseFeatures.test_collations = {"deterministic": "C", "virtual": "C"}
