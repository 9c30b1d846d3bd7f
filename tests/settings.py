"""Settings of the test project; the fixtures of ``fix_servers`` say where the database is."""

from __future__ import annotations

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "tests.urls"
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "tenantry",
    "tests.app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tenantry.middleware.RLSTenantMiddleware",
]
AUTH_USER_MODEL = "app.User"
RLS_TENANTS = {"TENANT_MODEL": "app.Tenant"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

DATABASES = {
    "default": {
        "ENGINE": "tenantry.backends.postgresql",
        "NAME": "tenantry",
        "USER": "app",
        "TEST": {"NAME": "tenantry"},
    },
    # The same server and role through PgBouncer in transaction mode, two server sessions.
    "pooled": {
        "ENGINE": "tenantry.backends.postgresql",
        "NAME": "tenantry",
        "USER": "app",
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "TEST": {"NAME": "tenantry", "MIRROR": "default"},
    },
}
