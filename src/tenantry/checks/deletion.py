"""What becomes of rows that refer to one that is deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..declared import constraints_of
from ..samekeys import SameTenant, tenant_field
from .findings import Finding

Model = type[Any]


def inspect_deletion(model: Model) -> Iterator[Finding]:
    """Yield the foreign keys of a protected model by which rows of other tenants change or go."""
    constraints = model._meta.constraints
    kept = {each.field for each in constraints if isinstance(each, SameTenant)}
    # By these a row has the tenant of the one that it refers to, or names the tenant itself.
    kept |= {each.way.partition("__")[0] for each in constraints_of(model)}
    kept |= {link.name for link in model._meta.parents.values() if link}
    for field in model._meta.local_concrete_fields:
        on_delete: Any = getattr(field.remote_field, "on_delete", None)
        # Since Django 6.1.
        if not hasattr(on_delete, "on_delete_sql"):
            continue
        if field.name not in kept and field.db_constraint and model._meta.managed:
            yield Finding(
                "tenantry.W152",
                f"model {model._meta.label}",
                f"has on_delete={on_delete.__name__} on {field.name}: PostgreSQL applies no"
                " policies to that, and deletes or changes the rows of other tenants, too",
                fix_of_deletion(model, field),
            )


def inspect_path(model: Model) -> Iterator[Finding]:
    """Yield a finding if rows of a model that is protected by a path may refer to nothing.

    Django lets PostgreSQL delete what such a key refers to first, and the path ends there.
    """
    for constraint in constraints_of(model):
        step = constraint.way.partition("__")[0]
        for field in model._meta.local_concrete_fields:
            if constraint.path is not None and field.name == step and field.null:
                yield Finding(
                    "tenantry.W153",
                    f"model {model._meta.label}",
                    f"is protected by the path {constraint.path}, and {step} may be null: no tenant"
                    " sees a row where it is, and what it refers to may be impossible to delete",
                    f"set null=False on {step}, or protect the model by a foreign key to the"
                    " tenant",
                )


def fix_of_deletion(model: Model, field: Any) -> str:
    """Return what keeps a foreign key from reaching rows of other tenants."""
    name = field.remote_field.on_delete.__name__.removeprefix("DB_")
    to = field.remote_field.model
    # What is no model yet, Django names.
    if isinstance(to, str) or None in {tenant_field(model), tenant_field(to._meta.concrete_model)}:
        return f"let Django do it, by on_delete={name}"
    return f"add SameTenant(field={field.name!r}), or let Django do it, by on_delete={name}"
