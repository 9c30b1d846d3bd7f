"""Requests that go other ways than through a view that returns: in which binding each part runs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.core.exceptions import BadRequest, PermissionDenied
from django.core.files import File
from django.core.signals import request_finished, request_started
from django.db import connections, transaction
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from django.views import View

from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.exceptions import ScopeError
from tenantry.middleware import Body, RLSTenantMiddleware, is_plain_file
from tests import settings as project
from tests.app.models import Note, Tenant, User
from tests.responses import content_of

Tenants = tuple[Tenant, Tenant]
seen: list[Any] = []


def note_binding(place: str) -> None:
    seen.append((place, current_binding()))


class AsMiddleware:
    """Notes the binding before the view, after it, and when it raises; for sync and async."""

    sync_capable = async_capable = True
    name = "around"

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if self.is_async:
            return self.respond(request)
        note_binding(f"{self.name}: before")
        response = self.get_response(request)
        note_binding(f"{self.name}: after")
        return response

    async def respond(self, request: HttpRequest) -> Any:
        note_binding(f"{self.name}: before")
        response = await self.get_response(request)
        note_binding(f"{self.name}: after")
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> None:
        note_binding(f"{self.name}: process_exception")


class Inside(AsMiddleware):
    name = "inside"


class SyncOnly(AsMiddleware):
    name = "sync"
    async_capable = False


def titles() -> list[str]:
    try:
        return list(Note.objects.order_by("id").values_list("title", flat=True))
    finally:
        # Django renders pages of errors in a thread that nobody closes the connections of.
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()


def view(request: HttpRequest) -> HttpResponse:
    note_binding("view")
    return HttpResponse(" ".join(titles()))


async def async_view(request: HttpRequest) -> HttpResponse:
    note_binding("view")
    return HttpResponse(" ".join(await sync_to_async(titles)()))


def hopping_view(request: HttpRequest) -> HttpResponse:
    return async_to_sync(async_view)(request)


class ClassView(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return view(request)


class AsyncClassView(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return await async_view(request)


ERRORS = {
    "400": BadRequest("asked for"),
    "403": PermissionDenied("asked for"),
    "404": Http404("asked for"),
    "500": RuntimeError("asked for"),
}


def failing(request: HttpRequest, status: str) -> HttpResponse:
    assert titles() == ["A 1", "A 2"]
    raise ERRORS[status]


async def async_failing(request: HttpRequest, status: str) -> HttpResponse:
    assert await sync_to_async(titles)() == ["A 1", "A 2"]
    raise ERRORS[status]


def leaving(request: HttpRequest) -> HttpResponse:
    tenant_context(1).__enter__()
    admin_context().__enter__()
    return view(request)


async def async_leaving(request: HttpRequest) -> HttpResponse:
    admin_context().__enter__()
    return await async_view(request)


def leaving_and_failing(request: HttpRequest) -> HttpResponse:
    admin_context().__enter__()
    raise ERRORS["500"]


def breaking(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield titles()[0]
        raise ERRORS["500"]

    return StreamingHttpResponse(body())


def leaving_in_body(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield titles()[0]
        admin_context().__enter__()
        yield titles()[0]

    return StreamingHttpResponse(body())


class Report(io.BytesIO):
    """A file that asks the database as it is read."""

    def read(self, size: int | None = -1) -> bytes:
        if not self.getvalue():
            self.write(" ".join(titles()).encode())
            self.seek(0)
        return super().read(size)


def report(request: HttpRequest) -> FileResponse:
    return FileResponse(Report())


def real_file(request: HttpRequest) -> FileResponse:
    file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - the response closes it
    file.write(" ".join(titles()).encode())
    file.seek(0)
    return FileResponse(file)


def writing(request: HttpRequest) -> HttpResponse:
    Note.objects.create(title="written" + request.GET.get("fail", ""))
    transaction.on_commit(lambda: note_binding("on_commit"))
    if request.GET:
        raise ERRORS["500"]
    return HttpResponse(str(connections["default"].in_atomic_block))


def page(status: int) -> Any:
    def handler(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
        note_binding(f"page {status}")
        return HttpResponse(" ".join(titles()), status=status)

    return handler


handler400, handler403, handler404, handler500 = page(400), page(403), page(404), page(500)
urlpatterns = [
    path("view/", view),
    path("async_view/", async_view),
    path("hopping_view/", hopping_view),
    path("class_view/", ClassView.as_view()),
    path("async_class_view/", AsyncClassView.as_view()),
    path("failing/<status>/", failing),
    path("async_failing/<status>/", async_failing),
    path("leaving/", leaving),
    path("async_leaving/", async_leaving),
    path("leaving_and_failing/", leaving_and_failing),
    path("breaking/", breaking),
    path("leaving_in_body/", leaving_in_body),
    path("report/", report),
    path("real_file/", real_file),
    path("writing/", writing),
]
VIEWS = ["view", "async_view", "hopping_view", "class_view", "async_class_view"]


@pytest.fixture(autouse=True)
def site(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    seen.clear()
    yield
    assert current_binding() == UNBOUND


@pytest.fixture
def user(tenants: Tenants) -> User:
    return User.objects.create(username="a", tenant=tenants[0])


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest, user: User) -> Any:
    """Ask as a user of A, through WSGI or through ASGI; on this thread's context, as servers do."""
    if request.param == "sync":
        client = Client(raise_request_exception=False)
        client.force_login(user)
        return client.get

    def get(*args: Any, **options: Any) -> Any:
        async def ask() -> Any:
            client = AsyncClient(raise_request_exception=False)
            await client.aforce_login(user)
            return await client.get(*args, **options)

        return asyncio.run(ask())

    return get


