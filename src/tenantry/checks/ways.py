"""The way to the tenant that an ``RLSConstraint`` names, and whether it leads there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from ..conf import rls_tenants
from ..declared import holds_tenant
from ..keys import key_type_of
from ..targets import links_to, names_tenant, not_the_tenant

if TYPE_CHECKING:
    from ..constraints import RLSConstraint


def check_way(constraint: RLSConstraint, model: Any) -> list[checks.CheckMessage]:
    """Return an error if the way does not lead from column to column, and to the tenant."""
    at, steps = model, constraint.way.split("__")
    for number, step in enumerate(steps, 1):
        try:
            field = at._meta.get_field(step)
        except FieldDoesNotExist:
            message = f"{at._meta.label} has no field {step!r} to protect its rows by."
            return [checks.Error(message, hint_of_names(constraint), model, "tenantry.E001")]
        # Those of a proxy are of the model that has its table.
        if field not in at._meta.concrete_model._meta.local_concrete_fields:
            message = f"{at._meta.label}.{step} is not a column of the model's own table."
            links = links_to(at, field)
            way = "__".join([*steps[: number - 1], *links, *steps[number - 1 :]])
            hint = "Declare a foreign key to the tenant on this model."
            if links and constraint.path is None:
                hint = (
                    f"Leave it to {field.model._meta.label}: rows of a child are protected with"
                    " their parent's. A model that has it from an abstract base needs a Meta of its"
                    " own."
                )
            elif links:
                hint = f"Name the link to the parent's table: RLSConstraint(path={way!r})."
            return [checks.Error(message, hint, model, "tenantry.E002")]
        if number < len(steps) and not isinstance(field, models.ForeignKey):
            message = (
                f"{at._meta.label}.{step} is not a foreign key, so a path cannot go on through it."
            )
            hint = "Name foreign keys in RLSConstraint(path='order__tenant')."
            return [checks.Error(message, hint, model, "tenantry.E003")]
        if field.is_relation and isinstance(field.remote_field.model, str):
            return []  # Django's own checks say that there is no such model.
        if number < len(steps):
            at = field.remote_field.model
    return check_end(constraint, model, at, field)


def hint_of_names(constraint: RLSConstraint) -> str:
    """Return how to name what leads to the tenant."""
    if constraint.path is None:
        return "Name the foreign key to the tenant in RLSConstraint(field=...)."
    path = constraint.path.replace(".", "__") if "." in constraint.path else "order__tenant"
    return f"Name foreign keys, and the tenant at the end, in RLSConstraint(path={path!r})."


def check_end(
    constraint: RLSConstraint, model: Any, at: Any, field: Any
) -> list[checks.CheckMessage]:
    """Return an error if `field` of `at`, where the way ends, does not name the tenant."""
    problem = end_problem(constraint, at, field)
    if problem is None:
        return []
    message = f"{model._meta.label} cannot be protected by {constraint.way}: {problem}."
    hint = (
        f"Name a foreign key to the primary key of {rls_tenants().tenant_model} in"
        " RLSConstraint(field=...), or at the end of its path."
    )
    return [checks.Error(message, hint, model, "tenantry.E007")]


def end_problem(constraint: RLSConstraint, model: Any, field: Any) -> str | None:
    """Return why a `field` of `model` does not name the tenant, or None.

    A plain column may, of a model that is protected by it.
    """
    if isinstance(field, models.ForeignKey):
        if not names_tenant(field):
            return not_the_tenant(field)
    elif constraint.path is not None and not holds_tenant(model, field):
        return f"{model._meta.label}.{field.name} is not a foreign key to the tenant"
    key_type, wanted = key_type_of(field), constraint.shape.key_type
    # E153 reports a column of the model itself.
    if constraint.path is not None and key_type not in (None, wanted):
        return (
            f"{model._meta.label}.{field.name} is of type {key_type}, and a tenant id of type"
            f" {wanted}"
        )
    return None
