"""Keys that are unique over all tenants, by which one learns what another has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps
from django.contrib.postgres.constraints import ExclusionConstraint
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.db.models.fields import NOT_PROVIDED

from ..declared import constraint_of
from ..dependents import protecting_links
from ..protected import column_of, external_column
from .findings import Finding

Model = type[Any]


class Key(NamedTuple):
    """What a table has once: how to call it, and the fields that are compared by equality."""

    label: str
    fields: set[str]
    is_primary: bool = False


def inspect_unique(model: Model) -> Iterator[Finding]:
    """Yield what is unique over all tenants in the table of a protected model."""
    field = field_of_tenant(model)
    if field is None and (model._meta.auto_created or external_column(model) is None):
        return
    wanted = remedy(model, field)
    for key in keys_of(model):
        try:
            parts = [each for name in key.fields for each in fields_of(model, name)]
        except FieldDoesNotExist:
            continue  # Django reports it.
        if field in parts or any(map(is_unguessable, parts)):
            continue
        yield Finding(
            "tenantry.W155",
            f"model {model._meta.label}",
            f"is unique by {key.label} over all tenants, so that a tenant learns what another has",
            f"take a primary key that nobody chooses, and {wanted}"
            if key.is_primary and field
            else wanted,
        )


def remedy(model: Model, field: Any) -> str:
    """Return how something becomes unique in each tenant's rows, which `field` tells apart."""
    if field is None:
        return "let the package take a model of yours, with the tenant in its constraints"
    if field.one_to_one and field.primary_key and protecting_links(model, apps):
        parent = field.remote_field.model._meta.label
        return f"move it to {parent}, and make it unique together with the tenant there"
    return f"make it unique together with {field.name}"


def field_of_tenant(model: Model) -> Any:
    """Return the field that tells the tenants' rows apart: the tenant, or the way to it.

    It is None for a model without one, also if its table has such a column, and for the table of a
    ManyToManyField, whose foreign keys are all that it has.
    """
    if constraint := constraint_of(model):
        try:
            return model._meta.get_field(constraint.way.partition("__")[0])
        except FieldDoesNotExist:
            return None
    if model._meta.auto_created:
        return None
    if name := external_column(model):
        column = column_of(model, name)
        return next((each for each in model._meta.local_fields if each.column == column), None)
    return next(iter(protecting_links(model, apps)), None)


def keys_of(model: Model) -> Iterator[Key]:
    """Yield everything that is unique in the model's own table."""
    options = model._meta
    if isinstance(options.pk, models.CompositePrimaryKey):
        names = options.pk.field_names
        yield Key(f"the primary key ({', '.join(names)})", set(names), is_primary=True)
    for field in options.local_concrete_fields:
        if field.unique:
            yield Key(field.name, {field.name}, is_primary=field.primary_key)
    for together in options.unique_together:
        yield Key(", ".join(together), set(together))
    for each in options.constraints:
        if isinstance(each, models.UniqueConstraint):
            yield Key(each.name, set(each.fields) | set(names_in(each.expressions)))
        elif isinstance(each, ExclusionConstraint):
            equal = [expression for expression, operator in each.expressions if operator == "="]
            expressions = [models.F(one) if isinstance(one, str) else one for one in equal]
            yield Key(each.name, set(names_in(expressions)))


def fields_of(model: Model, name: str) -> list[Any]:
    """Return the field that a name or a lookup begins with; of the primary key maybe several."""
    first, key = name.partition("__")[0], model._meta.pk
    if first != "pk":
        return [model._meta.get_field(first)]
    if isinstance(key, models.CompositePrimaryKey):
        return [model._meta.get_field(each) for each in key.field_names]
    return [key]


def names_in(expressions: Any) -> Iterator[str]:
    """Yield the names of the fields that expressions refer to."""
    for expression in expressions:
        if isinstance(expression, models.F):
            name: str = expression.name  # type: ignore[attr-defined]  # the stubs lack it
            yield name
        else:
            yield from names_in(filter(None, expression.get_source_expressions()))


def is_unguessable(field: Any) -> bool:
    """Return whether a conflict over `field` tells a tenant nothing: nobody chooses its values."""
    if field.one_to_one or isinstance(field, models.UUIDField | models.AutoField):
        return True
    made = any(
        default is not NOT_PROVIDED and (callable(default) or default is field.db_default)
        for default in (field.default, field.db_default)
    )
    return bool(field.primary_key and made)
