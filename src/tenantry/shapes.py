"""The shape of policies: how operations of migrations say it, and what the settings make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .conf import rls_tenants, tenant_key
from .exceptions import RLSConfigurationError
from .keys import KEY_TYPES
from .policies.ddl import LATEST, Shape
from .validators import GUC_PREFIX, MODEL_LABEL, PREFIX_IS


def given(**shape: Any) -> dict[str, Any]:
    """Return what an operation of a migration says of its policies, as the migration says it.

    ``MigrationWriter`` writes no other arguments than those that have a name of their own.
    """
    return {name: value for name, value in shape.items() if value is not None}


def check_arguments(operation: str, model: Any, shape: Mapping[str, Any]) -> None:
    """Look at what an operation of a migration was given.

    Raises TypeError for an unknown argument, and RLSConfigurationError for a value that is not
    allowed.
    """
    if not isinstance(model, str) or not MODEL_LABEL.fullmatch(model):
        raise RLSConfigurationError(
            f"{operation}({model!r}) needs the label of a model, such as 'taggit.Tag'"
        )
    known = [each.name for each in fields(Shape)]
    for name in shape:
        if name not in known:
            raise TypeError(
                f"{operation}({model!r}) has the unknown argument {name!r}; a policy is made of"
                f" {', '.join(known)}"
            )
    key_type, prefix = shape.get("key_type", KEY_TYPES[0]), shape.get("guc_prefix", "rls")
    if key_type not in KEY_TYPES:
        raise RLSConfigurationError(
            f"{operation}({model!r}) has key_type={key_type!r}; it must be one of"
            f" {', '.join(KEY_TYPES)}"
        )
    if not isinstance(prefix, str) or not GUC_PREFIX.fullmatch(prefix):
        raise RLSConfigurationError(
            f"{operation}({model!r}) has guc_prefix={prefix!r}; it must be {PREFIX_IS}"
        )


def says_all(shape: Mapping[str, Any]) -> bool:
    """Return whether `shape` has all that has no natural default."""
    return {"guc_prefix", "key_type", "version"} <= set(shape)


def current() -> dict[str, Any]:
    """Return what a policy is made of by the settings and the release as they are now."""
    settings = rls_tenants()
    options = {name: getattr(settings, name) for name in ("admin_role", "app_role", "sealed")}
    return {
        "guc_prefix": settings.guc_prefix,
        "key_type": tenant_key().sql_type,
        "version": LATEST,
        **{name: value for name, value in options.items() if value},
    }


def arguments(values: Mapping[str, Any]) -> str:
    """Return `values` as the keyword arguments of a call."""
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
