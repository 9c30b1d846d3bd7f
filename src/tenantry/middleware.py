"""``RLSTenantMiddleware``: the request runs as its user's tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Self

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse

from .binding import Binding
from .conf import rls_tenants
from .context import Scope
from .users import binding_of

# Of those that by HTTP's definition change nothing (RFC 9110, 9.2.1), the ones that views answer.
SAFE_METHODS = frozenset({"GET", "HEAD"})


class RLSTenantMiddleware:
    """Bind every request to its user; put it behind ``AuthenticationMiddleware``.

    One class for WSGI and ASGI. It makes no thread hop and sends no SQL of its own. The body of a
    streaming response runs in the request's binding too, after the view has returned.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Return the response to `request`, or in async a coroutine of it."""
        if self.is_async:
            return self.respond(request)
        binding = binding_for(request, _authenticated(request).user)
        with Scope(binding):
            return bind_body(self.get_response(request), binding)

    async def respond(self, request: HttpRequest) -> HttpResponseBase:
        """Return the response to `request`."""
        binding = binding_for(request, await _authenticated(request).auser())
        with Scope(binding):
            return bind_body(await self.get_response(request), binding)


def binding_for(request: HttpRequest, user: object) -> Binding:
    """Return the binding of a request, read-only if the settings want it so."""
    binding = binding_of(user)
    if rls_tenants().read_only_requests and request.method in SAFE_METHODS:
        return replace(binding, read_only=True)
    return binding


def bind_body(response: HttpResponseBase, binding: Binding) -> HttpResponseBase:
    """Return `response`, the body of a streaming one made to run in `binding`."""
    if isinstance(response, StreamingHttpResponse):
        body_class = AsyncBody if response.is_async else Body
        response.streaming_content = body_class(response.streaming_content, binding)
    return response


class Body:
    """Run each step of an iterator in a binding, and what consumes it outside."""

    def __init__(self, parts: Any, binding: Binding) -> None:
        self.parts = parts
        self.binding = binding

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with Scope(self.binding):
            part: bytes = next(self.parts)
            return part

    def close(self) -> None:
        """Let go of the iterator; Django calls it when the response is closed."""
        # The iterator refers to the response, which refers to this: without an end to the circle
        # a body that a client left would clean up only when Python looks for circles.
        with Scope(self.binding):
            self.parts = iter(())


class AsyncBody:
    """Run each step of an async iterator in a binding, and what consumes it outside."""

    def __init__(self, parts: Any, binding: Binding) -> None:
        self.parts = parts
        self.binding = binding

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with Scope(self.binding):
            part: bytes = await anext(self.parts)
            return part

    def close(self) -> None:
        """Let go of the iterator; what it cleans up runs in the binding too."""
        with Scope(self.binding):
            self.parts = aiter(_nothing())


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


def _authenticated(request: HttpRequest) -> Any:
    if not hasattr(request, "user"):
        raise ImproperlyConfigured(
            "RLSTenantMiddleware needs request.user; put"
            " 'django.contrib.auth.middleware.AuthenticationMiddleware' before it in MIDDLEWARE"
        )
    return request
