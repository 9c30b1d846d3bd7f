"""The user who has logged in: its own tenant, or the admin."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from ..binding import UNBOUND, Binding
from ..users import auser_of, binding_of, user_of
from .base import Resolver


class UserResolver(Resolver):
    """Take the tenant from ``request.user.rls_tenant_id``, or the admin's binding."""

    def resolve(self, request: HttpRequest) -> Binding | None:
        """Return the user's binding; None for one who has not logged in."""
        return _found(user_of(request))

    async def aresolve(self, request: HttpRequest) -> Binding | None:
        """Return the user's binding; None for one who has not logged in."""
        return _found(await auser_of(request))


def _found(user: Any) -> Binding | None:
    binding = binding_of(user)
    return None if binding is UNBOUND else binding
