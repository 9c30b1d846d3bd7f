"""tenantry, with the admin as a role of PostgreSQL: the policy is a bare comparison.

As the guide to raw SQL says, SQL then needs no condition: the policy finds the rows by index.
Foreign keys hold the tenant, as the guide to joins in this shape recommends. Everything else is as
in the default shape. Needs PostgreSQL 16.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.with_tenantry import Tenantry
from benchmarks.servers import APP, OWNER
from benchmarks.shop import Shop
from example_asgi.servers import ensure_admin_role, grant_by_default

ADMIN = "app_admin"


class TenantryRole(Tenantry):
    """Let the admin be a role."""

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        tenants = {"TENANT_MODEL": f"{self.label}.Tenant"}
        role = {"ADMIN_ROLE": ADMIN, "APP_ROLE": APP, "SAME_TENANT_FOREIGN_KEYS": True}
        return {"RLS_TENANTS": tenants | role}

    def condition(self, request: Any) -> tuple[str, list[Any]]:
        return "", []

    def create(self, shop: Shop, superuser: Any) -> None:
        dsn = superuser.info.dsn
        ensure_admin_role(dsn, ADMIN, members=[OWNER, APP])
        grant_by_default(dsn, owner=OWNER, to=ADMIN)
        super().create(shop, superuser)


project = TenantryRole
