"""Protected models of an app that has no migrations, in the registries of migrations.

Django leaves all relations out of them there, and so the foreign key to the tenant.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.migrations import AlterField, CreateModel
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, tenant_context
from tenantry.protected import protections, way_by
from tests.app.models import Note, Tenant
from tests.fix_migrations import Migrate, is_protected

PLAN = CreateModel(
    "Plan",
    [("id", models.AutoField(primary_key=True)), ("name", models.CharField(max_length=9))],
)


@pytest.fixture
def state(migrate: Migrate) -> Any:
    """Return the state after another app's migration, as if the test project's had none."""
    return migrate(PLAN, ProjectState(real_apps={"app"}))


def test_other_apps_migrate(migrate: Migrate, state: ProjectState) -> None:
    before = is_protected("app_note")
    with pytest.raises(FieldDoesNotExist):
        state.apps.get_model("app", "Note")._meta.get_field("tenant")
    after = migrate(AlterField("plan", "name", models.TextField()), state)
    assert after.apps.get_model("migrated", "Plan")._default_manager.count() == 0
    assert is_protected("app_note") == before


def test_their_tables_are_scoped(tenants: tuple[Tenant, Tenant], state: ProjectState) -> None:
    manager: Any = state.apps.get_model("app", "Note")._default_manager
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert f'"app_note"."tenant_id" = {tenant.pk}' in str(manager.all().query)
            assert manager.count() == 2
    assert manager.count() == 0
    assert protections(state.apps)["Odd table"].way.column == "cust_no"


def test_a_field_that_is_nowhere_is_missing(state: ProjectState) -> None:
    rls = RLSConstraint(field="nobody", name="nobody_rls")
    for model in (Note, state.apps.get_model("app", "Note")):
        with pytest.raises(FieldDoesNotExist, match="nobody"):
            way_by(rls, model)
