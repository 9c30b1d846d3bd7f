"""Migration operations that ``makemigrations`` does not write."""

from __future__ import annotations

from typing import Any

from django.contrib.postgres.operations import ValidateConstraint
from django.db import DatabaseError
from django.db.migrations import AddConstraint
from django.db.migrations.operations.base import Operation

from .constraints import RLSConstraint
from .exceptions import RLSConfigurationError
from .external import add_external, remove_external
from .samekeys import SameTenant

__all__ = ["AddRLSPolicy", "AddSameTenantNotValid", "ValidateSameTenant"]


class AddRLSPolicy(Operation):
    """Protect the table of a model of another package.

    `model` is its label, such as ``"taggit.Tag"``. `column` is its tenant column, which is made
    unless ``create_column`` is False: without a field of the model, filled by the database with
    the current tenant, and empty in rows that are there already, which then nobody but the admin
    sees. Name model and column in ``RLS_TENANTS["EXTERNAL_MODELS"]`` as well. The migration depends
    on the one of that package that creates the table. ``policy`` holds what an ``RLSConstraint``
    takes; what it leaves out comes from the settings, now and whenever the migration runs.

    For your own models use ``RLSProtectedModel`` or ``RLSConstraint``.
    """

    reversible = True

    def __init__(
        self,
        model: str,
        column: str = "tenant_id",
        *,
        create_column: bool = True,
        **policy: Any,
    ) -> None:
        self.model = model
        self.column = column
        self.create_column = create_column
        self.policy = policy

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return what a migration needs to make this operation again."""
        kwargs = {"create_column": self.create_column, **self.policy}
        return "AddRLSPolicy", [self.model, self.column], kwargs

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: the model belongs to another package."""

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Add the column if wanted, and the policies."""
        model = to_state.apps.get_model(self.model)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        constraint = RLSConstraint(field=self.column, name="external", **self.policy)
        for sql in add_external(
            constraint.policy, model, self.column, schema_editor.quote_name, self.create_column
        ):
            schema_editor.execute(sql, None)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Remove the policies, and the column if it was added."""
        model = from_state.apps.get_model(self.model)
        if not self.allow_migrate_model(schema_editor.connection.alias, model):
            return
        constraint = RLSConstraint(field=self.column, name="external", **self.policy)
        for sql in remove_external(
            constraint.policy, model, self.column, schema_editor.quote_name, self.create_column
        ):
            schema_editor.execute(sql, None)

    def describe(self) -> str:
        """Return a line for the output of migrate."""
        return f"Protect {self.model} by {self.column}"

    @property
    def migration_name_fragment(self) -> str:
        """Part of the migration's name."""
        return f"protect_{self.model.replace('.', '_').lower()}"


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
