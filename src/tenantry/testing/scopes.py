"""Scopes for tests."""

from __future__ import annotations

from typing import Any

from django.db import models

from ..context import admin_context, tenant_context


def rls_bypass() -> admin_context:
    """Return a scope that sees and writes all rows, for arranging them."""
    return admin_context()


def rls_as_tenant(tenant_id: Any) -> tenant_context:
    """Return a scope of a tenant, which may be a primary key or an instance."""
    return tenant_context(tenant_id.pk if isinstance(tenant_id, models.Model) else tenant_id)
