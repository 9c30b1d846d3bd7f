"""Views of Django REST framework that authenticate, and do not bind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from django.urls import get_resolver

from ..conf import root_urlconf
from .findings import Finding

BINDING = "tenantry.contrib.drf"


def inspect_views() -> Iterator[Finding]:
    """Yield the routed views that find out who asks, by other means than the session alone."""
    if not root_urlconf():
        return
    # In the order of the routes, each once.
    views = dict.fromkeys(routed(get_resolver()))
    # Which the routes have imported, where there are such views.
    if "rest_framework.views" not in sys.modules:
        return
    for view in views:
        found = authentication_of(view)
        if found and not any(base.__module__ == BINDING for base in view.__mro__):
            yield Finding(
                "tenantry.W161",
                f"view {view.__module__}.{view.__qualname__}",
                f"authenticates by {found}, and does not bind the request to the user it finds",
                f"let it inherit {BINDING}.RLSAPIView, or make it with {BINDING}.api_view",
            )


def routed(resolver: Any) -> Iterator[type]:
    """Yield the classes of the views that a resolver leads to."""
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            yield from routed(pattern)
        elif isinstance(cls := getattr(pattern.callback, "cls", None), type):
            yield cls


def authentication_of(view: Any) -> str:
    """Return the name of an authentication that the middleware knows nothing of; "" for none."""
    from rest_framework.authentication import SessionAuthentication  # noqa: PLC0415 - optional
    from rest_framework.views import APIView  # noqa: PLC0415 - optional

    # Its own, such as the root of a router, read nothing of tenants.
    if issubclass(view, APIView) and not view.__module__.startswith("rest_framework."):
        for each in view.authentication_classes:
            if not issubclass(each, SessionAuthentication):
                return str(each.__qualname__)
    return ""
