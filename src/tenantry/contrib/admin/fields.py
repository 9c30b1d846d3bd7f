"""The field that says whose a row is."""

from __future__ import annotations

from typing import Any

from django.db import models

from ...constraints import RLSConstraint
from ...protected import external_models, protections


def is_protected(model: Any) -> bool:
    """Return whether a row of `model`, or what it inherits, needs a tenant, however it names it."""
    options = model._meta
    tables = {options.db_table, *(parent._meta.db_table for parent in options.get_parent_list())}
    return not tables.isdisjoint(protections(options.apps))


def tenant_field(model: Any) -> Any:
    """Return the field that names the tenant of rows of `model`; None where none does.

    It may be inherited, also from another table. What is protected by a path has none.
    """
    external = dict(external_models())
    for owner in model.__mro__:
        if not issubclass(owner, models.Model) or not hasattr(owner, "_meta"):
            continue
        names = {
            each.field for each in owner._meta.constraints if isinstance(each, RLSConstraint)
        } | {external.get(owner)}
        for field in owner._meta.concrete_fields:
            if names & {field.name, field.column}:
                return model._meta.get_field(field.name)
    return None
