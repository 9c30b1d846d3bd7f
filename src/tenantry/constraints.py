"""``RLSConstraint``: a model's tables are protected where its other constraints are declared."""

from __future__ import annotations

from typing import Any

from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Statement, Table

from .conf import rls_tenants, tenant_key
from .policies.ddl import LATEST, Policy


class RLSConstraint(models.BaseConstraint):
    """Protect a table with Row-Level Security, by the tenant that `field` names.

    For models that do not inherit ``RLSProtectedModel``::

        class Meta:
            constraints = [RLSConstraint(field="customer")]

    The migration that adds it enables and forces Row-Level Security and creates the policy; it is
    reversible. All but the field comes from the settings and the release. Migrations spell it out,
    so that they never change their meaning: where ``guc_prefix`` and ``key_type`` are given,
    nothing is read from the settings.

    Do not use it on a model whose table has no column for the tenant.
    """

    def __init__(
        self,
        *,
        field: str,
        name: str = "%(app_label)s_%(class)s_rls",
        guc_prefix: str | None = None,
        key_type: str | None = None,
        version: int = LATEST,
        admin_role: str | None = None,
        app_role: str | None = None,
        sealed: bool = False,
    ) -> None:
        super().__init__(name=name)
        self.field = field
        self.guc_prefix = guc_prefix
        self.key_type = key_type
        self.version = version
        self.admin_role = admin_role
        self.app_role = app_role
        self.sealed = sealed

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: field={self.field!r} name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RLSConstraint):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.field))

    @property
    def policy(self) -> Policy:
        """What the table's policies depend on; the settings fill what was left out."""
        if self.guc_prefix and self.key_type:
            return Policy(
                guc_prefix=self.guc_prefix,
                key_type=self.key_type,
                version=self.version,
                admin_role=self.admin_role,
                app_role=self.app_role,
                sealed=self.sealed,
            )
        settings = rls_tenants()
        return Policy(
            guc_prefix=self.guc_prefix or settings.guc_prefix,
            key_type=self.key_type or tenant_key().sql_type,
            version=self.version,
            admin_role=self.admin_role or settings.admin_role,
            app_role=self.app_role or settings.app_role,
            sealed=self.sealed or settings.sealed,
        )

    def deconstruct(self) -> tuple[str, tuple[()], dict[str, Any]]:
        """Return what a migration needs to make this constraint again, settings included."""
        _, _, kwargs = super().deconstruct()
        policy = self.policy
        kwargs |= {
            "field": self.field,
            "guc_prefix": policy.guc_prefix,
            "key_type": policy.key_type,
            "version": policy.version,
        }
        # What not everybody has is left out of everybody's migrations.
        for name in ("admin_role", "app_role", "sealed"):
            if value := getattr(policy, name):
                kwargs[name] = value
        return "tenantry.RLSConstraint", (), kwargs

    def clone(self) -> RLSConstraint:
        """Return a copy that still follows the settings where this one does."""
        return type(self)(
            field=self.field,
            name=self.name,
            guc_prefix=self.guc_prefix,
            key_type=self.key_type,
            version=self.version,
            admin_role=self.admin_role,
            app_role=self.app_role,
            sealed=self.sealed,
        )

    def column(self, model: type[models.Model]) -> str:
        """Return the tenant column of `model`'s table."""
        field = model._meta.get_field(self.field)
        column: str = field.column  # type: ignore[union-attr,assignment]
        return column

    # Django calls these with both arguments, and takes None and Statements; the stubs know strings.

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Protect a table that is being created, once it is there."""
        schema_editor.deferred_sql.append(self.create_sql(model, schema_editor))

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that protects the table of `model`."""
        quote = schema_editor.quote_name
        sql = self.policy.protect(quote(model._meta.db_table), quote(self.column(model)))
        return _statement(sql, model, schema_editor)

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that ends the protection."""
        sql = self.policy.unprotect(schema_editor.quote_name(model._meta.db_table))
        return _statement(sql, model, schema_editor)

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Accept every instance: the database checks rows as they are written."""

    def _check(self, model: type[models.Model], connection: Any) -> list[checks.CheckMessage]:
        try:
            field = model._meta.get_field(self.field)
        except FieldDoesNotExist:
            return [
                checks.Error(
                    f"{model._meta.label} has no field {self.field!r} to protect its rows by.",
                    hint="Name the foreign key to the tenant in RLSConstraint(field=...).",
                    obj=model,
                    id="tenantry.E001",
                )
            ]
        if field not in model._meta.local_concrete_fields:
            return [
                checks.Error(
                    f"{model._meta.label}.{self.field} is not a column of the model's own table.",
                    hint="Declare a foreign key to the tenant on this model.",
                    obj=model,
                    id="tenantry.E002",
                )
            ]
        return []

    # Django 6.0 made it public.
    check = _check


def _statement(
    sql: str, model: type[models.Model], schema_editor: BaseDatabaseSchemaEditor
) -> Statement:
    # A Statement, so that Django forgets it when the table is deleted again in one migration.
    table = Table(model._meta.db_table, schema_editor.quote_name)
    return Statement(sql.replace("%", "%%"), table=table)
