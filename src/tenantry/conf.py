"""The typed view of ``settings.RLS_TENANTS``, and the only reader of Django's settings.

========================  =========================  =============================================
key                       default                    means
========================  =========================  =============================================
``TENANT_MODEL``          required                   ``"app_label.Model"`` of the tenant
``TENANT_FK_FIELD``       ``"tenant"``               name of the foreign key on protected models
``GUC_PREFIX``            ``"rls"``                  prefix of the GUCs, ``<prefix>.current_tenant``
``TENANT_PK_TYPE``        from the tenant model      ``"int"``, ``"bigint"``, ``"uuid"``, ``"text"``
``USE_LOCAL_SET``         ``True``                   accepted for compatibility; only True is valid
``STRICT_MODE``           ``False``                  refuse ORM queries of protected models unbound
``STRICT_MODE_EXCLUDE``   ``()``                     labels of models or apps that it leaves alone
``SHARED_MODELS``         ``()``                     labels of models that W154 leaves alone
``REFUSE_EXEMPT_ROLE``    ``False``                  refuse to connect as a role no policy binds
========================  =========================  =============================================
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .exceptions import RLSConfigurationError
from .keys import KEY_TYPES, TenantKey, key_type_of

SETTING = "RLS_TENANTS"
ENGINES = ("tenantry.backends.postgresql", "tenantry.backends.postgis")
MODEL_LABEL = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
APP_OR_MODEL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")
GUC_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,30}")


@dataclass(frozen=True, slots=True)
class RLSTenants:
    """Hold the values of ``RLS_TENANTS``, validated; ``tenant_pk_type`` is None when left out."""

    tenant_model: str
    tenant_fk_field: str = "tenant"
    guc_prefix: str = "rls"
    tenant_pk_type: str | None = None
    use_local_set: bool = True
    strict_mode: bool = False
    strict_mode_exclude: Sequence[str] = ()
    shared_models: Sequence[str] = ()
    refuse_exempt_role: bool = False


@cache
def rls_tenants() -> RLSTenants:
    """Return the settings.

    Raises RLSConfigurationError naming the key, its value and what is allowed.
    """
    given = getattr(django_settings, SETTING, None)
    if not isinstance(given, Mapping):
        raise RLSConfigurationError(
            f"{SETTING} must be a dict with at least TENANT_MODEL, such as"
            f" {SETTING} = {{'TENANT_MODEL': 'accounts.Tenant'}}; got {given!r}"
        )
    known = {name.upper(): name for name in RLSTenants.__slots__}
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RLSConfigurationError(
                f"{SETTING} has the unknown key {key!r}{hint}; allowed are {', '.join(known)}"
            )
    if "TENANT_MODEL" not in given:
        raise RLSConfigurationError(
            f"{SETTING} lacks TENANT_MODEL; name the tenant's model, such as 'accounts.Tenant'"
        )
    for key, value in given.items():
        _VALIDATORS[key](value)
    return RLSTenants(**{known[key]: value for key, value in given.items()})


@cache
def tenant_key() -> TenantKey:
    """Return the type of tenant ids, from ``TENANT_PK_TYPE`` or the tenant model's primary key.

    Raises RLSConfigurationError when the tenant model is unknown or its key has no matching type.
    """
    settings = rls_tenants()
    if settings.tenant_pk_type is not None:
        return TenantKey(settings.tenant_pk_type)
    try:
        model = apps.get_model(settings.tenant_model)
    except LookupError as error:
        raise RLSConfigurationError(
            f"{SETTING}['TENANT_MODEL'] is {settings.tenant_model!r}, which is not installed:"
            f" {error}"
        ) from error
    key_type = key_type_of(model._meta.pk)
    if key_type is None:
        raise RLSConfigurationError(
            f"the primary key of {settings.tenant_model} is a {type(model._meta.pk).__name__}; set"
            f" {SETTING}['TENANT_PK_TYPE'] to one of {', '.join(KEY_TYPES)}"
        )
    return TenantKey(key_type)


def require_engine() -> None:
    """Raise ImproperlyConfigured unless a database in ``DATABASES`` uses tenantry's ENGINE."""
    engines = {
        alias: database.get("ENGINE") for alias, database in django_settings.DATABASES.items()
    }
    if not any(engine in ENGINES for engine in engines.values()):
        raise ImproperlyConfigured(
            "tenantry is in INSTALLED_APPS, but no database uses its ENGINE, so nothing would tell"
            f" PostgreSQL the tenant; set DATABASES['default']['ENGINE'] = {ENGINES[0]!r}"
            f" (now: {engines!r})"
        )


