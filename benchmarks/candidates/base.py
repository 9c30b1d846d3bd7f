"""A candidate's Django project: what its settings are, and how views ask for a tenant's rows."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from django.apps import apps
from django.db import connection

from benchmarks.shop import Shop

STOCK = "django.db.backends.postgresql"
IDENTIFY = "benchmarks.identity.Identify"
# In an order that foreign keys allow.
SCOPED = ("Author", "Category", "Note", "Event")


class Project:
    """Be stock Django; candidates override what differs."""

    engine = STOCK
    apps: Sequence[str] = ()
    middleware: Sequence[str] = (IDENTIFY,)
    # Whether the database selects the rows; then there are none without a tenant.
    policies = False

    def __init__(self, module: str) -> None:
        self.module = module
        self.label = module.rpartition(".")[2]

    def settings(self, *, pooled: bool) -> dict[str, Any]:
        """Return more settings; `pooled` when a pooler in transaction mode is in between."""
        return {}

    def model(self, name: str) -> Any:
        """Return one of the candidate's models."""
        return apps.get_model(self.label, name)

    def values(self, request: Any) -> dict[str, Any]:
        """Return what a new row is given to belong to the tenant."""
        return {"tenant_id": request.user.tenant_id}

    def condition(self, request: Any) -> tuple[str, list[Any]]:
        """Return what raw SQL adds to find the tenant's notes `n`, and its parameters."""
        return "n.tenant_id = %s", [request.user.tenant_id]

    def notes(self, request: Any) -> Any:
        """Return the tenant's notes, as a view gets them."""
        return self.model("Note").objects.all()

    def create(self, shop: Shop, superuser: Any) -> None:
        """Create the tables as their owner, and fill them over `superuser`, a connection."""
        self.create_tables("Tenant", *SCOPED)
        self.create_tenants(shop)
        for statement in shop.fill():
            superuser.execute(statement)
        self.protect()

    def create_tables(self, *names: str) -> None:
        """Create tables as migrations do."""
        with connection.schema_editor() as editor:
            for name in names:
                editor.create_model(self.model(name))

    def create_tenants(self, shop: Shop) -> None:
        """Insert the rows of tenants."""
        tenant = self.model("Tenant")
        tenant.objects.bulk_create(
            [tenant(id=n, name=f"tenant {n}", slug=f"t{n}") for n in range(1, shop.tenants + 1)]
        )

    def protect(self) -> None:
        """Turn Row-Level Security on, where creating the tables did not."""

    def run_operations(self, *operations: Any) -> None:
        """Run operations of migrations on the tables that are there."""
        state = SimpleNamespace(apps=apps)
        with connection.schema_editor() as editor:
            for operation in operations:
                operation.database_forwards(self.label, editor, state, state)

    def events(self, superuser: Any, tenants: Sequence[int]) -> dict[int, int]:
        """Return how many events were inserted for each tenant, and remove them."""
        rows = superuser.execute("SELECT tenant_id, count(*) FROM event GROUP BY 1").fetchall()
        superuser.execute("TRUNCATE event")
        return dict(rows)
