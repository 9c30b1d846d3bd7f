"""Migrations, run as the owner role and undone after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest
from django.apps import apps
from django.db import connections
from django.db.migrations.migration import Migration
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter

from tenantry.operations import AddRLSPolicy
from tenantry.shapes import current
from tests import settings as project
from tests.app.models import Tenant

Migrate = Callable[..., ProjectState]


def migration_of(*operations: Operation) -> Migration:
    migration: Any = Migration("0001", "migrated")
    migration.operations = [*operations]
    return cast("Migration", migration)


def written(operation: Operation) -> str:
    """Return the file of a migration."""
    return MigrationWriter(migration_of(operation)).as_string()


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


@contextmanager
def editing(*, atomic: bool = True) -> Iterator[Any]:
    """Yield the owner's editor; leave the transaction that Django leaves open after an error."""
    try:
        with connections["owner"].schema_editor(atomic=atomic) as editor:
            yield editor
    except BaseException:
        connections["owner"].connection.close()
        del connections["owner"]
        raise


@contextmanager
def migrating(app: str) -> Iterator[Migrate]:
    """Yield a function that applies operations, each list as one migration of `app`.

    All but those that are not to be reversed are undone at the end.
    """
    states: list[tuple[Any, ProjectState]] = []

    def forwards(
        *operations: Any,
        state: ProjectState | None = None,
        reverse: bool = True,
        atomic: bool = True,
    ) -> ProjectState:
        state = state or ProjectState()
        for operation in operations:
            migration: Any = Migration("test", app)
            migration.operations = operation if isinstance(operation, list) else [operation]
            with editing(atomic=atomic) as editor:
                after = migration.apply(state.clone(), editor)
            if reverse:
                states.append((migration, state))
            state = after
        return state

    yield forwards
    for migration, before in reversed(states):
        with connections["owner"].schema_editor() as editor:
            migration.unapply(before.clone(), editor)


@pytest.fixture
def migrate_in_place(project: None) -> Iterator[Migrate]:
    """Return a function that applies operations, each list as one migration, to one state.

    So does ``migrate``: a model of before then finds those of after in its registry.
    """

    def forwards(state: ProjectState, *operations: Any) -> ProjectState:
        for operation in operations:
            migration = migration_of(*(operation if isinstance(operation, list) else [operation]))
            with editing() as editor:
                state = migration.apply(state, editor)
        return state

    yield forwards
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class"
            " WHERE relkind = 'r' AND starts_with(relname, 'migrated')"
        )
        found = cursor.fetchone()
        if found and found[0]:
            cursor.execute(f"DROP TABLE {found[0]}")


@pytest.fixture
def hidden(
    tenants: tuple[Tenant, Tenant], migrate: Migrate, settings: Any
) -> tuple[Tenant, Tenant]:
    """Let each tenant see itself only."""
    operation = AddRLSPolicy("app.Tenant", "id", create_column=False, **current())
    migrate(operation, ProjectState.from_apps(apps))
    settings.RLS_TENANTS = {**project.RLS_TENANTS, "EXTERNAL_MODELS": {"app.Tenant": "id"}}
    return tenants


def drop_functions(superuser: psycopg.Connection[Any], prefix: str) -> None:
    """Drop the functions of a prefix of parameters that no other test may find."""
    named = "SELECT oid::regprocedure::text FROM pg_proc WHERE starts_with(proname, %s)"
    for (function,) in superuser.execute(named, [f"{prefix}_"]).fetchall():
        # Those of raw SQL go with the one that verifies seals.
        superuser.execute(f"DROP FUNCTION IF EXISTS {function} CASCADE".encode())


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
