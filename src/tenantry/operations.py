"""Migration operations that ``makemigrations`` does not write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.postgres.operations import ValidateConstraint
from django.db import Error
from django.db.migrations import AddConstraint
from django.db.migrations.operations.base import Operation

from .conf import rls_tenants
from .exceptions import RLSConfigurationError
from .external import add_external, alter_external, remove_external
from .policies.ddl import Shape
from .routing import is_placed
from .samekeys import SameTenant
from .shapes import arguments, check_arguments, current, given, says_all
from .targets import named_instead

__all__ = ["AddRLSPolicy", "AddSameTenantNotValid", "AlterRLSPolicy", "ValidateSameTenant"]


class ExternalOperation(Operation):
    """What operations on the table of another package's `model` share."""

    model: str

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: the model belongs to another package."""

    def found(self, state: Any, label: Any) -> Any:
        """Return the model of that label; raise RLSConfigurationError if the state has none."""
        try:
            return state.apps.get_model(label)
        except LookupError as error:
            raise RLSConfigurationError(
                f"{self.describe()!r} needs {label}, which no migration before it creates; add the"
                f" migration that does to the dependencies: {error}"
            ) from error

    def model_with_table(self, schema_editor: Any, state: Any) -> Any:
        """Return the model if the database is to have its table, whoever makes it; else None.

        Raises RLSConfigurationError for a model without a table of its own: the operation would do
        nothing, and queries of the model would look as if it had.
        """
        model, alias = self.found(state, self.model), schema_editor.connection.alias
        if not is_placed(alias, model):
            return None
        if other := named_instead(model):
            raise RLSConfigurationError(
                f"{self.describe()!r} names {model._meta.label}, which has no table of its own;"
                f" name {other} instead, in RLS_TENANTS['EXTERNAL_MODELS'] too"
            )
        # Django migrates no table of an unmanaged model, but here the migration names it.
        return None if model._meta.managed and not model._meta.can_migrate(alias) else model


class AddRLSPolicy(ExternalOperation):
    """Protect the table of a model of another package.

    `model` is its label, such as ``"taggit.Tag"``, and `column` its tenant column. Unless
    ``create_column`` is False the operation adds it, a foreign key to ``tenant_model``. The model
    has no field for it; the database fills it with the current tenant, and existing rows get NULL,
    so that only the admin sees them. Name model and column in ``RLS_TENANTS["EXTERNAL_MODELS"]`` as
    well. The migration depends on the one of that package that creates the table, and on the one
    that creates the tenant's.

    The rest is what the policies are made of: ``guc_prefix``, ``key_type`` and ``version``, and
    where the settings have them ``admin_role``, ``app_role`` and ``sealed``. A migration keeps its
    meaning when the settings change, so it has to say them. When they change, write
    :class:`AlterRLSPolicy`.

    Raises RLSConfigurationError, with what to write, if ``guc_prefix``, ``key_type``, ``version``,
    or for a new column ``tenant_model``, is left out; also for a value that is not allowed. Raises
    ValueError for a ``version`` that this release does not know.

    For your own models use ``RLSProtectedModel`` or ``RLSConstraint``. A model with ``managed =
    False`` is protected if its table is there. One without a table of its own, such as a proxy, is
    refused by the migration, with RLSConfigurationError.
    """

    def __init__(
        self,
        model: str,
        column: str = "tenant_id",
        *,
        create_column: bool = True,
        tenant_model: str | None = None,
        guc_prefix: str | None = None,
        key_type: str | None = None,
        version: int | None = None,
        admin_role: str | None = None,
        app_role: str | None = None,
        sealed: bool | None = None,
    ) -> None:
        self.model = model
        self.column = column
        self.create_column = create_column
        self.tenant_model = tenant_model
        self.shape = shape = given(
            guc_prefix=guc_prefix,
            key_type=key_type,
            version=version,
            admin_role=admin_role,
            app_role=app_role,
            sealed=sealed,
        )
        check_arguments("AddRLSPolicy", model, shape)
        if (create_column and tenant_model is None) or not says_all(shape):
            wanted: dict[str, Any] = {"create_column": False}
            if create_column:
                wanted = {"tenant_model": tenant_model or rls_tenants().tenant_model}
            raise RLSConfigurationError(
                f"AddRLSPolicy({model!r}) does not say all of what the migration does, which must"
                " not change when the settings do; write"
                f" AddRLSPolicy({model!r}, {column!r}, {arguments(wanted | current() | shape)})"
            )
        self.made_of = Shape(**shape)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return what a migration needs to make this operation again."""
        kwargs: dict[str, Any] = {"create_column": self.create_column, **self.shape}
        if self.tenant_model is not None:
            kwargs["tenant_model"] = self.tenant_model
        return "AddRLSPolicy", [self.model, self.column], kwargs

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Add the column if wanted, and the policies."""
        model = self.model_with_table(schema_editor, to_state)
        if model is None:
            return
        tenants = self.found(to_state, self.tenant_model) if self.create_column else None
        quote = schema_editor.quote_name
        for sql in add_external(self.made_of, model, self.column, quote, tenants):
            schema_editor.execute(sql, None)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Remove the policies, and the column if it was added."""
        model = self.model_with_table(schema_editor, from_state)
        if model is None:
            return
        quote = schema_editor.quote_name
        for sql in remove_external(self.made_of, model, self.column, quote, self.create_column):
            schema_editor.execute(sql, None)

    def describe(self) -> str:
        """Return a line for the output of migrate."""
        return f"Protect {self.model} by {self.column}"

    @property
    def migration_name_fragment(self) -> str:
        """Part of the migration's name."""
        return f"protect_{self.model.replace('.', '_').lower()}"


