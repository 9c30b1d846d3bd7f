"""The models: what can be found without a server."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
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
Column = tuple[str, str | None]


def inspect_models(found: Iterable[Model]) -> Iterator[Finding]:
    """Yield what is wrong with models that have tables."""
    columns = columns_of_tenants()
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
        # Each policy of another package's table is written by hand.
        elif not (is_shared(model) or external_column(model)):
            yield from inspect_unprotected(model, columns)
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


def inspect_unprotected(model: Model, columns: Collection[Column]) -> Iterator[Finding]:
    """Yield a finding if a model without a policy names the tenant, or is part of its rows.

    `columns` are those that name the tenant of protected models.
    """
    fields: Any = model._meta.local_concrete_fields
    named = [
        field
        for field in fields
        if refers_to_tenant(field) or (not field.is_relation and column_of_key(field) in columns)
    ]
    if not named:
        yield from inspect_parts(model)
        yield from inspect_held(model)
    for field in named:
        add = f"add RLSConstraint(field={field.name!r}) to its Meta.constraints"
        if model._meta.auto_created:
            add = "write a model for the relation, with an RLSConstraint, as its through"
        how = f"refers to the tenant by {field.name}"
        if not field.is_relation:
            how = f"has the column {field.column}, by which other models are protected"
        yield Finding(
            "tenantry.W154",
            f"model {model._meta.label}",
            f"{how}, and has no policy",
            f"{add}, or name it in RLS_TENANTS['SHARED_MODELS']",
        )


def columns_of_tenants() -> set[Column]:
    """Return the columns by which models are protected, but for keys, such as the tenants' own."""
    return {
        column_of_key(field)
        for model in apps.get_models()
        for constraint in constraints_of(model)
        for field in model._meta.local_concrete_fields
        if field.name == constraint.field
        and not field.primary_key
        and (not field.is_relation or refers_to_model(field))
    }


def column_of_key(field: Any) -> Column:
    """Return a field's column, and its type of a key, in which the sizes of integers are one."""
    key_type = key_type_of(field)
    return field.column, "bigint" if key_type == "int" else key_type


def inspect_parts(model: Model) -> Iterator[Finding]:
    """Yield a finding if the rows of a model without a policy are parts of protected rows."""
    for field in model._meta.local_fields:
        if not refers_to_model(field):
            continue
        whole = concrete_target(field, apps)
        if not (is_protected(whole, apps) or is_apart(model, field, whole)):
            continue
        # Such a row is not without the other, or ends with it.
        if not field.null or cascades(field.remote_field.on_delete):
            yield Finding(
                "tenantry.W158",
                f"model {model._meta.label}",
                f"refers to the protected {whole._meta.label} by {field.name}, and has no policy,"
                " so that every tenant sees its rows",
                f"{fix_of_part(model, field, whole)}, or name it in RLS_TENANTS['SHARED_MODELS']",
            )
            return


def is_apart(model: Model, field: Any, whole: Model) -> bool:
    """Return whether `field` refers to a protected model of another package, from outside of it.

    Its children and many-to-many relations are looked at in the database.
    """
    is_inside = model._meta.auto_created or field.remote_field.parent_link
    return not is_inside and external_column(whole) is not None


def fix_of_part(model: Model, field: Any, whole: Model) -> str:
    """Return how a `model` is protected whose rows are parts of those that `field` refers to."""
    # A path has columns only.
    if field.concrete and external_column(whole) is None:
        path = f"{field.name}__{path_of(whole)}"
        return f"add RLSConstraint(path={path!r}) to its Meta.constraints, {or_by_operation(model)}"
    return fix_by_column(model)


def fix_by_column(model: Model) -> str:
    """Return how a `model` is protected that nothing leads from to the tenant."""
    return f"give it a foreign key to the tenant with an RLSConstraint, {or_by_operation(model)}"


def or_by_operation(model: Model) -> str:
    """Return how a `model` is protected whose Meta is not the project's."""
    return (
        f"or if it is another package's, put AddRLSPolicy({model._meta.label!r}) into a migration"
    )


def inspect_held(model: Model) -> Iterator[Finding]:
    """Yield a finding if a model without a policy holds parts of rows whose model says so."""
    for relation in model._meta.get_fields(include_parents=False, include_hidden=True):
        role = role_in(relation)
        if role and is_protected(relation.related_model, apps):
            yield Finding(
                "tenantry.W158",
                f"model {model._meta.label}",
                f"is {role} of the protected {relation.related_model._meta.label}, and has no"
                " policy, so that every tenant sees its part of the rows",
                f"{fix_by_column(model)}, or name it in RLS_TENANTS['SHARED_MODELS']",
            )
            return


def role_in(relation: Any) -> str | None:
    """Return what a model is to another one that inherits from it, or has a GenericRelation."""
    if getattr(relation, "parent_link", False):
        return "a parent"
    # Its module needs the app of content types.
    is_generic = hasattr(getattr(relation, "field", None), "content_type_field_name")
    return "the target of a GenericRelation" if is_generic else None


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
