"""``RLSConstraint``: a model's tables are protected where its other constraints are declared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from .checks.ways import check_way
from .conf import rls_tenants, tenant_key
from .declared import constraints_of
from .exceptions import RLSConfigurationError
from .opening import Opening, stay_closed
from .policies.ddl import LATEST, Policy, Shape, close, drop, unprotect
from .policies.ways import Hop, Quote, Way
from .sharing import ExtraPredicate, RawPredicate, check_extra_predicates
from .statements import DeferredProtection, statement
from .targets import field_of, key_of

# What Django's migrations and clone() need, beside the name.
SETTINGS = ("guc_prefix", "key_type", "version", "admin_role", "app_role", "sealed")
EXTRAS = ("path", "extra_predicates", "extra_bypass_flags")


class RLSConstraint(models.BaseConstraint):
    """Protect a table with Row-Level Security, by the tenant that `field` names.

    For models that do not inherit ``RLSProtectedModel``::

        class Meta:
            constraints = [RLSConstraint(field="customer")]

    The table of a model that has no tenant of its own, but refers to one that has, is protected by
    the ``path`` to it, such as ``RLSConstraint(path="order__customer")``. PostgreSQL then looks at
    the other table for every row, and the database does not fill in a tenant; prefer a column where
    a table is large, or read by raw SQL.

    ``extra_predicates``, such as ``[TenantField("partner")]``, let tenants read more rows than
    their own; ``extra_bypass_flags`` name those of ``RLS_TENANTS["BYPASS_FLAGS"]`` under which
    :class:`~tenantry.bypass_flag` reads every row of the table.

    The migration that adds it enables and forces Row-Level Security and creates the policies; it
    is reversible. All else comes from the settings and the release. Migrations spell it out, so
    that they never change their meaning: where ``guc_prefix`` and ``key_type`` are given, nothing
    is read from the settings.

    Do not use it on a table that all tenants share. Raises RLSConfigurationError unless it gets
    either a field or a path, and for a text where a list is wanted.
    """

    def __init__(
        self,
        *,
        field: str | None = None,
        path: str | None = None,
        extra_predicates: Iterable[ExtraPredicate] = (),
        extra_bypass_flags: Iterable[str] = (),
        name: str = "%(app_label)s_%(class)s_rls",
        guc_prefix: str | None = None,
        key_type: str | None = None,
        version: int = LATEST,
        admin_role: str | None = None,
        app_role: str | None = None,
        sealed: bool = False,
    ) -> None:
        if (field is None) == (path is None):
            raise RLSConfigurationError(
                f"RLSConstraint takes a field or a path to the tenant, and one of them; got"
                f" field={field!r} and path={path!r}"
            )
        require_lists(extra_predicates, extra_bypass_flags)
        super().__init__(name=name)
        self.field = field
        self.path = path
        self.extra_predicates = list(extra_predicates)
        self.extra_bypass_flags = list(extra_bypass_flags)
        self.guc_prefix = guc_prefix
        self.key_type = key_type
        self.version = version
        self.admin_role = admin_role
        self.app_role = app_role
        self.sealed = sealed

    def __repr__(self) -> str:
        which = f"path={self.path!r}" if self.field is None else f"field={self.field!r}"
        return f"<{type(self).__name__}: {which} name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, RLSConstraint):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    @property
    def way(self) -> str:
        """The field, or the path, that leads to the tenant."""
        return self.field or self.path or ""

    @property
    def shape(self) -> Shape:
        """What the table's policies depend on; the settings fill what was left out."""
        given = {name: getattr(self, name) for name in SETTINGS}
        if not (self.guc_prefix and self.key_type):
            settings = rls_tenants()
            given["guc_prefix"] = self.guc_prefix or settings.guc_prefix
            given["key_type"] = self.key_type or tenant_key().sql_type
            for name in ("admin_role", "app_role", "sealed"):
                given[name] = given[name] or getattr(settings, name)
        return Shape(**given)

    def deconstruct(self) -> tuple[str, tuple[()], dict[str, Any]]:
        """Return what a migration needs to make this constraint again, settings included."""
        _, _, kwargs = super().deconstruct()
        if self.field is not None:
            kwargs["field"] = self.field
        # What not everybody has is left out of everybody's migrations.
        kwargs |= {name: value for name in EXTRAS if (value := getattr(self, name))}
        shape = self.shape
        kwargs |= {name: value for name in SETTINGS if (value := getattr(shape, name))}
        return "tenantry.RLSConstraint", (), kwargs

    def clone(self) -> RLSConstraint:
        """Return a copy that still follows the settings where this one does."""
        names = ("name", "field", *EXTRAS, *SETTINGS)
        return type(self)(**{name: getattr(self, name) for name in names})

    def way_of(self, model: Any) -> Way:
        """Return the way from rows of `model` to their tenant.

        Raises FieldDoesNotExist when a field on the way does not exist.
        """
        *steps, last = self.way.split("__")
        hops = []
        for step in steps:
            key = key_of(model, step)
            target = key.remote_field.model
            hops.append(Hop(key.column, target._meta.db_table, key.target_field.column))
            model = target
        return Way(field_of(model, last).column, tuple(hops))

    def policies(self, model: Any, quote: Quote, table: str | None = None) -> list[Policy]:
        """Return the policies of the table of `model`, or of another quoted one of its columns."""
        table = table or quote(model._meta.db_table)
        shape = self.shape
        shared = [each.sql(model, table, shape.tenant, quote) for each in self.extra_predicates]
        holds = self.way_of(model).holds_sql(table, shape.tenant, quote)
        return shape.policies(holds, " OR ".join(shared) or None, self.extra_bypass_flags)

    # Django calls these with both arguments, and takes None and Statements; the stubs know strings.

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Protect a table that is being created, once it is there."""
        schema_editor.deferred_sql.append(DeferredProtection(self, model, schema_editor))

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that protects the table of `model`.

        Django asks before the table is there if a column has a default with parameters. Where an
        operation of the same migration is yet to add a field, the table shows nothing until then.
        """
        later = DeferredProtection(self, model, schema_editor)
        stay_closed(model._meta.db_table, schema_editor)
        try:
            self.policies(model, schema_editor.quote_name)
        except FieldDoesNotExist:
            schema_editor.deferred_sql.append(later)
            return statement(
                close(schema_editor.quote_name(model._meta.db_table)), model, schema_editor
            )
        return later

    def protection_sql(self, model: Any, schema_editor: Any) -> str:
        """Return the same as text, once the table is there.

        Raises RLSConfigurationError for an expression that PostgreSQL does not take.
        """
        for predicate in self.extra_predicates:
            if isinstance(predicate, RawPredicate):
                predicate.require_parsed(model, self.name, schema_editor)
        quote = schema_editor.quote_name
        return self.shape.protect(quote(model._meta.db_table), self.policies(model, quote))

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that ends the protection, and forget what was to begin it.

        Outside of a transaction the table shows nothing until the migration ends.
        """
        schema_editor.deferred_sql[:] = [
            each for each in schema_editor.deferred_sql if not self.is_of(each, model)
        ]
        quote = schema_editor.quote_name
        # Only their names count, and those no other model changes.
        shared = "true" if self.extra_predicates else None
        policies = self.shape.policies("true", shared, self.extra_bypass_flags)
        end = unprotect
        if not schema_editor.atomic_migration:
            schema_editor.deferred_sql.append(Opening(model._meta.db_table, schema_editor))
            end = drop
        return statement(end(quote(model._meta.db_table), policies), model, schema_editor)

    def is_of(self, sql: Any, model: Any) -> bool:
        """Return whether `sql` is what waits to protect the table of `model` by this."""
        return (
            isinstance(sql, DeferredProtection)
            and sql.constraint.name == self.name
            and sql.references_table(model._meta.db_table)
        )

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Accept every instance: the database checks rows as they are written."""

    def _check(self, model: type[models.Model], connection: Any) -> list[checks.CheckMessage]:
        found = check_installed(model) + self.problems(model)
        unknown = set(self.extra_bypass_flags) - set(rls_tenants().bypass_flags)
        if unknown:
            found.append(
                checks.Error(
                    f"{model._meta.label} has bypass flags that nothing can set:"
                    f" {', '.join(sorted(unknown))}.",
                    hint="Name them in RLS_TENANTS['BYPASS_FLAGS'].",
                    obj=model,
                    id="tenantry.E005",
                )
            )
        return found

    # Django 6.0 made it public.
    check = _check

    def problems(self, model: Any) -> list[checks.CheckMessage]:
        """Return the errors for which no policies can be made, or wrong ones."""
        return check_way(self, model) + check_extra_predicates(model, self.extra_predicates)


