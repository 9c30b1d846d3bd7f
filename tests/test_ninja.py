"""Django Ninja: whom each part of a request runs as, once its authentication knows who asks."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from itertools import product
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from ninja import ModelSchema, NinjaAPI, Router
from ninja.errors import HttpError
from ninja.pagination import paginate
from ninja.security import APIKeyHeader, HttpBearer, SessionAuth, django_auth
from ninja.streaming import JSONL
from ninja.testing import TestClient
from ninja.throttling import BaseThrottle

from tenantry import admin_context
from tenantry.binding import UNBOUND, Binding, current_binding
from tenantry.contrib.ninja import TenantAuth
from tenantry.exceptions import ScopeError
from tests import settings as project
from tests.app.models import Author, Note, Tenant, User
from tests.responses import content_of

Tenants = tuple[Tenant, Tenant]
seen: list[tuple[str, Binding]] = []


def note_binding(place: str) -> None:
    seen.append((place, current_binding()))


def titles() -> list[str]:
    return list(Note.objects.order_by("id").values_list("title", flat=True))


class Tokens(TenantAuth, HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        note_binding("authentication")
        assert not Note.objects.exists()
        return User.objects.filter(username=token).first()


class AsyncTokens(TenantAuth, HttpBearer):
    async def authenticate(self, request: HttpRequest, token: str) -> User | None:
        note_binding("authentication")
        assert not await Note.objects.aexists()
        return await User.objects.filter(username=token).afirst()


class Sessions(TenantAuth, SessionAuth):
    """As ``django_auth``, bound."""


class Keys(TenantAuth, APIKeyHeader):
    """Finds something that has a user."""

    param_name = "X-Key"

    def authenticate(self, request: HttpRequest, key: str | None) -> dict[str, Any] | None:
        return {"user": User.objects.get(username=key)} if key else None

    def user_of(self, found: dict[str, Any]) -> User:
        user: User = found["user"]
        return user


class Wrong(Keys):
    def user_of(self, found: dict[str, Any]) -> Any:
        return found


class Forgotten(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        return User.objects.filter(username=token).first()


class Noting(BaseThrottle):
    def allow_request(self, request: HttpRequest) -> bool:
        note_binding("throttle")
        return True


class AuthorSchema(ModelSchema):
    class Meta:
        model = Author
        fields = ["name"]


class NoteSchema(ModelSchema):
    author: AuthorSchema | None = None

    class Meta:
        model = Note
        fields = ["title"]


class TitleSchema(ModelSchema):
    class Meta:
        model = Note
        fields = ["title"]


api = NinjaAPI(auth=[Tokens(), Sessions()], throttle=[Noting()])
async_api = NinjaAPI(auth=AsyncTokens(), throttle=[Noting()], urls_namespace="async")


@api.get("/raw")
def raw(request: HttpRequest) -> list[str]:
    return titles()


@api.get("/schema", response=list[NoteSchema])
def schema(request: HttpRequest) -> Any:
    # Evaluated when the response is made.
    return Note.objects.order_by("id").select_related("author")


@api.get("/lazy", response=list[NoteSchema])
def lazy(request: HttpRequest) -> Any:
    # And so are the authors.
    return Note.objects.order_by("id")


@api.get("/paged", response=list[NoteSchema])
@paginate
def paged(request: HttpRequest) -> Any:
    return Note.objects.order_by("id")


@api.get("/jsonl", response=JSONL[TitleSchema])
def jsonl(request: HttpRequest) -> Iterator[Note]:
    yield from Note.objects.order_by("id")


@api.get("/stream")
def stream(request: HttpRequest) -> StreamingHttpResponse:
    def body() -> Iterator[str]:
        yield json.dumps(titles())

    return StreamingHttpResponse(body())


@api.get("/failing")
def failing(request: HttpRequest, known: bool = False) -> None:
    assert titles()
    if known:
        raise HttpError(418, "asked for")
    raise RuntimeError("asked for")


@api.api_operation(["GET", "POST"], "/write")
def write(request: HttpRequest) -> int:
    return int(Note.objects.create(title="written").pk)


@api.get("/by_key", auth=Keys())
def by_key(request: HttpRequest) -> list[str]:
    assert isinstance(request.auth, dict)  # type: ignore[attr-defined]
    return titles()


@api.get("/wrong", auth=Wrong())
def wrong(request: HttpRequest) -> list[str]:
    return titles()


@api.get("/forgotten", auth=Forgotten())
def forgotten(request: HttpRequest) -> list[str]:
    return titles()


@api.get("/half_forgotten", auth=[Tokens(), django_auth])
def half_forgotten(request: HttpRequest) -> list[str]:
    return titles()


@api.get("/async_auth", auth=AsyncTokens())
def async_auth(request: HttpRequest) -> list[str]:
    return titles()


@async_api.get("/raw")
async def async_raw(request: HttpRequest) -> list[str]:
    return await sync_to_async(titles)()


@async_api.get("/native", response=list[TitleSchema])
async def async_native(request: HttpRequest) -> list[Note]:
    return [note async for note in Note.objects.order_by("id")]


@async_api.get("/sync_auth", auth=[Keys(), Tokens()])
async def async_sync_auth(request: HttpRequest) -> list[str]:
    return await asyncio.create_task(sync_to_async(titles)())


@async_api.get("/paged", response=list[TitleSchema])
@paginate
async def async_paged(request: HttpRequest) -> Any:
    return Note.objects.order_by("id")


@async_api.get("/jsonl", response=JSONL[TitleSchema])
async def async_jsonl(request: HttpRequest) -> AsyncIterator[Note]:
    async for note in Note.objects.order_by("id"):
        yield note


@async_api.get("/failing")
async def async_failing(request: HttpRequest, known: bool = False) -> None:
    assert await Note.objects.aexists()
    if known:
        raise HttpError(418, "asked for")
    raise RuntimeError("asked for")


@async_api.get("/sync")
def sync_next_to_async(request: HttpRequest) -> list[str]:
    return titles()


@async_api.post("/sync")
async def async_next_to_sync(request: HttpRequest) -> list[str]:
    return await sync_to_async(titles)()


@api.exception_handler(HttpError)
def on_error(request: HttpRequest, error: Exception) -> HttpResponse:
    assert isinstance(error, HttpError)
    note_binding("handler")
    content = {"detail": str(error)}
    return api.create_response(request, content, status=error.status_code)


below = Router(auth=Keys())


@below.get("/raw")
def raw_below(request: HttpRequest) -> list[str]:
    return titles()


api.add_router("/below", below)
urlpatterns = [path("api/", api.urls), path("async/", async_api.urls)]


@pytest.fixture(autouse=True)
def site(settings: Any, users: object) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    seen.clear()
    yield
    assert current_binding() == UNBOUND


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Any:
    """Ask through WSGI or through ASGI: as a user by name, with a session of another one."""

    def ask(target: str, token: str = "", session: str = "", **options: Any) -> Any:
        headers = options.pop("headers", {}) | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        method = options.pop("method", "GET")
        if request.param == "sync":
            client = Client(raise_request_exception=False, **options)
            if session:
                client.force_login(User.objects.get(username=session))
            return client.generic(method, target, headers=headers)

        async def ask_async() -> Any:
            client = AsyncClient(raise_request_exception=False, **options)
            if session:
                await client.aforce_login(await User.objects.aget(username=session))
            return await client.generic(method, target, headers=headers)

        return asyncio.run(ask_async())

    return ask


def titles_of(response: Any) -> list[str]:
    content = content_of(response)
    if response["Content-Type"] == "application/jsonl":
        found = [json.loads(line) for line in content.splitlines()]
    else:
        found = json.loads(content)
    if isinstance(found, dict):
        assert found["count"] == len(found["items"])
        found = found["items"]
    return [each if isinstance(each, str) else each["title"] for each in found]


SEEN = {"a": ["A 1", "A 2"], "b": ["B 1", "B 2"], "admin": ["A 1", "A 2", "B 1", "B 2"]}
OPERATIONS = [
    *[f"api/{name}" for name in ("raw", "schema", "lazy", "paged", "jsonl", "stream")],
    "api/async_auth",
    *[f"async/{name}" for name in ("raw", "native", "sync_auth", "paged", "jsonl", "sync")],
]


@pytest.mark.parametrize("target", OPERATIONS)
def test_an_operation_sees_the_rows_of_whom_it_has_authenticated(ask: Any, target: str) -> None:
    for token, session in product(SEEN, ["", "b"]):
        assert titles_of(ask(f"/{target}", token, session)) == SEEN[token]


async def test_at_the_same_time_each_sees_its_own() -> None:
    async def visit(token: str, target: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(2):
            response = await AsyncClient().get(f"/{target}", headers=headers)
            assert titles_of(response) == SEEN[token]

    targets = [target for target in OPERATIONS if "jsonl" not in target and "stream" not in target]
    await asyncio.gather(*(visit(token, target) for token in SEEN for target in targets))


def test_what_the_response_asks_for_is_of_the_user(ask: Any) -> None:
    [first, _] = json.loads(content_of(ask("/api/lazy", "b")))
    assert first == {"title": "B 1", "author": {"name": "author of B"}}


def test_a_session_is_authentication_too(ask: Any) -> None:
    assert titles_of(ask("/api/raw", session="a")) == SEEN["a"]


@pytest.mark.parametrize("target", ["api/by_key", "api/below/raw", "async/sync_auth"])
def test_the_user_may_be_a_part_of_what_is_found(ask: Any, target: str) -> None:
    assert titles_of(ask(f"/{target}", session="b", headers={"X-Key": "a"})) == SEEN["a"]


@pytest.mark.parametrize("target", ["api/raw", "async/raw"])
def test_authentication_runs_as_nobody_and_throttles_as_the_user(
    ask: Any, target: str, tenants: Tenants
) -> None:
    assert ask(f"/{target}", "a", "b").status_code == 200
    assert seen == [("authentication", UNBOUND), ("throttle", Binding(tenants[0].pk))]


@pytest.mark.parametrize("target", ["api/by_key", "api/async_auth", "async/raw", "async/sync"])
def test_who_is_not_let_in_is_nobody(ask: Any, target: str) -> None:
    response = ask(f"/{target}", "nobody", "b")
    assert response.status_code == 401
    assert {binding for _, binding in seen} <= {UNBOUND}


def test_a_handler_of_errors_knows_no_tenant_of_a_session(ask: Any) -> None:
    assert ask("/api/by_key", session="b").status_code == 401
    assert seen == [("handler", UNBOUND)]


def test_a_session_needs_a_csrf_token_and_its_lack_unbinds(ask: Any) -> None:
    response = ask("/api/write", session="b", method="POST", enforce_csrf_checks=True)
    assert response.status_code == 403
    assert seen == [("handler", UNBOUND)]
    with admin_context():
        assert "written" not in titles()


def test_nothing_is_left_behind(ask: Any, tenants: Tenants) -> None:
    for prefix in ("api", "async"):
        assert ask(f"/{prefix}/failing", "a").status_code == 500
        assert ask(f"/{prefix}/failing?known=1", "a").status_code == 418
        assert current_binding() == UNBOUND
    assert ("handler", Binding(tenants[0].pk)) in seen


def test_who_forgets_the_base_class_sees_nothing(ask: Any) -> None:
    assert titles_of(ask("/api/forgotten", "a")) == []
    assert titles_of(ask("/api/half_forgotten", session="a")) == []
    assert titles_of(ask("/api/half_forgotten", "a")) == SEEN["a"]


def test_rows_are_written_for_the_user(ask: Any, tenants: Tenants) -> None:
    assert ask("/api/write", "a", "b", method="POST").status_code == 200
    with admin_context():
        assert Note.objects.get(title="written").tenant_id == tenants[0].pk


def test_a_request_that_may_not_write_still_may_not(ask: Any) -> None:
    read_only = {**project.RLS_TENANTS, "READ_ONLY_REQUESTS": True}
    with override_settings(RLS_TENANTS=read_only):
        assert titles_of(ask("/api/raw", "a")) == SEEN["a"]
        assert seen[-1][1].read_only
        assert ask("/api/write", "a").status_code == 500
        with admin_context():
            assert not Note.objects.filter(title="written").exists()
        assert ask("/api/write", "a", method="POST").status_code == 200


@pytest.mark.parametrize("target", ["api/raw", "api/async_auth", "async/raw", "async/sync_auth"])
@pytest.mark.parametrize("debug", [False, True])
def test_who_may_not_act_for_a_tenant_is_told_by_ninja(
    ask: Any, tenants: Tenants, target: str, debug: bool
) -> None:
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": ["header", "user"]}
    mine, other = ({"X-Tenant": str(tenant.pk)} for tenant in tenants)
    with override_settings(RLS_TENANTS=resolvers, DEBUG=debug):
        assert titles_of(ask(f"/{target}", "a", headers=mine)) == SEEN["a"]
        seen.clear()
        denied = ask(f"/{target}", "a", headers=other)
    assert denied.status_code == 403
    assert json.loads(denied.content) == {"detail": "You may not act for this tenant."}
    assert {binding for _, binding in seen} == {UNBOUND}
    assert "X-Tenant" in denied["Vary"]


async def by_name(request: HttpRequest) -> int | None:
    name = request.headers.get("X-Name")
    return None if name is None else (await Tenant.objects.aget(name=name)).pk


@pytest.mark.parametrize("target", ["api/raw", "api/async_auth", "async/raw", "async/sync_auth"])
def test_resolvers_may_ask_the_database(ask: Any, target: str) -> None:
    resolvers = {**project.RLS_TENANTS, "RESOLVERS": [f"{__name__}.by_name", "user"]}
    with override_settings(RLS_TENANTS=resolvers):
        assert titles_of(ask(f"/{target}", "admin", headers={"X-Name": "B"})) == SEEN["b"]
        assert ask(f"/{target}", "a", headers={"X-Name": "B"}).status_code == 403


def test_what_is_no_user_is_refused_and_not_shown() -> None:
    with pytest.raises(TypeError, match=r"Wrong has found a dict, which is no user; .* user_of\("):
        Client().get("/api/wrong", headers={"X-Key": "a"})


def test_an_operation_that_is_called_without_the_middleware_says_so() -> None:
    request = RequestFactory().get("/", headers={"Authorization": "Bearer a"})
    with pytest.raises(ScopeError, match="RLSTenantMiddleware"):
        Tokens()(request)
    with pytest.raises(ScopeError, match="RLSTenantMiddleware"):
        TestClient(api).get("/raw", headers={"Authorization": "Bearer a"})


def test_the_order_of_the_bases_is_checked() -> None:
    with pytest.raises(TypeError, match=r"write: class Late\(TenantAuth, HttpBearer\)"):
        type("Late", (HttpBearer, TenantAuth), {})

    class Logging:
        """Something else that comes first."""

    class Late(Logging, Tokens):
        """Binds, as what it inherits from does."""

    assert Late().is_async is False
    assert AsyncTokens().is_async is True


def test_the_documentation_of_the_api_names_each_authentication() -> None:
    schemes = api.get_openapi_schema()["components"]["securitySchemes"]
    assert {"Tokens", "Sessions", "Keys"} <= set(schemes)
    assert schemes["Tokens"] == {"type": "http", "scheme": "bearer"}


def test_nobody_writes_nothing(ask: Any) -> None:
    assert ask("/api/write", method="POST").status_code == 401
    with pytest.raises(DatabaseError):
        Note.objects.create(title="written")


def test_without_ninja_the_extra_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "ninja.errors", None)
    monkeypatch.delitem(sys.modules, "tenantry.contrib.ninja")
    with pytest.raises(ImportError, match=r"pip install 'django-tenantry\[ninja\]'"):
        import_module("tenantry.contrib.ninja")
