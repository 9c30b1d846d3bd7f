"""The constraints by which a model declares whose its rows are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .targets import is_tenant_model

if TYPE_CHECKING:
    from .constraints import RLSConstraint


def constraints_of(model: Any) -> list[RLSConstraint]:
    """Return what protects the table of `model`; more than one is an error of check E151."""
    from .constraints import RLSConstraint  # noqa: PLC0415 - it imports this module

    return [each for each in model._meta.constraints if isinstance(each, RLSConstraint)]


def constraint_of(model: Any) -> RLSConstraint | None:
    """Return the first of them; None of a model whose rows name no tenant."""
    return next(iter(constraints_of(model)), None)


def holds_tenant(model: Any, field: Any) -> bool:
    """Return whether a plain `field` is the key of the tenant itself, or protects its `model`."""
    if field.primary_key and is_tenant_model(model):
        return True
    return any(each.field == field.name for each in constraints_of(model))
