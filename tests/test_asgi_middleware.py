"""What Django does not route: whom applications and WebSockets run as behind the middleware."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from channels.auth import AuthMiddlewareStack
from channels.consumer import SyncConsumer
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.core.asgi import get_asgi_application
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import (
    DatabaseError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.test import Client, override_settings
from django.urls import path
from fastapi import FastAPI, WebSocket
from starlette.middleware.sessions import SessionMiddleware

from tenantry import aclose_pools, aconnection, tenant_context
from tenantry.asgi import TenantMiddleware
from tenantry.asgi.middleware import close_broken_connections, request_of
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tests import settings as project
from tests.app.models import Note, Tenant, User
from tests.fix_aliases import Add

Tenants = tuple[Tenant, Tenant]
A, B, NONE = ["A 1", "A 2"], ["B 1", "B 2"], list[str]()
SEEN = {"a": A, "b": B, "admin": A + B, "anonymous": NONE}


async def titles() -> list[str]:
    return [note.title async for note in Note.objects.order_by("id")]


def sync_titles() -> list[str]:
    return [note.title for note in Note.objects.order_by("id")]


def titles_in_thread() -> list[str]:
    """Return the titles, in a thread whose connections nobody else closes."""
    try:
        return sync_titles()
    finally:
        connections.close_all()


async def raw_titles() -> list[str]:
    async with aconnection("pooled") as connection:
        cursor = await connection.execute("SELECT title FROM app_note ORDER BY id")
        return [title for (title,) in await cursor.fetchall()]


@pytest.fixture(autouse=True)
async def pools() -> AsyncIterator[None]:
    yield
    await aclose_pools()


def configured(*entries: object, **others: object) -> override_settings:
    return override_settings(
        RLS_TENANTS={**project.RLS_TENANTS, "RESOLVERS": list(entries), **others}
    )


def scope_of(user: User | None, kind: str = "http", path: str = "/", **headers: str) -> Any:
    """Return a scope, with the session cookie of a user who has logged in."""
    client = Client()
    if user is not None:
        client.force_login(user)
    cookie = SimpleCookie({key: morsel.value for key, morsel in client.cookies.items()})
    named = {"host": "testserver", "cookie": cookie.output(header="", sep=";").strip(), **headers}
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http" if kind == "http" else "ws",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("testserver", 80),
        "headers": [
            (name.replace("_", "-").encode(), value.encode())
            for name, value in named.items()
            if value
        ],
    }
    more: dict[str, Any] = {"method": "GET"} if kind == "http" else {"subprotocols": []}
    return scope | more


def communicating(application: Any, scope: Any) -> Any:
    communicator: Any = ApplicationCommunicator
    return communicator(application, scope)


class Echo:
    """An application that answers with the rows that it sees."""

    def __init__(self, look: Callable[[], Any] = titles, headers: Any = ()) -> None:
        self.look = look
        self.headers = headers
        self.bindings: list[Binding] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bindings.append(current_binding())
        if scope["type"] == "http":
            text = "|".join(await self.look())
            await send(
                {"type": "http.response.start", "status": 200, "headers": list(self.headers)}
            )
            await send({"type": "http.response.body", "body": text.encode()})
            return
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": "|".join(await self.look())})
        self.bindings.append(current_binding())


async def get(application: Any, scope: Any) -> tuple[int, list[str], dict[str, str]]:
    """Return the status, the titles and the headers of a response."""
    communicator = communicating(application, scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    start = await communicator.receive_output()
    body = await communicator.receive_output()
    await communicator.wait()
    headers = {name.decode(): value.decode() for name, value in start.get("headers", ())}
    return start["status"], list(filter(None, body["body"].decode().split("|"))), headers


@asynccontextmanager
async def socket(application: Any, scope: Any) -> AsyncIterator[Callable[[], Any]]:
    """Open a WebSocket; yield a function that asks it for the titles."""
    communicator = communicating(application, scope)
    await communicator.send_input({"type": "websocket.connect"})
    assert (await communicator.receive_output())["type"] == "websocket.accept"

    async def ask() -> list[str]:
        await communicator.send_input({"type": "websocket.receive", "text": "?"})
        answer = await communicator.receive_output()
        return list(filter(None, answer["text"].split("|")))

    try:
        yield ask
    finally:
        await communicator.send_input({"type": "websocket.disconnect", "code": 1000})
        await communicator.wait()


# Who is served what.


@pytest.mark.parametrize(
    "look",
    [titles, raw_titles, sync_to_async(sync_titles), lambda: asyncio.to_thread(titles_in_thread)],
    ids=["orm", "aconnection", "hop", "thread"],
)
@pytest.mark.parametrize("name", SEEN)
async def test_a_request_shows_the_rows_of_its_user(
    name: str, look: Any, users: dict[str, User | None]
) -> None:
    scope = await sync_to_async(scope_of)(users[name])
    status, found, _ = await get(TenantMiddleware(Echo(look)), scope)
    assert (status, found) == (200, SEEN[name])
    assert current_binding() == UNBOUND


async def test_the_user_in_the_scope_counts_more_than_the_cookie(
    users: dict[str, User | None],
) -> None:
    scope = await sync_to_async(scope_of)(users["a"])
    for name in ("b", "admin"):
        _, found, _ = await get(TenantMiddleware(Echo()), {**scope, "user": users[name]})
        assert found == SEEN[name]


async def test_websockets_keep_their_bindings(users: dict[str, User | None]) -> None:
    application = TenantMiddleware(Echo())
    scopes = {name: await sync_to_async(scope_of)(users[name], "websocket") for name in SEEN}
    async with (
        socket(application, scopes["a"]) as a,
        socket(application, scopes["b"]) as b,
        socket(application, scopes["admin"]) as admin,
        socket(application, scopes["anonymous"]) as anonymous,
    ):
        for _ in range(3):
            found = await asyncio.gather(a(), b(), admin(), anonymous())
            assert list(found) == list(SEEN.values())
    assert current_binding() == UNBOUND


async def test_a_websocket_keeps_its_binding_when_the_user_changes(
    users: dict[str, User | None],
) -> None:
    user = users["a"]
    assert user is not None
    application = TenantMiddleware(Echo())
    scope = await sync_to_async(scope_of)(user, "websocket")
    async with socket(application, scope) as ask:
        assert await ask() == A
        user.tenant = None
        user.is_tenant_admin = True
        await user.asave()
        assert await ask() == A
    async with socket(application, scope) as ask:
        assert await ask() == A + B


async def test_an_application_that_is_cancelled_leaves_nothing_behind(
    users: dict[str, User | None],
) -> None:
    entered = asyncio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        assert await titles() == A
        entered.set()
        await asyncio.Event().wait()

    async def serve() -> Binding:
        try:
            await TenantMiddleware(wait)(scope, None, None)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            return current_binding()
        raise AssertionError

    scope = await sync_to_async(scope_of)(users["a"], "websocket")
    task = asyncio.create_task(serve())
    await entered.wait()
    task.cancel()
    assert await task == UNBOUND


async def test_other_scopes_pass_through() -> None:
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    parts: Any = ({"type": "lifespan"}, object(), object())
    await TenantMiddleware(inner)(*parts)
    assert seen == [parts]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_only_requests_are_read_only(kind: str, users: dict[str, User | None]) -> None:
    echo = Echo()
    scope = await sync_to_async(scope_of)(users["a"], kind)
    with configured("user", READ_ONLY_REQUESTS=True):
        if kind == "http":
            await get(TenantMiddleware(echo), scope)
        else:
            async with socket(TenantMiddleware(echo), scope) as ask:
                await ask()
    assert [binding.read_only for binding in echo.bindings] == (
        [True] if kind == "http" else [False, False]
    )


# The headers that a response depends on.


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], "X-Tenant, Cookie"),
        ([(b"vary", b"Accept")], "Accept, X-Tenant, Cookie"),
        ([(b"vary", b"Cookie, Accept")], "Cookie, Accept, X-Tenant"),
        ([(b"Vary", b"Cookie"), (b"vary", b"x-tenant")], "Cookie, x-tenant"),
        ([(b"vary", b"*")], "*"),
    ],
)
async def test_the_response_names_what_it_depends_on(
    own: Any, expected: str, users: dict[str, User | None]
) -> None:
    echo = Echo(headers=[*own, (b"x-other", b"kept")])
    scope = await sync_to_async(scope_of)(users["a"])
    with configured("header", "user"):
        _, found, headers = await get(TenantMiddleware(echo), scope)
    assert found == A
    assert headers == {"vary": expected, "x-other": "kept"}


async def test_a_response_that_asks_no_session_does_not_depend_on_it(
    users: dict[str, User | None],
) -> None:
    scope = await sync_to_async(scope_of)(users["a"])
    scope["user"] = users["a"]
    with configured("user"):
        _, found, headers = await get(TenantMiddleware(Echo()), scope)
    assert found == A
    assert "vary" not in headers


# What is denied.

PLAIN = {"content-type": "text/plain; charset=utf-8"}


async def refused(application: Any, scope: Any) -> Any:
    """Return the answer to what is denied."""
    if scope["type"] == "http":
        return await get(application, scope)
    communicator = communicating(application, scope)
    await communicator.send_input({"type": "websocket.connect"})
    answer = await communicator.receive_output()
    await communicator.wait()
    assert communicator.output_queue.empty()
    return answer


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_denials_are_all_alike_and_logged_once(
    kind: str,
    users: dict[str, User | None],
    tenants: Tenants,
    caplog: pytest.LogCaptureFixture,
) -> None:
    echo = Echo()
    answers = []
    with configured("header", "user"):
        for wanted in (str(tenants[1].pk), "987654", "garbage", "-1", "1; DROP TABLE", "9" * 500):
            caplog.clear()
            scope = await sync_to_async(scope_of)(users["a"], kind, x_tenant=wanted)
            answers.append(await refused(TenantMiddleware(echo), scope))
            (record,) = [each for each in caplog.records if each.name == "tenantry.asgi"]
            assert record.levelno == logging.WARNING
            assert record.getMessage() == "Forbidden: '/': You may not act for this tenant."
    denied: Any = {"type": "websocket.close", "code": 4403}
    if kind == "http":
        denied = (403, ["Forbidden"], {**PLAIN, "vary": "X-Tenant, Cookie"})
    assert answers == [denied] * 6
    assert echo.bindings == []


async def test_a_path_cannot_forge_the_log(
    users: dict[str, User | None], caplog: pytest.LogCaptureFixture
) -> None:
    scope = await sync_to_async(scope_of)(users["a"], path="/a\nForbidden: b", x_tenant="x")
    with configured("header"):
        await get(TenantMiddleware(Echo()), scope)
    assert "\n" not in caplog.records[-1].getMessage()


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_request_that_django_calls_bad_is_bad_here(
    kind: str, users: dict[str, User | None], caplog: pytest.LogCaptureFixture
) -> None:
    echo = Echo()
    entry = {"NAME": "subdomain", "OPTIONS": {"domain": "example.com", "field": "name"}}
    scope = await sync_to_async(scope_of)(users["a"], kind, host="evil.org")
    with configured(entry, "user"):
        answer = await refused(TenantMiddleware(echo), scope)
    if kind == "http":
        assert answer == (400, ["Bad Request"], {**PLAIN, "vary": "Cookie"})
    else:
        assert answer == {"type": "websocket.close", "code": 4400}
    assert echo.bindings == []
    assert "evil.org" in caplog.text


def missing(request: HttpRequest) -> None:
    get_object_or_404(Tenant, name="C")


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_what_django_calls_missing_is_missing_here(
    kind: str, tenants: Tenants, caplog: pytest.LogCaptureFixture
) -> None:
    scope = await sync_to_async(scope_of)(None, kind)
    with configured(f"{__name__}.missing", "user"):
        answer = await refused(TenantMiddleware(Echo()), scope)
    if kind == "http":
        assert answer == (404, ["Not Found"], {**PLAIN, "vary": "Cookie"})
    else:
        assert answer == {"type": "websocket.close", "code": 4404}
    assert caplog.messages == ["Not Found: '/': No Tenant matches the given query."]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_query_that_is_no_text_is_bad(
    kind: str, users: dict[str, User | None], caplog: pytest.LogCaptureFixture
) -> None:
    echo = Echo()
    scope = await sync_to_async(scope_of)(users["a"], kind)
    scope["query_string"] = b"q=\xff\n"
    answer = await refused(TenantMiddleware(echo), scope)
    if kind == "http":
        assert answer[0] == 400
    else:
        assert answer == {"type": "websocket.close", "code": 4400}
    assert echo.bindings == []
    assert caplog.messages == [
        "Bad Request: '/': the query is not UTF-8: 'utf-8' codec can't decode byte 0xff in position"
        " 2: invalid start byte"
    ]


@pytest.mark.parametrize("scheme", ["http", "https", "ws", "wss"])
def test_resolvers_know_whether_a_connection_is_secure(scheme: str) -> None:
    request = request_of({**scope_of(None), "scheme": scheme})
    assert request.is_secure() == (scheme in ("https", "wss"))


# Applications with users of their own.


async def by_header(scope: Any) -> Any:
    found = dict(scope["headers"]).get(b"x-key", b"").decode()
    if found == "no":
        raise PermissionDenied("no")
    if found == "admin":
        return ADMIN
    return found or None


def sync_by_header(scope: Any) -> Any:
    assert Tenant.objects.count() == 2
    return asyncio.run(by_header(scope))


@pytest.mark.parametrize("resolve", [by_header, sync_by_header])
async def test_a_function_says_whose_a_connection_is(resolve: Any, tenants: Tenants) -> None:
    application = TenantMiddleware(Echo(), resolve=resolve)
    for key, expected in (
        (str(tenants[0].pk), (200, A)),
        (str(tenants[1].pk), (200, B)),
        ("admin", (200, A + B)),
        ("", (200, NONE)),
        ("no", (403, ["Forbidden"])),
        ("garbage", (403, ["Forbidden"])),
    ):
        scope = await sync_to_async(scope_of)(None, x_key=key)
        assert (await get(application, scope))[:2] == expected


async def asking(scope: Any) -> Any:
    return current_binding().tenant_id


asking.vary = ["X-Key", "X-Other"]  # type: ignore[attr-defined]


async def denying(scope: Any) -> Any:
    raise PermissionDenied


denying.vary = ["X-Key"]  # type: ignore[attr-defined]


async def test_the_headers_that_a_function_denies_by_are_named() -> None:
    scope = await sync_to_async(scope_of)(None)
    answer = await refused(TenantMiddleware(Echo(), resolve=denying), scope)
    assert answer == (403, ["Forbidden"], {**PLAIN, "vary": "X-Key"})


async def test_the_headers_that_a_function_reads_are_named() -> None:
    application = TenantMiddleware(Echo(), resolve=asking)
    _, _, headers = await get(application, await sync_to_async(scope_of)(None))
    assert headers["vary"] == "X-Key, X-Other"
    with pytest.raises(ValueError, match=r"vary is 'X-Key'; it must be a list such as \["):
        TenantMiddleware(Echo(), resolve=Varying())


class Varying:
    """A function that names its header as a text."""

    vary = "X-Key"

    async def __call__(self, scope: Any) -> None:
        """Name no tenant."""


async def test_a_function_is_asked_as_nobody_wherever_the_connection_comes_from(
    tenants: Tenants,
) -> None:
    inner = TenantMiddleware(Echo(), resolve=asking)
    outer = TenantMiddleware(inner, resolve=lambda scope: tenants[0].pk)
    assert (await get(outer, await sync_to_async(scope_of)(None)))[:2] == (200, NONE)


async def test_without_sessions_and_users_it_is_said_what_is_missing(settings: Any) -> None:
    settings.INSTALLED_APPS = [
        app for app in settings.INSTALLED_APPS if app != "django.contrib.sessions"
    ]
    with pytest.raises(ImproperlyConfigured, match=r"scope\['user'\]"):
        await get(TenantMiddleware(Echo()), await sync_to_async(scope_of)(None))


async def by_query(scope: Any) -> Any:
    return (await Tenant.objects.aget(name="A")).pk


def sync_by_query(scope: Any) -> Any:
    return Tenant.objects.get(name="A").pk


@pytest.mark.parametrize("resolve", [None, by_query, sync_by_query])
async def test_a_connection_that_was_lost_is_not_asked_again(
    resolve: Any, users: dict[str, User | None], superuser: psycopg.Connection[Any]
) -> None:
    application = TenantMiddleware(Echo(), resolve=resolve)
    scope = await sync_to_async(scope_of)(users["a"])
    assert (await get(application, scope))[1] == A
    superuser.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'app'"
    )
    # Nothing but the middleware asks Django's connection here.
    application = TenantMiddleware(Echo(raw_titles), resolve=resolve)
    with suppress(OperationalError):
        await get(application, scope)
    assert (await get(application, scope))[1] == A


async def test_a_connection_that_others_read_from_is_left_to_them(
    users: dict[str, User | None], tenants: Tenants
) -> None:
    application = TenantMiddleware(Echo(raw_titles))
    scope = await sync_to_async(scope_of)(users["a"])

    async def read() -> list[str]:
        found = []
        async for note in Note.objects.order_by("id").aiterator(chunk_size=1):
            found.append(note.title)
            # Another request, which asks for its user in the same thread.
            assert (await get(application, scope))[1] == A
        return found

    async with tenant_context(tenants[1].pk):
        assert await read() == B


def test_so_is_one_in_a_transaction_that_has_failed(tenants: Tenants) -> None:
    connection = connections["default"]
    with pytest.raises(ProgrammingError), transaction.atomic(), connection.cursor() as cursor:
        try:
            cursor.execute("SELECT nothing")
        finally:
            close_broken_connections()
            assert not connection.closed_in_transaction


def test_one_that_still_answers_is_kept_and_asked_once(tenants: Tenants) -> None:
    connection = connections["default"]
    with pytest.raises(ProgrammingError), connection.cursor() as cursor:
        cursor.execute("SELECT nothing")
    kept = connection.connection
    assert connection.errors_occurred
    close_broken_connections()
    assert connection.connection is kept is not None
    assert not connection.errors_occurred


def test_a_connection_that_could_not_be_made_is_not_asked(alias: Add, tmp_path: Path) -> None:
    name = str(tmp_path / "missing" / "file")
    connection = connections[alias("default", ENGINE="tests.pinging", NAME=name)]
    with pytest.raises(OperationalError, match="unable to open"):
        connection.ensure_connection()
    close_broken_connections()
    assert connection.connection is None


WITHOUT_USERS = """
import asyncio
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes"],
    RLS_TENANTS={"TENANT_MODEL": "contenttypes.ContentType", "RESOLVERS": ["__main__.nobody"]},
)
import django
django.setup()
from tenantry.asgi import TenantMiddleware
from tenantry.binding import current_binding

