"""A view that finds out itself who asks, and what of its request then runs as whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.response import SimpleTemplateResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator, sync_only_middleware
from django.views import View

from tenantry import abind_request, admin_context, allow_writes, bind_request, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding, rebind
from tenantry.context import RequestScope
from tenantry.exceptions import ScopeError, TenantDeniedError
from tests import settings as project
from tests.app.models import Note, Tenant, User
from tests.responses import content_of

Tenants = tuple[Tenant, Tenant]
READ_ONLY = {**project.RLS_TENANTS, "READ_ONLY_REQUESTS": True}


def user_of(request: HttpRequest) -> Any:
    """Authenticate by a header that anybody may write, which is good for a test."""
    name = request.headers.get("X-User")
    return User.objects.get(username=name) if name else AnonymousUser()


def titles() -> str:
    return " ".join(Note.objects.order_by("id").values_list("title", flat=True))


def view(request: HttpRequest) -> HttpResponse:
    before = titles()
    bind_request(request, user_of(request))
    return HttpResponse(f"{before}|{titles()}|{request.user}")


async def async_view(request: HttpRequest) -> HttpResponse:
    before = await sync_to_async(titles)()
    await abind_request(request, await sync_to_async(user_of)(request))
    user = await request.auser()
    return HttpResponse(f"{before}|{await sync_to_async(titles)()}|{user}")


async def hopping_view(request: HttpRequest) -> HttpResponse:
    """Authenticate in a thread, and see the rows outside of it, in a task and in another thread."""
    before = await sync_to_async(titles)()
    await sync_to_async(bind_request)(request, await sync_to_async(user_of)(request))
    after = await sync_to_async(titles)()
    assert await asyncio.create_task(sync_to_async(titles)()) == after
    return HttpResponse(f"{before}|{after}|{request.user}")


def looping_view(request: HttpRequest) -> HttpResponse:
    before = titles()
    async_to_sync(abind_request)(request, user_of(request))
    return HttpResponse(f"{before}|{titles()}|{request.user}")


class Late(SimpleTemplateResponse):
    """Asks the database when it is rendered, after the view has returned."""

    @property
    def rendered_content(self) -> str:
        return titles()


def late(request: HttpRequest) -> HttpResponse:
    bind_request(request, user_of(request))
    return Late("")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    bind_request(request, user_of(request))

    def body() -> Iterator[str]:
        yield titles()

    return StreamingHttpResponse(body())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    await abind_request(request, await sync_to_async(user_of)(request))

    async def body() -> AsyncIterator[str]:
        yield await sync_to_async(titles)()

    return StreamingHttpResponse(body())


def failing(request: HttpRequest) -> HttpResponse:
    bind_request(request, user_of(request))
    raise RuntimeError("asked for")


def writing(request: HttpRequest) -> HttpResponse:
    bind_request(request, user_of(request))
    Note.objects.create(title="written")
    return HttpResponse()


class Written(SimpleTemplateResponse):
    """Writes when it is rendered, after the view has returned."""

    @property
    def rendered_content(self) -> str:
        Note.objects.create(title="rendered")
        return titles()


def late_write(request: HttpRequest) -> HttpResponse:
    with tenant_context(user_of(request).tenant_id):
        Note.objects.create(title="in a scope")
    bind_request(request, user_of(request))
    return Written("")


async def async_late_write(request: HttpRequest) -> HttpResponse:
    await abind_request(request, await sync_to_async(user_of)(request))
    await Note.objects.acreate(title="in a hop")
    return Written("")


@method_decorator(allow_writes, name="dispatch")
class Allowed(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return async_to_sync(async_late_write)(request)


class AsyncAllowed(View):
    @method_decorator(allow_writes)
    async def get(self, request: HttpRequest) -> HttpResponse:
        return await async_late_write(request)


def denied(request: HttpRequest) -> HttpResponse:
    with pytest.raises(TenantDeniedError, match="may not act for this tenant"):
        bind_request(request, user_of(request))
    return HttpResponse(titles())


async def async_denied(request: HttpRequest) -> HttpResponse:
    user = await sync_to_async(user_of)(request)
    with pytest.raises(TenantDeniedError, match="may not act for this tenant"):
        await abind_request(request, user)
    return HttpResponse(await sync_to_async(titles)())


def in_a_scope(request: HttpRequest) -> HttpResponse:
    with tenant_context(User.objects.get(username="b").tenant_id):
        bind_request(request, user_of(request))
        inside = titles()
    return HttpResponse(f"{inside}|{titles()}")


VIEWS: list[Any] = [view, async_view, hopping_view, looping_view]
urlpatterns = [
    path(f"{each.__name__}/", each)
    for each in [
        *VIEWS,
        late,
        stream,
        async_stream,
        failing,
        writing,
        denied,
        async_denied,
        in_a_scope,
        allow_writes(late_write),
        allow_writes(async_late_write),
    ]
]
urlpatterns += [path(f"{each.__name__}/", each.as_view()) for each in (Allowed, AsyncAllowed)]


@pytest.fixture(autouse=True)
def site(settings: Any, users: object) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    yield
    assert current_binding() == UNBOUND


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Ask through WSGI or through ASGI: as a user by name, with a session of another one."""

    def ask(target: str, user: str = "", session: str = "", **options: Any) -> Any:
        headers = {"X-User": user, **options.pop("headers", {})}
        if request.param == "sync":
            client = Client(raise_request_exception=False)
            if session:
                client.force_login(User.objects.get(username=session))
            return client.generic(options.pop("method", "GET"), target, headers=headers)

        async def ask_async() -> Any:
            client = AsyncClient(raise_request_exception=False)
            if session:
                await client.aforce_login(await User.objects.aget(username=session))
            return await client.generic(options.pop("method", "GET"), target, headers=headers)

        return asyncio.run(ask_async())

    return ask


