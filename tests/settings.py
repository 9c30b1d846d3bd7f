"""Settings of the test project; the fixtures of ``fix_servers`` say where the database is."""

from __future__ import annotations

import os

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
# The shape of the policies. But for "guc", the tables are made from the models, not by migrations.
SHAPE = os.environ.get("TENANTRY_SHAPE", "guc")
ROLES: dict[str, object] = {"ADMIN_ROLE": "app_admin", "APP_ROLE": "app"}
SEAL: dict[str, object] = {
    "SEALED": True,
    "SEAL_KEYS": [
        "a secret that is long enough for a test",
        "an older secret that is long enough too",
    ],
}
SHAPES: dict[str, dict[str, object]] = {
    "guc": {},
    "role": ROLES,
    "sealed": ROLES | SEAL,
    # The one that servers before PostgreSQL 16 can have.
    "sealed_guc": SEAL,
}
IS_SEALED = "SEALED" in SHAPES[SHAPE]
HAS_ADMIN_ROLE = "ADMIN_ROLE" in SHAPES[SHAPE]
# The parameter that makes an admin of whoever sets it, if nothing is sealed; its value then, and
# its value otherwise.
ADMIN_PARAMETER, ADMIN_VALUE, NO_ADMIN = (
    ("role", "app_admin", "none") if HAS_ADMIN_ROLE else ("rls.is_admin", "true", "")
)
IS_ADMIN = f"coalesce(nullif(current_setting('{ADMIN_PARAMETER}', true), '{NO_ADMIN}'), '')"
RLS_TENANTS = {
    "TENANT_MODEL": "app.Tenant",
    "SHARED_MODELS": ["app.Shared", "app.Document"],
    **SHAPES[SHAPE],
}
if SHAPE != "guc":
    MIGRATION_MODULES = dict.fromkeys(["admin", "app", "auth", "contenttypes", "desk", "sessions"])
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def database(user: str = "app", **options: object) -> dict[str, object]:
    """Return an entry of DATABASES; HOST and PORT are set once the servers run."""
    return {
        "ENGINE": "tenantry.backends.postgresql",
        "NAME": "tenantry",
        "USER": user,
        "OPTIONS": options,
    }


DATABASES = {
    "default": database(),
    # Owns the tables; FORCE binds it too.
    "owner": database("owner"),
    # Through PgBouncer in transaction mode, which has two server sessions.
    "pooled": {**database(), "DISABLE_SERVER_SIDE_CURSORS": True},
    # A pool of two, checked out for a transaction at a time.
    "pool": database(pool={"min_size": 1, "max_size": 2, "timeout": 2}, pool_mode="transaction"),
    # Through a proxy that records messages.
    "wire": database(sslmode="disable", gssencmode="disable"),
    "wire_server_side": database(sslmode="disable", gssencmode="disable", server_side_binding=True),
}
TASKS = {
    "default": {"BACKEND": "tests.jobs.backends.Immediate"},
    "dummy": {"BACKEND": "tests.jobs.backends.Dummy"},
    "plain": {"BACKEND": "tests.jobs.backends.Plain"},
}
