"""Several databases, and connections that last: who is bound is so on each of them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import close_old_connections, connections

from tenantry import admin_context, tenant_context
from tests.app.models import Note, Tenant

Tenants = tuple[Tenant, Tenant]


class Replica:
    """Read from another alias than is written to, as with a replica."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "pooled"

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "default"


def titles() -> list[str]:
    return sorted(Note.objects.values_list("title", flat=True))


def test_a_replica_is_read_as_who_writes(tenants: Tenants, settings: Any) -> None:
    settings.DATABASE_ROUTERS = [Replica()]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert Note.objects.create(title="new")._state.db == "default"
            note = Note.objects.get(title="new")
            assert (note._state.db, note.tenant_id) == ("pooled", tenant.pk)
            note.title = "newer"
            note.save()
            assert titles() == [f"{tenant.name} 1", f"{tenant.name} 2", "newer"]
    assert titles() == []
    with admin_context():
        assert titles() == ["A 1", "A 2", "B 1", "B 2", "newer", "newer"]


@pytest.mark.parametrize("seconds", [0, 60, None])
@pytest.mark.parametrize("alias", ["default", "pooled"])
def test_a_connection_that_lasts_is_bound_anew(
    alias: str, seconds: int | None, tenants: Tenants
) -> None:
    connection = connections[alias]
    connection.close()
    connection.settings_dict["CONN_MAX_AGE"], before = (
        seconds,
        connection.settings_dict["CONN_MAX_AGE"],
    )
    try:
        drivers = set()
        for tenant in [*tenants, *tenants]:
            with tenant_context(tenant.pk):
                found = Note.objects.using(alias).order_by("title")
                assert [note.title for note in found] == [f"{tenant.name} 1", f"{tenant.name} 2"]
            assert not Note.objects.using(alias).exists()
            # Kept, so that no other one gets its id.
            drivers.add(connection.connection)
            close_old_connections()
        assert len(drivers) == (4 if seconds == 0 else 1)
    finally:
        connection.settings_dict["CONN_MAX_AGE"] = before
        connection.close()
