"""What an instance of a model says of its tenant, saved or not."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.expressions import DatabaseDefault

from .binding import current_binding
from .expressions import CurrentTenant


def tenant_of(instance: Any, attname: str) -> Any:
    """Return the tenant that the instance will be saved with; None where it is not known."""
    value: Any = getattr(instance, attname)
    if isinstance(value, DatabaseDefault):
        default: Any = value
        value = default.expression
        if isinstance(value, CurrentTenant):
            return current_binding().tenant_id
        return value.value if isinstance(value, models.Value) else None
    return value


def tenant_to_validate(instance: Any, field: Any) -> Any:
    """Return the tenant that `field` names; None where validation has nothing to compare.

    As Django does, it fetches nothing that was deferred, and leaves it to the validation of `field`
    to refuse anything that is not a key.
    """
    if field.attname in instance.get_deferred_fields():
        return None
    tenant = tenant_of(instance, field.attname)
    try:
        field.to_python(tenant)
    except ValidationError:
        return None
    return tenant
