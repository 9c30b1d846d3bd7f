"""Foreign keys that lead to another table, in migrations that are run as ``migrate`` runs them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import AddConstraint, AlterField, CreateModel, RenameModel
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, tenant_context
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected, migration_of
from tests.migrated import (
    SHARE,
    SHARED,
    bare,
    base,
    check,
    count,
    manager,
    model,
    paper,
    paper_alter,
    path_to,
    tags,
    to,
    types,
)
from tests.sql import run

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


def label(kind: Any, *, is_open: bool | None = False) -> CreateModel:
    return model("Label", is_open=is_open, id=kind(primary_key=True))


TO_LABELS = AlterField("doc", "tags", models.ManyToManyField("migrated.Label"))


@pytest.mark.parametrize(
    ("doc_is_open", "tag_is_open", "label_is_open"),
    [
        (False, False, True),
        (False, True, None),
        (None, False, True),
        # The table has a policy less.
        (None, True, False),
    ],
)
def test_a_relation_leads_to_a_key_of_another_type(
    *,
    doc_is_open: bool | None,
    tag_is_open: bool,
    label_is_open: bool | None,
    tenants: Tenants,
    migrate_in_place: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tag = model("Tag", is_open=tag_is_open)
    small = label(models.AutoField, is_open=label_is_open)
    doc = model("Doc", is_open=doc_is_open, tags=tags())
    state = migrate_in_place(base(), tag, small, doc, TO_LABELS)
    shared = {"Doc": doc_is_open, "Label": label_is_open}
    names = {name for name, is_open in shared.items() if is_open is not None}
    assert types("label_id") == {"integer"}
    check(state, {"Tag", "Doc_tags", *names}, monkeypatch)


def test_a_relation_is_not_protected_any_more(tenants: Tenants, migrate_in_place: Migrate) -> None:
    doc = model("Doc", is_open=None, tags=tags())
    small = label(models.AutoField, is_open=None)
    state = migrate_in_place(base(), model("Tag", is_open=True), small, doc)
    assert is_protected("migrated_doc_tags")[:2] == (True, True)
    migrate_in_place(state, TO_LABELS)
    assert types("label_id") == {"integer"}
    assert is_protected("migrated_doc_tags") == (False, False, 0)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_model_that_relates_to_itself_is_renamed(
    *, atomic: bool, tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    doc = model("Doc", is_open=False, friends=models.ManyToManyField("self"))
    before = migrate_in_place(base(), doc)
    a, b = tenants
    with tenant_context(a.pk):
        first, second = (manager(before, "Doc").create() for _ in range(2))
        first.friends.add(second)
    rename = migration_of(RenameModel("Doc", "Paper"))
    with connections["owner"].schema_editor(atomic=atomic) as editor:
        state = rename.apply(before.clone(), editor)
    check(state, {"Paper", "Paper_friends"}, monkeypatch)
    for pk, seen in ((a.pk, 2), (b.pk, 0)):
        with tenant_context(pk):
            assert count("paper_friends") == seen
    with connections["owner"].schema_editor(atomic=atomic) as editor:
        rename.unapply(before.clone(), editor)
    check(before, {"Doc", "Doc_friends"}, monkeypatch)
    run("TRUNCATE migrated_doc CASCADE", alias="owner")


def test_what_refers_to_a_renamed_model_keeps_its_policies(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag, doc = model("Tag", is_open=False), model("Doc", is_open=False, tags=tags())
    # Without related_name="+", which keeps Django from altering the key.
    state = migrate_in_place(base(), tag, doc, path_to("Doc"))
    policies = "SELECT oid FROM pg_policy ORDER BY oid"
    before = run(policies)
    state = migrate_in_place(state, RenameModel("Doc", "Paper"), RenameModel("Tag", "Label"))
    check(state, {"Label", "Paper", "Paper_tags", "Line"}, monkeypatch)
    assert run(policies) == before


@pytest.mark.parametrize("changes", [[], [AlterField("line", "up", to("Order")), TO_SALE]])
def test_two_models_swap_their_names(
    changes: list[Any], tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [("Order", "Former"), ("Sale", "Order"), ("Former", "Sale")]
    swap = [RenameModel(*each) for each in names]
    state = migrate_in_place(base(), ORDER, SALE, LINE, PATH, [*swap, *changes])
    follows(state, tenants, monkeypatch)
