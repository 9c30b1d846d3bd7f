"""Migrations of one operation, run as the owner role and undone after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.db.migrations.migration import Migration
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

Migrate = Callable[..., ProjectState]


def migration_of(operation: Operation) -> Migration:
    class OneOperation(Migration):
        operations = [operation]

    return OneOperation("0001", "migrated")


@pytest.fixture
def migrate(project: None) -> Iterator[Migrate]:
    """Return a function that migrates a state by one operation, forwards or backwards."""
    states: list[tuple[Any, ProjectState]] = []

    def forwards(operation: Any, state: ProjectState) -> ProjectState:
        migration = migration_of(operation)
        with connections["owner"].schema_editor() as editor:
            after = migration.apply(state.clone(), editor)
        states.append((migration, state))
        return after

    yield forwards
    for migration, before in reversed(states):
        with connections["owner"].schema_editor() as editor:
            migration.unapply(before.clone(), editor)


def is_protected(table: str) -> tuple[bool, bool, int]:
    """Return whether a table's RLS is enabled and forced, and how many policies it has."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT relrowsecurity, relforcerowsecurity,"
            " (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid)"
            " FROM pg_class c WHERE oid = to_regclass(%s)",
            [table],
        )
        found: tuple[bool, bool, int] | None = cursor.fetchone()
    return found or (False, False, 0)
