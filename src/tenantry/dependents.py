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

from .declared import constraint_of, constraints_of
from .policies.ddl import Policy, Shape
from .policies.predicates import unlike
from .policies.references import Reference, all_exist_sql, dependent_policies
from .sharing import TenantField

Model = type[Any]


def is_protected(model: Model, apps: Apps) -> bool:
    """Return whether the model's table has a policy: one of its own, or by what it refers to."""
    return has_constraint(model) or bool(protecting_links(model, apps))


def has_constraint(model: Model) -> bool:
    """Return whether the model's rows name their tenant."""
    return constraint_of(model) is not None


def is_asked(model: Model, field: Any) -> bool:
    """Return whether a constraint of `model` asks `field` whose a row is, or who may read it."""
    names = set()
    for each in constraints_of(model):
        names.add(each.way.partition("__")[0])
        names |= {one.field for one in each.extra_predicates if isinstance(one, TenantField)}
    return field.name in names


def links(model: Model) -> list[Any]:
    """Return the foreign keys that may decide who sees the rows of `model`."""
    options = model._meta
    if options.proxy or not options.managed:
        return []
    if options.auto_created:
        relations = [field for field in options.local_concrete_fields if field.is_relation]
        # Where there is no such model, Django has its name, and a check of its own.
        return [each for each in relations if not isinstance(each.remote_field.model, str)]
    return [link for link in options.parents.values() if link in options.local_concrete_fields]


def protecting_links(model: Model, apps: Apps) -> list[Any]:
    """Return the foreign keys to protected tables that decide who sees the rows of `model`."""
    if has_constraint(model):
        return []
    return [link for link in links(model) if is_protected(concrete_target(link, apps), apps)]


def references_of(
    model: Model,
    apps: Apps,
    quote: Callable[[str], str],
    alias: str | None = None,
    table: str | None = None,
) -> list[Reference]:
    """Return what :func:`protecting_links` are in the database, its names quoted.

    `table` is the one whose rows the policies are for, if it is not the model's.
    """
    found = []
    own_table = quote(model._meta.db_table)
    alias = unlike(alias or unlike("owner", own_table), table or own_table)
    decisive = writing_links(model, apps)
    for key in protecting_links(model, apps):
        to = concrete_target(key, apps)
        decides = key in decisive and is_open(to, apps)
        own = holds_sql(to, apps, quote, alias, table or own_table) if decides else None
        target_table, primary_key = quote(to._meta.db_table), quote(to._meta.pk.column)
        found.append(Reference(quote(key.column), target_table, primary_key, own, alias))
    return found


def writing_links(model: Model, apps: Apps) -> list[Any]:
    """Return those of :func:`protecting_links` whose rows must be the tenant's for it to write.

    A row of a many-to-many relation is part of the row whose model declares the field. That one may
    refer to what others share, and what others share cannot be made to refer to anything.
    """
    found = protecting_links(model, apps)
    return found[:1] if model._meta.auto_created else found


def is_open(model: Model, apps: Apps) -> bool:
    """Return whether others may read rows of `model` that only their tenant may write."""
    if constraint := constraint_of(model):
        return bool(constraint.extra_predicates or constraint.extra_bypass_flags)
    return any(is_open(concrete_target(key, apps), apps) for key in writing_links(model, apps))


def holds_sql(model: Model, apps: Apps, quote: Callable[[str], str], alias: str, table: str) -> str:
    """Return the predicate that a row of a protected model, as `alias`, is the tenant's.

    It is part of a policy of the quoted `table`.
    """
    if constraint := constraint_of(model):
        return constraint.way_of(model).holds_sql(alias, constraint.shape.tenant, quote, table)
    return all_exist_sql(alias, references_of(model, apps, quote, f"{alias}_of", table), own=True)


def shape_of(model: Model, apps: Apps) -> Shape:
    """Return what the policy of a protected model depends on, or of the first it refers to."""
    if constraint := constraint_of(model):
        return constraint.shape
    return shape_of(concrete_target(protecting_links(model, apps)[0], apps), apps)


def policies_of(
    model: Model, apps: Apps, quote: Callable[[str], str], table: str | None = None
) -> list[Policy]:
    """Return the policies of a protected model's table, or of a quoted one of the same columns."""
    table = table or quote(model._meta.db_table)
    if constraint := constraint_of(model):
        return constraint.policies(model, quote, table)
    references = references_of(model, apps, quote, table=table)
    return dependent_policies(table, references, shape_of(model, apps))


def target(key: Any, apps: Apps) -> Model:
    """Return the model that a foreign key refers to, as the registry has it if it does."""
    model: Model = key.remote_field.model
    try:
        return apps.get_model(model._meta.label_lower)
    except LookupError:
        return model


def concrete_target(key: Any, apps: Apps) -> Model:
    """Return the model that has the table that a foreign key refers to, maybe by a proxy."""
    model: Model = target(key, apps)._meta.concrete_model
    return model


def dependents(model: Model, apps: Apps) -> Iterator[Model]:
    """Yield the models whose rows belong to rows of `model`, and those of theirs."""
    for other in apps.get_models(include_auto_created=True):
        targets = (concrete_target(link, apps) for link in links(other))
        if any(each._meta.label == model._meta.label for each in targets):
            yield other
            yield from dependents(other, apps)
