"""The fields that policies are made of, and what they have to refer to."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import models

from .conf import rls_tenants


def field_of(model: Any, name: str) -> Any:
    """Return a field of `model` that has a column.

    Raises FieldDoesNotExist, with the label of the model, when there is none of that name.
    """
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist as error:
        raise FieldDoesNotExist(f"{model._meta.label} has no field named {name!r}") from error
    if field not in model._meta.concrete_fields:
        # A foreign key may be called like the many-to-many relation that it replaces.
        raise FieldDoesNotExist(f"{model._meta.label}.{name} has no column of its own")
    return field


def key_of(model: Any, name: str) -> Any:
    """Return a foreign key of `model`, by which a path leads on.

    Raises FieldDoesNotExist, with the label of the model, when there is none of that name.
    """
    field = field_of(model, name)
    if not isinstance(field, models.ForeignKey):
        raise FieldDoesNotExist(f"{model._meta.label}.{name} is not a foreign key")
    return field


def links_to(model: Any, field: Any) -> list[str]:
    """Return the foreign keys by which a child has a column of a parent: none for other fields."""
    found: list[str] = []
    if field not in model._meta.concrete_fields:
        return found
    while field not in model._meta.local_concrete_fields:
        link = model._meta.get_ancestor_link(field.model)
        found.append(link.name)
        model = link.remote_field.model
    return found


def is_tenant_model(model: Any) -> bool:
    """Return whether `model` is that of the tenants, or a proxy of it; the setting may name one."""
    label = rls_tenants().tenant_model
    try:
        label = concrete_label(model._meta.apps.get_model(label))
    except LookupError:
        label = label.lower()
    return concrete_label(model) == label


def same_table(one: Any, other: Any) -> bool:
    """Return whether two models are one, or proxies of one."""
    return concrete_label(one) == concrete_label(other)


def concrete_label(model: Any) -> str:
    """Return the label of the model that has the table of `model`."""
    label: str = model._meta.concrete_model._meta.label_lower
    return label


def named_instead(model: Any) -> str | None:
    """Return the label of the model to name instead of one that has no table of its own.

    Such is a proxy, or a model that the settings swap for another; None for any other.
    """
    options = model._meta
    label: str | None = options.concrete_model._meta.label if options.proxy else options.swapped
    return label


def names_tenant(field: Any) -> bool:
    """Return whether the values of `field` are primary keys of tenants.

    So are those of a foreign key to a model whose own key is one, such as a child of the tenant in
    multi-table inheritance. Those of a foreign key to another field of the tenant are not, and one
    may be the primary key of somebody else.
    """
    while isinstance(field, models.ForeignKey):
        target: Any = field.target_field
        if is_tenant_model(field.remote_field.model):
            return bool(target.primary_key)
        field = target
    return False


def not_the_tenant(field: Any) -> str:
    """Return the message that a foreign key does not refer to the primary key of the tenant."""
    name, to = f"{field.model._meta.label}.{field.name}", field.remote_field.model
    tenant = f"the tenant, {rls_tenants().tenant_model}"
    if is_tenant_model(to):
        return (
            f"{name} refers to {to._meta.label}.{field.target_field.name}, and not to the primary"
            f" key of {tenant}, which is what policies compare"
        )
    return f"{name} refers to {to._meta.label}, and not to {tenant}"
