"""Settings of a worker: those of the tests, and where the database is."""

from __future__ import annotations

import os
from typing import Any

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS

HERE: dict[str, Any] = {
    "HOST": os.environ["TENANTRY_TEST_HOST"],
    "PORT": os.environ["TENANTRY_TEST_PORT"],
    "USER": os.environ.get("TENANTRY_TEST_USER", "app"),
}
DATABASES = {"default": DATABASES["default"] | HERE}
INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks_db"]
TASKS = {"default": {"BACKEND": "tests.jobs.backends.Database"}}
# In every shape, or a migration of the table of tasks would make a state of all models.
MIGRATION_MODULES = {}
