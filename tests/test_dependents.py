"""Tables without a tenant column that hang on protected ones, and are protected with them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, ProgrammingError, models
from django.db.migrations import (
    AddConstraint,
    AddField,
    AlterField,
    AlterModelTable,
    CreateModel,
    RemoveConstraint,
    SeparateDatabaseAndState,
)

from tenantry import RawPredicate, RLSConstraint, admin_context, tenant_context
from tests.app.models import Book, Tenant
from tests.fix_migrations import Migrate, migrating
from tests.settings import SHAPE
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
RLS = RLSConstraint(field="owner", name="left_rls")
THROUGH = "dependent_left_rights"


def fields(**more: Any) -> list[tuple[str, Any]]:
    return [
        ("id", models.AutoField(primary_key=True)),
        ("owner", models.BigIntegerField()),
        *more.items(),
    ]


def right(**options: Any) -> CreateModel:
    return CreateModel("Right", fields(), options)


def left(**options: Any) -> CreateModel:
    return CreateModel("Left", fields(rights=models.ManyToManyField("dependent.Right")), options)


@pytest.fixture
def migrate(project: None) -> Iterator[Migrate]:
    with migrating("dependent") as forwards:
        yield forwards


def protection(table: str) -> tuple[bool, bool, str]:
    """Return whether RLS is on, whether it binds the owner, and the policy."""
    rows = run(
        "SELECT relrowsecurity, relforcerowsecurity,"
        " coalesce((SELECT pg_get_expr(polqual, c.oid) FROM pg_policy"
        " WHERE polrelid = c.oid AND polname = 'tenantry_isolation'), '')"
        f" FROM pg_class c WHERE oid = to_regclass('{table}')",
        alias="owner",
    )
    enabled, forced, policy = rows[0]
    return enabled, forced, " ".join(policy.split())


def both_ends(table: str) -> None:
    enabled, forced, policy = protection(table)
    assert (enabled, forced) == (True, True)
    assert policy.count("EXISTS") == 2


@pytest.mark.parametrize("alias", ["default", "pooled"])
def test_rows_of_a_many_to_many_table_belong_to_both_ends(
    alias: str, migrate: Migrate, project: None
) -> None:
    right_rls = RLSConstraint(field="owner", name="right_rls")
    state = migrate(right(constraints=[right_rls]), left(constraints=[RLS]))
    both_ends(THROUGH)
    lefts, rights = (
        state.apps.get_model("dependent", name)._default_manager.using(alias)
        for name in ("Left", "Right")
    )
    made: dict[int, Any] = {}
    for tenant in (1, 2):
        with tenant_context(tenant):
            made[tenant] = lefts.create(owner=tenant), rights.create(owner=tenant)
            made[tenant][0].rights.add(made[tenant][1])
    count = f"SELECT count(*) FROM {THROUGH}"
    assert run(count, alias=alias) == [(0,)]
    with admin_context():
        assert run(count, alias=alias) == [(2,)]
    (mine, my_right), (_, foreign) = made[1], made[2]
    with tenant_context(1):
        assert run(count, alias=alias) == [(1,)]
        assert list(mine.rights.all()) == [my_right]
        with pytest.raises(ProgrammingError, match="row-level security"):
            mine.rights.add(foreign)
        with pytest.raises(ProgrammingError, match="row-level security"):
            mine.rights.through._default_manager.using(alias).create(
                left_id=made[2][0].pk, right_id=my_right.pk
            )
        run(f"DELETE FROM {THROUGH}", alias=alias)
        mine.rights.set([my_right])
        mine.rights.remove(my_right)
        mine.rights.clear()
        assert run(count, alias=alias) == [(0,)]
    with pytest.raises((ProgrammingError, IntegrityError)):
        mine.rights.add(my_right)
    with admin_context():
        assert run(count, alias=alias) == [(1,)]
        # The admin may see both, and so join them.
        mine.rights.add(foreign)
    with tenant_context(1):
        assert run(count, alias=alias) == [(0,)]


def test_a_relation_to_a_shared_table_belongs_to_its_protected_end(migrate: Migrate) -> None:
    migrate(right(), left(constraints=[RLS]))
    enabled, forced, policy = protection(THROUGH)
    assert (enabled, forced) == (True, True)
    assert policy.count("EXISTS") == 1
    assert "dependent_left owner" in policy


def test_a_relation_to_a_proxy_belongs_to_the_row_of_its_model(migrate: Migrate) -> None:
    proxy = CreateModel("Proxy", [], {"proxy": True}, bases=("dependent.right",))
    to_proxy = models.ManyToManyField("dependent.Proxy")
    right_rls = RLSConstraint(field="owner", name="right_rls")
    state = migrate(
        right(constraints=[right_rls]), proxy, CreateModel("Left", fields(rights=to_proxy))
    )
    assert protection(THROUGH)[2].count("EXISTS") == 1
    state = migrate(RemoveConstraint("right", "right_rls"), state=state)
    assert protection(THROUGH) == (False, False, "")
    state = migrate(AddConstraint("right", right_rls), state=state)
    assert "dependent_right owner" in protection(THROUGH)[2]


def test_a_relation_between_shared_tables_is_shared(migrate: Migrate) -> None:
    migrate(right(), left())
    assert protection(THROUGH) == (False, False, "")


def test_a_relation_to_itself_belongs_to_both_ends(migrate: Migrate) -> None:
    friends = models.ManyToManyField("self")
    migrate(CreateModel("Left", fields(friends=friends), {"constraints": [RLS]}))
    both_ends("dependent_left_friends")


def test_what_is_added_later_is_protected_then(migrate: Migrate) -> None:
    state = migrate(right(), CreateModel("Left", fields(), {"constraints": [RLS]}))
    field = models.ManyToManyField("dependent.Right")
    state = migrate(AddField("left", "rights", field), state=state)
    assert protection(THROUGH)[0]
    right_rls = RLSConstraint(field="owner", name="right_rls")
    state = migrate(AddConstraint("right", right_rls), state=state)
    both_ends(THROUGH)
    state = migrate(RemoveConstraint("right", "right_rls"), state=state)
    assert protection(THROUGH)[2].count("EXISTS") == 1
    migrate(RemoveConstraint("left", "left_rls"), state=state)
    assert protection(THROUGH) == (False, False, "")


def test_children_in_inheritance_belong_to_their_parents(migrate: Migrate) -> None:
    link = {
        "left_ptr": models.OneToOneField(
            "dependent.Left", models.CASCADE, primary_key=True, parent_link=True
        )
    }
    grand_link = {
        "child_ptr": models.OneToOneField(
            "dependent.Child", models.CASCADE, primary_key=True, parent_link=True
        )
    }
    state = migrate(
        CreateModel("Left", fields()),
        CreateModel("Child", list(link.items()), bases=("dependent.left",)),
        CreateModel("Grandchild", list(grand_link.items()), bases=("dependent.child",)),
    )
    assert protection("dependent_grandchild") == (False, False, "")
    state = migrate(AddConstraint("left", RLS), state=state)
    for table in ("dependent_child", "dependent_grandchild"):
        assert protection(table)[:2] == (True, True)
    grandchildren = state.apps.get_model("dependent", "Grandchild")._default_manager
    for tenant in (1, 2):
        with tenant_context(tenant):
            grandchildren.create(owner=tenant)
            assert run("SELECT count(*) FROM dependent_grandchild") == [(1,)]
            assert grandchildren.count() == 1
    assert run("SELECT count(*) FROM dependent_grandchild") == [(0,)]
    with admin_context():
        assert grandchildren.all().delete()[0] == 6


def test_a_child_with_a_constraint_of_its_own_depends_on_nothing_else(migrate: Migrate) -> None:
    own = RLSConstraint(field="other", name="child_rls")
    link = models.OneToOneField(
        "dependent.Left", models.CASCADE, primary_key=True, parent_link=True
    )
    child = CreateModel("Child", [("left_ptr", link)], bases=("dependent.left",))
    # As makemigrations writes them: the column and the constraint in operations of their own.
    column = AddField("child", "other", models.BigIntegerField(default=0))
    constraint = AddConstraint("child", own)
    state = migrate(
        CreateModel("Left", fields(), {"constraints": [RLS]}), [child, column, constraint]
    )
    policy = protection("dependent_child")[2]
    assert "EXISTS" not in policy
    assert "other = " in policy
    state = migrate(RemoveConstraint("child", "child_rls"), state=state)
    assert "EXISTS" in protection("dependent_child")[2]
    migrate(AddConstraint("child", own), state=state)
    assert "EXISTS" not in protection("dependent_child")[2]


@pytest.mark.guc_shape
def test_sqlmigrate_shows_how_a_child_depends(project: None) -> None:
    output = io.StringIO()
    call_command("sqlmigrate", "app", "0002", stdout=output, no_color=True, database="owner")
    sql = output.getvalue()
    assert 'ALTER TABLE "app_book" FORCE ROW LEVEL SECURITY' in sql
    assert 'owner."id" = "app_book"."item_ptr_id"' in sql
    assert Book._meta.constraints == []


# As a squashed migration has them.


def changed(**more: Any) -> list[Any]:
    return [RemoveConstraint("left", "left_rls"), AddConstraint("left", again(**more))]


def again(**more: Any) -> RLSConstraint:
    return RLSConstraint(field="owner", name="left_rls", **more)


def test_what_one_migration_protects_and_changes_is_protected_by_the_last(
    migrate: Migrate,
) -> None:
    migrate([right(), left(constraints=[RLS]), *changed(guc_prefix="acme", key_type="bigint")])
    if SHAPE == "guc":
        [(policy,)] = run("SELECT qual FROM pg_policies WHERE tablename = 'dependent_left'")
        assert "acme.current_tenant" in policy
    assert protection("dependent_left")[:2] == protection(THROUGH)[:2] == (True, True)


def test_what_one_migration_protects_and_does_not_is_not_protected(migrate: Migrate) -> None:
    right_rls = RLSConstraint(field="owner", name="right_rls")
    link = models.OneToOneField(
        "dependent.Left", models.CASCADE, primary_key=True, parent_link=True
    )
    migrate(
        [
            right(constraints=[right_rls]),
            left(constraints=[RLS]),
            CreateModel("Child", [("left_ptr", link)], bases=("dependent.left",)),
            RemoveConstraint("left", "left_rls"),
            RemoveConstraint("right", "right_rls"),
        ]
    )
    for table in ("dependent_left", "dependent_right", "dependent_child", THROUGH):
        assert protection(table) == (False, False, "")


def test_what_one_migration_protects_later_counts(migrate: Migrate) -> None:
    """The table of the relation waits for its first end, whose functions its policies call."""
    shares = [RawPredicate("id = 0")]
    first = RLSConstraint(field="owner", name="left_rls", extra_predicates=shares)
    first.guc_prefix, first.key_type = "fresh", "bigint"
    second = RLSConstraint(field="owner", name="right_rls")
    migrate([right(), left(constraints=[first]), AddConstraint("right", second)])
    both_ends(THROUGH)


def test_what_waits_to_protect_a_table_is_done_before_it_is_renamed(migrate: Migrate) -> None:
    """As in one migration that was squashed from several."""
    migrate([right(), left(constraints=[RLS]), AlterModelTable("left", "dependent_elsewhere")])
    assert protection("dependent_elsewhere")[:2] == (True, True)
    assert protection("dependent_elsewhere_rights")[:2] == (True, True)


def test_what_waits_to_protect_a_table_is_done_before_its_column_is_renamed(
    migrate: Migrate,
) -> None:
    holder: Any = models.BigIntegerField(db_column="holder")
    migrate([right(), left(constraints=[RLS]), AlterField("left", "owner", holder)])
    enabled, forced, policy = protection("dependent_left")
    assert (enabled, forced) == (True, True)
    assert "holder" in policy


def test_what_waits_for_another_table_goes_on_waiting(migrate: Migrate) -> None:
    """A table that is renamed has nothing to do with one whose policies call for a third."""
    shares = [RawPredicate("EXISTS (SELECT FROM dependent_other)")]
    first = RLSConstraint(field="owner", name="left_rls", extra_predicates=shares)
    migrate(
        [
            right(),
            left(constraints=[first]),
            AlterModelTable("right", "dependent_wrong"),
            CreateModel("Other", fields()),
        ]
    )
    assert protection("dependent_left")[:2] == (True, True)


def test_a_table_of_a_relation_becomes_a_models_own(migrate: Migrate) -> None:
    """As Django's documentation has it for a relation that is to get a through model."""
    right_rls = RLSConstraint(field="owner", name="right_rls")
    state = migrate(right(constraints=[right_rls]), left(constraints=[RLS]))
    both_ends(THROUGH)
    ends = [
        ("id", models.BigAutoField(primary_key=True)),
        ("left", models.ForeignKey("dependent.Left", models.CASCADE)),
        ("right", models.ForeignKey("dependent.Right", models.CASCADE)),
    ]
    through = models.ManyToManyField("dependent.Right", through="dependent.Link")
    migrate(
        SeparateDatabaseAndState(
            state_operations=[
                CreateModel("Link", ends, {"db_table": THROUGH}),
                AlterField("left", "rights", through),
            ]
        ),
        AddConstraint("link", RLSConstraint(path="left__owner", name="link_rls")),
        state=state,
    )
    enabled, forced, policy = protection(THROUGH)
    assert (enabled, forced) == (True, True)
    assert policy.count("EXISTS") == 1


