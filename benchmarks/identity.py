"""Stands for a project's authentication: the user comes from a header, without SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class User:
    """Be who is logged in, with what each candidate asks its users for."""

    is_authenticated = is_active = True
    is_anonymous = is_tenant_admin = is_superuser = is_staff = False

    def __init__(self, tenant_id: int) -> None:
        self.pk = self.id = self.tenant_id = self.rls_tenant_id = tenant_id

    @property
    def profile(self) -> User:
        """Where django-rls looks for the tenant."""
        return self


class Identify:
    """Set ``request.user``, as ``AuthenticationMiddleware`` does."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.user = User(int(request.META["HTTP_X_USER"]))
        return self.get_response(request)
