"""A database router for tenants whose rows are on several servers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import iscoroutinefunction
from typing import Any

from django.db import connections
from django.utils.module_loading import import_string

from .audit import described
from .binding import TenantId, current_binding
from .conf import forget_with_settings, rls_tenants
from .engine import is_bound
from .exceptions import RLSConfigurationError, ScopeError
from .protected import protections
from .validators import SETTING

WANTED = f"{SETTING}['SHARD_OF']"


class ShardRouter:
    """Send the queries of protected models to the database that has the current tenant's rows.

    ``RLS_TENANTS["SHARD_OF"]`` says which that is. The admin, code in no scope, and models that are
    not protected are left to the next router and to Django: they use the database that ``using()``
    names, or that an instance is from, or else the default.

    Keys may be the same on two servers. So a row from another shard than the current tenant's
    raises ScopeError, before it is taken for the one that has its key there. Where reads go to
    replicas, a subclass overrides `db_for_read` and `home`.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """Return the alias to read `model` from; None where this router does not say."""
        tenant_id = current_binding().tenant_id
        if tenant_id is None or not is_routed(model):
            return None
        shard = shard_of(tenant_id)
        instance = hints.get("instance")
        if instance is not None and is_routed(instance):
            alias = instance._state.db
            if alias is not None and self.home(alias) != shard:
                raise ScopeError(
                    f"a {type(instance).__name__} from the database {alias!r} is used as"
                    f" {described(current_binding())}, whose rows are in {shard!r}; use it in the"
                    " scope that it was fetched in, or fetch it anew; if both are aliases of one"
                    " database, say so by home() in a subclass of ShardRouter"
                )
        return shard

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        """Return the alias to write `model` to, which is no replica's; or None, as for reading."""
        shard = ShardRouter.db_for_read(self, model, **hints)
        if shard is not None:
            return shard
        instance = hints.get("instance")
        alias = None if instance is None else instance._state.db
        home = None if alias is None else self.home(alias)
        # Django writes a row where it was read.
        return None if home == alias else home

    def home(self, alias: str) -> str:
        """Return the alias of the shard that `alias` has the rows of: itself, or of a replica."""
        return alias

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool | None:
        """Allow relations in a shard, and to rows that are not protected, wherever they were read.

        Django decides about the others: it allows those in one database.
        """
        if is_routed(one) != is_routed(other):
            return True
        here, there = one._state.db, other._state.db
        is_same = self.home(here) == self.home(there)
        return True if is_same and (is_routed(one) or here != there) else None


def is_routed(model: Any) -> bool:
    """Return whether the rows of `model`, or of the model of an instance, belong to tenants."""
    options = model._meta
    return protections(options.apps).flags(options.db_table) is not None


def shard_of(tenant_id: TenantId) -> str:
    """Return the alias of the database that has the rows of a tenant.

    Raises RLSConfigurationError where ``SHARD_OF`` names none that is bound.
    """
    function = shard_function()
    try:
        alias = function(tenant_id)
    except RLSConfigurationError:
        # Of this function, which its own query of a protected model has asked, and again.
        raise
    except Exception as error:
        # It is the project's, and may raise anything: a KeyError says neither whose nor where.
        raise RLSConfigurationError(
            f"{WANTED} fails for the tenant {tenant_id!r}: {error!r}; {allowed()}"
        ) from error
    if not isinstance(alias, str) or alias not in connections.settings:
        raise RLSConfigurationError(
            f"{WANTED} returns {alias!r} for the tenant {tenant_id!r}; {allowed()}"
        )
    if not is_bound(connections[alias]):
        raise RLSConfigurationError(
            f"{WANTED} returns {alias!r} for the tenant {tenant_id!r}, a database whose ENGINE does"
            f" not inherit from tenantry's; {allowed()}"
        )
    return alias


def allowed() -> str:
    """Return what errors say that ``SHARD_OF`` may return."""
    aliases = ", ".join(map(repr, connections.settings))
    return f"it must return one of {aliases}, and query no protected model in a tenant's scope"


@cache
def shard_function() -> Callable[[TenantId], Any]:
    """Return the function of ``SHARD_OF``; raise RLSConfigurationError if there is none."""
    given = rls_tenants().shard_of
    if given is None:
        raise RLSConfigurationError(
            f"DATABASE_ROUTERS has tenantry's ShardRouter, and {SETTING} lacks SHARD_OF; set it to"
            " a function that returns the alias of a tenant's database, or to its dotted path"
        )
    function: Callable[[TenantId], Any]
    try:
        function = given if callable(given) else import_string(given)
    except ImportError as error:
        raise RLSConfigurationError(
            f"{WANTED} is {given!r}: {error}; name a function by its dotted path"
        ) from error
    if not callable(function) or iscoroutinefunction(function):
        raise RLSConfigurationError(
            f"{WANTED} is {given!r}, which is no function, or an async one; Django asks routers in"
            " sync code: name a function that returns an alias"
        )
    return function


forget_with_settings("tenantry.routers.forget", shard_function.cache_clear)