def test_a_relation_leads_to_another_table(migrate: Migrate) -> None:
    right_rls = RLSConstraint(field="owner", name="right_rls")
    other = CreateModel("Other", fields(), {"constraints": [right_rls]})
    elsewhere = models.ManyToManyField("dependent.Other")
    migrate(
        other,
        right(constraints=[RLSConstraint(field="owner", name="more_rls")]),
        left(constraints=[RLS]),
        AlterField("left", "rights", elsewhere),
    )
    both_ends(THROUGH)
    assert "dependent_other" in protection(THROUGH)[2]
    assert "dependent_right " not in protection(THROUGH)[2]


def test_a_relation_leads_to_a_table_that_is_shared(migrate: Migrate) -> None:
    elsewhere = models.ManyToManyField("dependent.Other")
    right_rls = RLSConstraint(field="owner", name="right_rls")
    state = migrate(CreateModel("Other", fields()), right(constraints=[right_rls]), left())
    assert protection(THROUGH)[:2] == (True, True)
    migrate(AlterField("left", "rights", elsewhere), state=state)
    assert protection(THROUGH) == (False, False, "")


def test_a_constraint_that_is_added_before_another_is_removed_is_refused(migrate: Migrate) -> None:
    state = migrate(right(), left(constraints=[RLS]))
    added = AddConstraint("left", RLSConstraint(field="owner", name="other_rls"))
    with pytest.raises(ProgrammingError, match="already exists"):
        migrate([added, RemoveConstraint("left", "left_rls")], state=state)
    assert protection("dependent_left")[:2] == (True, True)


