"""Tables without a tenant of their own, whose rows belong to rows of protected tables.

Such are the table of a ``ManyToManyField`` without ``through`` and that of a child in multi-table
inheritance.

All of this asks a registry of models, because in a migration a model may still know the registry,
and the models, that there were before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from django.apps.registry import Apps

from .constraints import RLSConstraint
from .policies.ddl import Policy, Reference

Model = type[Any]


def is_protected(model: Model, apps: Apps) -> bool:
    """Return whether the model's table has a policy: one of its own, or by what it refers to."""
    return has_constraint(model) or bool(owners(model, apps))


def has_constraint(model: Model) -> bool:
    """Return whether the model's rows name their tenant."""
    return any(isinstance(each, RLSConstraint) for each in model._meta.constraints)


def links(model: Model) -> list[Any]:
    """Return the foreign keys that may decide who sees the rows of `model`."""
    options = model._meta
    if options.proxy or not options.managed:
        return []
    if options.auto_created:
        return [field for field in options.local_concrete_fields if field.is_relation]
    return [link for link in options.parents.values() if link in options.local_concrete_fields]


def owners(model: Model, apps: Apps) -> list[Any]:
    """Return the foreign keys to protected tables that decide who sees the rows of `model`."""
    if has_constraint(model):
        return []
    return [link for link in links(model) if is_protected(target(link, apps), apps)]


def references_of(model: Model, apps: Apps, quote: Callable[[str], str]) -> list[Reference]:
    """Return what :func:`owners` are in the database, its names quoted."""
    found = []
    for key in owners(model, apps):
        options = target(key, apps)._meta
        table, primary_key = quote(options.db_table), quote(options.pk.column)
        found.append(Reference(quote(key.column), table, primary_key))
    return found


def policy_of(model: Model, apps: Apps) -> Policy:
    """Return what the policy of a protected model depends on, or of the first it refers to."""
    for constraint in model._meta.constraints:
        if isinstance(constraint, RLSConstraint):
            return constraint.policy
    return policy_of(target(owners(model, apps)[0], apps), apps)


def label(key: Any) -> str:
    """Return the label of the model that a foreign key refers to."""
    found: str = key.remote_field.model._meta.label_lower
    return found


def target(key: Any, apps: Apps) -> Model:
    """Return the model that a foreign key refers to, as the registry has it if it does."""
    try:
        return apps.get_model(label(key))
    except LookupError:
        model: Model = key.remote_field.model
        return model


def dependents(model: Model, apps: Apps) -> Iterator[Model]:
    """Yield the models whose rows belong to rows of `model`, and those of theirs."""
    for other in apps.get_models(include_auto_created=True):
        if any(label(link) == model._meta.label_lower for link in links(other)):
            yield other
            yield from dependents(other, apps)
