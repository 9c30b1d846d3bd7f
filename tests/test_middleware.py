"""The middleware, sync and async: whom the view runs as, and what is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.urls import path
from django.utils.functional import SimpleLazyObject

from tenantry import TenantUser, admin_context, tenant_context
from tenantry.backends.postgresql import loops
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.exceptions import InvalidTenantIdError
from tenantry.middleware import RLSTenantMiddleware
from tenantry.users import binding_of
from tests.app.models import Note, Tenant, User

Tenants = tuple[Tenant, Tenant]


def titles(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note ORDER BY id")
        return JsonResponse([row[0] for row in cursor.fetchall()], safe=False)


async def async_titles(request: HttpRequest) -> HttpResponse:
    first = [note.title async for note in Note.objects.order_by("id")]
    await asyncio.sleep(0)
    assert first == [note.title async for note in Note.objects.order_by("id")]
    return JsonResponse(first, safe=False)


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        for note in Note.objects.order_by("id"):
            yield f"{note.title};"

    return StreamingHttpResponse(body())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        async for note in Note.objects.order_by("id"):
            yield f"{note.title};"

    return StreamingHttpResponse(body())


def fail(request: HttpRequest) -> HttpResponse:
    assert Note.objects.count() >= 0
    raise RuntimeError("asked for")


urlpatterns = [
    path("titles", titles),
    path("async_titles", async_titles),
    path("stream", stream),
    path("async_stream", async_stream),
    path("fail", fail),
]


@pytest.fixture(autouse=True)
def urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__


SEEN = {
    "a": ["A 1", "A 2"],
    "b": ["B 1", "B 2"],
    "admin": ["A 1", "A 2", "B 1", "B 2"],
    "anonymous": [],
}


def body_of(response: Any) -> str:
    if response.streaming:
        return b"".join(response.streaming_content).decode()
    return str(response.content.decode())


@pytest.mark.parametrize("view", ["titles", "async_titles"])
def test_a_sync_stack_shows_each_user_its_own_rows(
    view: str, users: dict[str, User | None]
) -> None:
    for name, user in users.items():
        client = Client()
        if user:
            client.force_login(user)
        assert client.get(f"/{view}").json() == SEEN[name]
        assert current_binding() == UNBOUND


@pytest.mark.parametrize("view", ["titles", "async_titles"])
async def test_an_async_stack_shows_each_user_its_own_rows(
    view: str, users: dict[str, User | None]
) -> None:
    async def visit(name: str, user: User | None) -> None:
        client = AsyncClient()
        if user:
            await client.aforce_login(user)
        for _ in range(3):
            response = await client.get(f"/{view}")
            assert response.json() == SEEN[name]

    await asyncio.gather(*(visit(*item) for item in users.items()))
    assert current_binding() == UNBOUND


def test_a_sync_stream_runs_in_the_binding_of_its_request(users: dict[str, User | None]) -> None:
    for name, user in users.items():
        client = Client()
        if user:
            client.force_login(user)
        response: Any = client.get("/stream")
        # What consumes the stream has a binding of its own, and keeps it between the steps.
        with admin_context():
            seen = []
            for part in response.streaming_content:
                assert current_binding() == ADMIN
                seen.append(part.decode().removesuffix(";"))
        assert seen == SEEN[name]


async def test_an_async_stream_runs_in_the_binding_of_its_request(
    users: dict[str, User | None],
) -> None:
    for name, user in users.items():
        client = AsyncClient()
        if user:
            await client.aforce_login(user)
        response: Any = await client.get("/async_stream")
        async with admin_context():
            seen = []
            async for part in response.streaming_content:
                assert current_binding() == ADMIN
                seen.append(part.decode().removesuffix(";"))
        assert seen == SEEN[name]


def streaming(cleaned: asyncio.Future[Binding]) -> Callable[..., Any]:
    """Return a view whose body says in which binding it cleans up."""

    async def body() -> AsyncIterator[str]:
        try:
            yield "one"
            yield "two"
        finally:
            cleaned.set_result(current_binding())

    async def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(body())

    return view


async def test_a_stream_that_is_left_cleans_up_in_its_binding(tenants: Tenants) -> None:
    cleaned: asyncio.Future[Binding] = asyncio.get_running_loop().create_future()
    response = await respond(streaming(cleaned), User(pk=1, tenant_id=7))
    content = response.streaming_content
    async with admin_context():
        assert await anext(content) == b"one"
        await content.aclose()
        response.close()
        assert await asyncio.wait_for(cleaned, 5) == Binding(7)


async def test_so_does_one_that_a_client_leaves(tenants: Tenants, settings: Any) -> None:
    user = await User.objects.acreate(username="a", tenant=tenants[0])
    client = AsyncClient()
    await client.aforce_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"cookie", cookie)]}
    cleaned: asyncio.Future[Binding] = asyncio.get_running_loop().create_future()
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            messages.put_nowait({"type": "http.disconnect"})
            # For good, as to a client that reads no more.
            await asyncio.Event().wait()

    settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [path("", streaming(cleaned))]})
    messages.put_nowait({"type": "http.request"})
    await ASGIHandler()(scope, messages.get, send)
    assert await asyncio.wait_for(cleaned, 5) == Binding(tenants[0].pk)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("session", [None, User(pk=1, tenant_id=8)])
async def test_the_user_is_that_of_a_middleware_of_the_project(
    lazy: bool, session: User | None, tenants: Tenants
) -> None:
    """It sets ``request.user`` only; a session's user may be there before it."""
    threads = set()

    def load() -> User:
        threads.add(threading.get_ident())
        with tenant_context(tenants[0].pk):
            return User(pk=Note.objects.count(), tenant_id=7)

    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(current_binding().tenant_id))

    user = SimpleLazyObject(load) if lazy else User(pk=1, tenant_id=7)
    expected = b"8" if session and lazy else b"7"
    assert (await respond(view, user, session)).content == expected
    # What may ask the database does that in a thread.
    assert threading.get_ident() not in threads
    assert bool(threads) == (lazy and not session)