def require_lists(predicates: object, flags: object) -> None:
    """Raise RLSConfigurationError for a predicate, or a flag, where a list is wanted.

    A string would be taken for a list of its letters.
    """
    for name, given in (("extra_predicates", predicates), ("extra_bypass_flags", flags)):
        if isinstance(given, str | ExtraPredicate):
            wanted = f"{type(given).__name__}(...)"
            if isinstance(given, str):
                wanted = f"RawPredicate({given!r})" if given is predicates else repr(given)
            raise RLSConfigurationError(
                f"RLSConstraint takes a list of {name}, and not {given!r}; write {name}=[{wanted}]"
            )


def check_installed(model: type[models.Model]) -> list[checks.CheckMessage]:
    """Return a warning, of the first protected model, if the app is not installed."""
    if apps.is_installed("tenantry"):
        return []
    every = model._meta.apps.get_models(include_auto_created=True)
    if model is not next(filter(constraints_of, every), None):
        return []
    return [
        checks.Warning(
            "There are protected models, and 'tenantry' is not in INSTALLED_APPS: nothing checks"
            " them, and migrate neither grants the admin role what it needs nor writes the keys of"
            " seals.",
            hint="Add 'tenantry' to INSTALLED_APPS.",
            id="tenantry.W006",
        )
    ]
