"""Migration operations that add a ``SameTenant`` to a large table without a long lock."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.operations import ValidateConstraint
from django.db import DatabaseError
from django.db.migrations import AddConstraint

from .exceptions import RLSConfigurationError
from .samekeys import SameTenant

__all__ = ["AddSameTenantNotValid", "ValidateSameTenant"]


class AddSameTenantNotValid(AddConstraint):
    """Add a :class:`SameTenant` that holds for what is written from now on.

    Put it in the place of ``AddConstraint``, and :class:`ValidateSameTenant` in a later migration.
    """

    def __init__(self, model_name: str, constraint: SameTenant) -> None:
        if not isinstance(constraint, SameTenant):
            raise RLSConfigurationError(
                f"AddSameTenantNotValid takes a SameTenant, not {constraint!r}; use AddConstraint"
            )
        super().__init__(model_name, constraint)

    def describe(self) -> str:
        """Return a line for the output of migrate."""
        return f"Create not valid constraint {self.constraint.name} on model {self.model_name}"

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Make the foreign key, and check no rows."""
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            constraint: Any = self.constraint
            schema_editor.execute(constraint.statement(model, schema_editor, valid=False), None)

    @property
    def migration_name_fragment(self) -> str:
        """Part of the migration's name."""
        return f"{super().migration_name_fragment}_not_valid"


class ValidateSameTenant(ValidateConstraint):
    """Check the rows that were there before :class:`AddSameTenantNotValid`.

    It fails if one of them points to another tenant's. Reads and writes go on meanwhile. Django's
    ``ValidateConstraint`` would check the rows that the policies show it, which are none.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Check the rows of all tenants."""
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            state = from_state.models[app_label, self.model_name.lower()]
            constraint = state.get_constraint_by_name(self.name)
            first, last = constraint.validation(model, schema_editor)
            try:
                for sql in first:
                    schema_editor.execute(sql, None)
            except DatabaseError:
                # Otherwise the transaction is over, and has undone what came first.
                if not schema_editor.atomic_migration:
                    for sql in last:
                        schema_editor.execute(sql, None)
                raise
            for sql in last:
                schema_editor.execute(sql, None)
