"""The error tree.

TenantryError
├── RLSConfigurationError (also ImproperlyConfigured)   a setting is missing or wrong
│   └── UnsupportedServerError (also NotSupportedError) PostgreSQL is too old
├── InvalidTenantIdError (also ValueError)              a tenant id has a value it cannot have
├── TenantIdTypeError (also TypeError)                  a tenant id has a type it cannot have
├── NoTenantContextError (also RuntimeError)            what needs a tenant runs in no scope
├── ScopeError (also RuntimeError)                      a scope is entered or left out of order
├── InvalidEnvelopeError (also BadSignature)            a job's binding was forged or is unreadable
├── TenantDeniedError (also PermissionDenied)           a user may not act for a tenant
└── UnbindableStatementError (also NotSupportedError)   a statement cannot carry a binding
"""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.signing import BadSignature
from django.db import NotSupportedError


class TenantryError(Exception):
    """Be the base of the errors that tenantry adds to those of Python and Django."""


class RLSConfigurationError(TenantryError, ImproperlyConfigured):
    """Report a setting that is missing or wrong; the message names key, value and fix."""


class InvalidTenantIdError(TenantryError, ValueError):
    """Report a tenant id whose value does not fit the tenant key."""


class TenantIdTypeError(TenantryError, TypeError):
    """Report a tenant id whose Python type does not fit the tenant key."""


class NoTenantContextError(TenantryError, RuntimeError):
    """Report a file of a tenant, or in strict mode an ORM query of a protected model, in no scope.

    :class:`~tenantry.contrib.storage.TenantStorageMixin` raises it with strict mode or without.
    """


class ScopeError(TenantryError, RuntimeError):
    """Report a scope object that is entered or left out of order."""


class InvalidEnvelopeError(TenantryError, BadSignature):
    """Report a job whose binding was forged, or is not for it; the job does not run."""


class TenantDeniedError(TenantryError, PermissionDenied):
    """Report a request for a tenant that its user may not act for; Django answers with 403."""


class UnbindableStatementError(TenantryError, NotSupportedError):
    """Report a statement that PostgreSQL cannot run together with a binding."""


class UnsupportedServerError(RLSConfigurationError, NotSupportedError):
    """Report a server that is too old; Django raises NotSupportedError for one."""
