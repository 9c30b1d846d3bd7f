"""The definition for rls-policy-tester, of rows that others may read and what belongs to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import models
from django.db.migrations import AddConstraint, AddField, CreateModel, RemoveConstraint
from django.db.migrations.operations import SeparateDatabaseAndState

from example_asgi.servers import Postgres
from tenantry import RawPredicate, RLSConstraint, TenantField, policy_tests, tenant_context
from tenantry.policies.ddl import Shape
from tenantry.shapes import current
from tests.app.models import Tenant
from tests.fix_migrations import Migrate
from tests.judges import try_policies
from tests.migrated import SHARE, SHARED, child, many, model, paper, tags
from tests.sabotage import broken
from tests.settings import RLS_TENANTS
from tests.test_third_parties import CHECKS, ISOLATION, TWIN, define, wrong

Tenants = tuple[Tenant, Tenant]
SHARING, FLAG = "tenantry_sharing", "tenantry_bypass"


def of_a_paper(name: str, *predicates: Any) -> CreateModel:
    """Return a model whose rows belong to the tenant of a paper."""
    constraint = RLSConstraint(
        path="paper__tenant", name=f"{name.lower()}_rls", extra_predicates=[*predicates]
    )
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("paper", models.ForeignKey("migrated.Paper", models.CASCADE)),
        ("is_public", models.BooleanField(default=False)),
    ]
    return CreateModel(name, fields, {"constraints": [constraint]})


def shared_papers() -> Any:
    """Return what shares papers in every way, once the model of shares is there."""
    predicates = [TenantField("partner"), SHARED, RawPredicate("is_public")]
    constraint = RLSConstraint(
        field="tenant",
        name="paper_rls",
        extra_predicates=predicates,
        extra_bypass_flags=["login"],
    )
    operations = [RemoveConstraint("paper", "paper_rls"), AddConstraint("paper", constraint)]
    return SeparateDatabaseAndState(operations, operations)


OPERATIONS = [
    model("Tag", is_open=False),
    paper(),
    SHARE,
    shared_papers(),
    AddField("paper", "tags", tags()),
    child("Report", "Paper"),
    of_a_paper("Page", RawPredicate("is_public")),
    of_a_paper("Line"),
]
# With the column by which a row belongs to a paper.
BELONGING = {
    "migrated_report": "paper_ptr_id",
    "migrated_paper_tags": "paper_id",
    "migrated_page": "paper_id",
    "migrated_line": "paper_id",
}


@pytest.fixture
def definition(
    tenants: Tenants,
    migrate: Migrate,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    tmp_path: Path,
) -> Path:
    """Return the definition for tables with rows of two tenants, of which each shares some."""
    settings.RLS_TENANTS = {**RLS_TENANTS, "BYPASS_FLAGS": ["login"]}
    state = many(migrate, *OPERATIONS)
    names = ("Paper", "Share", "Report", "Page", "Line", "Tag")
    papers, shares, reports, pages, lines, labels = (
        state.apps.get_model("migrated", name) for name in names
    )
    for tenant, partner in (tenants, tenants[::-1]):
        with tenant_context(tenant.pk):
            for shared_with, is_public in ((None, False), (partner.pk, False), (None, True)):
                row = reports._default_manager.create(
                    title="x", partner_id=shared_with, is_public=is_public
                )
                row.tags.add(labels._default_manager.create())
                pages._default_manager.create(paper=row)
                lines._default_manager.create(paper=row)
            pages._default_manager.create(paper=row, is_public=True)
            row = papers._default_manager.create(title="chosen")
            for recipient in (partner, tenant):
                shares._default_manager.create(paper=row, recipient_id=recipient.pk)
    judged = [papers, shares, reports, pages, lines, papers.tags.through]
    monkeypatch.setattr(policy_tests, "protected_models", lambda connection: judged)
    path = tmp_path / "definition.json"
    path.write_text(define(*tenants))
    return path


def test_what_is_shared_is_read_by_those_whom_it_is_for(
    definition: Path, postgres: Postgres
) -> None:
    status, _, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    assert (status, wrong(checks)) == (0, set())
    assert len(checks) == 6 * CHECKS


def sabotages() -> dict[str, tuple[str, str, str]]:
    """Return, by name, a table, the policy of it to alter, and how."""
    found = {}
    for table, column in BELONGING.items():
        readable = f"EXISTS (SELECT FROM migrated_paper p WHERE p.id = {table}.{column})"
        # Whoever reads a paper writes what belongs to it, or adds something to it.
        using, check = f"USING ({readable})", f"WITH CHECK ({readable})"
        found[f"{table} written"] = (table, ISOLATION, f"{using} {check}")
        found[f"{table} added"] = (table, ISOLATION, check)
    # Every tenant reads all rows.
    shown = f"USING ({Shape(**current()).tenant} IS NOT NULL)"
    for table in [*BELONGING, "migrated_paper", "migrated_share"]:
        if table != "migrated_line":
            found[f"{table} shown"] = (table, SHARING, shown)
    found["flag"] = ("migrated_paper", FLAG, shown)
    return found


def test_whoever_gets_at_what_is_not_shared_is_found(
    definition: Path, postgres: Postgres, superuser: psycopg.Connection[Any]
) -> None:
    dsn = postgres.dsn("postgres", "tenantry")
    missed = set()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, (table, policy, how) in sabotages().items():
            twins = [f"{TWIN}{suffix}" for suffix in ("", "_insert", "_update", "_delete")]
            drops = "".join(f"DROP POLICY IF EXISTS {twin} ON {table};" for twin in twins)
            with broken(connection, table, f"{drops} ALTER POLICY {policy} ON {table} {how}"):
                status, _, checks = try_policies(dsn, definition)
            found = {each for each in wrong(checks) if each.startswith(f"{table}: ")}
            if status != 1 or not found:
                missed.add(name)
    assert missed == set()


def test_an_expression_that_seems_to_have_a_parameter_is_not_tried(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch, project: None
) -> None:
    state = many(migrate, paper(RawPredicate("title = ' :all'")))
    judged = [state.apps.get_model("migrated", "Paper")]
    monkeypatch.setattr(policy_tests, "protected_models", lambda connection: judged)
    text = define(*tenants)
    assert ":all" not in text
    assert "tenant_a: select own" in text
    assert "tenant_a: select foreign" not in text
