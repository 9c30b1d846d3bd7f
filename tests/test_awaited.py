"""Constraints that need a field that is yet to come, or that never comes."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.migrations import (
    AddConstraint,
    AddField,
    AlterField,
    CreateModel,
    RemoveConstraint,
    RemoveField,
    RenameField,
    RunPython,
)
from django.db.migrations.state import ProjectState
from django.test import override_settings

from tenantry import RLSConstraint, SameTenant, TenantField, admin_context, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_migrations import Migrate, is_protected
from tests.migrated import ORDER, SHARE, SHARED, bare, base, check, key, manager, paper, tenant, to
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


@pytest.fixture
def migrate(migrate_in_place: Migrate) -> Migrate:
    """Return a function that applies operations, each list as one migration."""
    return lambda *operations, state=None: migrate_in_place(state or base(), *operations)


def many_to(name: str) -> Any:
    return models.ManyToManyField(f"migrated.{name}", related_name="+")


def rls(**options: Any) -> RLSConstraint:
    return RLSConstraint(name="line_rls", **options)


def isolated(state: ProjectState, tenants: Tenants, names: set[str], patch: Any) -> None:
    """Check that every line is of the tenant of its order, and that the policies are all there."""
    check(state, names, patch)
    for each in tenants:
        with tenant_context(each.pk):
            order = manager(state, "Order").create()
            manager(state, "Line").create(up=order)
    for each in tenants:
        with tenant_context(each.pk):
            assert run("SELECT count(*) FROM migrated_line") == [(1,)]
    assert run("SELECT count(*) FROM migrated_line") == [(0,)]
    with admin_context():
        assert run("DELETE FROM migrated_line") == 2


PATH = AddConstraint("line", rls(path="up__tenant"))


@pytest.mark.parametrize("line", [bare("Line"), bare("Line", up=many_to("Order"))])
def test_a_path_waits_for_its_foreign_key(
    line: Any, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [RemoveField("line", "up")] if len(line.fields) == 2 else []
    state = migrate(ORDER, line, [PATH, *fields, AddField("line", "up", to("Order"))])
    isolated(state, tenants, {"Order", "Line"}, monkeypatch)


def test_a_path_of_a_new_table_waits(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = bare("Line")
    line.options["constraints"] = [rls(path="up__tenant")]
    state = migrate([line, ORDER, AddField("line", "up", to("Order"))])
    isolated(state, tenants, {"Order", "Line"}, monkeypatch)


def test_a_table_that_waits_is_closed(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    probe = RunPython(
        lambda apps, editor: found.append(is_protected("migrated_line")), RunPython.noop
    )
    line = bare("Line", tenant=tenant())
    line.options["constraints"] = [rls(field="tenant")]
    state = migrate(
        ORDER,
        line,
        [RemoveConstraint("line", "line_rls"), PATH, probe, AddField("line", "up", to("Order"))],
    )
    assert found == [(True, True, 0)]
    isolated(state, tenants, {"Order", "Line"}, monkeypatch)


def test_what_waits_speaks_of_columns_that_were_renamed(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = AlterField("order", "tenant", key(db_column="customer_no", null=True))
    state = migrate(ORDER, bare("Line"), [PATH, renamed, AddField("line", "up", to("Order"))])
    check(state, {"Order", "Line"}, monkeypatch)


def test_sharing_waits_for_the_model_of_the_shares(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the model nor its fields are there; one that it shows itself to comes last."""
    constraint = RLSConstraint(field="tenant", extra_predicates=[SHARED], name="paper_rls")
    change = [RemoveConstraint("paper", "paper_rls"), AddConstraint("paper", constraint)]
    fields = [(name, field) for name, field in SHARE.fields if name != "recipient"]
    share = CreateModel("Share", fields, SHARE.options)
    state = migrate(paper(), [*change, share, AddField("share", "recipient", key())])
    check(state, {"Paper", "Share"}, monkeypatch)


def test_what_waits_and_is_removed_leaves_nothing(migrate: Migrate) -> None:
    line = bare("Line")
    migrate(
        ORDER,
        line,
        [PATH, AddField("line", "up", to("Order")), RemoveConstraint("line", "line_rls")],
    )
    assert is_protected("migrated_line") == (False, False, 0)


def test_a_foreign_key_of_the_tenant_waits_for_a_relation_to_become_a_foreign_key(
    tenants: Tenants, migrate: Migrate
) -> None:
    line = bare("Line", tenant=tenant(), up=many_to("Order"))
    line.options["constraints"] = [rls(field="tenant")]
    same = SameTenant(
        field="up", name="same", tenant="tenant", target=("migrated.order", "tenant", "id")
    )
    change = [RemoveField("line", "up"), AddField("line", "up", to("Order"))]
    migrate(ORDER, line, [AddConstraint("line", same), *change])
    assert run("SELECT contype::text FROM pg_constraint WHERE conname = 'same'") == [("f",)]


def test_queries_do_without_a_path_that_is_yet_to_follow_a_renamed_field(
    tenants: Tenants, migrate: Migrate
) -> None:
    """As in a data migration after the one of another app that has renamed it."""
    state = migrate(ORDER, bare("Line", up=to("Order")), PATH)
    state = migrate(RenameField("order", "tenant", "customer"), state=state)
    orders, lines = manager(state, "Order"), manager(state, "Line")
    for each in tenants:
        with tenant_context(each.pk):
            lines.create(up=orders.create(customer_id=each.pk))
    for each in tenants:
        with tenant_context(each.pk):
            assert (orders.count(), lines.count()) == (1, 1)
    assert (orders.count(), lines.count()) == (0, 0)


def test_a_model_of_the_project_has_to_name_what_there_is(
    project: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = RLSConstraint(path="author__nobody", name="wrong")
    monkeypatch.setattr(Note._meta, "constraints", [wrong])
    # What was found out about the models is forgotten, before and after.
    with (
        override_settings(RLS_TENANTS=test_settings.RLS_TENANTS),
        pytest.raises(FieldDoesNotExist, match=r"app\.Author has no field named 'nobody'"),
    ):
        Note.objects.count()


@pytest.mark.parametrize(
    ("constraint", "missing"),
    [
        (rls(path="up__tenant"), "migrated.Line has no field named 'up'"),
        (rls(path="order__owner"), "migrated.Order has no field named 'owner'"),
        (rls(path="orders__tenant"), "migrated.Line.orders has no column of its own"),
        (rls(field="tenant"), "migrated.Line has no field named 'tenant'"),
        (
            rls(field="id", extra_predicates=[TenantField("partner")]),
            "migrated.Line has no field named 'partner'",
        ),
        (
            rls(field="id", extra_predicates=[SHARED]),
            "there is no model migrated.Share, with a field named 'paper'",
        ),
    ],
    ids=repr,
)
def test_what_never_comes_is_named(
    constraint: RLSConstraint, missing: str, migrate: Migrate
) -> None:
    state = migrate(ORDER, bare("Line", order=to("Order"), orders=many_to("Order")))
    with pytest.raises(RLSConfigurationError) as caught:
        migrate(AddConstraint("line", constraint), state=state)
    assert str(caught.value) == (
        f"migrated.Line cannot be protected by its constraint line_rls: {missing}; let its"
        " migration depend on the one that adds the field, or if that one depends on it, move the"
        " constraint to a migration that depends on both; let one that renames or removes the field"
        " depend on it"
    )
