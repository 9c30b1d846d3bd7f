"""Django REST framework: its views find out themselves who asks, its serializers have no tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from django.db import router

try:
    from rest_framework import decorators, serializers
    from rest_framework.request import Request
    from rest_framework.views import APIView
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.drf needs Django REST framework: pip install 'django-tenantry[drf]'"
    ) from error

from ..binding import current_binding
from ..conf import tenant_model
from ..rebinding import bind_request, unbind_request

__all__ = ["CurrentTenantDefault", "RLSAPIView", "api_view"]


class CurrentTenantDefault:
    """The tenant that a request is bound to, for a field that no client fills in::

        tenant = serializers.HiddenField(default=CurrentTenantDefault())

    With it, a serializer checks what is unique in a tenant. It is read when data is validated, and
    asks the database for nothing: the other fields of the tenant are loaded when they are read.

    Raises rest_framework's ValidationError where no tenant is current: an admin has to name one.
    """

    def __call__(self) -> Any:
        tenant_id = current_binding().tenant_id
        if tenant_id is None:
            raise serializers.ValidationError("No tenant is current.", code="required")
        model = tenant_model()
        return model.from_db(router.db_for_read(model), [model._meta.pk.attname], [tenant_id])

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class RLSAPIView(APIView):
    """Run as the user whom the view's ``authentication_classes`` find.

    A base of its own, or next to another one: ``class Notes(RLSAPIView, ModelViewSet)``. The
    user's binding holds for permissions, throttles, the handler, the rendering of the response and
    the body of a streaming one. Authentication itself runs as nobody, and so does what follows when
    it fails, whatever session the request has.
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
