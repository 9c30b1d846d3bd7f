"""What a resolver is, and those that ``RLS_TENANTS["RESOLVERS"]`` lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.http import HttpRequest
from django.utils.module_loading import import_string

from ..conf import forget_with_settings, rls_tenants
from ..exceptions import RLSConfigurationError
from ..masking import masked
from ..validators import SETTING
from .options import require_texts

# What a resolver returns for a name that no tenant has.
UNKNOWN = object()
BUILT_IN = {
    "header": "tenantry.resolvers.places.HeaderResolver",
    "jwt": "tenantry.resolvers.tokens.JWTResolver",
    "path": "tenantry.resolvers.places.PathResolver",
    "session": "tenantry.resolvers.places.SessionResolver",
    "subdomain": "tenantry.resolvers.places.SubdomainResolver",
    "user": "tenantry.resolvers.user.UserResolver",
}


class Resolver:
    """Find in a request the tenant that it is for; subclass it for a place of your own.

    What :meth:`resolve` returns is a tenant id, a :class:`~tenantry.binding.Binding`, or None for
    the next resolver to be asked. A tenant id is taken only from a user who may act for the tenant,
    and is passed over while nobody has logged in, unless `anonymous` is set. `authenticates` says
    that the request has proved the tenant by itself, so that no user is asked for. `remembers` says
    that the tenant was named before, and may be gone by now: that of an admin is looked for. `vary`
    names the request's headers that are read.
    """

    authenticates = False
    anonymous = False
    remembers = False
    vary: Collection[str] = ()

    def resolve(self, request: HttpRequest) -> Any:
        """Return what the request says, or None."""
        raise NotImplementedError(f"{type(self).__name__} has no resolve()")

    async def aresolve(self, request: HttpRequest) -> Any:
        """Return what :meth:`resolve` does; override it where that waits for something."""
        return self.resolve(request)

    def refuse(self, request: HttpRequest) -> bool:
        """Return whether the next resolver is asked, now that the user may not act for the tenant.

        Override it to forget what was found. The default is False: the request is denied.
        """
        return False

    async def arefuse(self, request: HttpRequest) -> bool:
        """Return what :meth:`refuse` does."""
        return self.refuse(request)


class FunctionResolver(Resolver):
    """Ask a function of the project, sync or async, for the tenant id.

    Raises ValueError for a function whose `vary` is no list of names.
    """

    def __init__(self, function: Callable[[HttpRequest], Any]) -> None:
        self.function: Any = function
        self.is_async = iscoroutinefunction(function)
        self.vary = vary_of(function)

    def resolve(self, request: HttpRequest) -> Any:
        """Return what the function returns."""
        function = async_to_sync(self.function) if self.is_async else self.function
        return function(request)

    async def aresolve(self, request: HttpRequest) -> Any:
        """Return what the function returns; a sync one runs in a thread."""
        function = self.function if self.is_async else sync_to_async(self.function)
        return await function(request)


def vary_of(function: Any) -> tuple[str, ...]:
    """Return the request's headers that a function reads, which its attribute ``vary`` names.

    Raises ValueError for what is no list of names.
    """
    names = getattr(function, "vary", ())
    require_texts("vary", names, ["X-Customer"])
    return tuple(names)


@cache
def resolvers() -> tuple[Resolver, ...]:
    """Return the resolvers of the settings, in order.

    Raises RLSConfigurationError naming the one that cannot be made.
    """
    return tuple(_made(entry) for entry in rls_tenants().resolvers)


def _made(entry: str | Mapping[str, Any]) -> Resolver:
    name = entry if isinstance(entry, str) else entry["NAME"]
    options = {} if isinstance(entry, str) else dict(entry.get("OPTIONS", {}))
    try:
        found = import_string(BUILT_IN.get(name, name))
    except ImportError as error:
        raise RLSConfigurationError(
            f"{SETTING}['RESOLVERS'] has {name!r}, which cannot be imported: {error}; it must be"
            f" one of {', '.join(BUILT_IN)}, or the dotted path of a function or a Resolver"
        ) from error
    if inspect.isclass(found) and issubclass(found, Resolver):
        try:
            made = found(**options)
            # One text would be one of letters.
            require_texts("vary", made.vary, ["X-Customer"])
            return made
        except (TypeError, ValueError) as error:
            raise RLSConfigurationError(
                f"{SETTING}['RESOLVERS'] gives {name!r} the options {sorted(options)}: {error}"
            ) from error
    if not callable(found) or inspect.isclass(found) or options:
        raise RLSConfigurationError(
            f"{SETTING}['RESOLVERS'] has {masked(entry)!r}; it must be a function of a request,"
            " without OPTIONS, or a subclass of tenantry.resolvers.Resolver"
        )
    try:
        return FunctionResolver(found)
    except ValueError as error:
        raise RLSConfigurationError(
            f"{SETTING}['RESOLVERS'] has {name!r}, whose {error}"
        ) from error


forget_with_settings("tenantry.resolvers.forget", resolvers.cache_clear)
