"""The models: what can be found without a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import CASCADE

from ..conf import is_shared, rls_tenants
from ..constraints import RLSConstraint
from ..declared import constraint_of, constraints_of
from ..dependents import concrete_target, is_protected, protecting_links
from ..keys import key_type_of
from ..protected import external_column
from ..samekeys import MAX_NAME
from ..targets import is_tenant_model
from .deletion import inspect_deletion, inspect_path
from .findings import Finding
from .unique import inspect_unique

Model = type[Any]


def inspect_models(found: Iterable[Model]) -> Iterator[Finding]:
    """Yield what is wrong with models that have tables."""
    for model in found:
        constraints = constraints_of(model)
        if model._meta.proxy:
            yield from inspect_proxy(model)
        # Other unmanaged models are looked at in the database, which knows what they have.
        if model._meta.proxy or not (model._meta.managed or constraints):
            continue
        if is_protected(model, apps):
            yield from inspect_name(model)
            yield from inspect_deletion(model)
            yield from inspect_path(model)
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
            if (key := compared_field(model, constraint)) is not None:
                yield from inspect_key(model, constraint, key)
        yield from inspect_unique(model)


def inspect_proxy(model: Model) -> Iterator[Finding]:
    """Yield a finding if a proxy asks for policies that its table does not have."""
    owner: Any = model._meta.concrete_model
    # It may have the constraint from the Meta of a model that is protected.
    if constraints_of(model) and not (is_protected(owner, apps) or external_column(owner)):
        yield Finding(
            "tenantry.E159",
            f"model {model._meta.label}",
            "is a proxy with an RLSConstraint, for which no migration makes a policy, so that every"
            f" tenant may see the rows of {owner._meta.label}",
            f"move the RLSConstraint to {owner._meta.label}, or if that is another package's,"
            " protect it by AddRLSPolicy",
        )


def compared_field(model: Model, constraint: RLSConstraint) -> Any:
    """Return the field that the policy compares; None if nothing leads there."""
    *steps, last = constraint.way.split("__")
    try:
        for step in steps:
            model = model._meta.get_field(step).remote_field.model
        return model._meta.get_field(last)
    except (AttributeError, FieldDoesNotExist):
        return None


def inspect_name(model: Model) -> Iterator[Finding]:
    """Yield a finding if PostgreSQL would cut off the table's name."""
    # Django takes "schema"."table" for a name that is quoted already; each part has its own limit.
    name = max(model._meta.db_table.strip('"').split('"."'), key=lambda part: len(part.encode()))
    length = len(name.encode())
    if length > MAX_NAME:
        yield Finding(
            "tenantry.E152",
            f"model {model._meta.label}",
            f"has the table name {name!r} of {length} bytes, which PostgreSQL cuts off after"
            f" {MAX_NAME}",
            "set a shorter db_table in its Meta",
        )


def inspect_key(model: Model, constraint: RLSConstraint, field: Any) -> Iterator[Finding]:
    """Yield a finding if the tenant's column has another type than the policy compares it with."""
    key_type, wanted = key_type_of(field), constraint.shape.key_type
    if key_type is not None and key_type != wanted:
        yield Finding(
            "tenantry.E153",
            f"model {model._meta.label}",
            f"is protected by {constraint.way}, a column of type {key_type},"
            f" but its RLSConstraint compares it with a tenant id of type {wanted}",
            fix_of_key(constraint, field),
        )


def fix_of_key(constraint: RLSConstraint, field: Any) -> str:
    """Return what to do where the types of `field` and of the tenant's id differ."""
    settings = rls_tenants()
    if not refers_to_tenant(field):
        return f"make {field.name} a foreign key to {settings.tenant_model}"
    if constraint.key_type is not None:
        return f"remove key_type={constraint.key_type!r} from its RLSConstraint"
    if settings.tenant_pk_type is not None:
        return (
            f"remove RLS_TENANTS['TENANT_PK_TYPE'], which is {settings.tenant_pk_type!r}, or change"
            f" the primary key of {settings.tenant_model}"
        )
    return f"let {field.name} refer to the primary key of {settings.tenant_model}"


def refers_to_tenant(field: Any) -> bool:
    """Return whether `field` is a foreign key to the tenant."""
    return refers_to_model(field) and is_tenant_model(field.remote_field.model)


def refers_to_model(field: Any) -> bool:
    """Return whether `field` refers to a model that is installed; Django names one that is not."""
    return bool(field.is_relation) and not isinstance(field.remote_field.model, str)


def has_other_key(model: Model) -> bool:
    """Return whether the policy of `model` compares values of two types."""
    return any(each.id == "tenantry.E153" for each in inspect_models([model]))


def inspect_unprotected(model: Model) -> Iterator[Finding]:
    """Yield a finding if a model without a policy refers to the tenant, or is part of its rows."""
    fields: Any = model._meta.local_concrete_fields
    if not any(refers_to_tenant(field) for field in fields):
        yield from inspect_parts(model)
    for field in fields:
        if refers_to_tenant(field):
            add = f"add RLSConstraint(field={field.name!r}) to its Meta.constraints"
            if model._meta.auto_created:
                add = "write a model for the relation, with an RLSConstraint, as its through"
            yield Finding(
                "tenantry.W154",
                f"model {model._meta.label}",
                f"refers to the tenant by {field.name}, and has no policy",
                f"{add}, or name it in RLS_TENANTS['SHARED_MODELS']",
            )


def inspect_parts(model: Model) -> Iterator[Finding]:
    """Yield a finding if the rows of a model without a policy are parts of protected rows."""
    # Each policy of another package's table is written by hand.
    if external_column(model):
        return
    for field in model._meta.local_concrete_fields:
        if not refers_to_model(field):
            continue
        whole = concrete_target(field, apps)
        if not is_protected(whole, apps):
            continue
        # Such a row is not without the other, or ends with it.
        if not field.null or cascades(field.remote_field.on_delete):
            path = f"{field.name}__{path_of(whole)}"
            yield Finding(
                "tenantry.W158",
                f"model {model._meta.label}",
                f"refers to the protected {whole._meta.label} by {field.name}, and has no policy,"
                " so that every tenant sees its rows",
                f"add RLSConstraint(path={path!r}) to its Meta.constraints, or name it in"
                " RLS_TENANTS['SHARED_MODELS']",
            )
            return


def cascades(on_delete: Any) -> bool:
    """Return whether rows are deleted with what they refer to, by Django or by the database."""
    # What the database does, since Django 6.1, names what Django does where it has to.
    return getattr(on_delete, "forced_collector", on_delete) is CASCADE


def path_of(model: Model) -> str:
    """Return the path from a protected model to its tenant."""
    if constraint := constraint_of(model):
        return constraint.way
    link = protecting_links(model, apps)[0]
    return f"{link.name}__{path_of(concrete_target(link, apps))}"
