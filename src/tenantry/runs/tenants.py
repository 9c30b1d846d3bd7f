"""Which tenants a command runs as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import FieldDoesNotExist, FieldError, ValidationError
from django.core.management.base import CommandError
from django.db import router

from ..binding import TenantId
from ..conf import tenant_key, tenant_model
from ..exceptions import InvalidTenantIdError
from ..tenants import seeing_all

LIST_THEM = (
    "list the tenants with: python manage.py run_for_all_tenants --list (its first column is the"
    " primary key)"
)
BY_FIELD = f"name a tenant by another field with --by FIELD, or {LIST_THEM}"


def all_tenants(database: str | None = None) -> Any:
    """Return a queryset of all tenants, in the order of their keys, to read in `seeing_all`."""
    model = tenant_model()
    alias = database or router.db_for_read(model)
    return model._base_manager.using(alias).order_by("pk")


def parse_key(value: object, advice: str = BY_FIELD) -> TenantId:
    """Return a primary key, as the binding has it, from what stands on a command line.

    Raises CommandError, with `advice`, for what cannot be one.
    """
    try:
        return tenant_key().parse(value)
    except InvalidTenantIdError as error:
        raise CommandError(f"{error}; {advice}") from error


def find_tenant(value: str, by: str = "pk", database: str | None = None) -> Any:
    """Return the tenant that has `value` as its primary key, or in another unique field.

    Raises CommandError when there is none.
    """
    if by == "pk":
        tenants = all_tenants(database).filter(pk=parse_key(value))
    else:
        require_unique(by)
        tenants = filtered(all_tenants(database), [f"{by}={value}"])
    with seeing_all():
        found = tenants.first()
    if found is None:
        where = f" in the database {tenants.db!r}" if database else ""
        raise CommandError(f"there is no tenant whose {by} is {value!r}{where}; {LIST_THEM}")
    return found


def require_unique(name: str) -> None:
    """Raise CommandError unless `name` is a unique field of the tenant's model."""
    options = tenant_model()._meta
    unique = [field.name for field in options.concrete_fields if field.unique]
    try:
        is_unique = options.get_field(name).unique
    except (FieldDoesNotExist, AttributeError):
        is_unique = False
    if not is_unique:
        raise CommandError(
            f"--by names {name!r}, which is not a unique field of {options.label}; it must be one"
            f" of {', '.join(unique)}"
        )


def filtered(tenants: Any, conditions: Sequence[str], *, exclude: bool = False) -> Any:
    """Return the tenants that meet ``lookup=value`` conditions, or that do not.

    Raises CommandError for a condition that Django does not understand.
    """
    for condition in conditions:
        lookup, equals, text = condition.partition("=")
        try:
            if not equals:
                raise ValueError("it has no =")
            chosen = {lookup: lookup_value(lookup, text)}
            tenants = tenants.exclude(**chosen) if exclude else tenants.filter(**chosen)
        except (FieldError, ValueError, TypeError, ValidationError) as error:
            raise CommandError(
                f"{condition!r} is not a condition on {tenant_model()._meta.label}, such as"
                f" plan=pro or created__year=2026: {error}"
            ) from error
    return tenants


def lookup_value(lookup: str, text: str) -> Any:
    """Return what a lookup compares with."""
    if lookup.endswith("__isnull"):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    return text.split(",") if lookup.endswith(("__in", "__range")) else text
