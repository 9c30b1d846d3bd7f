"""Which rows of other tenants may be read: the extra predicates of an ``RLSConstraint``."""

from __future__ import annotations

from typing import Any

from django.apps.registry import Apps
from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import DatabaseError
from django.utils.deconstruct import deconstructible

from .conf import rls_tenants
from .declared import constraint_of
from .exceptions import RLSConfigurationError
from .policies.expressions import unbalanced
from .policies.predicates import unlike
from .policies.ways import Quote
from .targets import field_of, names_tenant, not_the_tenant, same_table


class ExtraPredicate:
    """Show more rows than the tenant's own: the base of what ``extra_predicates`` may hold.

    Those of one class and the same values are equal, so that migrations find what has changed.
    """

    def __eq__(self, other: object) -> bool:
        if type(self) is type(other):
            return self._values() == other._values()
        return NotImplemented

    def __hash__(self) -> int:
        # Values may be lists.
        return hash(type(self))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values().items())
        return f"{type(self).__name__}({values})"

    def _values(self) -> dict[str, Any]:
        # How the arguments were spelled, which Django keeps, makes no difference.
        return {name: value for name, value in vars(self).items() if name != "_constructor_args"}

    def sql(self, model: Any, table: str, tenant: str, quote: Quote) -> str:
        """Return the SQL that a row of the quoted `table` may be read by `tenant`."""
        raise NotImplementedError

    def problem(self, model: Any) -> str | None:
        """Return why there is no such SQL, or None."""
        raise NotImplementedError


@deconstructible(path="tenantry.TenantField")
class TenantField(ExtraPredicate):
    """Show a row to the tenant that another of its foreign keys names, such as a partner.

    `field` is a foreign key to the tenant model. A row where it is NULL is not shared.
    """

    def __init__(self, field: str) -> None:
        self.field = field

    def sql(self, model: Any, table: str, tenant: str, quote: Quote) -> str:
        """Return a comparison of the column."""
        return f"{quote(field_of(model, self.field).column)} = {tenant}"

    def problem(self, model: Any) -> str | None:
        """Return why `field` is no foreign key to the tenant, or None."""
        return missing(model, self.field) or stray(model, self.field)


@deconstructible(path="tenantry.RawPredicate")
class RawPredicate(ExtraPredicate):
    """Show rows for which a boolean expression of SQL is true, such as ``"is_public"``.

    It names columns of the table. Unbound it shows nothing. Not for subqueries: they are subject to
    the policies of the tables that they read, and may look at this one again.
    """

    def __init__(self, sql: str) -> None:
        self.text = sql

    def sql(self, model: Any, table: str, tenant: str, quote: Quote) -> str:
        """Return the expression, for whoever is bound."""
        return f"({tenant} IS NOT NULL AND ({self.text}))"

    def problem(self, model: Any) -> str | None:
        """Return why it is not one expression, or None; PostgreSQL parses it in migrate."""
        if not isinstance(self.text, str) or not self.text.strip():
            return f"{self.text!r} is not a boolean expression of SQL"
        found = unbalanced(self.text)
        return found and f"{self.text!r} is not one boolean expression of SQL: {found}"

    def require_parsed(self, model: Any, constraint: str, schema_editor: Any) -> None:
        """Raise RLSConfigurationError unless PostgreSQL takes it for the table of `model`.

        PostgreSQL would say what is wrong, and not where. This finds no rows, it is only parsed.
        """
        problem = self.problem(model)
        if problem is None and not schema_editor.collect_sql:
            table = schema_editor.quote_name(model._meta.db_table)
            try:
                with schema_editor.connection.cursor() as cursor:
                    cursor.execute(f"SELECT FROM {table} WHERE ({self.text}) LIMIT 0", None)
            except DatabaseError as error:
                reason = str(error).partition("\n")[0]
                problem = f"PostgreSQL does not take {self!r} for the table {table}: {reason}"
        if problem is not None:
            raise RLSConfigurationError(
                f"{model._meta.label} cannot be protected by its constraint {constraint}:"
                f" {problem}; correct it in the model and in this migration"
            )


