"""Views of Django REST framework, which find out themselves who asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

try:
    from rest_framework import decorators
    from rest_framework.request import Request
    from rest_framework.views import APIView
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.drf needs Django REST framework: pip install django-tenantry[drf]"
    ) from error

from ..rebinding import bind_request, unbind_request

__all__ = ["RLSAPIView", "api_view"]


class RLSAPIView(APIView):
    """Run as the user whom the view's ``authentication_classes`` find.

    A base of its own, or next to another one: ``class Notes(RLSAPIView, ModelViewSet)``. The
    user's binding holds for permissions, throttles, the handler, the rendering of the response and
    the body of a streaming one. Authentication itself runs as nobody, and so does what follows when
    it fails, whoever's session the request has.
    """

    def perform_authentication(self, request: Request) -> None:
        """Authenticate the request, and bind what is left of it."""
        unbind_request()
        super().perform_authentication(request)
        bind_request(request._request, request.user)


def api_view(http_method_names: Sequence[str] | None = None) -> Callable[[Any], Any]:
    """Do what ``rest_framework.decorators.api_view`` does, with an :class:`RLSAPIView`."""
    decorate = decorators.api_view(http_method_names)

    def make(function: Callable[..., Any]) -> Any:
        made: Any = decorate(function).cls
        names = {"__doc__": made.__doc__, "__module__": made.__module__}
        return type(made.__name__, (RLSAPIView, made), names).as_view()  # type: ignore[attr-defined]

    return make
