"""Which tables are protected, and by which column."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from django.apps.registry import Apps
from django.db.models.signals import class_prepared

from .conf import rls_tenants
from .constraints import RLSConstraint
from .exceptions import NoTenantContextError

_columns: WeakKeyDictionary[Apps, Mapping[str, str]] = WeakKeyDictionary()


def tenant_columns(apps: Apps) -> Mapping[str, str]:
    """Return the tenant column of every protected table of a model registry.

    The registry is the model's own, because migrations have one for every state, in which a table
    may not be protected yet.
    """
    columns = _columns.get(apps)
    if columns is None:
        columns = {
            model._meta.db_table: constraint.column(model)
            for model in apps.get_models(include_auto_created=True)
            for constraint in model._meta.constraints
            if isinstance(constraint, RLSConstraint)
        }
        if apps.ready:
            _columns[apps] = columns
    return columns


def require_tenant(apps: Apps, tables: Collection[str]) -> None:
    """Raise NoTenantContextError if strict mode wants a scope for one of `tables`."""
    settings = rls_tenants()
    if not settings.strict_mode:
        return
    protected = tenant_columns(apps)
    for model in apps.get_models(include_auto_created=True):
        options = model._meta
        if (
            options.db_table in tables
            and options.db_table in protected
            and not {options.label, options.app_label} & set(settings.strict_mode_exclude)
        ):
            raise NoTenantContextError(
                f"a query of {options.label} runs in no scope, where it finds nothing; open"
                " tenant_context() or admin_context() around it, or name the model in"
                " RLS_TENANTS['STRICT_MODE_EXCLUDE']"
            )


def _forget(sender: Any, **kwargs: Any) -> None:
    _columns.pop(sender._meta.apps, None)


class_prepared.connect(_forget, dispatch_uid="tenantry.protected.forget")
