"""Users: whom a binding is taken from."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol, runtime_checkable

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.functional import LazyObject

from .binding import ADMIN, UNBOUND, Binding, TenantId
from .conf import tenant_key

# Whose request.user and request.auser() are the user of the session.
DJANGOS = "django.contrib.auth.middleware"


@runtime_checkable
class TenantUser(Protocol):
    """What tenantry reads of a user who has logged in."""

    @property
    def is_tenant_admin(self) -> bool:
        """Whether the user sees every tenant: your own staff, not the administrator of one."""

    @property
    def rls_tenant_id(self) -> Any:
        """The primary key of the user's tenant; None for an admin.

        Reading it must not ask the database: async code reads it as it is.
        """


@runtime_checkable
class MultiTenantUser(TenantUser, Protocol):
    """What tenantry reads of a user who may act for several tenants.

    ``rls_tenant_id`` is then the tenant of requests that select none; None runs them unbound. If
    reading the property ``rls_tenant_ids`` takes a query, add ``async def arls_tenant_ids(self)``:
    async code calls it instead of reading the property in a thread. Both run unbound.
    """

    @property
    def rls_tenant_ids(self) -> Collection[Any]:
        """The primary keys of the tenants that the user may act for."""


def binding_of(user: Any) -> Binding:
    """Return the binding of a user: its tenant, the admin, or unbound when not logged in.

    A user of several tenants, of which none is its own, is unbound too. Raises ImproperlyConfigured
    when the user model lacks the protocol :class:`TenantUser`, or does not say whether a user is an
    admin by a truth value, ValueError when a user that is no admin has no tenant, and TypeError for
    what is no user.
    """
    if not is_logged_in(user):
        if user is not None and not hasattr(user, "is_authenticated"):
            # Not its repr(), which may be a token.
            raise TypeError(
                f"{type(user).__qualname__} is not a user: it has no is_authenticated; pass a user,"
                " or None to run unbound"
            )
        return UNBOUND
    if missing := missing_of(user):
        raise ImproperlyConfigured(
            f"the user {user!r} has no {' and no '.join(missing)}, which tenantry reads; add"
            f" {'it' if len(missing) == 1 else 'them'} to the user model, as"
            f" {'a field or a property' if len(missing) == 1 else 'fields or properties'}"
        )
    is_admin = user.is_tenant_admin
    if not (is_admin is None or isinstance(is_admin, int)):
        # A method, or a text such as "false" from a token, is true of everybody.
        raise ImproperlyConfigured(
            f"the user {user!r} has the is_tenant_admin {is_admin!r}, a {type(is_admin).__name__};"
            " it must be True or False, as a field or as a property"
        )
    if is_admin:
        return ADMIN
    # Read once: it may be a property that asks the database.
    tenant_id = user.rls_tenant_id
    if tenant_id is None:
        if has_several_tenants(user):
            return UNBOUND
        raise ValueError(
            "Non-admin user has rls_tenant_id=None. Assign the user to a tenant or set"
            " is_tenant_admin=True."
        )
    return Binding(tenant_key().parse(tenant_id))


def missing_of(user: object) -> list[str]:
    """Return what a user, or a model of users, lacks of :class:`TenantUser`."""
    # Not isinstance(): the protocol would look at request.user's lazy wrapper, not through it. What
    # the class has is not read: what a property fails with is not that it is missing.
    names = ("is_tenant_admin", "rls_tenant_id")
    return [name for name in names if not hasattr(user.__class__, name) and not hasattr(user, name)]


def is_logged_in(user: object) -> bool:
    """Return whether `user` is one, and not AnonymousUser or None."""
    return bool(getattr(user, "is_authenticated", False))


def has_several_tenants(user: object) -> bool:
    """Return whether `user` is a :class:`MultiTenantUser`, without reading the tenants."""
    # hasattr() would read a property, which may ask the database. request.user's lazy wrapper shows
    # the class of the user, and hides what the user itself has.
    return hasattr(user.__class__, "rls_tenant_ids") or "rls_tenant_ids" in getattr(
        user, "__dict__", ()
    )


def user_of(request: HttpRequest) -> Any:
    """Return the request's user. Raises ImproperlyConfigured where nobody has put one there."""
    return _authenticated(request).user


async def auser_of(request: HttpRequest) -> Any:
    """Return what :func:`user_of` does; one that is loaded when needed is loaded already."""
    authenticated = _authenticated(request)
    user = authenticated.user
    # Who has put a user there that needs no loading has seldom put auser() there, too.
    if not isinstance(user, LazyObject):
        return user
    if hasattr(authenticated, "auser") and not _is_of_session(authenticated.auser, user):
        return await authenticated.auser()
    await sync_to_async(is_logged_in)(user)
    return user


def _is_of_session(auser: Any, user: Any) -> bool:
    """Return whether `auser` is Django's, and would load another user than `user` is.

    Such as that of an admin who acts as another user, whom a middleware has put in its place.
    """
    return _made_by(auser) == DJANGOS and _made_by(vars(user).get("_setupfunc")) != DJANGOS


def _made_by(function: Any) -> str | None:
    """Return the module of a function, or of the one that a partial one calls."""
    return getattr(getattr(function, "func", function), "__module__", None)


def tenants_of(user: Any) -> frozenset[TenantId]:
    """Return the tenants that a user of several may act for.

    Raises ImproperlyConfigured for what is no collection, such as a method or one text.
    """
    return _keys(user, user.rls_tenant_ids)


async def atenants_of(user: Any) -> frozenset[TenantId]:
    """Return what :func:`tenants_of` does."""
    if hasattr(user, "arls_tenant_ids"):
        return _keys(user, await user.arls_tenant_ids())
    return await sync_to_async(tenants_of)(user)


def _keys(user: object, tenant_ids: Collection[Any]) -> frozenset[TenantId]:
    if isinstance(tenant_ids, str | bytes) or not isinstance(tenant_ids, Iterable):
        raise ImproperlyConfigured(
            f"the user {user!r} has the rls_tenant_ids {tenant_ids!r}, a"
            f" {type(tenant_ids).__name__}; it must be a collection of keys, such as a list"
        )
    parse = tenant_key().parse
    return frozenset(parse(tenant_id) for tenant_id in tenant_ids)


def _authenticated(request: HttpRequest) -> Any:
    if not hasattr(request, "user"):
        raise ImproperlyConfigured(
            "RLSTenantMiddleware needs request.user; put"
            " 'django.contrib.auth.middleware.AuthenticationMiddleware' before it in MIDDLEWARE."
            " tenantry.asgi.TenantMiddleware needs scope['user'], or django.contrib.sessions and"
            " django.contrib.auth in INSTALLED_APPS"
        )
    return request
