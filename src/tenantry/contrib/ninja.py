"""Operations of Django Ninja, whose authentication finds out who asks."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

from django.http import HttpRequest

try:
    from ninja.errors import HttpError
    from ninja.security.base import AuthBase
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.ninja needs Django Ninja: pip install 'django-tenantry[ninja]'"
    ) from error

from ..exceptions import TenantDeniedError
from ..mixins import require_first
from ..rebinding import abind_request, bind_request, unbind_request

__all__ = ["TenantAuth"]


class TenantAuth(AuthBase):
    """Run as the user whom an authentication of Ninja finds; put it before the other base.

    Such as ``class Tokens(TenantAuth, HttpBearer)``, whose ``authenticate`` may be sync or async.
    The user's binding holds for throttles, the operation, its response, and the body of a streaming
    one. Authentication itself runs as nobody, and so does what follows when it fails, whatever
    session the request has. Ninja answers with 403 where the user may not act for the tenant that
    the request names.

    Raises TypeError for a class that has it behind the other base.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_first(cls, TenantAuth, AuthBase, "bind nothing")

    def user_of(self, found: Any) -> Any:
        """Return the user of what ``authenticate`` returned: that itself; override it otherwise."""
        return found

    def __call__(self, request: HttpRequest) -> Any:
        """Authenticate the request, and bind what is left of it; in async return a coroutine."""
        unbind_request()
        found = super().__call__(request)  # type: ignore[safe-super]
        if isawaitable(found):
            return self._abind(request, found)
        if found:
            try:
                bind_request(request, self._user_of(found))
            except TenantDeniedError as error:
                raise HttpError(403, str(error)) from error
        return found

    async def _abind(self, request: HttpRequest, finding: Awaitable[Any]) -> Any:
        found = await finding
        if found:
            try:
                await abind_request(request, self._user_of(found))
            except TenantDeniedError as error:
                raise HttpError(403, str(error)) from error
        return found

    def _user_of(self, found: Any) -> Any:
        user = self.user_of(found)
        if not hasattr(user, "is_authenticated"):
            # Not its repr(), which may be a token.
            raise TypeError(
                f"{type(self).__qualname__} has found a {type(user).__qualname__}, which is no"
                " user; return the user of it from user_of()"
            )
        return user
