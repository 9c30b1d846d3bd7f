"""The tenant that a user of several has selected, kept in the session."""

from __future__ import annotations

from functools import partial

from django.db.models import Model
from django.http import HttpRequest

from .binding import Binding
from .conf import rls_tenants, tenant_key
from .exceptions import InvalidTenantIdError, RLSConfigurationError, TenantIdTypeError
from .masking import masked
from .resolution import Step, Steps, atake, denied, look_for, may_act_for, take
from .resolvers.base import resolvers
from .resolvers.places import SessionResolver
from .users import auser_of, user_of
from .validators import SETTING


def switch_tenant(request: HttpRequest, tenant_id: object) -> None:
    """Select a tenant for the requests of this session that follow; this one keeps its binding.

    `tenant_id` is the tenant's primary key, as it comes from a form or as an int, UUID or str. Call
    it in a view that answers to POST. RLS_TENANTS["RESOLVERS"] must have ``"session"``.

    Raises TenantDeniedError, which Django answers with 403, for a tenant that the user may not act
    for, that does not exist, or whose key is malformed or missing: the selection stays as it was.
    Raises TenantIdTypeError for an instance of the tenant's model, RLSConfigurationError without
    ``"session"``, and ImproperlyConfigured without ``request.session`` or ``request.user``.
    """
    take(_switch(request, tenant_id))


async def aswitch_tenant(request: HttpRequest, tenant_id: object) -> None:
    """Do what :func:`switch_tenant` does, in async code."""
    await atake(_switch(request, tenant_id))


def clear_tenant_selection(request: HttpRequest) -> None:
    """Forget the selected tenant; the requests that follow run as the user's own.

    Raises ImproperlyConfigured without ``request.session``.
    """
    SessionResolver().refuse(request)


async def aclear_tenant_selection(request: HttpRequest) -> None:
    """Do what :func:`clear_tenant_selection` does, in async code."""
    await SessionResolver().arefuse(request)


def _switch(request: HttpRequest, tenant_id: object) -> Steps[None]:
    if not any(isinstance(resolver, SessionResolver) for resolver in resolvers()):
        raise RLSConfigurationError(
            f"{SETTING}['RESOLVERS'] has no 'session', so nothing would read the selection; put it"
            f" before 'user' (now: {masked(rls_tenants().resolvers)!r})"
        )
    user = yield Step(user_of, auser_of, request)
    try:
        key = tenant_key().parse(tenant_id)
    except (InvalidTenantIdError, TenantIdTypeError) as error:
        if isinstance(tenant_id, Model):
            # The view's mistake, and not that of who asks.
            raise
        raise denied(request, user, tenant_id) from error
    may = yield from may_act_for(user, key, may_be_gone=False)
    # What a user may act for need not exist, such as any key of an admin's. A tenant sees itself.
    if not may or not (yield look_for(key, Binding(key))):
        raise denied(request, user, tenant_id)
    store = SessionResolver()
    yield Step(partial(store.select, key=key), partial(store.aselect, key=key), request)