def around(*inner: str, outer: str = "AsMiddleware") -> list[str]:
    first, second, ours = project.MIDDLEWARE
    return [
        first,
        second,
        f"{__name__}.{outer}",
        ours,
        *(f"{__name__}.{name}" for name in inner),
    ]


@pytest.mark.parametrize("inner", [(), ("Inside",), ("SyncOnly",), ("SyncOnly", "Inside")])
@pytest.mark.parametrize("outer", ["AsMiddleware", "SyncOnly"])
def test_every_stack_shows_every_view_its_own_rows(
    get: Any, user: User, inner: tuple[str, ...], outer: str
) -> None:
    mine = Binding(user.tenant_id)
    outside = SyncOnly.name if outer == "SyncOnly" else AsMiddleware.name
    for name in VIEWS:
        seen.clear()
        with override_settings(MIDDLEWARE=around(*inner, outer=outer)):
            assert get(f"/{name}/").content == b"A 1 A 2"
        assert seen[0] == (f"{outside}: before", UNBOUND)
        assert seen[-1] == (f"{outside}: after", UNBOUND)
        assert [binding for _, binding in seen[1:-1]] == [mine] * (2 * len(inner) + 1)


@pytest.mark.parametrize("name", ["failing", "async_failing"])
@pytest.mark.parametrize("status", list(ERRORS))
@pytest.mark.parametrize("debug", [False, True])
# The page for debugging shows request.user, in a thread of which nobody closes the connections.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_page_of_an_error_shows_no_rows_of_others(
    get: Any, user: User, name: str, status: str, debug: bool
) -> None:
    with override_settings(MIDDLEWARE=around("Inside"), DEBUG=debug):
        response = get(f"/{name}/{status}/")
    gc.collect()
    assert response.status_code == int(status)
    assert b"B 1" not in response.content
    bindings = dict(seen)
    assert bindings["inside: process_exception"] == Binding(user.tenant_id)
    if not debug or status == "403":
        # What a view raises is answered inside the middleware.
        assert bindings[f"page {status}"] == Binding(user.tenant_id)
        assert response.content == b"A 1 A 2"


def test_a_page_that_is_not_found_is_rendered_for_its_reader(get: Any, user: User) -> None:
    assert get("/nowhere/").content == b"A 1 A 2"


@pytest.mark.parametrize("name", ["leaving", "async_leaving", "leaving_and_failing"])
def test_a_scope_that_a_view_leaves_open_does_not_outlive_the_request(
    request: pytest.FixtureRequest, get: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    in_thread = request.node.callspec.params["get"] == "sync"
    # Of a scope in a hop nobody is told: that of a hop which was given up, and still runs, looks
    # the same.
    is_told = name == "leaving_and_failing" or (name == "leaving" and in_thread)
    assert get(f"/{name}/").status_code in ([500] if is_told else [200, 500])
    assert current_binding() == UNBOUND
    assert Note.objects.count() == 0
    assert get("/view/").content == b"A 1 A 2"


def test_a_view_that_leaves_a_scope_open_is_told(user: User) -> None:
    client = Client()
    client.force_login(user)
    with pytest.raises(RuntimeError, match="opened a scope and did not end it"):
        client.get("/leaving/")


def test_signals_of_a_request_run_as_nobody(get: Any) -> None:
    def started(**kwargs: Any) -> None:
        note_binding("started")

    def finished(**kwargs: Any) -> None:
        note_binding("finished")

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        get("/view/").close()
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)
    bindings = dict(seen)
    assert bindings["started"] == bindings["finished"] == UNBOUND


def test_a_body_that_breaks_leaves_nothing_behind(get: Any) -> None:
    parts = iter(get("/breaking/").streaming_content)
    assert next(parts) == b"A 1"
    with pytest.raises(RuntimeError, match="asked for"):
        next(parts)
    assert current_binding() == UNBOUND


