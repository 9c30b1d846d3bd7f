"""The binding of a request, changed by a view that finds out itself who asks."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from . import audit
from .binding import UNBOUND, Binding, rebind
from .conf import rls_tenants
from .exceptions import ScopeError
from .resolution import aresolve, resolve
from .tracing import mark_request_anew


def bind_request(request: HttpRequest, user: Any) -> None:
    """Run the rest of a request as `user`, whom a view has authenticated.

    It makes `user` the one of ``request.user``, asks ``RLS_TENANTS["RESOLVERS"]`` again, and binds
    all that is left of the request: the view, the rendering of its response, and the body of a
    streaming one, also where it is called in a thread. A scope that is open around the call holds
    until it ends.

    Raises TenantDeniedError for a tenant that the user may not act for, and ScopeError where no
    request is served. After an error the request runs as nobody.
    """
    unbind_request()
    _adopt(request, user)
    _rebind(resolve(request).binding)


async def abind_request(request: HttpRequest, user: Any) -> None:
    """Do what :func:`bind_request` does, in async code."""
    unbind_request()
    _adopt(request, user)
    _rebind((await aresolve(request)).binding)


def unbind_request() -> None:
    """Run the rest of a request as nobody, until somebody is known to ask."""
    _rebind(UNBOUND)


def _rebind(binding: Binding) -> None:
    if not rebind(binding):
        raise ScopeError(
            "no request is served here whose binding could change; put"
            " 'tenantry.middleware.RLSTenantMiddleware' into MIDDLEWARE, and let a test ask through"
            " Django's test client instead of calling the view"
        )
    if rls_tenants().audit_log:
        audit.rebound(binding)
    if rls_tenants().trace:
        mark_request_anew(binding)


def _adopt(request: HttpRequest, user: Any) -> None:
    async def auser() -> Any:
        return user

    request.user = user
    request.auser = auser
