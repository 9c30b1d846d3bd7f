"""Tables without a tenant of their own: by a path, and of a relation whose table Django makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from django.apps import apps
from django.db import models
from django.db.migrations import CreateModel, SeparateDatabaseAndState
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, RLSConstraint
from tests.app.models import Tenant
from tests.fix_migrations import Migrate


def key(to: str, name: str) -> Any:
    return models.ForeignKey(to, models.CASCADE, null=True, related_name=name)


def tenant() -> Any:
    return models.ForeignKey(
        "app.Tenant", models.CASCADE, related_name="+", db_default=CurrentTenant()
    )


def model(name: str, constraint: RLSConstraint, **fields: Any) -> CreateModel:
    columns = {
        "id": models.BigAutoField(primary_key=True),
        "name": models.TextField(),
        **fields,
    }
    return CreateModel(name, list(columns.items()), {"constraints": [constraint]})


OPERATIONS = [
    model(
        "Line",
        RLSConstraint(path="item__tenant", name="line_rls"),
        item=key("app.Item", "lines"),
        up=key("migrated.Line", "downs"),
    ),
    model(
        "Word",
        RLSConstraint(path="line__item__tenant", name="word_rls"),
        line=key("migrated.Line", "words"),
    ),
    model(
        "Shelf",
        RLSConstraint(field="tenant", name="shelf_rls"),
        tenant=tenant(),
        tags=models.ManyToManyField("app.Tag", related_name="shelves"),
    ),
]
# Names start with the tenant's; "{}" is its key.
ROWS = """
INSERT INTO migrated_line (name, item_id)
  SELECT $tenant$ || ' first', id FROM app_item WHERE name = $tenant$ || ' old';
INSERT INTO migrated_line (name, item_id, up_id)
  SELECT $tenant$ || ' second', i.id, l.id FROM app_item i, migrated_line l
  WHERE (i.name, l.name) = ($tenant$ || ' new', $tenant$ || ' first');
INSERT INTO migrated_word (name, line_id)
  SELECT $tenant$ || ' word', id FROM migrated_line WHERE name = $tenant$ || ' second';
INSERT INTO migrated_shelf (name, tenant_id) VALUES ($tenant$ || ' shelf', {});
INSERT INTO migrated_shelf_tags (shelf_id, tag_id)
  SELECT s.id, t.id FROM migrated_shelf s, app_tag t
  WHERE (s.name, t.name) = ($tenant$ || ' shelf', $tenant$ || ' red');
"""


class Hanging(NamedTuple):
    """Hold the models, and those that they refer to, as a migration knows them."""

    line: Any
    word: Any
    shelf: Any
    item: Any
    tag: Any

    def paths(self) -> list[tuple[Any, list[str], list[str], list[str]]]:
        """Return each model with paths to texts, relations, and paths to one row."""
        return [
            (
                self.line,
                ["name", "item__name", "up__item__name", "downs__name", "words__name"],
                ["item", "up", "downs", "words"],
                ["item", "up__item", "item__replaces", "up__up"],
            ),
            (
                self.word,
                ["name", "line__name", "line__item__tags__name", "line__up__words__name"],
                ["line"],
                ["line", "line__item", "line__up__item"],
            ),
            (
                self.shelf,
                ["name", "tags__name", "tags__shelves__name", "tags__item__lines__name"],
                ["tags"],
                ["tenant"],
            ),
            (
                self.item,
                ["name", "lines__name", "replaces__lines__up__name", "tags__shelves__name"],
                ["lines", "replaces", "tagging"],
                ["replaces", "replaces__replaces"],
            ),
            (
                self.tag,
                ["name", "shelves__name", "item__lines__words__name"],
                ["shelves", "item"],
                ["tenant"],
            ),
        ]


def hanging_of(state: ProjectState) -> Hanging:
    labels = ("migrated.Line", "migrated.Word", "migrated.Shelf", "app.Item", "app.Tag")
    return Hanging(*map(state.apps.get_model, labels))


@pytest.fixture
def hanging(
    library: tuple[Tenant, Tenant], migrate: Migrate, superuser: psycopg.Connection[Any]
) -> Iterator[Hanging]:
    """Return models whose rows belong to those of others, with rows of two tenants."""
    made = SeparateDatabaseAndState(OPERATIONS, OPERATIONS)
    state = migrate(made, ProjectState.from_apps(apps))
    for each in library:
        sql = ROWS.format(each.pk).replace("$tenant$", f"'{each.name}'")
        superuser.execute(sql.encode())
    yield hanging_of(state)
    superuser.execute("TRUNCATE migrated_line, migrated_shelf CASCADE")
