"""What each key of ``RLS_TENANTS`` may be, as far as its value alone says."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec

from django.db import models

from .exceptions import RLSConfigurationError
from .keys import KEY_TYPES
from .keywords import RESERVED
from .masking import masked

SETTING = "RLS_TENANTS"
MODEL_LABEL = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
APP_OR_MODEL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")
DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
FLAG = re.compile(r"(?!admin\Z)[a-z][a-z0-9_]{0,30}")
GUC_PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,30}")
# PostgreSQL refuses parameters of a prefix that a loaded library has for its own.
RESERVED_PREFIX = re.compile(r"pg_.*|pgaudit|pl(pgsql|perl|pythonu?|tcl|v8)|auto_explain|citus")
PREFIX_IS = (
    "at most 31 lower-case letters, digits or underscores, the first of which is not a digit"
)
SEAL_KEYS_ARE = (
    "a list of secrets of at least 32 characters, such as"
    " [os.environ['TENANTRY_SEAL_KEY']]; make one with: python -c 'import secrets;"
    " print(secrets.token_urlsafe(48))'"
)
# PostgreSQL truncates longer names, and reserves those that begin with pg_.
ROLE = re.compile(r"(?!pg_|(none|public)\Z)[A-Za-z_][A-Za-z0-9_-]{0,62}")


def refuse(key: str, value: object, allowed: str) -> RLSConfigurationError:
    """Return the error that says what a key may be instead of `value`."""
    return RLSConfigurationError(f"{SETTING}[{key!r}] is {value!r}; it must be {allowed}")


def _validate_model(key: str, value: object) -> None:
    if not isinstance(value, str) or not MODEL_LABEL.fullmatch(value):
        raise refuse(key, value, "a model label such as 'accounts.Tenant'")


def _validate_identifier(example: str, key: str, value: object) -> None:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        raise refuse(key, value, f"an identifier such as {example!r}")


def _validate_field_name(key: str, value: object) -> None:
    _validate_identifier("tenant", key, value)
    # Django refuses such a field, of each protected model, when it checks models.
    if "__" in str(value) or str(value).endswith("_"):
        allowed = "a name, such as 'tenant', without two underscores in a row or one at its end"
        raise refuse(key, value, allowed)
    # "objects" is what the manager is called; the rest would hide what Django's models are made of.
    if value in ("objects", "Meta") or hasattr(models.Model, str(value)):
        taken = "a name, such as 'tenant', that Django's models do not use already"
        raise refuse(key, value, taken)


def _validate_prefix(key: str, value: object) -> None:
    if not isinstance(value, str) or not GUC_PREFIX.fullmatch(value):
        raise refuse(key, value, PREFIX_IS)
    if value in RESERVED:
        allowed = "a name of your own, such as 'rls': this one is a reserved word of SQL"
        raise refuse(key, value, allowed)
    if RESERVED_PREFIX.fullmatch(value):
        allowed = (
            "a name of your own, such as 'rls': PostgreSQL or an extension has reserved this one"
        )
        raise refuse(key, value, allowed)


def _validate_pk_type(key: str, value: object) -> None:
    if value not in KEY_TYPES:
        raise refuse(key, value, f"one of {', '.join(KEY_TYPES)}")


def _validate_local_set(key: str, value: object) -> None:
    if value is not True:
        raise refuse(
            key,
            value,
            "True or left out: bindings are always transaction-local, because a session-level one"
            " would reach other tenants behind a transaction pooler",
        )


def _validate_switch(key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise refuse(key, value, "True or False")


def _validate_trace(key: str, value: object) -> None:
    _validate_switch(key, value)
    if value and find_spec("opentelemetry") is None:
        raise RLSConfigurationError(
            f"{SETTING}[{key!r}] needs OpenTelemetry: pip install 'django-tenantry[opentelemetry]'"
        )


def _validate_names(pattern: re.Pattern[str], allowed: str, key: str, value: object) -> None:
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and pattern.fullmatch(name) for name in value
    ):
        raise refuse(key, value, allowed)


def _validate_role(key: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and ROLE.fullmatch(value)):
        raise refuse(
            key,
            value,
            "the name of a PostgreSQL role: at most 63 letters, digits, hyphens and underscores, of"
            " which the first is a letter or an underscore, not 'none', 'public' or 'pg_...'",
        )


def _validate_external(key: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(
        isinstance(label, str)
        and MODEL_LABEL.fullmatch(label)
        and isinstance(column, str)
        and column != ""
        for label, column in value.items()
    ):
        raise refuse(
            key,
            value,
            "a dict of model labels and tenant columns: {'taggit.Tag': 'tenant_id'}",
        )


def _validate_keys(key: str, value: object) -> None:
    # The message must not show a secret.
    if not isinstance(value, list | tuple):
        raise refuse(key, f"<{type(value).__name__}>", SEAL_KEYS_ARE)
    for number, secret in enumerate(value):
        if not isinstance(secret, str) or len(secret) < 32:
            shown = f"<{len(secret)} characters>" if isinstance(secret, str) else "<no str>"
            raise RLSConfigurationError(
                f"{SETTING}[{key!r}][{number}] is {shown}; {key} must be {SEAL_KEYS_ARE}"
            )


def _validate_lifetime(key: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 10 <= value <= 86400:
        raise refuse(key, value, "a number of seconds from 10 to 86400")


def _validate_resolvers(key: str, value: object) -> None:
    if not isinstance(value, list | tuple) or not value or not all(map(_is_resolver, value)):
        raise refuse(
            key,
            masked(value),
            "a list of names, of dotted paths, or of dicts with NAME and OPTIONS: ['session',"
            " {'NAME': 'subdomain', 'OPTIONS': {'domain': 'example.com'}}, 'user']",
        )


def _is_resolver(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return isinstance(entry, str)
    options = entry.get("OPTIONS", {})
    return (
        isinstance(entry.get("NAME"), str)
        and isinstance(options, Mapping)
        and set(entry) <= {"NAME", "OPTIONS"}
    )


def _validate_shard_of(key: str, value: object) -> None:
    is_path = isinstance(value, str) and DOTTED_PATH.fullmatch(value)
    if value is not None and not is_path and not callable(value):
        allowed = "a function of a tenant's key, or the dotted path of one: 'shop.shards.shard_of'"
        raise refuse(key, value, allowed)


VALIDATORS: dict[str, Callable[[str, object], None]] = {
    "TENANT_MODEL": _validate_model,
    "TENANT_FK_FIELD": _validate_field_name,
    "GUC_PREFIX": _validate_prefix,
    "TENANT_PK_TYPE": _validate_pk_type,
    "USE_LOCAL_SET": _validate_local_set,
    "STRICT_MODE": _validate_switch,
    "STRICT_MODE_EXCLUDE": partial(
        _validate_names,
        APP_OR_MODEL,
        "a list of model labels such as 'accounts.Invite', or of app labels such as 'accounts'",
    ),
    "SAME_TENANT_FOREIGN_KEYS": _validate_switch,
    "ADMIN_ROLE": _validate_role,
    "APP_ROLE": _validate_role,
    "SEALED": _validate_switch,
    "SEAL_KEYS": _validate_keys,
    "SEAL_LIFETIME": _validate_lifetime,
    "BYPASS_FLAGS": partial(
        _validate_names,
        FLAG,
        "a list of names such as 'login': a lower-case letter, followed by at most 30 lower-case"
        " letters, digits or underscores, not 'admin'",
    ),
    "EXTERNAL_MODELS": _validate_external,
    "READ_ONLY_REQUESTS": _validate_switch,
    "AUDIT_LOG": _validate_switch,
    "TRACE": _validate_trace,
    "SHARED_MODELS": partial(
        _validate_names,
        MODEL_LABEL,
        "a list of model labels such as 'accounts.Invite'",
    ),
    "USER_PARAM_NAME": partial(_validate_identifier, "as_user"),
    "RESOLVERS": _validate_resolvers,
    "REFUSE_EXEMPT_ROLE": _validate_switch,
    "SHARD_OF": _validate_shard_of,
}
