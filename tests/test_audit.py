"""The audit log and the spans: what they say, once, and that nobody else can write there."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import jwt
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tenantry import (
    abind_request,
    aclose_pools,
    aconnection,
    admin_context,
    arows,
    bind_request,
    switch_tenant,
    tenant_context,
    validators,
)
from tenantry.binding import UNBOUND, Binding, current_binding
from tenantry.conf import rls_tenants
from tenantry.context import RequestScope
from tenantry.contrib.opentelemetry import TenantSpanProcessor
from tenantry.exceptions import RLSConfigurationError, TenantDeniedError
from tests import settings as project
from tests.app.models import Note, Tenant, User

Tenants = tuple[Tenant, Tenant]
KEY = "a secret to sign tokens with, in tests, long enough for every algorithm"


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.objects.count()))


def rebinding(request: HttpRequest) -> HttpResponse:
    name = request.GET.get("name", "a")
    bind_request(request, User.objects.filter(username=name).first())
    return view(request)


async def async_rebinding(request: HttpRequest) -> HttpResponse:
    await abind_request(request, await User.objects.aget(username="a"))
    return HttpResponse(str(await Note.objects.acount()))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(note.title for note in Note.objects.order_by("id").iterator())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(note.title async for note in Note.objects.order_by("id"))


urlpatterns = [
    path("", view),
    path("rebinding/", rebinding),
    path("async/", async_rebinding),
    path("stream/", stream),
    path("async-stream/", async_stream),
]


def configured(*resolvers: object, **more: object) -> override_settings:
    given = {**project.RLS_TENANTS, "AUDIT_LOG": True, **more}
    return override_settings(RLS_TENANTS=given | ({"RESOLVERS": resolvers} if resolvers else {}))


@pytest.fixture(autouse=True)
def urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Any]]:
    """Return a function that takes the records of the audit log so far."""
    caplog.set_level(logging.INFO, "tenantry.audit")

    def take() -> list[Any]:
        records = [record for record in caplog.records if record.name == "tenantry.audit"]
        caplog.clear()
        for record in records:
            assert "\n" not in record.getMessage()
            assert record.getMessage().isascii()
        return records

    return take


def briefly(records: list[Any]) -> list[tuple[Any, ...]]:
    return [(record.event, record.tenant_id, record.is_admin) for record in records]


def test_without_the_setting_nothing_is_logged(
    log: Callable[[], list[Any]], tenants: Tenants
) -> None:
    with tenant_context(tenants[0].pk), pytest.raises(DatabaseError):
        Note.objects.create(tenant=tenants[1], title="not ours")
    assert log() == []


def test_scopes_are_logged_with_what_was_around_them(
    log: Callable[[], list[Any]], tenants: Tenants
) -> None:
    a, b = str(tenants[0].pk), str(tenants[1].pk)
    with configured():
        with tenant_context(tenants[0].pk), admin_context(), tenant_context(tenants[1].pk):
            pass
        records = log()
    assert briefly(records) == [
        ("entered", a, False),
        ("entered", None, True),
        ("entered", b, False),
        ("exited", b, False),
        ("exited", None, True),
        ("exited", a, False),
    ]
    around = [record.previous for record in records[:3]]
    assert around == ["nobody", f"tenant {a}", "admin"]
    assert {record.levelname for record in records} == {"INFO"}
    assert records[0].getMessage() == (
        f'entered previous="nobody" tenant_id="{a}" is_admin=false bypass=null read_only=false'
    )


def test_a_queryset_of_a_user_logs_a_scope_for_each_query(
    log: Callable[[], list[Any]], tenants: Tenants, user: User
) -> None:
    notes = Note.objects.for_user(user)
    with configured():
        some = notes.order_by("pk")[:1]
        assert log() == []
        for act in (lambda: len(some), lambda: notes[0], lambda: notes.contains(Note(pk=1))):
            act()
            assert [record.event for record in log()] == ["entered", "exited"]


async def test_tasks_log_their_own_scopes(log: Callable[[], list[Any]], tenants: Tenants) -> None:
    async def visit(tenant: Tenant) -> None:
        async with tenant_context(tenant.pk):
            await asyncio.sleep(0)

    with configured():
        await asyncio.gather(*map(visit, tenants))
        records = log()
    for tenant in tenants:
        own = [record for record in records if record.tenant_id == str(tenant.pk)]
        assert [record.event for record in own] == ["entered", "exited"]
        assert own[0].previous == "nobody"


class FailingHandler(logging.Handler):
    """Be a log that is full."""

    def __init__(self, event: str) -> None:
        super().__init__()
        self.event = event

    def emit(self, record: logging.LogRecord) -> None:
        if record.event == self.event:  # type: ignore[attr-defined]
            raise OSError("the disk is full")


@pytest.fixture(params=["entered", "exited"])
def full_log(request: pytest.FixtureRequest) -> Iterator[None]:
    logger = logging.getLogger("tenantry.audit")
    handler = FailingHandler(request.param)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def open_scope(tenant: Tenant) -> None:
    with tenant_context(tenant.pk):
        pass


def open_request(tenant: Tenant) -> None:
    with RequestScope(Binding(tenant.pk)):
        pass


def call(tenant: Tenant) -> None:
    tenant_context(tenant.pk)(current_binding)()


async def open_async(tenant: Tenant) -> None:
    async with tenant_context(tenant.pk):
        pass


@pytest.mark.usefixtures("full_log")
@pytest.mark.parametrize("scope", [open_scope, open_request, call, open_async])
async def test_a_log_that_fails_leaves_no_scope_open(
    scope: Callable[[Tenant], Any], log: Callable[[], list[Any]], tenants: Tenants
) -> None:
    with configured():
        with pytest.raises(OSError, match="the disk is full"):
            entered = scope(tenants[0])
            if entered is not None:
                await entered
        assert current_binding() == UNBOUND
        assert [note.title async for note in Note.objects.all()] == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_stream_is_not_logged_part_by_part(
    is_async: bool, log: Callable[[], list[Any]], user: User
) -> None:
    where = "/async-stream/" if is_async else "/stream/"
    with configured():
        if is_async:
            client = AsyncClient()
            await client.aforce_login(user)
            response: Any = await client.get(where)
            parts = [part async for part in response.streaming_content]
        else:
            client_here = await sync_to_async(client_of)(user)
            response = await sync_to_async(client_here.get)(where)
            parts = await sync_to_async(lambda: list(response.streaming_content))()
        await sync_to_async(response.close)()
        records = log()
    assert parts == [b"A 1", b"A 2"]
    assert briefly(records) == [
        ("entered", str(user.tenant_id), False),
        ("exited", str(user.tenant_id), False),
    ]


@pytest.mark.parametrize("how", ["iterator", "aiterator", "arows"])
async def test_the_rows_of_a_user_are_not_logged_one_by_one(
    how: str, log: Callable[[], list[Any]], user: User
) -> None:
    notes = Note.objects.for_user(user).order_by("id")
    with configured(), admin_context():
        log()
        if how == "iterator":
            titles = await sync_to_async(lambda: [note.title for note in notes.iterator(1)])()
        elif how == "aiterator":
            titles = [note.title async for note in notes.aiterator(1)]
        else:
            titles = [title for (title,) in await arows(notes.values_list("title"))]
        records = log()
    await aclose_pools()
    assert titles == ["A 1", "A 2"]
    assert briefly(records) == [
        ("entered", str(user.tenant_id), False),
        ("exited", str(user.tenant_id), False),
    ]
    assert records[0].previous == "admin"


def test_whoever_was_bound_before_is_cut_off_too(log: Callable[[], list[Any]]) -> None:
    with configured(TENANT_PK_TYPE="text"), tenant_context("x" * 5000), tenant_context("y"):
        _, inner = log()
    assert len(inner.previous) == 200


# Denials.


@pytest.fixture
def user(tenants: Tenants) -> User:
    return User.objects.create(username="a", tenant=tenants[0])


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


FORGED = 'x" event="entered\u2028tenant_id=1\u0085'


@pytest.mark.parametrize("wanted", ["other", "garbage", FORGED, "9" * 5000])
def test_a_denial_is_logged_once_with_who_wanted_what(
    wanted: str, log: Callable[[], list[Any]], user: User, tenants: Tenants
) -> None:
    given = str(tenants[1].pk) if wanted == "other" else wanted
    with configured("header", "user"):
        log()
        response = client_of(user).get("/", {"secret": "s"}, headers={"X-Tenant": given})
        records = log()
    assert response.status_code == 403
    (record,) = records
    assert (record.event, record.levelname) == ("denied", "WARNING")
    assert (record.wanted, record.user_id) == (given[:200], user.pk)
    assert (record.request_method, record.request_path) == ("GET", "/")
    assert "secret" not in record.getMessage()
    json.dumps({name: getattr(record, name) for name in ("wanted", "user_id", "reason")})


def test_a_token_and_a_switch_that_are_denied_are_logged(
    log: Callable[[], list[Any]], user: User, tenants: Tenants
) -> None:
    resolver = {"NAME": "jwt", "OPTIONS": {"key": KEY, "algorithms": ["HS256"]}}
    token = jwt.encode({"tenant_id": 1, "exp": 1}, KEY, "HS256")
    with configured(resolver, "session", "user"):
        response = Client().get("/", headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 403
        (record,) = log()
        assert record.event == "denied"
        assert "expired" in record.reason
        assert token not in record.getMessage()
        request: Any = RequestFactory().post("/switch/")
        request.user = user
        with pytest.raises(TenantDeniedError):
            switch_tenant(request, tenants[1].pk)
        (record,) = log()
        assert (record.wanted, record.request_path) == (tenants[1].pk, "/switch/")


@pytest.mark.parametrize("where", ["/rebinding/", "/async/"])
def test_a_request_that_is_bound_anew_says_so(
    where: str, log: Callable[[], list[Any]], user: User
) -> None:
    a = str(user.tenant_id)
    with configured():
        assert Client().get(where).content == b"2"
        events = briefly(log())
    assert events == [
        ("entered", None, False),
        ("rebound", None, False),
        ("rebound", a, False),
        ("exited", a, False),
    ]


# Rows that the database refuses.


def create(other: Tenant) -> None:
    Note.objects.create(tenant=other, title="foreign")


def move(other: Tenant) -> None:
    Note.objects.update(tenant=other)


def create_many(other: Tenant) -> None:
    Note.objects.bulk_create([Note(tenant=other, title="1"), Note(tenant=other, title="2")])


def write_sql(other: Tenant) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO app_note (tenant_id, title) VALUES (%s, 'x')", [other.pk])


def write_many(other: Tenant) -> None:
    with connection.cursor() as cursor:
        values = [(other.pk, "1"), (other.pk, "2")]
        cursor.executemany("INSERT INTO app_note (tenant_id, title) VALUES (%s, %s)", values)


def write_in_transaction(other: Tenant) -> None:
    with transaction.atomic():
        assert Note.objects.count() == 2
        write_sql(other)


def write_async(other: Tenant) -> None:
    async def write() -> None:
        try:
            async with aconnection() as found:
                sql = "INSERT INTO app_note (tenant_id, title) VALUES (%s, 'x')"
                await found.execute(sql, [other.pk])
        finally:
            await aclose_pools()

    asyncio.run(write())


WRITES = [create, move, create_many, write_sql, write_many, write_in_transaction, write_async]


@pytest.mark.parametrize("write", WRITES)
def test_a_row_of_another_tenant_is_logged_once(
    write: Callable[[Tenant], None], log: Callable[[], list[Any]], tenants: Tenants
) -> None:
    with configured(), tenant_context(tenants[0].pk):
        log()
        with pytest.raises((DatabaseError, psycopg.Error)):
            write(tenants[1])
        (record,) = log()
        connections.close_all()
    assert (record.event, record.levelname) == ("crossed", "WARNING")
    assert record.tenant_id == str(tenants[0].pk)
    assert record.detail == 'new row violates row-level security policy for table "app_note"'


@pytest.mark.parametrize(
    "statement", ["SELECT 1/0", "CREATE TABLE app_mine ()", "SELECT * FROM pg_authid"]
)
def test_other_errors_of_the_database_are_not(
    statement: str, log: Callable[[], list[Any]], tenants: Tenants
) -> None:
    with configured(), tenant_context(tenants[0].pk), connection.cursor() as cursor:
        log()
        with pytest.raises(DatabaseError):
            cursor.execute(statement)
        assert log() == []


# Spans.

EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(TenantSpanProcessor())
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))
TRACER = PROVIDER.get_tracer(__name__)


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, Any]]]:
    EXPORTER.clear()
    yield lambda: {
        span.name: dict(span.attributes or {}).get("tenant.id", "no tenant")
        for span in EXPORTER.get_finished_spans()
    }
    EXPORTER.clear()


def test_spans_of_a_scope_are_of_its_tenant(
    spans: Callable[[], dict[str, Any]], tenants: Tenants
) -> None:
    with (
        TRACER.start_as_current_span("around"),
        tenant_context(tenants[0].pk),
        TRACER.start_as_current_span("a"),
        admin_context(),
        TRACER.start_as_current_span("admin"),
        tenant_context(tenants[1].pk),
    ):
        TRACER.start_span("b").end()
    assert spans() == {
        "around": "no tenant",
        "a": str(tenants[0].pk),
        "admin": "no tenant",
        "b": str(tenants[1].pk),
    }


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("where", ["/", "/rebinding/", "/async/"])
async def test_the_span_of_a_request_is_of_its_tenant(
    where: str, is_async: bool, spans: Callable[[], dict[str, Any]], tenants: Tenants
) -> None:
    user = await User.objects.acreate(username="a", tenant=tenants[0])
    with configured("user", TRACE=True), TRACER.start_as_current_span("request"):
        if is_async:
            client = AsyncClient()
            if where == "/":
                await client.aforce_login(user)
            assert (await client.get(where)).content == b"2"
        else:
            client_here = await sync_to_async(client_of)(user) if where == "/" else Client()
            assert (await sync_to_async(client_here.get)(where)).content == b"2"
    assert spans()["request"] == str(tenants[0].pk)


@pytest.mark.parametrize("session", ["a", "b", "admin", ""])
@pytest.mark.parametrize("header", ["a", "admin", "nobody"])
def test_the_span_of_a_request_is_of_whom_it_was_bound_to_last(
    header: str,
    session: str,
    spans: Callable[[], dict[str, Any]],
    tenants: Tenants,
    users: dict[str, User],
) -> None:
    client = client_of(users[session]) if session else Client()
    with configured("user", TRACE=True), TRACER.start_as_current_span("request"):
        client.get("/rebinding/", {"name": header})
    # A span has no way to lose what it has.
    none = "" if session in ("a", "b") else "no tenant"
    assert spans()["request"] == (str(tenants[0].pk) if header == "a" else none)


def test_without_the_setting_requests_are_not_traced(
    spans: Callable[[], dict[str, Any]], user: User
) -> None:
    client = client_of(user)
    with TRACER.start_as_current_span("request"):
        client.get("/")
    assert spans() == {"request": "no tenant"}
    with configured("user", TRACE=True):
        # Where no span is current there is nothing to mark.
        assert client.get("/").content == b"2"
    assert trace.get_current_span().is_recording() is False


def test_without_the_sdk_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "tenantry.contrib.opentelemetry")
    with pytest.raises(ImportError, match=r"pip install 'django-tenantry\[opentelemetry\]'"):
        import_module("tenantry.contrib.opentelemetry")


def test_tracing_without_opentelemetry_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validators, "find_spec", lambda name: None)
    with (
        configured(TRACE=True),
        pytest.raises(
            RLSConfigurationError, match=r"pip install 'django-tenantry\[opentelemetry\]'"
        ),
    ):
        rls_tenants()


def test_a_denial_is_still_djangos() -> None:
    assert issubclass(TenantDeniedError, PermissionDenied)
