"""The foreign keys of models: which of them ``SAME_TENANT_FOREIGN_KEYS`` keeps in their tenant."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.migrations.state import StateApps
from django.db.models.fields.related import lazy_related_operation

from .conf import rls_tenants
from .samekeys import SameTenant, is_of_tenant, tenant_field


def settle(sender: Any, **kwargs: Any) -> None:
    """Tell the constraints of a model whose they are, and add those that the settings want."""
    for constraint in sender._meta.constraints:
        if isinstance(constraint, SameTenant):
            constraint.settle(sender)
    options: Any = sender._meta
    if isinstance(options.apps, StateApps) or options.proxy or options.auto_created:
        return
    keys: list[Any] = [key for key in options.local_fields if isinstance(key, models.ForeignKey)]
    for key in keys:
        if key.db_constraint:
            lazy_related_operation(relate, sender, key.remote_field.model, name=key.name)


def relate(model: Any, to: Any, name: str) -> None:
    """Keep a foreign key between two protected models in its tenant, if the settings want it.

    Both have a field that names the tenant; a model that is protected by a path has none.
    """
    options, to = model._meta, to._meta.concrete_model
    if (
        None in {tenant_field(model), tenant_field(to)}
        or not rls_tenants().same_tenant_foreign_keys
        or name == tenant_field(model)
        or is_of_tenant(options.get_field(name), to)
        or not (options.managed and to._meta.managed)
        or any(isinstance(each, SameTenant) and each.field == name for each in options.constraints)
    ):
        return
    constraint = SameTenant(field=name)
    constraint.name %= {"app_label": options.app_label.lower(), "class": model.__name__.lower()}
    constraint.settle(model)
    options.constraints = [*options.constraints, constraint]
