"""Models of the app ``migrated``, which the migrations of tests make."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import (
    AddConstraint,
    CreateModel,
    RemoveConstraint,
    SeparateDatabaseAndState,
)
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, RLSConstraint, RLSManager, SharedWith, TenantField
from tenantry.checks import policies as inspecting
from tenantry.checks.policies import inspect_policies
from tenantry.dependents import is_protected
from tests import settings as test_settings
from tests.fix_migrations import Migrate
from tests.sql import run

FLAG = {**test_settings.RLS_TENANTS, "BYPASS_FLAGS": ["login"]}


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


# Whether somebody else's policies show, and take, every row, which the restrictive ones are for.
STRAY = [False, pytest.param(True, marks=pytest.mark.admin_role)]


def add_stray_policies(*tables: str) -> None:
    for table in tables:
        sql = f"CREATE POLICY stray ON migrated_{table} USING (true) WITH CHECK (true)"
        run(sql, alias="owner")


def paper_alter(predicate: Any) -> Any:
    constraint = RLSConstraint(field="tenant", extra_predicates=[predicate], name="paper_rls")
    operations = [RemoveConstraint("paper", "paper_rls"), AddConstraint("paper", constraint)]
    return SeparateDatabaseAndState(operations, operations)


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


def rls(name: str, *, is_open: bool) -> RLSConstraint:
    predicates = [TenantField("partner")] if is_open else []
    flags = ["login"] if is_open else []
    return RLSConstraint(
        field="tenant", name=name, extra_predicates=predicates, extra_bypass_flags=flags
    )


def model(name: str, *, is_open: bool | None, **fields: Any) -> CreateModel:
    """Return a model whose rows a partner and a flag may read; with None, one of everybody."""
    of_tenant = {} if is_open is None else {"tenant": tenant(), "partner": key(null=True)}
    constraints = [] if is_open is None else [rls(f"{name.lower()}_rls", is_open=is_open)]
    columns = {"id": models.BigAutoField(primary_key=True), **of_tenant, **fields}
    return CreateModel(name, list(columns.items()), {"constraints": constraints})


def child(name: str, parent: str) -> CreateModel:
    link = models.OneToOneField(
        f"migrated.{parent}", models.CASCADE, primary_key=True, parent_link=True
    )
    fields: list[tuple[str, Any]] = [
        (f"{parent.lower()}_ptr", link),
        (f"in_{name.lower()}", models.IntegerField(default=1)),
    ]
    return CreateModel(name, fields, bases=(f"migrated.{parent}",))


def path_to(parent: str) -> CreateModel:
    """Return a model, Line, whose rows are of the tenant of another's."""
    rls = RLSConstraint(path="up__tenant", name="line_rls")
    up = models.ForeignKey(f"migrated.{parent}", models.CASCADE, related_name="lines")
    fields: list[tuple[str, Any]] = [("id", models.AutoField(primary_key=True)), ("up", up)]
    return CreateModel("Line", fields, {"constraints": [rls]})


def tags() -> Any:
    return models.ManyToManyField("migrated.Tag")


def many(migrate: Migrate, *operations: Any) -> Any:
    state = base()
    for operation in operations:
        state = migrate(operation, state)
    return state


def manager(state: ProjectState, name: str) -> Any:
    return state.apps.get_model("migrated", name)._default_manager


def count(table: str) -> int:
    [(found,)] = run(f"SELECT count(*) FROM migrated_{table}")
    return int(found)


def bare(name: str, **fields: Any) -> CreateModel:
    columns = {"id": models.BigAutoField(primary_key=True), **fields}
    return CreateModel(name, list(columns.items()))


def to(name: str) -> Any:
    return models.ForeignKey(f"migrated.{name}", models.CASCADE, null=True, related_name="+")


def check(state: ProjectState, names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the tables have the policies that the models ask for."""
    monkeypatch.setattr(inspecting, "apps", state.apps)
    connection = connections["default"]
    found = set()
    with connection.cursor() as cursor:
        for model in state.apps.get_models(include_auto_created=True):
            if is_protected(model, state.apps):
                found.add(model.__name__)
                assert list(inspect_policies(connection, cursor, model)) == []
    assert found == names


def types(column: str) -> set[str]:
    sql = (
        "SELECT data_type FROM information_schema.columns"
        " WHERE table_name LIKE 'migrated_%%' AND column_name = %s"
    )
    return {name for (name,) in run(sql, [column])}
