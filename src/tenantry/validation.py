"""Validation of what is unique in a tenant, where a form does not show the tenant.

Django leaves fields out of validation that a form does not show, and constraints with them, because
a view may set them later. The tenant is set by the database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError

from .binding import current_binding
from .conf import rls_tenants
from .constraints import RLSConstraint
from .instances import tenant_to_validate


def tenant_fields(row: Any, exclude: Collection[str] | None) -> set[str]:
    """Return which of the fields that are left out name the tenant of `row`, if it is known.

    Where nobody is bound, none is: the database would show no row to compare with.
    """
    binding = current_binding()
    if binding.tenant_id is None and not binding.is_admin:
        return set()
    names = {
        each.field
        # Those of its parents, and of the model that it is a proxy of, too.
        for _, constraints in row.get_constraints()
        for each in constraints
        if isinstance(each, RLSConstraint) and each.field
    } | {rls_tenants().tenant_fk_field}
    left_out = names & set(exclude or ())
    return {
        field.name
        for field in row._meta.fields
        if field.name in left_out and tenant_to_validate(row, field) is not None
    }


@contextmanager
def not_shown(names: Collection[str]) -> Iterator[None]:
    """Let errors of fields that a form does not show be errors of the row.

    A form refuses an error of a field that it does not have.

    Raises django.core.exceptions.ValidationError.
    """
    try:
        yield
    except ValidationError as error:
        errors: dict[str, Any] = error.update_error_dict({})
        moved = [each for name in names for each in errors.pop(name, [])]
        if not moved:
            raise
        raise ValidationError(
            {**errors, NON_FIELD_ERRORS: [*errors.get(NON_FIELD_ERRORS, []), *moved]}
        ) from None
