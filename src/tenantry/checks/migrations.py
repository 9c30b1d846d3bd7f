"""The migrations of a database: what one that is yet to run makes."""

from __future__ import annotations

from functools import cached_property
from itertools import chain
from typing import Any

from django.apps import apps
from django.db import Error, transaction
from django.db.migrations import AddConstraint, Migration
from django.db.migrations.exceptions import (
    BadMigrationError,
    InconsistentMigrationHistory,
    NodeNotFoundError,
)
from django.db.migrations.loader import MigrationLoader

from ..declared import constraint_of
from ..dependents import concrete_target, protecting_links
from ..protected import column_of, external_column
from ..routing import declaring
from .findings import Finding
from .policies import shape_for


class Migrations:
    """Read the migrations of a database once, when somebody asks."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @cached_property
    def loader(self) -> MigrationLoader | None:
        """Django's view of them; None where it cannot be had."""
        try:
            with transaction.atomic(using=self.connection.alias):
                return MigrationLoader(self.connection, ignore_no_migrations=True)
        except (BadMigrationError, NodeNotFoundError, Error):
            return None

    @cached_property
    def models(self) -> dict[tuple[str, str], Any]:
        """The models that migrations make, by app and name."""
        return self.loader.project_state().models if self.loader else {}

    def pending(self, app_label: str | None = None) -> bool:
        """Return whether a migration, or one of an app, is yet to run."""
        return self.loader is not None and any(
            key not in self.loader.applied_migrations and app_label in (None, key[0])
            for key in self.loader.graph.nodes
        )

    @cached_property
    def coming(self) -> list[tuple[str, Any]]:
        """The operations that are yet to run, in an order in which they can, each with its app.

        Not those that ``migrate`` may refuse to run, or take for done with --fake-initial.
        """
        if self.loader is None:
            return []
        try:
            self.loader.check_consistent_history(self.connection)
        except InconsistentMigrationHistory:
            return []
        graph, applied = self.loader.graph, self.loader.applied_migrations
        plans = map(graph.forwards_plan, graph.leaf_nodes())
        waiting = [
            graph.nodes[key]
            for key in dict.fromkeys(chain.from_iterable(plans))
            if key not in applied
        ]
        return [
            (migration.app_label, each)
            for migration in waiting
            if not is_initial(migration)
            for each in migration.operations
        ]

    def changes(self, model: Any) -> list[Any]:
        """Return those of them that change `model` in a migration of its app."""
        options = model._meta
        return [
            each
            for label, each in self.coming
            if label == options.app_label
            and getattr(each, "model_name", "").lower() == options.model_name
        ]

    def adds(self, model: Any, name: str) -> bool:
        """Return whether one of them adds the constraint of that name."""
        return any(
            isinstance(each, AddConstraint) and each.constraint.name == name
            for each in self.changes(model)
        )

    def validates(self, model: Any, name: str) -> bool:
        """Return whether one of them checks the rows of before the constraint of that name."""
        from ..operations import ValidateSameTenant  # noqa: PLC0415 - it needs the driver

        return any(
            isinstance(each, ValidateSameTenant) and each.name == name
            for each in self.changes(model)
        )

    def protects(self, model: Any) -> bool:
        """Return whether they make all policies that a protected `model` asks for."""
        if column := external_column(model):
            return self.protects_external(model, column_of(model, column))
        if not (self.make(model) and model._meta.can_migrate(self.connection)):
            return False
        if constraint := constraint_of(model):
            state = self.models[model._meta.app_label, model._meta.model_name]
            # It is another one if settings have changed since the migration was written.
            is_same = constraint in state.options["constraints"]
            return is_same and self.adds(model, constraint.name)
        # What hangs on protected tables gets its policies with each of theirs.
        return all(
            self.protects(concrete_target(key, apps)) for key in protecting_links(model, apps)
        )

    def protects_external(self, model: Any, column: str) -> bool:
        """Return whether the last of them for another package's table makes what it asks for."""
        from ..operations import AddRLSPolicy, AlterRLSPolicy  # noqa: PLC0415 - it needs the driver

        found = [
            (each.column, each.made_of)
            for _, each in self.coming
            if isinstance(each, AddRLSPolicy | AlterRLSPolicy)
            and each.model.lower() == model._meta.label_lower
        ]
        return found[-1:] == [(column, shape_for(model))]

    def make(self, model: Any) -> bool:
        """Return whether a migration makes the table of `model`, or the field that it is of."""
        options = declaring(model)._meta
        state = self.models.get((options.app_label, options.model_name))
        if state is None or not model._meta.auto_created:
            return state is not None
        return any(
            field.remote_field.through is model and field.name in state.fields
            for field in options.local_many_to_many
        )

    def missing_table(self, model: Any) -> Finding:
        """Return the finding that `model` has no table."""
        label = model._meta.app_label
        awaited = False
        if self.loader is None:
            fix = "run migrate"
        elif not self.make(model):
            fix = f"run makemigrations {label} and migrate"
        elif self.pending(label):
            fix, awaited = "run migrate", True
        else:
            fix = (
                "give the role USAGE on its schema and a search_path that finds it, or restore it:"
                " its migrations have run"
            )
        subject = f"table {model._meta.db_table}"
        return Finding("tenantry.E110", subject, "does not exist", fix, awaited)


def is_initial(migration: Migration) -> bool:
    """Return whether --fake-initial may take a migration for done, whose tables are there."""
    if migration.initial is not None:
        return migration.initial
    return all(label != migration.app_label for label, _ in migration.dependencies)
