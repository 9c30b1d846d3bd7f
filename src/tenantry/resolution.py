"""From a request to its binding: the resolvers in order, and whether the user may.

The rules are written once, as generators whose steps the caller takes, in sync code or in async.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

from django.http import HttpRequest

from .audit import denial
from .binding import UNBOUND, Binding, TenantId, current_binding
from .conf import tenant_key, tenant_model
from .context import ContinuedScope
from .exceptions import InvalidTenantIdError, TenantDeniedError
from .resolvers.base import UNKNOWN, Resolver, resolvers
from .users import (
    atenants_of,
    auser_of,
    binding_of,
    has_several_tenants,
    is_logged_in,
    tenants_of,
    user_of,
)

T = TypeVar("T")


class Step(NamedTuple):
    """Name what to call in sync code, and in async, and the argument of both."""

    call: Callable[[Any], Any]
    acall: Callable[[Any], Awaitable[Any]]
    argument: Any


Steps = Generator[Step, Any, T]


class Resolved(NamedTuple):
    """Hold the binding of a request, and the headers that it was taken from."""

    binding: Binding
    vary: tuple[str, ...]


def resolve(request: HttpRequest) -> Resolved:
    """Return the binding of a request.

    What finds out who asks runs as nobody, wherever the request comes from: a test may send it in a
    scope of its own, and Django may be mounted in what is bound already.

    Raises TenantDeniedError, always with the same message, for a tenant that the user may not act
    for, that does not exist, or whose key is malformed.
    """
    # The usual is asked for, because every request comes here.
    if current_binding() is UNBOUND:
        return take(steps(request))
    with ContinuedScope(UNBOUND):
        return take(steps(request))


async def aresolve(request: HttpRequest) -> Resolved:
    """Return what :func:`resolve` does."""
    if current_binding() is UNBOUND:
        return await atake(steps(request))
    with ContinuedScope(UNBOUND):
        return await atake(steps(request))


def take(taken: Steps[T]) -> T:
    """Take the steps in sync code; return what they lead to."""
    answer = None
    while True:
        try:
            step = taken.send(answer)
        except StopIteration as done:
            found: T = done.value
            return found
        answer = step.call(step.argument)


async def atake(taken: Steps[T]) -> T:
    """Take the steps in async code; return what they lead to."""
    answer = None
    while True:
        try:
            step = taken.send(answer)
        except StopIteration as done:
            found: T = done.value
            return found
        answer = await step.acall(step.argument)


def steps(request: HttpRequest) -> Steps[Resolved]:
    """Ask the resolvers in order; return the binding that the first one leads to."""
    user = None
    vary: tuple[str, ...] = ()
    for resolver in resolvers():
        vary += tuple(resolver.vary)
        found = yield Step(resolver.resolve, resolver.aresolve, request)
        if found is None:
            continue
        if isinstance(found, Binding):
            return Resolved(with_key(found), vary)
        if not resolver.authenticates and user is None:
            user = yield Step(user_of, auser_of, request)
        binding = yield from claimed(found, resolver, user)
        if binding is not None:
            return Resolved(binding, vary)
        if resolver.authenticates or resolver.anonymous or is_logged_in(user):
            passed_over = yield Step(resolver.refuse, resolver.arefuse, request)
            if not passed_over:
                raise denied(request, user, found)
    return Resolved(UNBOUND, vary)


def with_key(binding: Binding) -> Binding:
    """Return the binding that a project's own code has made, its tenant's key as all others are.

    Raises TenantIdTypeError or InvalidTenantIdError for what is no key: the text of an instance,
    such as its name, may be the key of another tenant.
    """
    if binding.tenant_id is None:
        return binding
    key = tenant_key().parse(binding.tenant_id)
    return binding if key is binding.tenant_id else binding._replace(tenant_id=key)


def claimed(found: Any, resolver: Resolver, user: Any) -> Steps[Binding | None]:
    """Return the binding to what a resolver found; None where the user may not act for it."""
    if found is UNKNOWN:
        return None
    try:
        tenant_id = tenant_key().parse(found)
    except InvalidTenantIdError:
        return None
    if resolver.authenticates or (resolver.anonymous and not is_logged_in(user)):
        return Binding(tenant_id)
    may = yield from may_act_for(user, tenant_id, may_be_gone=resolver.remembers)
    return Binding(tenant_id) if may else None


def may_act_for(user: Any, tenant_id: TenantId, *, may_be_gone: bool) -> Steps[bool]:
    """Return whether `user` is an admin or a member of the tenant.

    An admin may act for any key; for one that `may_be_gone`, only if there is such a tenant.
    """
    own = binding_of(user)
    if own.is_admin and may_be_gone:
        found = yield look_for(tenant_id, own)
        return bool(found)
    if own.is_admin or own.tenant_id == tenant_id:
        return True
    if not has_several_tenants(user):
        return False
    others = yield Step(tenants_of, atenants_of, user)
    return tenant_id in others


def look_for(tenant_id: TenantId, binding: Binding) -> Step:
    """Return the step that finds out whether there is such a tenant, for all that `binding` sees.

    The table of the tenants may be protected too.
    """
    tenants = tenant_model()._default_manager.filter(pk=tenant_id)

    def exists(scope: ContinuedScope) -> bool:
        with scope:
            return bool(tenants.exists())

    async def aexists(scope: ContinuedScope) -> bool:
        with scope:
            return bool(await tenants.aexists())

    return Step(exists, aexists, ContinuedScope(binding))


def denied(request: HttpRequest, user: Any, found: Any) -> TenantDeniedError:
    """Return the one error that says no; that it is one keeps tenants from being counted."""
    wanted = None if found is UNKNOWN else found
    reason = "You may not act for this tenant."
    return denial(reason, wanted=wanted, user=user, request=request)
