"""The SQL of constraints, as statements that a schema editor keeps until their turn comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement, Table

from .exceptions import RLSConfigurationError
from .policies.predicates import literal

if TYPE_CHECKING:
    from .constraints import RLSConstraint
    from .samekeys import SameTenant

# What to do where a migration lacks a field of another one.
LET_DEPEND = (
    "let its migration depend on the one that adds the field, or if that one depends on it, move"
    " the constraint to a migration that depends on both; let one that renames or removes the field"
    " depend on it"
)


def statement(
    sql: str, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Statement:
    """Return SQL about the table of `model`, which Django forgets when a migration deletes that."""
    table = Table(model._meta.db_table, schema_editor.quote_name)
    return Statement(sql.replace("%", "%%"), table=table)


def parts_of(schema_editor: Any, **tables: str) -> dict[str, Table]:
    """Return tables as parts of a statement: each as an identifier, and as a string of SQL."""
    quote = schema_editor.quote_name
    texts = {
        f"{part}_text": Table(table, lambda name: literal(quote(name)))
        for part, table in tables.items()
    }
    return {part: Table(table, quote) for part, table in tables.items()} | texts


class DeferredProtection(Statement):
    """The SQL of a constraint whose predicates may speak of tables that are yet to come."""

    def __init__(self, constraint: RLSConstraint, model: Any, schema_editor: Any) -> None:
        table = Table(model._meta.db_table, schema_editor.quote_name)
        super().__init__("", table=table)
        self.constraint = constraint
        self.model = model
        # Where to look for a field that the model lacks.
        self.apps = model._meta.apps
        self.schema_editor = schema_editor

    def __str__(self) -> str:
        try:
            return self.constraint.protection_sql(self.model, self.schema_editor)
        except FieldDoesNotExist:
            return self.newest()

    def newest(self) -> str:
        """Return the SQL for the models as the migration's operations have left them so far.

        Raises RLSConfigurationError when they still lack a field.
        """
        options = self.model._meta
        try:
            model = self.apps.get_model(options.label)
            return self.constraint.protection_sql(model, self.schema_editor)
        except FieldDoesNotExist as error:
            raise RLSConfigurationError(
                f"{options.label} cannot be protected by its constraint {self.constraint.name}:"
                f" {error}; {LET_DEPEND}"
            ) from error

    def speaks_of(self, table: str) -> bool:
        """Return whether the SQL names a table; it need not be possible to execute it yet."""
        quote = self.schema_editor.quote_name
        try:
            policies = self.constraint.policies(self.model, quote)
        except FieldDoesNotExist:
            return False  # It is made of what there is when it is executed.
        return self.references_table(table) or any(
            quote(table) in f"{policy.using} {policy.check}" for policy in policies
        )


class ForAllTenants(Statement):
    """SQL that has to see every row.

    The schema editor runs it as the admin, unless the admin is a role, which owns no tables.
    """

    def __init__(self, template: str, constraint: SameTenant, **parts: Any) -> None:
        super().__init__(template, **parts)
        self.constraint = constraint


class DeferredSameTenant(ForAllTenants):
    """SQL that has to see every row, once an operation of the migration has added a column."""

    def __init__(self, constraint: SameTenant, model: Any, schema_editor: Any) -> None:
        table = Table(model._meta.db_table, schema_editor.quote_name)
        super().__init__("", constraint, table=table)
        self.model = model
        self.apps = model._meta.apps
        self.schema_editor = schema_editor

    def __str__(self) -> str:
        options = self.model._meta
        model = self.apps.get_model(options.label)
        try:
            return str(self.constraint.statement(model, self.schema_editor))
        except FieldDoesNotExist as error:
            raise RLSConfigurationError(
                f"{self.constraint.name} on {options.label} cannot be made: {error}; {LET_DEPEND}"
            ) from error
