"""Columns that policies speak of, and that get another type."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import (
    AddConstraint,
    AlterField,
    CreateModel,
    RemoveConstraint,
    RemoveField,
    RenameField,
    SeparateDatabaseAndState,
)

from tenantry import (
    CurrentTenant,
    RawPredicate,
    RLSConstraint,
    TenantField,
    admin_context,
    tenant_context,
)
from tenantry.statements import DeferredProtection
from tests.app.models import Tenant
from tests.fix_migrations import Migrate
from tests.migrated import (
    SHARE,
    SHARED,
    base,
    check,
    child,
    count,
    key,
    manager,
    model,
    paper_alter,
    path_to,
    tenant,
    types,
)
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


def small() -> Any:
    return models.AutoField(primary_key=True)


def paper(*predicates: Any, **more: Any) -> CreateModel:
    fields = {
        "id": small(),
        "tenant": tenant(),
        "partner": key(null=True),
        "code": models.CharField(max_length=5, default=""),
        **more,
    }
    rls = RLSConstraint(field="tenant", name="paper_rls", extra_predicates=list(predicates))
    return CreateModel("Paper", list(fields.items()), {"constraints": [rls]})


def label() -> CreateModel:
    return CreateModel("Label", [("id", small())])


def test_a_key_that_other_tables_belong_by_becomes_wider(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = tenants
    state = migrate(label(), base())
    labels = models.ManyToManyField("migrated.Label")
    state = migrate(paper(TenantField("partner"), labels=labels), state)
    for operation in (child("Report", "Paper"), child("Thesis", "Report"), path_to("Paper")):
        state = migrate(operation, state)
    with tenant_context(a.pk):
        thesis = manager(state, "Thesis").create()
        manager(state, "Line").create(up_id=thesis.pk)
    assert types("up_id") | types("paper_ptr_id") == {"integer"}
    state = migrate(AlterField("paper", "id", models.BigAutoField(primary_key=True)), state)
    assert types("up_id") | types("paper_ptr_id") | types("report_ptr_id") == {"bigint"}
    names = {"Paper", "Paper_labels", "Report", "Thesis", "Line"}
    check(state, names, monkeypatch)
    for table in ("thesis", "line"):
        assert count(table) == 0
        with tenant_context(a.pk):
            assert count(table) == 1
    with admin_context():
        thesis.delete()


def test_a_key_that_shares_refer_to_becomes_wider(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = migrate(paper(), base())
    state = migrate(paper_alter(SHARED), migrate(SHARE, state))
    state = migrate(AlterField("paper", "id", models.BigAutoField(primary_key=True)), state)
    check(state, {"Paper", "Share"}, monkeypatch)


def test_columns_that_the_policies_of_a_table_name_change(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = migrate(paper(RawPredicate("code = 'x'")), base())
    longer: Any = models.CharField(max_length=9, default="", db_column="kode")
    with pytest.raises(Exception, match="code"):
        # The expression names a column that is gone.
        migrate(AlterField("paper", "code", longer), state)
    longer = models.CharField(max_length=9, default="")
    state = migrate(AlterField("paper", "code", longer), state)
    partner: Any = models.BigIntegerField(null=True)
    state = migrate(AlterField("paper", "partner", partner), state)
    check(state, {"Paper"}, monkeypatch)


def test_a_table_shows_nothing_without_its_policies(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(paper(), base())
    with tenant_context(tenants[0].pk):
        manager(state, "Paper").create()
    model = state.apps.get_model("migrated", "Paper")
    old = model._meta.get_field("tenant")
    new: Any = models.IntegerField()
    new.set_attributes_from_name("tenant_id")
    new.model = model
    connection: Any = connections["owner"]
    with connection.schema_editor() as editor:
        again = editor.without_policies(model, old, new)
        assert again
        with tenant_context(tenants[0].pk), connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM migrated_paper")
            assert cursor.fetchone() == (0,)
        for sql in again:
            editor.execute(sql, params=None)
    with tenant_context(tenants[0].pk):
        assert count("paper") == 1


def test_a_column_made_by_hand_is_added(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(paper(), base())
    age: Any = models.IntegerField(null=True)
    age.set_attributes_from_name("age")
    older: Any = models.BigIntegerField(null=True)
    older.set_attributes_from_name("age")
    # Django's own tests have such a field.
    older.model = models.BigIntegerField
    model = state.apps.get_model("migrated", "Paper")
    with connections["owner"].schema_editor() as editor:
        editor.add_field(model, age)
        editor.alter_field(model, age, older)
    assert run("SELECT age FROM migrated_paper") == []


def test_nothing_else_is_made_again(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(path_to("Paper"), migrate(paper(), base()))
    before = run("SELECT oid FROM pg_policy ORDER BY oid")
    longer: Any = models.CharField(max_length=9, default="")
    migrate(AlterField("paper", "code", longer), state)
    assert run("SELECT oid FROM pg_policy ORDER BY oid") == before


def test_a_path_leads_to_another_table(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    # Of the same type, so that nothing else has the policies made again.
    state = migrate(paper(id=models.BigAutoField(primary_key=True)), base())
    state = migrate(model("Sale", is_open=False), state)
    state = migrate(path_to("Paper"), state)
    untouched = run("SELECT oid FROM pg_policy WHERE polrelid = 'migrated_paper'::regclass")
    sale: Any = models.ForeignKey("migrated.Sale", models.CASCADE, related_name="lines")
    state = migrate(AlterField("line", "up", sale), state)
    check(state, {"Paper", "Sale", "Line"}, monkeypatch)
    assert untouched == run("SELECT oid FROM pg_policy WHERE polrelid = 'migrated_paper'::regclass")
    with tenant_context(a.pk):
        manager(state, "Paper").create(id=1)
    with tenant_context(b.pk):
        manager(state, "Sale").create(id=1)
        line = manager(state, "Line").create(up_id=1)
        assert count("line") == 1
    with tenant_context(a.pk):
        assert count("line") == 0
    with admin_context():
        line.delete()


def test_what_a_share_refers_to_changes(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = models.IntegerField(unique=True)
    state = migrate(paper(number=number), base())
    state = migrate(paper_alter(SHARED), migrate(SHARE, state))
    by_number: Any = models.ForeignKey("migrated.Paper", models.CASCADE, to_field="number")
    state = migrate(AlterField("share", "paper", by_number), state)
    check(state, {"Paper", "Share"}, monkeypatch)


def test_a_policy_that_went_with_a_column_is_not_missed(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django 5.2 drops the columns of a model that shares rows first, with what depends on them."""
    state = migrate(paper_alter(SHARED), migrate(SHARE, migrate(paper(), base())))
    run("DROP POLICY tenantry_sharing ON migrated_paper", alias="owner")
    state = migrate(RemoveConstraint("paper", "paper_rls"), state)
    constraint = RLSConstraint(field="tenant", name="paper_rls")
    state = migrate(AddConstraint("paper", constraint), state)
    check(state, {"Paper", "Share"}, monkeypatch)


