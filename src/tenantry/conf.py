"""The typed view of ``settings.RLS_TENANTS``, and the only reader of Django's settings.

============================  =====================  =============================================
key                           default                means
============================  =====================  =============================================
``TENANT_MODEL``              required               ``"app_label.Model"`` of the tenant
``TENANT_FK_FIELD``           ``"tenant"``           name of the foreign key on protected models
``GUC_PREFIX``                ``"rls"``              prefix of the GUCs, ``<prefix>.current_tenant``
``TENANT_PK_TYPE``            from the tenant model  ``"int"``, ``"bigint"``, ``"uuid"``, ``"text"``
``USE_LOCAL_SET``             ``True``               accepted for compatibility; only True is valid
``STRICT_MODE``               ``False``              refuse ORM queries of protected models unbound
``STRICT_MODE_EXCLUDE``       ``()``                 labels of models or apps that it leaves alone
``SAME_TENANT_FOREIGN_KEYS``  ``False``              refuse foreign keys to rows of other tenants
``ADMIN_ROLE``                ``None``               role that the admin's statements run as
``APP_ROLE``                  ``None``               role that requests log in as
``SEALED``                    ``False``              sign the tenant, so that SQL cannot change it
``SEAL_KEYS``                 ``()``                 keys to sign with: the first, and older ones
``SEAL_LIFETIME``             ``300``                seconds that a signature is good for, at most
``BYPASS_FLAGS``              ``()``                 names of bypass flags, for constraints to name
``EXTERNAL_MODELS``           ``{}``                 tenant columns of models of other packages
``READ_ONLY_REQUESTS``        ``False``              GET and HEAD requests cannot write
``SHARED_MODELS``             ``()``                 labels of models open to all on purpose
``REFUSE_EXEMPT_ROLE``        ``False``              refuse to connect as a role no policy binds
``USER_PARAM_NAME``           ``"as_user"``          argument that with_rls_context reads
``RESOLVERS``                 ``("user",)``          where requests name their tenant, in order
``AUDIT_LOG``                 ``False``              log scopes, denials and refused rows
``TRACE``                     ``False``              set ``tenant.id`` on OpenTelemetry's spans
``SHARD_OF``                  ``None``               function from a tenant to its database's alias
============================  =====================  =============================================
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from django.apps import apps
from django.conf import settings as django_settings
from django.core.signals import setting_changed

from .binding import TenantId
from .exceptions import RLSConfigurationError
from .keys import KEY_TYPES, TenantKey, key_type_of
from .routing import declaring
from .validators import SEAL_KEYS_ARE, SETTING, VALIDATORS, refuse


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
    same_tenant_foreign_keys: bool = False
    admin_role: str | None = None
    app_role: str | None = None
    sealed: bool = False
    seal_keys: Sequence[str] = field(default=(), repr=False)
    seal_lifetime: int = 300
    bypass_flags: Sequence[str] = ()
    external_models: Mapping[str, str] = field(default_factory=dict)
    read_only_requests: bool = False
    shared_models: Sequence[str] = ()
    refuse_exempt_role: bool = False
    user_param_name: str = "as_user"
    # Options may hold the keys of tokens.
    resolvers: Sequence[str | Mapping[str, Any]] = field(default=("user",), repr=False)
    audit_log: bool = False
    trace: bool = False
    shard_of: str | Callable[[TenantId], Any] | None = None


@cache
def rls_tenants() -> RLSTenants:
    """Return the settings.

    Raises RLSConfigurationError naming the key, its value and what is allowed.
    """
    given = getattr(django_settings, SETTING, None)
    if not isinstance(given, Mapping):
        raise RLSConfigurationError(
            f"{SETTING} must be a dict with at least TENANT_MODEL, such as"
            f" {SETTING} = {{'TENANT_MODEL': 'accounts.Tenant'}}; got"
            f" {'None' if given is None else f'a {type(given).__name__}'}"
        )
    known = {name.upper(): name for name in RLSTenants.__slots__}
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key).upper(), known, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise RLSConfigurationError(
                f"{SETTING} has the unknown key {key!r}{hint}; allowed are {', '.join(known)}"
            )
    if "TENANT_MODEL" not in given:
        raise RLSConfigurationError(
            f"{SETTING} lacks TENANT_MODEL; name the tenant's model, such as 'accounts.Tenant'"
        )
    for key, value in given.items():
        VALIDATORS[key](key, value)
    if given.get("ADMIN_ROLE") and given["ADMIN_ROLE"] == given.get("APP_ROLE"):
        raise refuse("ADMIN_ROLE", given["ADMIN_ROLE"], "a role other than APP_ROLE")
    if given.get("SEALED") and not given.get("SEAL_KEYS"):
        raise RLSConfigurationError(
            f"{SETTING}['SEALED'] needs {SETTING}['SEAL_KEYS'], {SEAL_KEYS_ARE}"
        )
    return RLSTenants(**{known[key]: value for key, value in given.items()})


@cache
def tenant_key() -> TenantKey:
    """Return the type of tenant ids, from ``TENANT_PK_TYPE`` or the tenant model's primary key.

    Raises RLSConfigurationError when the tenant model is unknown or its key has no matching type.
    """
    settings = rls_tenants()
    if settings.tenant_pk_type is not None:
        return TenantKey(settings.tenant_pk_type)
    model = tenant_model()
    key_type = key_type_of(model._meta.pk)
    if key_type is None:
        raise RLSConfigurationError(
            f"the primary key of {settings.tenant_model} is a {type(model._meta.pk).__name__}; set"
            f" {SETTING}['TENANT_PK_TYPE'] to one of {', '.join(KEY_TYPES)}"
        )
    return TenantKey(key_type)


def tenant_model() -> Any:
    """Return the model of the tenants; raise RLSConfigurationError if it is not installed."""
    label = rls_tenants().tenant_model
    try:
        return apps.get_model(label)
    except LookupError as error:
        raise RLSConfigurationError(
            f"{SETTING}['TENANT_MODEL'] is {label!r}, which is not installed: {error}; name a model"
            " of an app in INSTALLED_APPS"
        ) from error


def engines() -> dict[str, Any]:
    """Return the ENGINE of each alias in ``settings.DATABASES``; None where it has none."""
    return {alias: database.get("ENGINE") for alias, database in django_settings.DATABASES.items()}


def is_shared(model: Any) -> bool:
    """Return whether a model without a policy is so on purpose; the user model always is.

    So is the table of a many-to-many relation that such a model declares.
    """
    shared = {label.lower() for label in rls_tenants().shared_models}
    shared.add(django_settings.AUTH_USER_MODEL.lower())
    return not shared.isdisjoint({model._meta.label_lower, declaring(model)._meta.label_lower})


def is_debug() -> bool:
    """Return whether Django runs in debug mode."""
    return bool(django_settings.DEBUG)


def silenced_checks() -> frozenset[str]:
    """Return ``settings.SILENCED_SYSTEM_CHECKS``."""
    return frozenset(django_settings.SILENCED_SYSTEM_CHECKS)


def root_urlconf() -> Any:
    """Return ``settings.ROOT_URLCONF``; None where a project serves no requests."""
    return getattr(django_settings, "ROOT_URLCONF", None)


def installed_middleware() -> list[str]:
    """Return ``settings.MIDDLEWARE``."""
    return list(django_settings.MIDDLEWARE)


def user_model() -> Any:
    """Return the model of the users; None where it is not installed."""
    try:
        return apps.get_model(django_settings.AUTH_USER_MODEL)
    except (LookupError, ValueError):
        return None


def cache_of_sessions() -> tuple[str, Any]:
    """Return the alias of the cache that has the sessions, or "", and its ``KEY_FUNCTION``."""
    if ".cache" not in django_settings.SESSION_ENGINE:
        return "", None
    alias = django_settings.SESSION_CACHE_ALIAS
    return alias, django_settings.CACHES.get(alias, {}).get("KEY_FUNCTION")


def forget_with_settings(uid: str, *clear: Callable[[], object]) -> None:
    """Call each of `clear` after ``override_settings`` changed the settings; `uid` is its own."""

    def receive(*, setting: str, **kwargs: Any) -> None:
        if setting == SETTING:
            for each in clear:
                each()

    setting_changed.connect(receive, weak=False, dispatch_uid=uid)


forget_with_settings("tenantry.conf.forget", rls_tenants.cache_clear, tenant_key.cache_clear)