def test_a_scope_that_a_body_leaves_open_does_not_outlive_its_part(get: Any) -> None:
    response = get("/leaving_in_body/")
    parts = iter(response.streaming_content)
    assert next(parts) == b"A 1"
    with pytest.raises(ScopeError, match="the response's body opened a scope and did not end it"):
        next(parts)
    assert current_binding() == UNBOUND
    response.close()
    assert current_binding() == UNBOUND
    assert Note.objects.count() == 0
    assert get("/view/").content == b"A 1 A 2"


def test_what_a_sync_body_is_made_of_cleans_up_in_its_binding() -> None:
    def parts() -> Iterator[str]:
        try:
            yield "one"
        finally:
            note_binding("cleaned")

    body = Body(map(str.encode, parts()), Binding(7))
    assert next(body) == b"one"
    body.close()
    assert seen == [("cleaned", Binding(7))]


def test_a_file_that_asks_the_database_is_read_in_the_binding(get: Any) -> None:
    assert content_of(get("/report/")) == b"A 1 A 2"


def test_a_file_of_the_system_is_left_to_the_server(user: User) -> None:
    request: Any = RequestFactory().get("/")
    request.user = user
    middleware: Any = RLSTenantMiddleware(real_file)
    response = middleware(request)
    # So that a WSGI server can send it by the system call for that.
    assert response.file_to_stream is not None
    assert content_of(response) == b"A 1 A 2"
    response.close()


def test_a_file_of_djangos_is_left_to_the_server_too(user: User) -> None:
    with tempfile.TemporaryFile() as file:
        assert is_plain_file(FileResponse(File(file)))
        assert not is_plain_file(FileResponse(File(Report())))
        assert not is_plain_file(StreamingHttpResponse([]))


@pytest.mark.parametrize("atomic", [False, True])
def test_a_request_in_a_transaction_writes_for_its_tenant(
    get: Any, user: User, atomic: bool
) -> None:
    default = connections["default"]
    default.settings_dict["ATOMIC_REQUESTS"] = atomic
    try:
        assert get("/writing/").content == str(atomic).encode()
        assert dict(seen)["on_commit"] == Binding(user.tenant_id)
        assert get("/writing/", query_params={"fail": "1"}).status_code == 500
    finally:
        default.settings_dict["ATOMIC_REQUESTS"] = False
    with tenant_context(user.tenant_id):
        written = Note.objects.filter(title__startswith="written")
        assert written.count() == (1 if atomic else 2)


# Disconnects: the client leaves before the view, in it, and in the body.

entered: asyncio.Event
released: asyncio.Event
cleaned: list[Binding] = []


async def waiting(request: HttpRequest) -> HttpResponse:
    try:
        assert await sync_to_async(titles)() == ["A 1", "A 2"]
        entered.set()
        await released.wait()
        return HttpResponse()
    finally:
        cleaned.append(current_binding())


async def streaming(request: HttpRequest) -> StreamingHttpResponse:
    async def body() -> AsyncIterator[str]:
        try:
            async for note in Note.objects.order_by("id"):
                yield note.title
            entered.set()
            await released.wait()
        finally:
            cleaned.append(current_binding())

    return StreamingHttpResponse(body())


urlpatterns += [path("waiting/", waiting), path("streaming/", streaming)]


async def communicator(user: User, target: str) -> Any:
    client = AsyncClient()
    await client.aforce_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": target,
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"cookie", cookie)],
    }
    made: Any = ApplicationCommunicator
    return made(get_asgi_application(), scope)


@pytest.mark.parametrize("target", ["/waiting/", "/streaming/"])
async def test_a_client_that_leaves_takes_its_binding_along(
    target: str, user: User, tenants: Tenants
) -> None:
    global entered, released
    entered, released = asyncio.Event(), asyncio.Event()
    cleaned.clear()
    left = await communicator(user, target)
    await left.send_input({"type": "http.request"})
    await asyncio.wait_for(entered.wait(), 5)
    await left.send_input({"type": "http.disconnect"})
    await left.wait(5)
    assert cleaned == [Binding(tenants[0].pk)]
    assert current_binding() == UNBOUND
    stays = await communicator(user, target)
    released.set()
    await stays.send_input({"type": "http.request"})
    assert (await stays.receive_output(5))["status"] == 200
    await stays.receive_output(5)
    with contextlib.suppress(asyncio.CancelledError):
        await stays.wait(5)
    assert current_binding() == UNBOUND


async def test_a_client_that_leaves_at_once_leaves_nothing_behind(user: User) -> None:
    global entered, released
    entered, released = asyncio.Event(), asyncio.Event()
    left = await communicator(user, "/waiting/")
    await left.send_input({"type": "http.disconnect"})
    await left.wait(5)
    assert current_binding() == UNBOUND
    assert not entered.is_set()


def test_the_admins_requests_are_the_admins(get: Any, user: User) -> None:
    user.is_tenant_admin = True
    user.save()
    assert get("/view/").content == b"A 1 A 2 B 1 B 2"
    assert dict(seen)["view"] == ADMIN