def is_shared(model: Any) -> bool:
    """Return whether a model without a policy is so on purpose; the user model always is."""
    shared = {label.lower() for label in rls_tenants().shared_models}
    shared.add(django_settings.AUTH_USER_MODEL.lower())
    return model._meta.label_lower in shared


def is_debug() -> bool:
    """Return whether Django runs in debug mode."""
    return bool(django_settings.DEBUG)


def forget(*, setting: str, **kwargs: Any) -> None:
    """Read the settings anew after ``override_settings`` changed them."""
    if setting == SETTING:
        rls_tenants.cache_clear()
        tenant_key.cache_clear()


setting_changed.connect(forget, dispatch_uid="tenantry.conf.forget")


def _refuse(key: str, value: object, allowed: str) -> RLSConfigurationError:
    return RLSConfigurationError(f"{SETTING}[{key!r}] is {value!r}; it must be {allowed}")


def _validate_model(value: object) -> None:
    if not isinstance(value, str) or not MODEL_LABEL.fullmatch(value):
        raise _refuse("TENANT_MODEL", value, "a model label such as 'accounts.Tenant'")


def _validate_field(value: object) -> None:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        raise _refuse("TENANT_FK_FIELD", value, "a field name such as 'tenant'")


def _validate_prefix(value: object) -> None:
    if not isinstance(value, str) or not GUC_PREFIX.fullmatch(value):
        raise _refuse("GUC_PREFIX", value, "at most 31 lower-case letters, digits or underscores")


def _validate_pk_type(value: object) -> None:
    if value not in KEY_TYPES:
        raise _refuse("TENANT_PK_TYPE", value, f"one of {', '.join(KEY_TYPES)}")


def _validate_local_set(value: object) -> None:
    if value is not True:
        raise _refuse(
            "USE_LOCAL_SET",
            value,
            "True or left out: bindings are always transaction-local, because a session-level one"
            " would reach other tenants behind a transaction pooler",
        )


def _validate_strict_mode(value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse("STRICT_MODE", value, "True or False")


def _validate_exclude(value: object) -> None:
    if not isinstance(value, list | tuple) or not all(
        isinstance(label, str) and APP_OR_MODEL.fullmatch(label) for label in value
    ):
        raise _refuse(
            "STRICT_MODE_EXCLUDE",
            value,
            "a list of model labels such as 'accounts.Invite', or of app labels such as 'accounts'",
        )


def _validate_shared(value: object) -> None:
    if not isinstance(value, list | tuple) or not all(
        isinstance(label, str) and MODEL_LABEL.fullmatch(label) for label in value
    ):
        raise _refuse("SHARED_MODELS", value, "a list of model labels such as 'accounts.Invite'")


def _validate_refusal(value: object) -> None:
    if not isinstance(value, bool):
        raise _refuse("REFUSE_EXEMPT_ROLE", value, "True or False")


_VALIDATORS = {
    "TENANT_MODEL": _validate_model,
    "TENANT_FK_FIELD": _validate_field,
    "GUC_PREFIX": _validate_prefix,
    "TENANT_PK_TYPE": _validate_pk_type,
    "USE_LOCAL_SET": _validate_local_set,
    "STRICT_MODE": _validate_strict_mode,
    "STRICT_MODE_EXCLUDE": _validate_exclude,
    "SHARED_MODELS": _validate_shared,
    "REFUSE_EXEMPT_ROLE": _validate_refusal,
}
