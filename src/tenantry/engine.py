"""Which databases are bound: those of tenantry's ENGINE, and of one that inherits from it."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend

from .conf import engines

ENGINES = ("tenantry.backends.postgresql", "tenantry.backends.postgis")


def is_bound(wrapper: Any) -> bool:
    """Return whether a database wrapper, or a class of them, sends bindings with statements."""
    return getattr(wrapper, "sends_binding", False) is True


def require_engine() -> None:
    """Raise ImproperlyConfigured unless a database in ``DATABASES`` is bound."""
    found = engines()
    # Without a look at their modules, where that is not needed.
    if any(engine in ENGINES for engine in found.values()):
        return
    cause: Exception | None = None
    for engine in filter(None, found.values()):
        try:
            if is_bound(load_backend(engine).DatabaseWrapper):
                return
        except (ImportError, ImproperlyConfigured) as error:
            cause = cause or error
    raise ImproperlyConfigured(
        "tenantry is in INSTALLED_APPS, but no database uses its ENGINE, or one that inherits from"
        " it, so nothing would tell PostgreSQL the tenant; set DATABASES['default']['ENGINE'] ="
        f" {ENGINES[0]!r} (now: {found!r})"
    ) from cause
