"""``TenantMiddleware``: what Django does not route runs as a tenant too."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.apps import apps
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, connections
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers

from ..audit import denial
from ..binding import UNBOUND, Binding
from ..conf import tenant_key
from ..context import ContinuedScope, RequestScope
from ..exceptions import InvalidTenantIdError
from ..middleware import REFUSALS, binding_for, vary_of_all
from ..resolution import Resolved, aresolve, with_key
from ..resolvers.base import resolvers, vary_of
from .types import Application, Message, Receive, Send

logger = logging.getLogger("tenantry.asgi")

# As Django answers.
STATUSES = {
    PermissionDenied: HTTPStatus.FORBIDDEN,
    Http404: HTTPStatus.NOT_FOUND,
    SuspiciousOperation: HTTPStatus.BAD_REQUEST,
}


class TenantMiddleware:
    """Bind the HTTP requests and WebSockets of an ASGI application to their tenants.

    For Channels consumers, and for applications of Starlette or FastAPI beside Django's or with it
    inside; Django's own requests are bound by ``RLSTenantMiddleware``. A WebSocket keeps its
    binding until it is closed. Lifespans, and everything else, pass through untouched.

    ``RLS_TENANTS["RESOLVERS"]`` are asked as they are in Django. User and session are
    ``scope["user"]`` and ``scope["session"]``, where Channels has put them there, else those of
    Django's session cookie; the session is read and not saved. `resolve` is asked instead where the
    application has users of its own: a function, sync or async, of the scope that returns a tenant
    id, a :class:`~tenantry.binding.Binding`, or None for nobody. Its answer is trusted: no user is
    asked whether they may act for the tenant. It denies by raising PermissionDenied. The headers
    that it reads are in its attribute ``vary``, a list of names.

    What is denied is answered with status 403, a WebSocket before it is accepted, and logged once.

    Raises RLSConfigurationError for resolvers that cannot be made, and ValueError for a ``vary``
    that is no list of names.
    """

    def __init__(
        self, application: Application, *, resolve: Callable[[Any], Any] | None = None
    ) -> None:
        self.application = application
        self.resolve: Any = resolve
        self.vary = vary_of(resolve)
        if resolve is None:
            # What cannot be made is said when the server starts, not to whom comes first.
            resolvers()
        elif not iscoroutinefunction(resolve):
            self.resolve = sync_to_async(resolve)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.application(scope, receive, send)
            return
        try:
            binding, vary = await self.resolved(scope)
        except (*REFUSALS, SuspiciousOperation) as error:
            # The error does not say which resolvers were asked, nor whether the session was.
            every = self.vary if self.resolve else (*vary_of_all(), "Cookie")
            await refuse(error, scope, receive, varying(send, every))
            return
        with RequestScope(binding):
            await self.application(scope, receive, varying(send, vary))

    async def resolved(self, scope: Any) -> Resolved:
        """Return the binding of a connection, and the headers that it was taken from."""
        try:
            if self.resolve is None:
                request = request_of(scope)
                found = await aresolve(request)
                # As Django's SessionMiddleware does, which does not get to answer here.
                if getattr(getattr(request, "session", None), "accessed", False):
                    found = found._replace(vary=(*found.vary, "Cookie"))
            else:
                with ContinuedScope(UNBOUND):
                    answer = await self.resolve(scope)
                found = Resolved(believed(answer), self.vary)
        except DatabaseError:
            # Sessions, users and tenants are asked for in Django's thread, where no request of
            # Django's ends and closes what is broken.
            await sync_to_async(close_broken_connections)()
            raise
        if scope["type"] == "http":
            return found._replace(binding=binding_for(scope["method"], found.binding))
        return found


def close_broken_connections() -> None:
    """Close connections that no longer answer; others in this thread may be using the rest."""
    for connection in connections.all(initialized_only=True):
        # One that could not be made is none, and others' backends cannot tell whether it is usable.
        made = connection.connection is not None
        if made and connection.errors_occurred and not connection.in_atomic_block:
            if connection.is_usable():
                connection.errors_occurred = False
            else:
                connection.close()


def believed(found: Any) -> Binding:
    """Return the binding to what an application's own function returned."""
    if found is None:
        return UNBOUND
    if isinstance(found, Binding):
        return with_key(found)
    try:
        return Binding(tenant_key().parse(found))
    except InvalidTenantIdError as error:
        raise denial(f"{found!r} is not a tenant key", wanted=found) from error


def request_of(scope: Any) -> ASGIRequest:
    """Return Django's request to a scope, which resolvers read; it has no body.

    Raises SuspiciousOperation for a query that is no text; Django answers it with 400, too.
    """
    secure = scope.get("scheme") in ("https", "wss")
    asked = {"method": "GET", **scope, "scheme": "https" if secure else "http"}
    try:
        request: Any = ASGIRequest(asked, io.BytesIO())
    except UnicodeDecodeError as error:
        raise SuspiciousOperation(f"the query is not UTF-8: {error}") from error
    # Starlette calls a dict the session.
    if hasattr(scope.get("session"), "aget"):
        request.session = scope["session"]
    elif apps.is_installed("django.contrib.sessions"):
        # Here, as below: it imports models, which are there only with their application.
        from django.contrib.sessions.middleware import SessionMiddleware  # noqa: PLC0415

        SessionMiddleware(unused).process_request(request)
    if "user" in scope:

        async def auser() -> Any:
            return scope["user"]

        request.user, request.auser = scope["user"], auser
    elif hasattr(request, "session") and apps.is_installed("django.contrib.auth"):
        from django.contrib.auth.middleware import AuthenticationMiddleware  # noqa: PLC0415

        AuthenticationMiddleware(unused).process_request(request)
    return request  # type: ignore[no-any-return]


def unused(request: HttpRequest) -> HttpResponse:
    """Stand for what middleware wraps where it does not get to answer."""
    raise NotImplementedError


def varying(send: Send, vary: tuple[str, ...]) -> Send:
    """Return `send`, with the headers named in a response that it depends on."""

    async def varying_send(message: Message) -> None:
        await send(varied(message, vary))

    return varying_send if vary else send


def varied(message: Message, vary: tuple[str, ...]) -> Message:
    """Return a message, the start of a response with the headers named that it depends on."""
    if message["type"] != "http.response.start":
        return message
    others = []
    response = HttpResponse()
    for name, value in message.get("headers", ()):
        if name.lower() == b"vary":
            given = value.decode("latin-1").split(",")
            patch_vary_headers(response, [header.strip() for header in given])
        else:
            others.append((name, value))
    patch_vary_headers(response, vary)
    return {**message, "headers": [*others, (b"vary", response["Vary"].encode("latin-1"))]}


async def refuse(error: Exception, scope: Any, receive: Receive, send: Send) -> None:
    """Answer a connection that may not be."""
    status = next(each for kind, each in STATUSES.items() if isinstance(error, kind))
    logger.warning("%s: %r: %s", status.phrase, scope["path"], error)
    if scope["type"] == "websocket":
        await receive()
        # Before it is accepted; the server says 403.
        await send({"type": "websocket.close", "code": 4000 + status})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": status.phrase.encode()})
