"""django-rls-tenants, with its middleware, models and manager.

Direct connections use its default, values for the session. The connection stays open, like every
candidate's; its check W004 advises against that in this mode, and without it each request would
connect anew. Behind PgBouncer ``USE_LOCAL_SET`` is on, as its guide to connection pooling says; the
middleware then opens the request's transaction itself, so ``ATOMIC_REQUESTS`` stays off. The
report's condition is ``safe_tenant_sql()``, without the admin's part, which its documentation calls
indexable. ``TENANT_PK_TYPE`` is the type of the key.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.base import IDENTIFY, Project


class RlsTenants(Project):
    """Bind in the middleware."""

    apps = ("django_rls_tenants",)
    middleware = (IDENTIFY, "django_rls_tenants.RLSTenantMiddleware")
    policies = True

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        tenants = {"TENANT_MODEL": f"{self.label}.Tenant", "TENANT_PK_TYPE": "bigint"}
        return {"RLS_TENANTS": tenants | {"USE_LOCAL_SET": pooled}}

    def condition(self, request: Any) -> tuple[str, list[Any]]:
        from django_rls_tenants import safe_tenant_sql

        return safe_tenant_sql("tenant_id", table="n", include_admin=False), []


project = RlsTenants
