"""django-tenants: a schema for each tenant, with its backend, router and middleware.

The middleware finds the tenant by the host name, with a query for each request, which is part of
what is measured. ``TENANT_LIMIT_SET_CALLS`` is on, which its documentation advises under load: the
search path is then set once a request. Each schema has the rows, ids and index of its tenant; no
table has a column for the tenant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection

from benchmarks.candidates.base import IDENTIFY, SCOPED, Project
from benchmarks.shop import Shop


class Tenants(Project):
    """Let the host name choose the schema."""

    engine = "django_tenants.postgresql_backend"
    apps = ("django_tenants", "django.contrib.contenttypes")
    middleware = ("django_tenants.middleware.main.TenantMainMiddleware", IDENTIFY)

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        return {
            "TENANT_MODEL": f"{self.label}.Tenant",
            "TENANT_DOMAIN_MODEL": f"{self.label}.Domain",
            "SHARED_APPS": [*self.apps, self.module],
            "TENANT_APPS": [self.module],
            "DATABASE_ROUTERS": ["django_tenants.routers.TenantSyncRouter"],
            "TENANT_LIMIT_SET_CALLS": True,
        }

    def values(self, request: Any) -> dict[str, Any]:
        return {}

    def condition(self, request: Any) -> tuple[str, list[Any]]:
        return "", []

    def create(self, shop: Shop, superuser: Any) -> None:
        self.create_tables("Tenant", "Domain")
        tenant, domain = self.model("Tenant"), self.model("Domain")
        numbers = range(1, shop.tenants + 1)
        tenant.objects.bulk_create(
            [tenant(id=n, name=f"tenant {n}", slug=f"t{n}", schema_name=f"t{n}") for n in numbers]
        )
        domain.objects.bulk_create(
            [domain(domain=f"t{n}.bench.test", tenant_id=n) for n in numbers]
        )
        for n in numbers:
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE SCHEMA t{n}")
            connection.set_schema(f"t{n}")
            self.create_tables(*SCOPED)
            for statement in shop.fill_schema(f"t{n}", n):
                superuser.execute(statement)
        connection.set_schema_to_public()

    def events(self, superuser: Any, tenants: Sequence[int]) -> dict[int, int]:
        found = {}
        for n in set(tenants):
            found[n] = superuser.execute(f"SELECT count(*) FROM t{n}.event").fetchone()[0]
            superuser.execute(f"TRUNCATE t{n}.event")
        return {n: count for n, count in found.items() if count}


project = Tenants
