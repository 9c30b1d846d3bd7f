"""Settings of the example project; what differs between places comes from the environment."""

import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("TENANTRY_SECRET_KEY", "only-good-enough-for-this-machine")
DEBUG = os.environ.get("TENANTRY_DEBUG", "1") == "1"
# A page that fails on purpose, to look at what a failed request leaves behind.
BOOM = DEBUG or os.environ.get("TENANTRY_BOOM") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    # Before Django's admin, for its header.
    "tenantry.contrib.admin",
    "tenantry.contrib.admin.RLSAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "tenantry",
    "notes",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tenantry.middleware.RLSTenantMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "tenantry.backends.postgresql",
        "NAME": os.environ.get("TENANTRY_DB_NAME", "notes"),
        "USER": os.environ.get("TENANTRY_DB_USER", "notes_app"),
        "HOST": os.environ.get("TENANTRY_DB_HOST", ""),
        "PORT": os.environ.get("TENANTRY_DB_PORT", ""),
        # A server-side cursor lives in one server session, and a transaction pooler may send the
        # next FETCH to another.
        "DISABLE_SERVER_SIDE_CURSORS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

RLS_TENANTS = {
    "TENANT_MODEL": "notes.Tenant",
    # The admin's header selects a tenant for the session.
    "RESOLVERS": ["session", "user"],
    # Whoever can run SQL as notes_app cannot make itself the admin by setting a parameter, and
    # raw SQL finds a tenant's rows by index.
    "ADMIN_ROLE": "notes_admin",
    "APP_ROLE": "notes_app",
}

AUTH_USER_MODEL = "notes.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "notes"
LOGOUT_REDIRECT_URL = "login"

# Not in the session, which async views could not read while they render.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"

USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
