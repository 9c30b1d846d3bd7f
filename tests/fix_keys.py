"""Authors and notes, whose foreign keys refer to rows of the same tenant only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connections, models
from django.db.migrations import CreateModel
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, RLSConstraint, SameTenant, tenant_context
from tenantry.checks.migrations import Migrations
from tenantry.checks.samekeys import inspect_same_tenant
from tests.app.models import Note
from tests.fix_migrations import Migrate, migrating
from tests.sql import run

ROWS = (1, 2)
REFUSED = "violates foreign key constraint"
UNIQUE = "keys_author_%_same_tenant"


def rls(name: str, field: str = "owner") -> RLSConstraint:
    return RLSConstraint(field=field, name=f"{name}_rls")


def owner(**options: Any) -> Any:
    return models.BigIntegerField(db_default=CurrentTenant(), **options)


def author(*constraints: Any, **more: Any) -> CreateModel:
    fields = {"id": models.BigAutoField(primary_key=True), "owner": owner(), **more}
    return CreateModel(
        "Author", list(fields.items()), {"constraints": [rls("author"), *constraints]}
    )


def to_author(**options: Any) -> Any:
    return models.ForeignKey("keys.Author", models.CASCADE, null=True, **options)


def note(*constraints: Any, **more: Any) -> CreateModel:
    fields = {
        "id": models.BigAutoField(primary_key=True),
        "owner": owner(),
        "author": to_author(),
        **more,
    }
    return CreateModel("Note", list(fields.items()), {"constraints": [rls("note"), *constraints]})


def same(field: str = "author", **more: Any) -> SameTenant:
    return SameTenant(field=field, name=f"note_{field}_same", **more)


@pytest.fixture
def migrate_keys(project: None) -> Iterator[Migrate]:
    with migrating("keys") as forwards:
        yield forwards
    assert constraints_of("keys_%") == []


def constraints_of(table: str) -> list[tuple[str, str]]:
    """Return the composite foreign keys and our unique constraints, names and definitions."""
    found: list[tuple[str, str]] = run(
        "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conrelid::regclass::text LIKE '{table}'"
        " AND (contype = 'f' AND cardinality(conkey) > 1"
        " OR contype = 'u' AND conname LIKE '%_same_tenant') ORDER BY contype, conname",
        alias="owner",
    )
    return found


def inspected(model: Any) -> list[tuple[str, str]]:
    """Return the ids and the texts of what check_rls finds of the foreign keys of a model."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        found = [*inspect_same_tenant(connection, cursor, model, Migrations(connection))]
    return [(each.id, f"{each.message}; {each.fix}") for each in found]


def looked_at(state: ProjectState) -> list[tuple[str, str]]:
    return inspected(state.apps.get_model("keys", "Note"))


def managers(state: ProjectState, *names: str, alias: str = "default") -> list[Any]:
    return [state.apps.get_model("keys", name)._default_manager.using(alias) for name in names]


def authors_of_two_tenants(authors: Any) -> tuple[Any, Any]:
    made = []
    for tenant in ROWS:
        with tenant_context(tenant):
            made.append(authors.create(owner=tenant))
    return made[0], made[1]


FOREIGN_KEY = (
    "note_author_same",
    "FOREIGN KEY (owner, author_id) REFERENCES keys_author(owner, id)"
    " DEFERRABLE INITIALLY DEFERRED",
)


@pytest.fixture
def noting() -> Iterator[Any]:
    """Return the model of notes, which keeps its authors and parents in its tenant."""
    options: Any = Note._meta
    before = options.constraints
    constraints = [SameTenant(field="author", name="a"), SameTenant(field="parent", name="p")]
    for constraint in constraints:
        constraint.settle(Note)
    options.constraints = [*before, *constraints]
    yield Note
    options.constraints = before


def errors_of(check: Callable[[], Any]) -> dict[str, list[tuple[str, Any]]]:
    try:
        check()
    except ValidationError as error:
        return {
            field: [(each.messages[0], each.code) for each in found]
            for field, found in error.error_dict.items()
        }
    return {}
