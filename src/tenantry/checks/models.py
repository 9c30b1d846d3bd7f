"""The models: what can be found without a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist

from ..conf import is_shared, rls_tenants
from ..constraints import RLSConstraint
from ..dependents import is_protected
from ..keys import key_type_of
from .findings import Finding
from .unique import inspect_unique

# PostgreSQL cuts longer names off.
LONGEST_NAME = 63

Model = type[Any]


def inspect_models(found: Iterable[Model]) -> Iterator[Finding]:
    """Yield what is wrong with models that have tables."""
    for model in found:
        constraints = [each for each in model._meta.constraints if isinstance(each, RLSConstraint)]
        # What others that are not managed have is told by the database, which is asked.
        if model._meta.proxy or not (model._meta.managed or constraints):
            continue
        if is_protected(model, apps):
            yield from inspect_name(model)
        elif not is_shared(model):
            yield from inspect_unprotected(model)
        if len(constraints) > 1:
            names = ", ".join(each.name for each in constraints)
            yield Finding(
                "tenantry.E151",
                f"model {model._meta.label}",
                f"has {len(constraints)} RLSConstraints ({names}), but a table has one policy",
                "remove all but one",
            )
        for constraint in constraints:
            field = field_of(model, constraint)
            if field is not None:
                yield from inspect_key(model, constraint, field)
        yield from inspect_unique(model)


def field_of(model: Model, constraint: RLSConstraint) -> Any:
    """Return the field that names the tenant; None for a path, or if there is no such field."""
    if constraint.field is None:
        return None
    try:
        return model._meta.get_field(constraint.field)
    except FieldDoesNotExist:
        return None


def inspect_name(model: Model) -> Iterator[Finding]:
    """Yield whether PostgreSQL would know the table by another name than Django."""
    name = model._meta.db_table
    length = len(name.encode())
    if length > LONGEST_NAME:
        yield Finding(
            "tenantry.E152",
            f"model {model._meta.label}",
            f"has the table name {name!r} of {length} bytes, which PostgreSQL cuts off after"
            f" {LONGEST_NAME}",
            "set a shorter db_table in its Meta",
        )


def inspect_key(model: Model, constraint: RLSConstraint, field: Any) -> Iterator[Finding]:
    """Yield whether the tenant's column has another type than the policy compares it with."""
    key_type, wanted = key_type_of(field), constraint.policy.key_type
    if key_type is not None and key_type != wanted:
        yield Finding(
            "tenantry.E153",
            f"model {model._meta.label}",
            f"is protected by {field.name}, a column of type {key_type}, but its RLSConstraint"
            f" compares it with a tenant id of type {wanted}",
            f"make {field.name} a foreign key to {rls_tenants().tenant_model}",
        )


def inspect_unprotected(model: Model) -> Iterator[Finding]:
    """Yield whether a model without a policy refers to the tenant."""
    for field in model._meta.local_concrete_fields:
        other = field.is_relation and field.remote_field.model
        if other and other._meta.label_lower == rls_tenants().tenant_model.lower():
            yield Finding(
                "tenantry.W154",
                f"model {model._meta.label}",
                f"refers to the tenant by {field.name}, and has no policy",
                f"add RLSConstraint(field={field.name!r}) to its Meta.constraints, or name it in"
                " RLS_TENANTS['SHARED_MODELS']",
            )
