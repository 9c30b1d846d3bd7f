"""Settings of the example, and of what is around it."""

from __future__ import annotations

import os

from project.settings import *  # noqa: F403
from project.settings import INSTALLED_APPS as OF_EXAMPLE

INSTALLED_APPS = [*OF_EXAMPLE, "rest_framework"]
ROOT_URLCONF = "tests.mixed.urls"
REST_FRAMEWORK = {"UNAUTHENTICATED_USER": None}
BROKER = os.environ["TENANTRY_TEST_BROKER"]