class ActingAs:
    """A middleware with which the admin acts as another user, for whom it loads when needed."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        name = request.headers["X-Acting-As"]
        request.user = SimpleLazyObject(lambda: User.objects.get(username=name))
        return self.get_response(request)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_admin_acts_as_another_user(
    kind: Any, users: dict[str, User | None], settings: Any
) -> None:
    *before, last = settings.MIDDLEWARE
    settings.MIDDLEWARE = [*before, f"{__name__}.ActingAs", last]
    client = kind()
    client.force_login(users["admin"])
    response = client.get("/async_titles", headers={"x-acting-as": "b"})
    if kind is AsyncClient:
        response = asyncio.run(response)
    assert response.json() == SEEN["b"]


async def respond(
    view: Callable[[HttpRequest], Awaitable[Any]], user: Any, session: Any = None
) -> Any:
    """Return the middleware's response for `user`, without any other middleware."""
    request: Any = RequestFactory().get("/")
    request.user = user

    async def auser() -> Any:
        return session

    if session:
        request.auser = auser
    middleware: Any = RLSTenantMiddleware(view)
    assert iscoroutinefunction(middleware)
    return await middleware.respond(request)


def test_a_view_that_raises_leaves_nothing_behind(users: dict[str, User | None]) -> None:
    user = users["a"]
    assert user
    client = Client(raise_request_exception=False)
    client.force_login(user)
    assert client.get("/fail").status_code == 500
    assert current_binding() == UNBOUND
    assert Note.objects.count() == 0


async def test_an_async_view_that_raises_leaves_nothing_behind(
    users: dict[str, User | None],
) -> None:
    user = users["a"]
    assert user
    client = AsyncClient(raise_request_exception=False)
    await client.aforce_login(user)
    assert (await client.get("/fail")).status_code == 500
    assert current_binding() == UNBOUND
    assert await Note.objects.acount() == 0


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    entered = asyncio.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        assert current_binding() == Binding(7)
        entered.set()
        await asyncio.Event().wait()
        return HttpResponse()

    async def serve() -> Binding:
        with pytest.raises(asyncio.CancelledError):
            await respond(view, User(pk=1, tenant_id=7))
        return current_binding()

    task = asyncio.create_task(serve())
    await asyncio.wait_for(entered.wait(), 5)
    task.cancel()
    assert await asyncio.wait_for(task, 5) == UNBOUND


async def test_a_request_does_not_inherit_the_binding_around_it() -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        assert current_binding() == UNBOUND
        return HttpResponse()

    async with tenant_context(7):
        await respond(view, AnonymousUser())
        assert current_binding() == Binding(7)


