"""What the foreign keys of policies have to refer to."""

from __future__ import annotations

from typing import Any

from django.db import models

from .conf import rls_tenants


def is_tenant_model(model: Any) -> bool:
    """Return whether `model` is that of the tenants, or a proxy of it."""
    return concrete_label(model) == rls_tenants().tenant_model.lower()


def same_table(one: Any, other: Any) -> bool:
    """Return whether two models are one, or proxies of one."""
    return concrete_label(one) == concrete_label(other)


def concrete_label(model: Any) -> str:
    """Return the label of the model that has the table of `model`."""
    label: str = model._meta.concrete_model._meta.label_lower
    return label


def names_tenant(field: Any) -> bool:
    """Return whether the values of `field` are those of foreign keys to the tenant.

    So are those of a foreign key to a model whose own key is one, such as a child of the tenant in
    multi-table inheritance.
    """
    while isinstance(field, models.ForeignKey):
        if is_tenant_model(field.remote_field.model):
            return True
        field = field.target_field
    return False


def not_the_tenant(field: Any) -> str:
    """Return that the foreign key `field` refers to another model than the tenant's."""
    return (
        f"{field.model._meta.label}.{field.name} refers to {field.remote_field.model._meta.label},"
        f" and not to the tenant, {rls_tenants().tenant_model}"
    )
