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
    """The base of the errors that tenantry adds to those of Python and Django."""


class RLSConfigurationError(TenantryError, ImproperlyConfigured):
    """A setting is missing or wrong; the message names key, value and fix."""


class InvalidTenantIdError(TenantryError, ValueError):
    """A tenant id has a value that does not fit the tenant key."""


class TenantIdTypeError(TenantryError, TypeError):
    """A tenant id has a Python type that does not fit the tenant key."""


class NoTenantContextError(TenantryError, RuntimeError):
    """In no scope, a tenant's file is used, or in strict mode a protected model is queried.

    :class:`~tenantry.contrib.storage.TenantStorageMixin` raises it with strict mode or without.
    """


class ScopeError(TenantryError, RuntimeError):
    """A scope object is entered or left out of order, or a queryset is used in two bindings.

    Also where a row of one shard is used in the scope of a tenant of another, where no request is
    served that a view could bind, and where ``migrate`` runs as an admin that is a role.
    """


class InvalidEnvelopeError(TenantryError, BadSignature):
    """A job's binding was forged, or is not for it; the job does not run."""


class TenantDeniedError(TenantryError, PermissionDenied):
    """A request is for a tenant that its user may not act for; Django answers with 403."""


class UnbindableStatementError(TenantryError, NotSupportedError):
    """PostgreSQL cannot run a statement together with a binding."""


class UnsupportedServerError(RLSConfigurationError, NotSupportedError):
    """The server is too old, for which Django raises NotSupportedError."""