async def test_the_async_path_makes_no_thread_hop_and_sends_no_sql(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    async def view(request: HttpRequest) -> HttpResponse:
        threads.add(threading.get_ident())
        return HttpResponse()

    def hop(*args: Any) -> None:
        raise AssertionError("a thread hop")

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        # Every way to a thread is one through the loop, asgiref's too.
        patched.setattr(loop, "run_in_executor", hop)
        with pytest.raises(AssertionError, match="a thread hop"):
            await sync_to_async(threading.get_ident)()
        await respond(view, User(pk=1, tenant_id=tenants[0].pk))
    assert threads == {threading.get_ident()}
    # Sync code sends SQL in a thread, and native code would have opened a pool.
    assert not loops.running_loop().pools


def test_users_are_bound_by_the_protocol() -> None:
    assert isinstance(User(), TenantUser)
    assert binding_of(User(pk=1, tenant_id=7)) == Binding(7)
    assert binding_of(User(pk=1, tenant_id=7, is_tenant_admin=True)) == ADMIN
    assert binding_of(AnonymousUser()) == UNBOUND
    assert binding_of(None) == UNBOUND


def test_a_user_without_tenant_is_refused() -> None:
    with pytest.raises(ValueError, match="Non-admin user has rls_tenant_id=None"):
        binding_of(User(pk=1))


def test_a_model_whose_users_may_have_no_tenant_yet_says_so() -> None:
    class Newcomer:
        is_authenticated = True
        is_tenant_admin = False
        rls_tenant_id: Any = None
        rls_tenant_ids = ()

    assert binding_of(Newcomer()) == UNBOUND
    alone = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id=None)
    alone.rls_tenant_ids = ()
    assert binding_of(alone) == UNBOUND
    settled = Newcomer()
    settled.rls_tenant_id = 7
    assert binding_of(settled) == Binding(7)


def test_a_user_without_the_protocol_is_refused() -> None:
    class Stranger:
        is_authenticated = True
        is_tenant_admin = False

    with pytest.raises(ImproperlyConfigured, match="has no rls_tenant_id"):
        binding_of(Stranger())


class Asking:
    """A user whose tenant is asked for, and may not be there."""

    is_authenticated = True
    is_tenant_admin: Any = False

    def __init__(self, *found: int | Exception) -> None:
        self.found = [*found]

    @property
    def rls_tenant_id(self) -> int:
        found = self.found.pop()
        if isinstance(found, Exception):
            raise found
        return found


def as_it_is(user: Any) -> Any:
    return user


def lazily(user: Any) -> Any:
    return SimpleLazyObject(lambda: user)


@pytest.mark.parametrize("wrapped", [as_it_is, lazily])
def test_a_tenant_is_read_once(wrapped: Any) -> None:
    assert binding_of(wrapped(Asking(7))) == Binding(7)
    chief = Asking()
    chief.is_tenant_admin = True
    assert binding_of(wrapped(chief)) == ADMIN


@pytest.mark.parametrize("wrapped", [as_it_is, lazily])
def test_what_a_users_property_fails_with_is_shown(wrapped: Any) -> None:
    error = User.tenant.RelatedObjectDoesNotExist("User has no profile.")
    with pytest.raises(AttributeError, match="User has no profile"):
        binding_of(wrapped(Asking(error)))


@pytest.mark.parametrize("wrapped", [as_it_is, lazily])
@pytest.mark.parametrize("said", [lambda: False, "false", "", [False]])
def test_what_is_no_truth_value_makes_nobody_an_admin(said: Any, wrapped: Any) -> None:
    user = Asking(7)
    user.is_tenant_admin = said
    kind = type(said).__name__
    with pytest.raises(ImproperlyConfigured, match=rf"is_tenant_admin .*, a {kind}; it must be T"):
        binding_of(wrapped(user))


@pytest.mark.parametrize("wrapped", [as_it_is, lazily])
@pytest.mark.parametrize(("said", "binding"), [(1, ADMIN), (0, Binding(7)), (None, Binding(7))])
def test_a_number_and_nothing_are_truth_values(said: Any, binding: Binding, wrapped: Any) -> None:
    user = Asking(7)
    user.is_tenant_admin = said
    assert binding_of(wrapped(user)) == binding


def test_a_user_with_a_malformed_tenant_is_refused() -> None:
    class Broken:
        is_authenticated = True
        is_tenant_admin = False
        rls_tenant_id = "7'; DROP TABLE"

    with pytest.raises(InvalidTenantIdError, match="is not a decimal number"):
        binding_of(Broken())


def test_a_missing_authentication_middleware_is_named() -> None:
    middleware = RLSTenantMiddleware(lambda request: HttpResponse())
    with pytest.raises(ImproperlyConfigured, match="needs request"):
        middleware(RequestFactory().get("/"))
