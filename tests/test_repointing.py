"""Foreign keys that lead to another table, in migrations that are run as ``migrate`` runs them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import AddConstraint, AlterField
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, tenant_context
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.test_awaited import bare, to
from tests.test_dependents_shared import count, manager, model
from tests.test_retyping import check, types
from tests.test_sharing import SHARE, SHARED, base, paper, paper_alter

Tenants = tuple[Tenant, Tenant]
ORDER, SALE = (model(name, is_open=False) for name in ("Order", "Sale"))
LINE = bare("Line", up=to("Order"))
PATH = AddConstraint("line", RLSConstraint(path="up__tenant", name="line_rls"))
TO_SALE = AlterField("line", "up", to("Sale"))
PROTECTED = {"Order", "Sale", "Line"}


def follows(state: ProjectState, tenants: Tenants, patch: pytest.MonkeyPatch) -> None:
    """Check that a line is of the tenant of its sale, and not of an order of the same key."""
    check(state, PROTECTED, patch)
    a, b = tenants
    with tenant_context(a.pk):
        manager(state, "Order").create(id=1)
    with tenant_context(b.pk):
        manager(state, "Sale").create(id=1)
        manager(state, "Line").create(up_id=1)
        assert count("line") == 1
    with tenant_context(a.pk):
        assert count("line") == 0


def test_a_path_follows(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = migrate_in_place(base(), ORDER, LINE, PATH, [SALE, TO_SALE])
    follows(state, tenants, monkeypatch)


def test_a_path_follows_in_the_migration_that_makes_it(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = bare("Line", up=to("Order"))
    line.options["constraints"] = [PATH.constraint]
    state = migrate_in_place(base(), ORDER, SALE, [line, TO_SALE])
    follows(state, tenants, monkeypatch)


def test_a_path_that_begins_in_another_table_follows(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RLSConstraint(path="up__up__tenant", name="slip_rls")
    slip = bare("Slip", up=to("Line"))
    slip.options["constraints"] = [path]
    state = migrate_in_place(base(), ORDER, LINE, slip, [SALE, TO_SALE])
    check(state, {"Order", "Sale", "Slip"}, monkeypatch)


def test_sharing_follows_to_another_column(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = models.BigIntegerField(unique=True)
    by_number: Any = models.ForeignKey("migrated.Paper", models.CASCADE, to_field="number")
    change = AlterField("share", "paper", by_number)
    papers = paper()
    papers.fields.append(("number", number))
    state = migrate_in_place(base(), papers, SHARE, paper_alter(SHARED), change)
    check(state, {"Paper", "Share"}, monkeypatch)


def test_a_column_gets_another_name_and_type(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: Any = models.AutoField(primary_key=True)
    big: Any = models.BigAutoField(primary_key=True, db_column="number")
    order = model("Order", is_open=False, id=small)
    state = migrate_in_place(base(), order, LINE, PATH, AlterField("order", "id", big))
    assert types("up_id") == types("number") == {"bigint"}
    check(state, {"Order", "Line"}, monkeypatch)


def test_a_path_that_leads_nowhere_yet_shows_nothing(
    tenants: Tenants, migrate_in_place: Migrate
) -> None:
    """Its constraint is to follow, as where a migration of another app has it."""
    state = migrate_in_place(base(), ORDER, LINE, PATH, bare("Label"))
    manager(state, "Label").create(id=1)
    with tenant_context(tenants[0].pk):
        manager(state, "Line").create(up=manager(state, "Order").create(id=1))
        assert count("line") == 1
    migrate_in_place(state, AlterField("line", "up", to("Label")))
    with tenant_context(tenants[0].pk):
        assert count("line") == 0
    assert is_protected("migrated_line")[:2] == (True, True)


def test_a_table_that_the_undoing_does_not_know_shows_nothing(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    slip = bare("Slip", up=to("Line"))
    slip.options["constraints"] = [RLSConstraint(path="up__up__tenant", name="slip_rls")]
    before = migrate_in_place(base(), ORDER, SALE, LINE)
    state = migrate_in_place(before.clone(), TO_SALE, slip)
    with tenant_context(a.pk):
        line = manager(state, "Line").create(up=manager(state, "Sale").create(id=1))
        manager(state, "Slip").create(up=line)
        assert count("slip") == 1
    with tenant_context(b.pk):
        manager(state, "Order").create(id=1)
    with connections["owner"].schema_editor() as editor:
        migration_of(TO_SALE).unapply(before.clone(), editor)
    assert is_protected("migrated_slip")[:2] == (True, True)
    for each in tenants:
        with tenant_context(each.pk):
            assert count("slip") == 0
    # The migration that is done again knows it.
    slip.state_forwards("migrated", before)
    state = migrate_in_place(before, TO_SALE)
    check(state, {"Order", "Sale", "Slip"}, monkeypatch)
    with tenant_context(a.pk):
        assert count("slip") == 1