def test_a_path_leads_to_another_table_in_the_migration_that_made_it(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = migrate(paper(id=models.BigAutoField(primary_key=True)), base())
    state = migrate(model("Sale", is_open=False), state)
    sale: Any = models.ForeignKey("migrated.Sale", models.CASCADE, related_name="lines")
    both = [path_to("Paper"), AlterField("line", "up", sale)]
    state = migrate(SeparateDatabaseAndState(both, both), state)
    check(state, {"Paper", "Sale", "Line"}, monkeypatch)


def test_a_key_leads_to_another_table_while_a_path_waits_to_be_changed(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = migrate(path_to("Paper"), migrate(paper(), base()))
    state = migrate(label(), state)
    up: Any = models.ForeignKey("migrated.Label", models.CASCADE)
    state = migrate(CreateModel("Slip", [("id", small()), ("up", up)]), state)
    state = migrate(RenameField("paper", "tenant", "owner"), state)
    to_paper: Any = models.ForeignKey("migrated.Paper", models.CASCADE)
    migrate(AlterField("slip", "up", to_paper), state)
    assert count("line") == 0


def test_a_column_changes_while_a_path_waits_to_be_changed(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = migrate(path_to("Paper"), migrate(paper(), base()))
    state = migrate(RenameField("paper", "tenant", "owner"), state)
    longer: Any = models.CharField(max_length=9, default="")
    state = migrate(AlterField("paper", "code", longer), state)
    # Its policy names the key nevertheless.
    state = migrate(AlterField("paper", "id", models.BigAutoField(primary_key=True)), state)
    assert types("up_id") == {"bigint"}
    assert count("line") == 0


def test_a_table_is_renamed_while_a_path_waits_for_its_field(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = migrate(path_to("Paper"), migrate(paper(), base()))
    line = state.apps.get_model("migrated", "Line")
    connection: Any = connections["owner"]
    with connection.schema_editor() as editor:
        waiting = DeferredProtection(RLSConstraint(path="up__owner", name="line_rls"), line, editor)
        editor.deferred_sql.append(waiting)
        editor.stop_waiting("migrated_paper")
        assert editor.deferred_sql == [waiting]
        editor.deferred_sql.clear()


@pytest.mark.parametrize("app_role", [None, "app"])
def test_tables_of_apps_that_the_state_lacks(
    app_role: str | None, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, _ = tenants
    labels = models.ManyToManyField("migrated.Label")
    before = migrate(paper(labels=labels), migrate(label(), base()))
    state = migrate(child("Report", "Paper"), before)
    path = RLSConstraint(path="up__tenant", name="line_rls", app_role=app_role)
    up = models.ForeignKey("migrated.Paper", models.CASCADE, related_name="lines")
    line = CreateModel("Line", [("id", small()), ("up", up)], {"constraints": [path]})
    state = migrate(line, state)
    with tenant_context(a.pk):
        report = manager(state, "Report").create()
        manager(state, "Line").create(up_id=report.pk)
    migrate(AlterField("paper", "id", models.BigAutoField(primary_key=True)), before)
    check(state, {"Paper", "Paper_labels", "Report", "Line"}, monkeypatch)
    for table in ("report", "line"):
        assert count(table) == 0
        with tenant_context(a.pk):
            assert count(table) == 1
    run("TRUNCATE migrated_line, migrated_report, migrated_paper CASCADE", alias="owner")


WIDE = models.BigAutoField(primary_key=True)
TO_PAPER = models.ForeignKey(
    "migrated.Paper", models.CASCADE, related_name="lines", db_comment="Its paper"
)
BIG = models.BigIntegerField(primary_key=True)


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        (AlterField("paper", "tenant", key(db_default=CurrentTenant(), db_comment="Whose")), WIDE),
        (AlterField("paper", "code", models.CharField(max_length=5, db_comment="Its")), WIDE),
        (AlterField("paper", "id", models.BigAutoField(primary_key=True, db_comment="Its")), WIDE),
        (AlterField("line", "up", TO_PAPER), WIDE),
        (AlterField("paper", "id", BIG), WIDE),
        (AlterField("paper", "id", WIDE), BIG),
    ],
    ids=["tenant", "raw", "key", "path", "no identity", "identity"],
)
def test_a_column_is_given_the_type_that_it_has(
    change: Any, begins: Any, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django says it again with a comment, and where an identity begins or ends."""
    a, b = tenants
    labels = models.ManyToManyField("migrated.Label")
    papers = paper(RawPredicate("code = 'x'"), id=begins, labels=labels)
    state = migrate(papers, migrate(label(), base()))
    for operation in (child("Report", "Paper"), path_to("Paper")):
        state = migrate(operation, state)
    with tenant_context(a.pk):
        report = manager(state, "Report").create(id=1)
        manager(state, "Line").create(up_id=report.pk)
    state = migrate(change, state)
    check(state, {"Paper", "Paper_labels", "Report", "Line"}, monkeypatch)
    for table in ("paper", "report", "line"):
        with tenant_context(b.pk):
            assert count(table) == 0
        with tenant_context(a.pk):
            assert count(table) == 1
    with admin_context():
        report.delete()


def test_a_column_that_a_path_refers_to_becomes_the_primary_key(
    tenants: Tenants, migrate_in_place: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = models.BigIntegerField(unique=True)
    up: Any = models.ForeignKey(
        "migrated.Paper", models.CASCADE, to_field="number", db_constraint=False
    )
    path = RLSConstraint(path="up__tenant", name="line_rls")
    line = CreateModel("Line", [("id", small()), ("up", up)], {"constraints": [path]})
    change = [
        RemoveField("paper", "id"),
        AlterField("paper", "number", models.BigIntegerField(primary_key=True)),
    ]
    state = migrate_in_place(base(), paper(number=number), line, change)
    check(state, {"Paper", "Line"}, monkeypatch)
