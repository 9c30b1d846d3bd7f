"""Which tables are protected, and by which column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from django.apps.registry import Apps
from django.db.models.signals import class_prepared

from .constraints import RLSConstraint

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


def _forget(sender: Any, **kwargs: Any) -> None:
    _columns.pop(sender._meta.apps, None)


class_prepared.connect(_forget, dispatch_uid="tenantry.protected.forget")
