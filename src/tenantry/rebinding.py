"""The binding of a request, changed by a view that finds out itself who asks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from django.http import HttpRequest

from . import audit
from .binding import UNBOUND, Binding, permit_writes, rebind
from .conf import rls_tenants
from .context import wrapped
from .exceptions import ScopeError
from .resolution import aresolve, resolve
from .tracing import mark_request_anew

V = TypeVar("V", bound=Callable[..., Any])


def allow_writes(view: V) -> V:
    """Let a view write that answers GET, in spite of ``RLS_TENANTS["READ_ONLY_REQUESTS"]``.

    Decorate a view, sync or async, or a method of one that is a class::

        @allow_writes
        def log_in_by_link(request, token): ...

        @method_decorator(allow_writes, name="dispatch")
        class Download(View): ...

    Put it outside of other decorators that ask the database: a transaction that has begun to read
    cannot write any more. The rendering of the response, and the body of a streaming one, may
    write, too. Elsewhere it does nothing.
    """

    def permitted(*args: Any, **kwargs: Any) -> nullcontext[None]:
        permit_writes()
        return nullcontext()

    return wrapped(view, permitted)


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
