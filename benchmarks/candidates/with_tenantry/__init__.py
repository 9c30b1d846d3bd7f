"""tenantry, with its backend and its middleware, as the tutorial sets it up.

Policies have the default shape. Raw SQL has a filter by hand, as the guide to raw SQL asks for on
large tables. The same settings serve direct connections and PgBouncer.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.base import IDENTIFY, Project


class Tenantry(Project):
    """Bind in the middleware."""

    engine = "tenantry.backends.postgresql"
    apps = ("tenantry",)
    middleware = (IDENTIFY, "tenantry.middleware.RLSTenantMiddleware")
    policies = True

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        return {"RLS_TENANTS": {"TENANT_MODEL": f"{self.label}.Tenant"}}


project = Tenantry
