"""``RLSTenantMiddleware``: the request runs as the tenant that it is for."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import copy_context
from typing import Any, Self

from asgiref.sync import (
    async_to_sync,
    iscoroutinefunction,
    markcoroutinefunction,
    sync_to_async,
)
from django.core.exceptions import PermissionDenied
from django.core.files import File
from django.core.handlers.exception import response_for_exception
from django.http import Http404, HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.utils.cache import patch_vary_headers

from .binding import Binding
from .conf import rls_tenants
from .context import ContinuedScope, RequestScope
from .hops import loop_of_hop
from .resolution import aresolve, resolve
from .resolvers.base import resolvers

# The safe methods (RFC 9110, 9.2.1) that views answer.
SAFE_METHODS = frozenset({"GET", "HEAD"})
# What a resolver says no by.
REFUSALS = (PermissionDenied, Http404)


class RLSTenantMiddleware:
    """Bind every request to the tenant that it is for; put it after ``AuthenticationMiddleware``.

    ``RLS_TENANTS["RESOLVERS"]`` says where a request names its tenant, by default in its user. One
    class for WSGI and ASGI. It sends no SQL of its own, and makes no thread hop next to async
    middleware. The body of a streaming response runs in the request's binding too, after the view
    has returned.

    Raises RLSConfigurationError, when a server starts, for resolvers that cannot be made.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)
        # What cannot be made is said when the server starts, not to whom comes first.
        resolvers()

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Return the response to `request`, or in async a coroutine of it."""
        if self.is_async:
            return self.respond(request)
        try:
            resolved = resolve(request)
        except REFUSALS as error:
            return refused(request, error)
        binding = binding_for(request.method, resolved.binding)
        if loop_of_hop() is not None:
            # Under ASGI, next to sync middleware. A scope that is opened in a hop holds on its
            # thread, but an async view further in runs on the event loop's: open it there.
            return async_to_sync(self.respond_on_loop)(request, binding, resolved.vary)
        with RequestScope(binding) as scope:
            return finished(self.get_response(request), scope, resolved.vary)

    async def respond_on_loop(
        self, request: HttpRequest, binding: Binding, vary: tuple[str, ...]
    ) -> HttpResponseBase:
        """Return the response of sync code, which runs in the thread that waits for it."""
        with RequestScope(binding) as scope:
            return finished(await sync_to_async(self.get_response)(request), scope, vary)

    async def respond(self, request: HttpRequest) -> HttpResponseBase:
        """Return the response to `request`."""
        try:
            resolved = await aresolve(request)
        except REFUSALS as error:
            # As Django does: a project's page may ask the database.
            return await sync_to_async(refused, thread_sensitive=False)(request, error)
        binding = binding_for(request.method, resolved.binding)
        with RequestScope(binding) as scope:
            return finished(await self.get_response(request), scope, resolved.vary)


def refused(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """Return Django's page for a request that a resolver refuses, which others may not get."""
    response: HttpResponseBase = response_for_exception(request, error)
    # The error does not say which resolvers were asked.
    patch_vary_headers(response, vary_of_all())
    return response


def vary_of_all() -> tuple[str, ...]:
    """Return the headers that any resolver reads."""
    return tuple(name for resolver in resolvers() for name in resolver.vary)


def binding_for(method: str | None, binding: Binding) -> Binding:
    """Return the binding of a request, read-only if the settings want it so."""
    if rls_tenants().read_only_requests and method in SAFE_METHODS:
        return binding._replace(read_only=True)
    return binding


def finished(
    response: HttpResponseBase, scope: RequestScope, vary: tuple[str, ...]
) -> HttpResponseBase:
    """Return `response` with its body bound, and the headers named that it depends on."""
    current = scope.current
    if current is not scope.binding:
        # A view has bound the request anew, and so perhaps asked more of the resolvers.
        vary = vary_of_all()
    if vary:
        patch_vary_headers(response, vary)
    return bind_body(response, current)


def bind_body(response: HttpResponseBase, binding: Binding) -> HttpResponseBase:
    """Return `response`, the body of a streaming one made to run in `binding`."""
    if isinstance(response, StreamingHttpResponse) and not is_plain_file(response):
        body_class = AsyncBody if response.is_async else Body
        response.streaming_content = body_class(response.streaming_content, binding)
    return response


def is_plain_file(response: StreamingHttpResponse) -> bool:
    """Return whether the body is a file of the system, which a WSGI server can send by itself."""
    file: Any = getattr(response, "file_to_stream", None)
    if type(file) is File:
        file = file.file
    return type(getattr(file, "raw", file)) is io.FileIO


class BodyScope(ContinuedScope):
    """Make the binding of a request current for a part of its response's body."""

    opened_by = "the response's body"


class Body:
    """Run each step of an iterator in a binding, and what consumes it outside."""

    def __init__(self, parts: Any, binding: Binding) -> None:
        self.parts = parts
        self.binding = binding

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with BodyScope(self.binding):
            part: bytes = next(self.parts)
            return part

    def close(self) -> None:
        """Let go of the iterator; Django calls it when the response is closed."""
        # The iterator refers to the response, which refers to this: without an end to the circle
        # a body that a client left would clean up only when Python looks for circles.
        with BodyScope(self.binding):
            self.parts = iter(())


class AsyncBody:
    """Run each step of an async iterator in a binding, and what consumes it outside."""

    def __init__(self, parts: Any, binding: Binding) -> None:
        self.parts = parts
        self.binding = binding
        # That of the last step, in which an iterator that is left ends.
        self.context = copy_context()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with BodyScope(self.binding):
            self.context = copy_context()
            part: bytes = await anext(self.parts)
            return part

    def close(self) -> None:
        """Let go of the iterator; what it cleans up runs in the binding too.

        The event loop does that in a copy of the context here. Django closes the response in a
        thread, where a scope would not count for the loop.
        """
        self.context.run(self.let_go)

    def let_go(self) -> None:
        """Refer to the iterator no longer."""
        self.parts = aiter(_nothing())


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield
