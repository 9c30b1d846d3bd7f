"""django-multitenant, on Django's backend: the ORM adds the filter, there is no policy.

A middleware of the project calls ``set_current_tenant``, as its README shows; the tenant is made
from the user's tenant id, without a query. Its backend is not used: it is for composite foreign
keys. Raw SQL names the tenant by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.candidates.base import IDENTIFY, Project


class SetTenant:
    """Name the tenant for the request's queries."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        from django_multitenant.utils import set_current_tenant, unset_current_tenant

        from .models import Tenant

        set_current_tenant(Tenant(id=request.user.tenant_id))
        try:
            return self.get_response(request)
        finally:
            unset_current_tenant()


class Multitenant(Project):
    """Set the tenant in a middleware."""

    middleware = (IDENTIFY, f"{__name__}.SetTenant")


project = Multitenant