class SharedWith(ExtraPredicate):
    """Show a row to the tenants that rows of another protected model name, such as ``NoteShare``.

    ``model`` is the label of that model. Its rows belong to the tenant that shares, its foreign key
    ``row`` names the shared row, and its ``tenant`` the tenant that the row is shared with, which
    must be able to read the share::

        class NoteShare(RLSProtectedModel):
            note = ForeignKey(Note, on_delete=CASCADE)
            recipient = ForeignKey(Tenant, on_delete=CASCADE, related_name="+")

            class Meta:
                constraints = [
                    RLSConstraint(field="tenant", extra_predicates=[TenantField("recipient")])
                ]

    and on ``Note``: ``SharedWith("app.NoteShare", row="note", tenant="recipient")``. Only the
    tenant that owns a row can share it. ``owner`` names the tenant foreign key of the other model
    where it is not ``RLS_TENANTS["TENANT_FK_FIELD"]``.
    """

    def __init__(self, model: str, *, row: str, tenant: str, owner: str | None = None) -> None:
        self.model = model
        self.row = row
        self.tenant = tenant
        # Not that of the other model's constraint: a migration that changes the policies of both
        # removes all constraints before it adds any.
        self.owner = owner or rls_tenants().tenant_fk_field

    def deconstruct(self) -> tuple[str, tuple[str], dict[str, str]]:
        """Return what a migration needs to make this again, settings included."""
        kwargs = {"row": self.row, "tenant": self.tenant, "owner": self.owner}
        return "tenantry.SharedWith", (self.model,), kwargs

    def sql(self, model: Any, table: str, tenant: str, quote: Quote) -> str:
        """Return the SQL that a share of the row's own tenant names `tenant`."""
        try:
            shares = model._meta.apps.get_model(self.model)
        except LookupError as error:
            # Of one that a migration is yet to make, Django says that its app is not installed.
            raise FieldDoesNotExist(
                f"there is no model {self.model}, with a field named {self.row!r}"
            ) from error
        constraint: Any = constraint_of(model)
        row, owner = field_of(shares, self.row), field_of(model, constraint.field)
        shared_owner = field_of(shares, self.owner).column
        share = unlike("share", table)
        return (
            f"EXISTS (SELECT FROM {quote(shares._meta.db_table)} AS {share}"
            f" WHERE {share}.{quote(row.column)} = {table}.{quote(row.target_field.column)}"
            f" AND {share}.{quote(shared_owner)} = {table}.{quote(owner.column)}"
            f" AND {share}.{quote(field_of(shares, self.tenant).column)} = {tenant})"
        )

    def problem(self, model: Any) -> str | None:
        """Return what the other model lacks, or None."""
        apps: Apps = model._meta.apps
        if not (isinstance(self.model, str) and self.model.count(".") == 1):
            return f"{self.model!r} is not the label of a model, such as 'app_label.Model'"
        try:
            shares = apps.get_model(self.model)
        except LookupError as error:
            return f"{self.model!r} is not a model: {error}"
        found = missing(shares, self.row) or missing(shares, self.tenant)
        found = found or stray(shares, self.tenant) or self.misfit(model, shares)
        if found:
            return found
        constraint = constraint_of(shares)
        if constraint is None or constraint.field is None:
            return f"{shares._meta.label} is not protected, so that anybody could share the row"
        if self.owner != constraint.field:
            return (
                f"{shares._meta.label} is protected by {constraint.field}, and not by {self.owner};"
                f" say SharedWith(owner={constraint.field!r})"
            )
        if not any(
            isinstance(each, TenantField) and each.field == self.tenant
            for each in constraint.extra_predicates
        ):
            return (
                f"{shares._meta.label} does not show itself to its {self.tenant}; give its"
                f" RLSConstraint extra_predicates=[TenantField({self.tenant!r})]"
            )
        return None

    def misfit(self, model: Any, shares: Any) -> str | None:
        """Return why no row of `shares` can share one of `model`, or None."""
        row = shares._meta.get_field(self.row)
        if not same_table(row.remote_field.model, model):
            return (
                f"{shares._meta.label}.{self.row} refers to {row.remote_field.model._meta.label},"
                f" and not to {model._meta.label}; name the foreign key to {model._meta.label} in"
                " SharedWith(row=...)"
            )
        constraint: Any = constraint_of(model)
        if constraint.field is None:
            return (
                "SharedWith compares the tenant of the row with that of the share, and the"
                " RLSConstraint has a path; give the model a foreign key to the tenant, and"
                " RLSConstraint(field=...)"
            )
        return None


def missing(model: Any, name: str) -> str | None:
    """Return why `name` is no foreign key in the table of `model`, or None."""
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        return f"{model._meta.label} has no field {name!r}"
    if not (field.is_relation and field in model._meta.local_concrete_fields):
        return f"{model._meta.label}.{name} is not a foreign key in a column of its own table"
    if isinstance(field.remote_field.model, str):
        return (
            f"{model._meta.label}.{name} refers to {field.remote_field.model}, which is not a model"
        )
    return None


def stray(model: Any, name: str) -> str | None:
    """Return why the foreign key `name` of `model` does not refer to the tenant, or None."""
    field = model._meta.get_field(name)
    if names_tenant(field):
        return None
    return f"{not_the_tenant(field)}; name a foreign key to the tenant's primary key"


def check_extra_predicates(model: Any, predicates: Any) -> list[checks.CheckMessage]:
    """Return an error for each predicate that no policy can be made of."""
    found: list[checks.CheckMessage] = []
    for predicate in predicates:
        if isinstance(predicate, ExtraPredicate):
            problem = predicate.problem(model)
        else:
            problem = f"{predicate!r} is not a SharedWith, TenantField or RawPredicate"
        if problem:
            found.append(
                checks.Error(
                    f"{model._meta.label} cannot be shared: {problem}.",
                    hint="See RLSConstraint(extra_predicates=[...]).",
                    obj=model,
                    id="tenantry.E004",
                )
            )
    return found
