"""Rows that tenants read beyond their own: shared ones, and under a bypass flag."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, ProgrammingError, connections, models
from django.db.migrations import (
    AddConstraint,
    CreateModel,
    RemoveConstraint,
    SeparateDatabaseAndState,
)
from django.db.migrations.state import ProjectState
from django.test.utils import isolate_apps

from tenantry import (
    CurrentTenant,
    RawPredicate,
    RLSConstraint,
    RLSManager,
    SharedWith,
    TenantField,
    admin_context,
    bypass_flag,
    tenant_context,
)
from tenantry.exceptions import NoTenantContextError, RLSConfigurationError
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_migrations import Migrate

Tenants = tuple[Tenant, Tenant]
FLAG = {**test_settings.RLS_TENANTS, "BYPASS_FLAGS": ["login"]}


def run(sql: str, params: Any = None, *, alias: str = "default") -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def key(**options: Any) -> Any:
    return models.ForeignKey("app.Tenant", models.CASCADE, related_name="+", **options)


def tenant() -> Any:
    return key(db_default=CurrentTenant())


def base() -> ProjectState:
    """Return a state with the tenant model, whose table is there."""
    state = ProjectState()
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("name", models.TextField()),
    ]
    CreateModel("Tenant", fields).state_forwards("app", state)
    return state


def paper(*predicates: Any, **more: Any) -> CreateModel:
    fields = {
        "id": models.BigAutoField(primary_key=True),
        "tenant": tenant(),
        "partner": key(null=True),
        "is_public": models.BooleanField(db_default=False),
        "title": models.TextField(),
    }
    constraint = RLSConstraint(
        field="tenant", extra_predicates=list(predicates), name="paper_rls", **more
    )
    return CreateModel(
        "Paper",
        list(fields.items()),
        {"constraints": [constraint]},
        managers=[("objects", RLSManager())],
    )


SHARE = CreateModel(
    "Share",
    [
        ("id", models.BigAutoField(primary_key=True)),
        ("tenant", tenant()),
        ("paper", models.ForeignKey("migrated.Paper", models.CASCADE)),
        ("recipient", key()),
    ],
    {
        "constraints": [
            RLSConstraint(
                field="tenant", extra_predicates=[TenantField("recipient")], name="share_rls"
            )
        ]
    },
)
SHARED = SharedWith("migrated.Share", row="paper", tenant="recipient")


def papers(state: ProjectState) -> Any:
    manager: Any = RLSManager()
    manager.model = state.apps.get_model("migrated", "Paper")
    return manager.using("default")


def titles(queryset: Any) -> list[str]:
    return sorted(queryset.values_list("title", flat=True))


def check_readers(objects: Any, owner: Tenant, other: Tenant, *, shared: str) -> None:
    """Check that `other` reads one more row of `owner`, `shared`, and writes none."""
    own = ["private", shared]
    with tenant_context(owner.pk):
        assert titles(objects.all()) == titles(objects.including_shared()) == sorted(own)
    with tenant_context(other.pk):
        assert titles(objects.all()) == []
        assert titles(objects.including_shared()) == [shared]
        assert titles(objects.including_shared().filter(title__contains="i")) == []
        assert run("SELECT title FROM migrated_paper") == [(shared,)]
        row = objects.including_shared().get()
        assert objects.including_shared().update(title="x") == 0
        assert run("UPDATE migrated_paper SET title = 'x'") == 0
        assert run("DELETE FROM migrated_paper WHERE id = %s", [row.pk]) == 0
        assert run("SELECT title FROM migrated_paper FOR UPDATE") == []
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("INSERT INTO migrated_paper (title, tenant_id) VALUES ('x', %s)", [owner.pk])
    assert titles(objects.including_shared()) == run("SELECT title FROM migrated_paper") == []
    with admin_context():
        assert titles(objects.all()) == titles(objects.including_shared()) == sorted(own)


def test_a_partner_reads_what_names_it(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="for b", partner_id=b.pk)
    check_readers(objects, a, b, shared="for b")


def test_everybody_who_is_bound_reads_what_is_public(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(migrate(paper(RawPredicate("is_public")), base()))
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="open", is_public=True)
    check_readers(objects, a, b, shared="open")


def test_who_owns_a_row_shares_it(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    state = migrate(paper(), base())
    state = migrate(SHARE, state)
    # As one would: the table of shares refers to that of papers.
    after = migrate(paper_alter(SHARED), state)
    objects = papers(after)
    with tenant_context(a.pk):
        objects.create(title="private")
        row = objects.create(title="chosen")
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    check_readers(objects, a, b, shared="chosen")
    with tenant_context(b.pk):
        # A share of somebody else's row, to oneself.
        private = {"private": 1}
        with admin_context():
            private = objects.get(title="private").pk
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [private, b.pk])
        assert titles(objects.including_shared()) == ["chosen"]
        assert run("DELETE FROM migrated_share WHERE tenant_id = %s", [a.pk]) == 0
    with tenant_context(a.pk):
        run("DELETE FROM migrated_share")
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == []


def paper_alter(predicate: Any) -> Any:
    constraint = RLSConstraint(field="tenant", extra_predicates=[predicate], name="paper_rls")
    operations = [RemoveConstraint("paper", "paper_rls"), AddConstraint("paper", constraint)]
    return SeparateDatabaseAndState(operations, operations)


def test_several_predicates_add_up(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(
        migrate(paper(TenantField("partner"), RawPredicate("is_public AND title <> 'no'")), base())
    )
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="no", is_public=True)
        objects.create(title="open", is_public=True)
        objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == ["for b", "open"]


def test_a_predicate_that_postgresql_cannot_parse_is_refused(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = migrate(paper(), base())
    with pytest.raises(DatabaseError, match="no_such_column"):
        migrate(paper_alter(RawPredicate("no_such_column")), state)


@isolate_apps("tests.app")
def test_what_cannot_be_shared_is_found_by_a_check() -> None:
    class Unprotected(models.Model):
        row = models.ForeignKey("Row", models.CASCADE)
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"

    class Silent(models.Model):
        row = models.ForeignKey("Row", models.CASCADE)
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        recipient = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="tenant", name="silent")]

    wrong: Any = "is_public"

    class Row(models.Model):
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        title = models.TextField()

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    field="tenant",
                    name="row",
                    extra_predicates=[
                        TenantField("nobody"),
                        TenantField("title"),
                        RawPredicate(" "),
                        RawPredicate("true; DROP TABLE app_note"),
                        SharedWith("app.Missing", row="row", tenant="tenant"),
                        SharedWith("app.Unprotected", row="row", tenant="tenant"),
                        SharedWith("app.Silent", row="nothing", tenant="recipient"),
                        SharedWith("app.Silent", row="row", tenant="recipient"),
                        wrong,
                    ],
                    extra_bypass_flags=["unknown"],
                )
            ]

    constraint: Any = Row._meta.constraints[0]
    found = [(each.id, each.msg) for each in constraint._check(Row, connections["default"])]
    assert [id_ for id_, _ in found] == ["tenantry.E004"] * 9 + ["tenantry.E005"]
    for (_, message), part in zip(
        found,
        [
            "app.Row has no field 'nobody'",
            "app.Row.title is not a foreign key",
            "' ' is not a boolean expression",
            "DROP TABLE app_note' is not a boolean expression",
            "'app.Missing' is no model",
            "app.Unprotected is not protected, so that anybody could share",
            "app.Silent has no field 'nothing'",
            "give its RLSConstraint extra_predicates=[TenantField('recipient')]",
            "'is_public' is none of SharedWith, TenantField and RawPredicate",
            "has bypass flags that nothing can set: unknown",
        ],
        strict=True,
    ):
        assert part in message


# Bypass flags.


def test_a_flag_reads_one_table_and_writes_nothing(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    a, _ = tenants
    settings.RLS_TENANTS = FLAG
    objects = papers(migrate(paper(extra_bypass_flags=["login"]), base()))
    with tenant_context(a.pk):
        objects.create(title="of a")
    assert titles(objects.all()) == []
    with bypass_flag("login"):
        assert titles(objects.all()) == ["of a"]
        assert run("SELECT title FROM migrated_paper") == [("of a",)]
        assert run("SELECT count(*) FROM app_note") == [(0,)]
        assert objects.update(title="x") == 0
        assert run("DELETE FROM migrated_paper") == 0
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("INSERT INTO migrated_paper (title, tenant_id) VALUES ('x', %s)", [a.pk])
        with tenant_context(tenants[1].pk):
            assert titles(objects.all()) == run("SELECT title FROM migrated_paper") == []
    assert run("SELECT count(*) FROM migrated_paper") == [(0,)]


def test_strict_mode_lets_a_flag_read_its_table_only(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    settings.RLS_TENANTS = {**FLAG, "STRICT_MODE": True}
    state = migrate(paper(extra_bypass_flags=["login"]), base())
    objects = papers(state)
    with bypass_flag("login"):
        assert titles(objects.all()) == []
    with pytest.raises(NoTenantContextError):
        titles(objects.all())


def test_a_flag_left_on_a_session_is_not_inherited(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    if test_settings.SHAPE == "sealed":
        return  # A flag is part of what is signed, and no parameter of its own.
    settings.RLS_TENANTS = FLAG
    objects = papers(migrate(paper(extra_bypass_flags=["login"]), base()))
    with tenant_context(tenants[0].pk):
        objects.create(title="of a")
    connection = connections["default"]
    connection.ensure_connection()
    connection.connection.execute("SET rls.bypass = 'login'")
    assert run("SELECT count(*) FROM migrated_paper") == [(0,)]
    with tenant_context(tenants[1].pk):
        assert run("SELECT count(*) FROM migrated_paper") == [(0,)]
    connection.close()


def test_a_flag_that_nobody_declared_is_refused(settings: Any) -> None:
    with pytest.raises(RLSConfigurationError, match=r"'login' is not in .*which is \[\]"):
        bypass_flag("login")
    for value in ("login", ["Login"], ["admin"], [""], [1]):
        settings.RLS_TENANTS = {**FLAG, "BYPASS_FLAGS": value}
        with pytest.raises(RLSConfigurationError, match="a list of names such as 'login'"):
            bypass_flag("login")


# Paths.


ORDER = CreateModel(
    "Order",
    [("id", models.BigAutoField(primary_key=True)), ("tenant", tenant())],
    {"constraints": [RLSConstraint(field="tenant", name="order_rls")]},
)


def line(path: str, name: str = "Line", to: str = "Order") -> CreateModel:
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("up", models.ForeignKey(f"migrated.{to}", models.CASCADE)),
    ]
    constraint = RLSConstraint(path=path, name=f"{name.lower()}_rls")
    return CreateModel(name, fields, {"constraints": [constraint]})


def test_a_path_leads_to_the_tenant(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    state = migrate(line("up__tenant"), migrate(ORDER, base()))
    state = migrate(line("up__up__tenant", "Part", "Line"), state)
    order, row, part = (
        state.apps.get_model("migrated", name)._default_manager
        for name in ("Order", "Line", "Part")
    )
    made = {}
    for each in tenants:
        with tenant_context(each.pk):
            made[each] = order.create()
            part.create(up=row.create(up=made[each]))
    for model, table in ((row, "migrated_line"), (part, "migrated_part")):
        count = f"SELECT count(*) FROM {table}"
        assert (model.count(), run(count)) == (0, [(0,)])
        for each in tenants:
            with tenant_context(each.pk):
                assert (model.count(), run(count)) == (1, [(1,)])
        with admin_context():
            assert (model.count(), run(count)) == (2, [(2,)])
    with tenant_context(a.pk):
        assert "IN (SELECT o1." in str(part.all().query)
        assert [each.up.up for each in part.select_related("up__up")] == [made[a]]
        with pytest.raises(ProgrammingError, match="row-level security"):
            row.create(up_id=made[b].pk)
        with pytest.raises(ProgrammingError, match="row-level security"):
            row.update(up_id=made[b].pk)
        assert row.filter(up_id=made[b].pk).delete()[0] == 0


def test_a_path_that_leads_nowhere_is_found_by_a_check(tenants: Tenants) -> None:

    for path, id_, part in (
        ("author__nobody", "tenantry.E001", "app.Author has no field 'nobody'"),
        ("title__tenant", "tenantry.E003", "app.Note.title is not a foreign key"),
        ("tagging__tenant", "tenantry.E001", "app.Note has no field 'tagging'"),
    ):
        constraint = RLSConstraint(path=path, name="n")
        [found] = constraint._check(Note, connections["default"])
        assert found.id == id_
        assert part in found.msg


@pytest.mark.parametrize("given", [{}, {"field": "tenant", "path": "a__tenant"}])
def test_a_constraint_has_a_field_or_a_path(given: Any) -> None:
    with pytest.raises(RLSConfigurationError, match="takes a field or a path to the tenant"):
        RLSConstraint(**given)


def test_migrations_spell_all_of_it_out() -> None:
    constraint = RLSConstraint(
        field="tenant",
        name="n",
        extra_predicates=[TenantField("partner"), RawPredicate("x"), SHARED],
        extra_bypass_flags=["login"],
    )
    _, args, kwargs = constraint.deconstruct()
    again = RLSConstraint(*args, **kwargs)
    assert again == constraint == constraint.clone()
    assert again != RLSConstraint(field="tenant", name="n")
    assert again != RLSConstraint(path="a__tenant", name="n")
    assert RLSConstraint(path="a__tenant", name="n") == RLSConstraint(path="a__tenant", name="n")