def text_of(response: Any) -> str:
    return content_of(response).decode()


SEEN = {
    "a": "A 1 A 2",
    "b": "B 1 B 2",
    "admin": "A 1 A 2 B 1 B 2",
    "": "",
}


@pytest.mark.parametrize("target", [each.__name__ for each in VIEWS])
def test_what_is_left_of_the_request_runs_as_the_user(ask: Any, target: str) -> None:
    for user, session in product(SEEN, ["", "b"]):
        expected = f"{SEEN[session]}|{SEEN[user]}|{user or 'AnonymousUser'}"
        assert text_of(ask(f"/{target}/", user, session)) == expected


@sync_only_middleware
def sync_only(get_response: Any) -> Any:
    """Be middleware for which an async stack makes a hop."""
    return lambda request: get_response(request)


@pytest.mark.parametrize("target", [each.__name__ for each in VIEWS])
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_every_stack_sees_it(ask: Any, target: str, outer: bool, inner: bool) -> None:
    first, second, ours = project.MIDDLEWARE
    name = [f"{__name__}.sync_only"]
    with override_settings(MIDDLEWARE=[first, second, *name * outer, ours, *name * inner]):
        assert text_of(ask(f"/{target}/", "a", "b")) == f"{SEEN['b']}|{SEEN['a']}|a"
        assert text_of(ask(f"/{target}/", "", "")) == "||AnonymousUser"
        assert text_of(ask("/stream/", "a", "b")) == SEEN["a"]


@pytest.mark.parametrize("target", ["late", "stream", "async_stream"])
def test_what_runs_after_the_view_runs_as_the_user(ask: Any, target: str) -> None:
    with admin_context():
        assert text_of(ask(f"/{target}/", "a", "b")) == SEEN["a"]


def test_nothing_is_left_behind(ask: Any) -> None:
    assert ask("/failing/", "a").status_code == 500
    assert current_binding() == UNBOUND
    assert text_of(ask("/view/")) == "||AnonymousUser"


def test_rows_are_written_for_the_user(ask: Any, tenants: Tenants) -> None:
    assert ask("/writing/", "a", "b", method="POST").status_code == 200
    with admin_context():
        assert Note.objects.get(title="written").tenant == tenants[0]


def test_a_request_that_may_not_write_still_may_not(ask: Any) -> None:
    with override_settings(RLS_TENANTS=READ_ONLY):
        for method in ("GET", "HEAD"):
            assert ask("/writing/", "a", method=method).status_code == 500
        assert ask("/writing/", "a", method="POST").status_code == 200


@pytest.mark.parametrize("target", ["late_write", "async_late_write", "Allowed", "AsyncAllowed"])
def test_a_view_may_be_allowed_to_write(ask: Any, target: str) -> None:
    first = "in a scope" if target == "late_write" else "in a hop"
    with override_settings(RLS_TENANTS=READ_ONLY):
        assert text_of(ask(f"/{target}/", "a")) == f"{SEEN['a']} {first} rendered"
        # And the next request is another one.
        assert ask("/writing/", "b").status_code == 500


