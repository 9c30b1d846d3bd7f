"""The tenants' own table, which may be protected, so that a tenant sees itself only."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.apps import apps

from .binding import ADMIN
from .conf import tenant_model
from .context import ContinuedScope
from .protected import protections


def are_hidden() -> bool:
    """Return whether the tenants' own table is protected."""
    return protections(apps).flags(tenant_model()._meta.db_table) is not None


def seeing_all() -> AbstractContextManager[Any]:
    """Return a scope in which all tenants are seen and made, wherever code runs."""
    return ContinuedScope(ADMIN) if are_hidden() else nullcontext()