# Databases that have only some of the tables.


class Partly:
    """Keep some models out of the database."""

    refused: tuple[str, ...] = ()

    def allow_migrate(self, db: str, app_label: str, model_name: Any = None, **more: Any) -> Any:
        return False if model_name in self.refused else None


@pytest.mark.parametrize("refused", ["child", "left_rights"])
def test_a_table_that_a_router_keeps_out_is_left_alone(
    refused: str, settings: Any, monkeypatch: pytest.MonkeyPatch, migrate: Migrate
) -> None:
    monkeypatch.setattr(Partly, "refused", (refused,))
    settings.DATABASE_ROUTERS = [Partly()]
    link = models.OneToOneField(
        "dependent.Left", models.CASCADE, primary_key=True, parent_link=True
    )
    child = CreateModel("Child", [("left_ptr", link)], bases=("dependent.left",))
    state = migrate([right(), left(), child])
    shared = again(extra_predicates=[RawPredicate("id = 0")])
    state = migrate(AddConstraint("left", shared), state=state)
    state = migrate(AlterField("left", "owner", models.IntegerField()), state=state)
    # Django makes the table of a relation with that of its model, whatever the router says of it.
    tables = {THROUGH, "dependent_child"} - {f"dependent_{refused}" if refused == "child" else ""}
    for table in tables:
        assert protection(table)[:2] == (True, True)
    migrate(RemoveConstraint("left", "left_rls"), state=state)
    for table in tables:
        assert protection(table) == (False, False, "")
