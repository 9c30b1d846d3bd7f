"""The migrations of a database: what one that is yet to run makes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from django.db import Error, transaction
from django.db.migrations import AddConstraint
from django.db.migrations.exceptions import BadMigrationError, NodeNotFoundError
from django.db.migrations.loader import MigrationLoader

from .findings import Finding


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

    def coming(self, model: Any) -> Iterator[Any]:
        """Yield the operations on `model` of the migrations that are yet to run."""
        options = model._meta
        if self.loader is None:
            return
        for key, migration in self.loader.graph.nodes.items():
            if key[0] == options.app_label and key not in self.loader.applied_migrations:
                for each in migration.operations:
                    if getattr(each, "model_name", "").lower() == options.model_name:
                        yield each

    def adds(self, model: Any, name: str) -> bool:
        """Return whether one of them adds the constraint of that name."""
        return any(
            isinstance(each, AddConstraint) and each.constraint.name == name
            for each in self.coming(model)
        )

    def validates(self, model: Any, name: str) -> bool:
        """Return whether one of them checks the rows of before the constraint of that name."""
        from ..operations import ValidateSameTenant  # noqa: PLC0415 - it needs the driver

        return any(
            isinstance(each, ValidateSameTenant) and each.name == name
            for each in self.coming(model)
        )

    def make(self, model: Any) -> bool:
        """Return whether a migration makes the table of `model`, or the field that it is of."""
        options = (model._meta.auto_created or model)._meta
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
