"""Settings of the tests of the admin: what it needs, beside what all tests have."""

from __future__ import annotations

from tests import settings
from tests.settings import *  # noqa: F403

ROOT_URLCONF = "tests.desk.urls"
INSTALLED_APPS = [
    "tenantry.contrib.admin",
    "tenantry.contrib.admin.RLSAdminConfig",
    *settings.INSTALLED_APPS,
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tests.desk",
]
MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.messages.middleware.MessageMiddleware"]
STATIC_URL = "static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTHENTICATION_BACKENDS = ["tests.test_resolvers.Backend"]
RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": ["session", "user"]}
