"""Which tables are protected, and how their rows name their tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from django.apps.registry import Apps
from django.apps.registry import apps as installed
from django.core.exceptions import FieldDoesNotExist
from django.core.signals import setting_changed
from django.db.models.signals import class_prepared

from .conf import rls_tenants
from .constraints import RLSConstraint
from .exceptions import NoTenantContextError, RLSConfigurationError
from .policies.owners import Owner


class Protection(NamedTuple):
    """Hold how the rows of a table name their tenant, and who else reads them."""

    owner: Owner
    flags: Collection[str] = ()
    # Whether the policy shows rows of other tenants too.
    is_shared: bool = False


_protections: WeakKeyDictionary[Apps, Mapping[str, Protection]] = WeakKeyDictionary()


def protections(apps: Apps) -> Mapping[str, Protection]:
    """Return how each protected table of a model registry is protected.

    The registry is the model's own, because migrations have one for every state, in which a table
    may not be protected yet.
    """
    found = _protections.get(apps)
    if found is None:
        found = {
            model._meta.db_table: Protection(
                constraint.owner(model),
                constraint.extra_bypass_flags,
                bool(constraint.extra_predicates),
            )
            for model in apps.get_models(include_auto_created=True)
            for constraint in model._meta.constraints
            if isinstance(constraint, RLSConstraint)
        }
        if apps is installed:
            found |= {
                model._meta.db_table: Protection(Owner(column_of(model, column)))
                for model, column in external_models()
            }
        if apps.ready:
            _protections[apps] = found
    return found


def external_models() -> Iterator[tuple[Any, str]]:
    """Yield the models of other packages that are protected, and what names their tenant.

    Raises RLSConfigurationError for one that is not installed.
    """
    for label, column in rls_tenants().external_models.items():
        try:
            yield installed.get_model(label), column
        except LookupError as error:
            raise RLSConfigurationError(
                f"RLS_TENANTS['EXTERNAL_MODELS'] names {label!r}, which is not installed: {error}"
            ) from error


def column_of(model: Any, name: str) -> str:
    """Return the column of a field of that name, or the name of a column that has no field."""
    try:
        column: str = model._meta.get_field(name).column
    except FieldDoesNotExist:
        return name
    return column


def require_tenant(apps: Apps, tables: Collection[str]) -> None:
    """Raise NoTenantContextError if strict mode wants a scope for one of `tables`."""
    settings = rls_tenants()
    if not settings.strict_mode:
        return
    for model in apps.get_models(include_auto_created=True):
        options = model._meta
        if options.db_table in tables and not {options.label, options.app_label} & set(
            settings.strict_mode_exclude
        ):
            raise NoTenantContextError(
                f"a query of {options.label} runs in no scope, where it finds nothing; open"
                " tenant_context() or admin_context() around it, or name the model in"
                " RLS_TENANTS['STRICT_MODE_EXCLUDE']"
            )


def _forget(sender: Any, **kwargs: Any) -> None:
    _protections.pop(sender._meta.apps, None)


def _forget_settings(*, setting: str, **kwargs: Any) -> None:
    if setting == "RLS_TENANTS":
        _protections.pop(installed, None)


class_prepared.connect(_forget, dispatch_uid="tenantry.protected.forget")
setting_changed.connect(_forget_settings, dispatch_uid="tenantry.protected.forget_settings")
