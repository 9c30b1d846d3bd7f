"""django-boundary, with its middleware, models and the operations of its migrations.

The tenant comes from the subdomain, the resolver that its README puts first; its cache keeps the
tenant, so the request makes no query for it. The middleware wraps the request in a transaction,
which is its default, for direct connections and behind PgBouncer alike. Raw SQL has a filter, by
which PostgreSQL finds rows: its documentation has the policy for SQL that lacks one.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.base import IDENTIFY, SCOPED, Project


class Boundary(Project):
    """Set the context in the middleware."""

    apps = ("boundary",)
    middleware = ("boundary.middleware.TenantMiddleware", IDENTIFY)
    policies = True

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        return {
            "BOUNDARY_TENANT_MODEL": f"{self.label}.Tenant",
            "BOUNDARY_RESOLVERS": ["boundary.resolvers.SubdomainResolver"],
            "BOUNDARY_SUBDOMAIN_PARENT_DOMAIN": "bench.test",
        }

    def protect(self) -> None:
        from boundary.migrations_ops import CreateTenantPolicy, EnableRLS

        for name in SCOPED:
            self.run_operations(EnableRLS(name), CreateTenantPolicy(name))


project = Boundary