class AlterRLSPolicy(ExternalOperation):
    """Change the policies that :class:`AddRLSPolicy` made, after settings have changed.

    `model`, `column` and ``create_column`` are those of that operation. ``before`` holds what its
    policies are made of, or those of the last ``AlterRLSPolicy``, and the rest is what holds from
    now on.

    Raises RLSConfigurationError, with what to write, if ``guc_prefix``, ``key_type`` or ``version``
    is left out; also for a value that is not allowed, and for another ``key_type`` than before.
    Raises TypeError for an unknown name in ``before``, and ValueError for a ``version`` that this
    release does not know.
    """

    def __init__(
        self,
        model: str,
        column: str = "tenant_id",
        *,
        before: Mapping[str, Any],
        create_column: bool = True,
        guc_prefix: str | None = None,
        key_type: str | None = None,
        version: int | None = None,
        admin_role: str | None = None,
        app_role: str | None = None,
        sealed: bool | None = None,
    ) -> None:
        self.model = model
        self.column = column
        self.before = dict(before)
        self.create_column = create_column
        self.shape = shape = given(
            guc_prefix=guc_prefix,
            key_type=key_type,
            version=version,
            admin_role=admin_role,
            app_role=app_role,
            sealed=sealed,
        )
        for each in (shape, self.before):
            check_arguments("AlterRLSPolicy", model, each)
        if not says_all(self.before) or not says_all(shape):
            raise RLSConfigurationError(
                f"AlterRLSPolicy({model!r}) does not say all of what the migration does, which must"
                " not change when the settings do; write"
                f" AlterRLSPolicy({model!r}, {column!r}, {arguments(current() | shape)},"
                " before={...}) with what the operation before it says in the braces: guc_prefix,"
                " key_type and version, and admin_role, app_role and sealed if it does"
            )
        self.made_of, self.made_of_before = (Shape(**each) for each in (shape, self.before))
        if self.made_of.key_type != self.made_of_before.key_type:
            raise RLSConfigurationError(
                f"AlterRLSPolicy({model!r}) has key_type={self.made_of.key_type!r} after"
                f" {self.made_of_before.key_type!r}, but the type of the column stays; remove the"
                " policy by migrating backwards, and add it again"
            )

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return what a migration needs to make this operation again."""
        kwargs = {"before": self.before, "create_column": self.create_column, **self.shape}
        return "AlterRLSPolicy", [self.model, self.column], kwargs

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Make the new policies in the place of the old ones."""
        self.change(schema_editor, to_state, self.made_of_before, self.made_of)

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Make the old policies again."""
        self.change(schema_editor, from_state, self.made_of, self.made_of_before)

    def change(self, schema_editor: Any, state: Any, old: Shape, new: Shape) -> None:
        """Put the policies of `new` in the place of those of `old`."""
        model = self.model_with_table(schema_editor, state)
        if model is None:
            return
        quote = schema_editor.quote_name
        for sql in alter_external(old, new, model, self.column, quote, self.create_column):
            schema_editor.execute(sql, None)

    def describe(self) -> str:
        """Return a line for the output of migrate."""
        return f"Change how {self.model} is protected by {self.column}"

    @property
    def migration_name_fragment(self) -> str:
        """Part of the migration's name."""
        return f"alter_protection_of_{self.model.replace('.', '_').lower()}"


class AddSameTenantNotValid(AddConstraint):
    """Add a :class:`SameTenant` that holds for what is written from now on.

    Put it in the place of ``AddConstraint``, and :class:`ValidateSameTenant` in a later migration.
    Raises RLSConfigurationError for another constraint than :class:`SameTenant`.
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

    It fails if one of them points to another tenant's. Reads and writes go on meanwhile; where the
    admin is a role, the migration needs ``atomic = False`` for that, and is refused without it if
    there are rows. Django's ``ValidateConstraint`` would check the rows that the policies show it,
    which are none.
    """

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Check the rows of all tenants."""
        model = from_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            state = from_state.models[app_label, self.model_name.lower()]
            constraint = state.get_constraint_by_name(self.name)
            if any(constraint.is_of(sql, model) for sql in schema_editor.deferred_sql):
                # A squashed migration makes it with its table, and checks all rows at its end.
                return
            first, last = constraint.validation(model, schema_editor)
            try:
                for sql in (*first, *last):
                    schema_editor.execute(sql, None)
            except BaseException as error:  # An interrupt too, for which a long check is likely.
                # Otherwise the transaction is over, and has undone what came first.
                if not schema_editor.atomic_migration:
                    try_last(schema_editor, last, error)
                raise


def try_last(schema_editor: Any, last: Iterable[Any], error: BaseException) -> None:
    """Execute SQL that must follow even after `error`, which stays what is raised."""
    for sql in last:
        try:
            schema_editor.execute(sql, None)
        except Error as another:
            error.add_note(f"This must follow, and has failed, too ({another}):\n{sql}")
