"""Rows that other tenants may read, in tables of a parent and its children, and what cites them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from django.apps import apps
from django.db import models
from django.db.migrations import CreateModel, SeparateDatabaseAndState
from django.db.migrations.state import ProjectState

from tenantry import RLSConstraint, TenantField
from tests.app.models import Tenant
from tests.fix_hanging import key, model, tenant
from tests.fix_migrations import Migrate


def child(name: str, parent: str, link: str, text: str) -> CreateModel:
    """Return a model with a `link` to its parent and a `text`."""
    to = models.OneToOneField(
        f"migrated.{parent}", models.CASCADE, primary_key=True, parent_link=True
    )
    fields: list[tuple[str, Any]] = [(link, to), (text, models.TextField())]
    return CreateModel(name, fields, bases=(f"migrated.{parent}",))


OPERATIONS = [
    model(
        "Doc",
        RLSConstraint(field="tenant", extra_predicates=[TenantField("partner")], name="doc_rls"),
        tenant=tenant(),
        partner=key("app.Tenant", "+"),
        author=key("app.Author", "docs"),
    ),
    child("Report", "Doc", "link", "text"),
    child("Thesis", "Report", "up", "more"),
    model(
        "Citation",
        RLSConstraint(field="tenant", name="citation_rls"),
        tenant=tenant(),
        doc=key("migrated.Doc", "citations"),
        report=key("migrated.Report", "cited"),
        by=key("migrated.Citation", "follows"),
    ),
]
# Each of three tenants shares one of two rows of each kind with the next. The citations of a row
# are of its tenant, of the next, or of both.
ROWS = """
INSERT INTO migrated_doc (id, name, tenant_id, partner_id, author_id)
  SELECT 6 * t + i, format('%s doc %s', chr(64 + t), i), t, CASE i % 2 WHEN 0 THEN t % 3 + 1 END,
    (SELECT min(id) FROM app_author WHERE tenant_id = CASE i WHEN 5 THEN 3 - t ELSE t END)
  FROM generate_series(1, 3) t, generate_series(0, 5) i;
INSERT INTO migrated_report (link_id, text)
  SELECT id, 'text of ' || name FROM migrated_doc WHERE id % 6 > 1;
INSERT INTO migrated_thesis (up_id, more)
  SELECT link_id, 'more ' || text FROM migrated_report WHERE link_id % 6 > 3;
INSERT INTO migrated_citation (name, tenant_id, doc_id, report_id)
  SELECT format('%s of %s', chr(64 + t), d.name), t, d.id, r.link_id
  FROM migrated_doc d LEFT JOIN migrated_report r ON r.link_id = d.id, generate_series(1, 3) t
  WHERE (d.id + t) % 5 < 2;
UPDATE migrated_citation SET by_id = id - 1 WHERE id % 3 = 0;
UPDATE migrated_citation SET doc_id = NULL WHERE id % 7 = 0;
"""


class Opened(NamedTuple):
    """Hold the models whose rows are shared, and who cites them, as a migration knows them."""

    doc: Any
    report: Any
    thesis: Any
    citation: Any

    def paths(self) -> list[tuple[Any, list[str], list[str], list[str]]]:
        """Return each shared model with paths to texts, relations, and paths to one row.

        None leads to another row that is shared, which is looked for among the tenant's own.
        """
        of_doc = ["name", "author__name", "citations__name", "citations__by__name"]
        of_report = [*of_doc, "text", "cited__name", "link__citations__follows__name"]
        return [
            (
                self.doc,
                [*of_doc, "report__text", "report__cited__name", "report__thesis__more"],
                ["citations", "report", "author"],
                ["author", "report", "report__thesis"],
            ),
            (
                self.report,
                [*of_report, "thesis__more", "thesis__cited__name"],
                ["citations", "cited", "thesis", "author"],
                ["author", "thesis"],
            ),
            (
                self.thesis,
                [*of_report, "more", "up__cited__name"],
                ["citations", "cited", "author"],
                ["author"],
            ),
        ]


@pytest.fixture
def opened(
    library: tuple[Tenant, Tenant], migrate: Migrate, superuser: psycopg.Connection[Any]
) -> Iterator[Opened]:
    """Return models whose rows are shared, with rows of three tenants, the third called "C"."""
    state = migrate(SeparateDatabaseAndState(OPERATIONS, OPERATIONS), ProjectState.from_apps(apps))
    superuser.execute("INSERT INTO app_tenant (name) VALUES ('C')")
    superuser.execute(ROWS.encode())
    labels = ("Doc", "Report", "Thesis", "Citation")
    yield Opened(*(state.apps.get_model("migrated", label) for label in labels))
    superuser.execute("TRUNCATE migrated_doc, migrated_citation CASCADE")