def test_a_view_may_be_allowed_to_write_in_the_transaction_of_its_request(ask: Any) -> None:
    default = connections["default"]
    default.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        with override_settings(RLS_TENANTS=READ_ONLY):
            assert text_of(ask("/late_write/", "a")) == f"{SEEN['a']} in a scope rendered"
    finally:
        default.settings_dict["ATOMIC_REQUESTS"] = False


def test_who_serves_no_request_may_write_anyway() -> None:
    assert allow_writes(titles)() == ""


@pytest.mark.parametrize("target", ["denied", "async_denied"])
@pytest.mark.parametrize("session", ["", "b"])
def test_who_is_denied_is_nobody(ask: Any, tenants: Tenants, target: str, session: str) -> None:
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": ["header", "user"]}
    with override_settings(RLS_TENANTS=resolvers):
        headers = {"X-Tenant": str(tenants[1].pk)}
        response = ask(f"/{target}/", "a", session, headers=headers)
    assert text_of(response) == ""
    assert "X-Tenant" in response["Vary"]


def test_every_header_that_may_count_is_named(ask: Any) -> None:
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": ["user", "header"]}
    with override_settings(RLS_TENANTS=resolvers):
        assert "X-Tenant" not in ask("/nowhere/", "", "b").get("Vary", "")
        assert "X-Tenant" in ask("/view/", "", "b")["Vary"]


def test_a_scope_around_it_holds_until_it_ends(ask: Any) -> None:
    assert text_of(ask("/in_a_scope/", "a")) == f"{SEEN['b']}|{SEEN['a']}"


asked_as: list[Binding] = []


def resolver(request: HttpRequest) -> None:
    asked_as.append(current_binding())


def test_resolvers_are_asked_as_nobody_whatever_the_scope(ask: Any) -> None:
    asked_as.clear()
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": [f"{__name__}.resolver", "user"]}
    with override_settings(RLS_TENANTS=resolvers):
        assert text_of(ask("/in_a_scope/", "a", "b")) == f"{SEEN['b']}|{SEEN['a']}"
        assert asked_as == [UNBOUND, UNBOUND]
        # Nor as whoever sends the request, such as a test.
        for scope in (admin_context(), tenant_context(7)):
            with scope:
                around = current_binding()
                assert text_of(ask("/view/", "a", "b")) == f"{SEEN['b']}|{SEEN['a']}|a"
                assert current_binding() == around
    assert asked_as == [UNBOUND] * 6


def test_without_the_middleware_it_says_so() -> None:
    request: Any = RequestFactory().get("/")
    with pytest.raises(ScopeError, match="RLSTenantMiddleware' into MIDDLEWARE"):
        bind_request(request, User.objects.get(username="a"))
    assert not hasattr(request, "user")


async def test_without_the_middleware_it_says_so_in_async_code() -> None:
    request: Any = RequestFactory().get("/")
    with pytest.raises(ScopeError, match="RLSTenantMiddleware' into MIDDLEWARE"):
        await abind_request(request, AnonymousUser())


# Frames.


def test_the_request_that_is_bound_is_the_innermost() -> None:
    with RequestScope(Binding(1)) as outer:
        with RequestScope(Binding(2)) as inner:
            assert rebind(ADMIN)
            assert (outer.current, inner.current) == (Binding(1), ADMIN)
        assert current_binding() == Binding(1)
        assert outer.current == Binding(1)


async def test_what_outlives_its_request_cannot_bind_another() -> None:
    over = asyncio.Event()

    async def outlive() -> bool:
        await over.wait()
        return rebind(ADMIN)

    with RequestScope(Binding(1)) as outer:
        with RequestScope(Binding(2)):
            task = asyncio.create_task(outlive())
            await asyncio.sleep(0)
        over.set()
        assert not await task
        assert outer.current == current_binding() == Binding(1)


def test_what_is_read_only_stays_so() -> None:
    with RequestScope(Binding(1, read_only=True)):
        assert rebind(ADMIN)
        assert current_binding() == Binding(is_admin=True, read_only=True)


def test_no_request_no_binding() -> None:
    with tenant_context(1):
        assert not rebind(ADMIN)
        assert current_binding() == Binding(1)


async def test_native_code_that_a_scope_in_a_hop_runs_serves_no_request() -> None:
    """It runs as nobody, in a frame that nobody else sees: a binding there would be lost."""

    async def bind_anew() -> bool:
        return rebind(ADMIN)

    def hop() -> bool:
        with tenant_context(2):
            return async_to_sync(bind_anew)()

    with RequestScope(Binding(1)) as request:
        assert not await sync_to_async(hop)()
        assert request.current == Binding(1)