def nobody(request):
    return None

async def application(scope, receive, send):
    print(current_binding().tenant_id)

scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
asyncio.run(TenantMiddleware(application)(scope, None, None))
"""


def test_a_project_without_users_is_served() -> None:
    command = [sys.executable, "-c", WITHOUT_USERS]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.stdout, result.stderr) == ("None\n", "")


# Starlette and FastAPI.

api = FastAPI()
api.add_middleware(SessionMiddleware, secret_key="a key")


@api.get("/async")
async def api_async() -> list[str]:
    return await titles()


@api.get("/sync")
def api_sync() -> list[str]:
    return titles_in_thread()


@api.get("/write")
async def api_write(tenant: int) -> str:
    try:
        await Note.objects.acreate(tenant_id=tenant, title="foreign")
    except DatabaseError as error:
        return type(error).__name__
    return "written"


@api.websocket("/socket")
async def api_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("|".join(await titles()))
    await websocket.close()


async def django_titles(request: HttpRequest) -> JsonResponse:
    return JsonResponse(await titles(), safe=False)


urlpatterns = [path("titles/", django_titles)]
django_application: Any = get_asgi_application()
api.mount("/django", django_application)


@pytest.mark.parametrize("outside", [True, False], ids=["around", "among its middleware"])
@pytest.mark.parametrize("where", ["/async", "/sync", "/django/titles/"])
@pytest.mark.parametrize("name", SEEN)
async def test_fastapi_runs_as_the_user_of_djangos_session(
    name: str, where: str, outside: bool, users: dict[str, User | None], settings: Any
) -> None:
    settings.ROOT_URLCONF = __name__
    application: Any = TenantMiddleware(api)
    if not outside:
        application = FastAPI(routes=list(api.routes))
        application.add_middleware(TenantMiddleware)
        application.add_middleware(SessionMiddleware, secret_key="a key")
    scope = await sync_to_async(scope_of)(users[name], path=where)

    transport = httpx.ASGITransport(application)
    headers = {key.decode(): value.decode() for key, value in scope["headers"]}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        answer = await client.get(where, headers=headers)
        assert answer.json() == SEEN[name]
        if name == "a":
            other = users["b"]
            assert other is not None
            refused = await client.get(f"/write?tenant={other.tenant_id}", headers=headers)
            assert refused.json() == "ProgrammingError"
    assert await sync_to_async(everything)() == A + B


def everything() -> list[str]:
    with tenant_context(Tenant.objects.get(name="A").pk):
        found = sync_titles()
    with tenant_context(Tenant.objects.get(name="B").pk):
        return found + sync_titles()


# Channels.

LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


class Room(AsyncJsonWebsocketConsumer):
    """Tells who writes something, and what everybody in the room sees."""

    groups = ["room"]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "titles":
            await self.send_json([await titles(), await sync_to_async(sync_titles)()])
        else:
            await self.channel_layer.group_send("room", {"type": "said", "words": content})

    async def said(self, event: Any) -> None:
        await self.send_json([event["words"], await titles()])


class SyncRoom(SyncConsumer):
    """The same, in threads."""

    def websocket_connect(self, message: Any) -> None:
        self.send({"type": "websocket.accept"})

    def websocket_receive(self, message: Any) -> None:
        self.send({"type": "websocket.send", "text": "|".join(sync_titles())})

    def websocket_disconnect(self, message: Any) -> None:
        raise StopConsumer


def consumers() -> Any:
    room: Any = Room.as_asgi()
    sync: Any = SyncRoom.as_asgi()
    routes: Any = [path("room/", room), path("sync/", sync)]
    return AuthMiddlewareStack(TenantMiddleware(URLRouter(routes)))


async def connected(user: User | None, where: str) -> WebsocketCommunicator:
    scope = await sync_to_async(scope_of)(user, "websocket", where)
    communicator = WebsocketCommunicator(consumers(), where, headers=scope["headers"])
    assert (await communicator.connect())[0]
    return communicator


async def test_consumers_run_as_their_own_users(
    users: dict[str, User | None], settings: Any
) -> None:
    settings.CHANNEL_LAYERS = LAYERS
    rooms = {name: await connected(users[name], "/room/") for name in SEEN}
    for name, room in rooms.items():
        await room.send_json_to("titles")
        assert await room.receive_json_from() == [SEEN[name], SEEN[name]]
    # What another tenant's code sends is handled as whoever receives it.
    for sender in rooms:
        await rooms[sender].send_json_to(f"hello from {sender}")
        for name, room in rooms.items():
            assert await room.receive_json_from() == [f"hello from {sender}", SEEN[name]]
    with tenant_context(users["a"].tenant_id):  # type: ignore[union-attr]
        layer: Any = get_channel_layer()
        await layer.group_send("room", {"type": "said", "words": "from outside"})
    for name, room in rooms.items():
        assert await room.receive_json_from() == ["from outside", SEEN[name]]
        await room.disconnect()


@pytest.mark.parametrize("name", SEEN)
async def test_sync_consumers_run_as_their_own_users(
    name: str, users: dict[str, User | None]
) -> None:
    room = await connected(users[name], "/sync/")
    for _ in range(2):
        await room.send_to("?")
        assert await room.receive_from() == "|".join(SEEN[name])
    await room.disconnect()


async def test_a_selection_in_channels_session_counts(
    users: dict[str, User | None], tenants: Tenants, settings: Any
) -> None:
    settings.CHANNEL_LAYERS = LAYERS

    def select() -> bytes:
        client = Client()
        client.force_login(users["admin"])  # type: ignore[arg-type]
        session = client.session
        session["tenantry.tenant"] = str(tenants[1].pk)
        session.save()
        return f"sessionid={client.cookies['sessionid'].value}".encode()

    cookie = await sync_to_async(select)()
    with configured("session", "user"):
        room = WebsocketCommunicator(consumers(), "/room/", headers=[(b"cookie", cookie)])
        assert (await room.connect())[0]
        await room.send_json_to("titles")
        assert await room.receive_json_from() == [B, B]
        await room.disconnect()
