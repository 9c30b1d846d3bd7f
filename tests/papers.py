"""Papers that a tenant may share, and orders with lines: models of the migrations of tests."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import models
from django.db.migrations import (
    AddConstraint,
    CreateModel,
    RemoveConstraint,
    SeparateDatabaseAndState,
)
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, RLSConstraint, RLSManager, SharedWith, TenantField
from tests import settings as test_settings
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
