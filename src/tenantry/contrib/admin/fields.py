"""The field that says whose a row is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db import models

from ...conf import tenant_model
from ...declared import constraints_of
from ...instances import tenant_of
from ...protected import Protection, external_models, protections

NOTHING: Mapping[str, Any] = MappingProxyType({})


def needs_tenant(model: Any) -> bool:
    """Return whether a row of `model`, or what it inherits, needs a tenant, however it names it.

    False where a constraint of the project names a field that does not exist, which its check says.
    """
    try:
        known = protections(model._meta.apps)
    except FieldDoesNotExist:
        # Options are made when the site is, before any check could say what is wrong. Each query
        # raises this again.
        return False
    return any(known.flags(base._meta.db_table) is not None for base in with_parents(model))


def tenant_field(model: Any) -> Any:
    """Return the field that names the tenant of rows of `model`; None where none does.

    It may be inherited, also from another table. What is protected by a path has none.
    """
    external = dict(external_models())
    for base in model.__mro__:
        if not issubclass(base, models.Model) or not hasattr(base, "_meta"):
            continue
        names = {each.field for each in constraints_of(base)} | {external.get(base)}
        for field in base._meta.concrete_fields:
            if names & {field.name, field.column}:
                return model._meta.get_field(field.name)
    return None


def tenant_of_row(row: Any, chosen: Mapping[str, Any] = NOTHING) -> Any:
    """Return the tenant of a row, whose relations may be `chosen`; None where it is not known.

    A tenant is its own, once it is saved. One that is found by a path costs a query for each row on
    it.
    """
    if isinstance(row, tenant_model()):
        return getattr(row, tenant_model()._meta.pk.attname)
    field = tenant_field(type(row))
    if field is not None:
        return tenant_of(row, field.attname)
    first = first_step(type(row))
    if first is None:
        return None
    try:
        owner = chosen.get(first) or getattr(row, first)
    except ObjectDoesNotExist:
        return None
    return owner and tenant_of_row(owner)


def first_step(model: Any) -> str | None:
    """Return the foreign key that the path to the tenant begins with, if a path protects rows."""
    paths = [
        each.path for base in with_parents(model) for each in constraints_of(base) if each.path
    ]
    return paths[0].partition("__")[0] if paths else None


def protection_of(model: Any) -> tuple[Any, Protection] | None:
    """Return how rows of `model` name their tenant, and the model, it or a parent, that does."""
    known = protections(model._meta.apps)
    for base in with_parents(model):
        if base._meta.db_table in known:
            return base, known[base._meta.db_table]
    return None


def with_parents(model: Any) -> list[Any]:
    """Return a model and those that it inherits."""
    return [model, *model._meta.get_parent_list()]
