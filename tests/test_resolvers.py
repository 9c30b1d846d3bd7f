"""Resolvers, through the middleware: which tenant's rows a request shows, and what it is denied."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.urls import path

from tenantry import tenant_context
from tenantry.asgi.middleware import believed
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.conf import rls_tenants
from tenantry.exceptions import (
    InvalidTenantIdError,
    RLSConfigurationError,
    TenantDeniedError,
    TenantIdTypeError,
)
from tenantry.middleware import RLSTenantMiddleware
from tenantry.resolution import aresolve, resolve
from tenantry.resolvers import UNKNOWN, Resolver
from tenantry.resolvers.base import resolvers
from tenantry.resolvers.lookup import TenantLookup, relatives
from tenantry.selection import switch_tenant
from tests import settings as project
from tests.app.models import (
    Book,
    Contract,
    Document,
    Item,
    NewestFirst,
    Note,
    Tagging,
    Tenant,
    User,
)

Tenants = tuple[Tenant, Tenant]
KEY = "a secret to sign tokens with, in tests, long enough for every algorithm"


class Member(User):
    """A user of several tenants."""

    also: Any = ()

    class Meta:
        proxy = True
        # Not installed, so that it is in no migration.
        app_label = "members"

    @property
    def rls_tenant_ids(self) -> list[int]:
        return [pk for pk in Tenant.objects.values_list("pk", flat=True) if self.belongs_to(pk)]

    def belongs_to(self, pk: int) -> bool:
        return f",{pk}," in f",{self.last_name},"


class Suspended(Tenant):
    """A tenant by another name."""

    class Meta:
        proxy = True
        # Not installed, so that it is in no migration.
        app_label = "members"


class AsyncMember(Member):
    """One whose tenants are found without a thread."""

    class Meta:
        proxy = True
        # Not installed, so that it is in no migration.
        app_label = "members"

    async def arls_tenant_ids(self) -> list[int]:
        keys = Tenant.objects.values_list("pk", flat=True)
        return [pk async for pk in keys if self.belongs_to(pk)]


def titles(request: HttpRequest) -> HttpResponse:
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT title FROM app_note ORDER BY id")
        return JsonResponse([row[0] for row in cursor.fetchall()], safe=False)


async def async_titles(request: HttpRequest) -> HttpResponse:
    return JsonResponse([note.title async for note in Note.objects.order_by("id")], safe=False)


urlpatterns = [
    path("titles/", titles),
    path("async/", async_titles),
    path("t/<str:tenant>/", lambda request, tenant: titles(request)),
]
A, B, ALL, NONE = ["A 1", "A 2"], ["B 1", "B 2"], ["A 1", "A 2", "B 1", "B 2"], list[str]()


@pytest.fixture(autouse=True)
def urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    # Besides AsyncClient's own host there can be no other.
    settings.USE_X_FORWARDED_HOST = True
    settings.ALLOWED_HOSTS = [".example.com", ".evil.org", "testserver", "[::1]"]


def configured(*entries: object) -> override_settings:
    return override_settings(RLS_TENANTS={**project.RLS_TENANTS, "RESOLVERS": list(entries)})


@pytest.fixture
def users(tenants: Tenants) -> dict[str, Any]:
    a, b = tenants
    return {
        "a": User.objects.create(username="a", tenant=a),
        "admin": User.objects.create(username="admin", is_tenant_admin=True),
        "both": User.objects.create(username="both", tenant=a, last_name=f"{a.pk},{b.pk}"),
        "guest": User.objects.create(username="guest", last_name=f"{b.pk}"),
        "nobody": User.objects.create(username="nobody"),
        "anonymous": None,
    }


@pytest.fixture
def several(settings: Any) -> None:
    """Let those who log in be users of several tenants."""
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Backend"]


class Backend:
    """Finds users of several tenants."""

    model: type[Member] = Member

    def authenticate(self, request: HttpRequest, **credentials: object) -> None:
        return None

    def get_user(self, user_id: int) -> Member | None:
        return self.model.objects.filter(pk=user_id).first()

    async def aget_user(self, user_id: int) -> Member | None:
        return await self.model.objects.filter(pk=user_id).afirst()


class AsyncBackend(Backend):
    model = AsyncMember


def client_of(user: Any, **options: Any) -> Client:
    client = Client(**options)
    if user is not None:
        client.force_login(user)
    return client


def seen(user: Any, path: str = "/titles/", **options: Any) -> Any:
    """Return the titles that a request of `user` shows, or the status that is no success."""
    response = client_of(user).get(path, **options)
    return response.json() if response.status_code == 200 else response.status_code


async def aseen(user: Any, path: str = "/async/", **options: Any) -> Any:
    """Return what :func:`seen` does, in async code all the way."""
    client = AsyncClient()
    if user is not None:
        await client.aforce_login(user)
    response = await client.get(path, **options)
    return response.json() if response.status_code == 200 else response.status_code


@pytest.fixture(params=["sync", "async"])
def see(request: pytest.FixtureRequest) -> Any:
    """Ask in a sync stack, or in an async one."""
    if request.param == "sync":
        return seen
    return lambda *args, **options: asyncio.run(aseen(*args, **options))


def header(tenant: Any) -> dict[str, Any]:
    return {"headers": {"x-tenant": str(getattr(tenant, "pk", tenant))}}


# The header


@pytest.mark.usefixtures("several")
def test_a_header_selects_among_the_tenants_of_a_user(
    see: Any, users: dict[str, Any], tenants: Tenants
) -> None:
    a, b = tenants
    with configured("header", "user"):
        assert see(users["both"]) == A
        assert see(users["both"], **header(a)) == A
        assert see(users["both"], **header(b)) == B
        assert see(users["guest"]) == NONE
        assert see(users["guest"], **header(b)) == B
        assert see(users["admin"]) == ALL
        assert see(users["admin"], **header(b)) == B


def test_tenants_are_found_without_a_thread_where_the_user_can(
    settings: Any, users: dict[str, Any], tenants: Tenants
) -> None:
    settings.AUTHENTICATION_BACKENDS = [f"{__name__}.AsyncBackend"]
    with configured("header", "user"):
        assert asyncio.run(aseen(users["both"], **header(tenants[1]))) == B
        assert asyncio.run(aseen(users["guest"], **header(tenants[0]))) == 403


@pytest.mark.parametrize("member", [True, False])
def test_every_denial_is_the_same(
    see: Any, settings: Any, users: dict[str, Any], tenants: Tenants, member: bool
) -> None:
    if member:
        settings.AUTHENTICATION_BACKENDS = [f"{__name__}.Backend"]
    user = users["guest" if member else "a"]
    foreign = tenants[0] if member else tenants[1]
    wrong = [foreign.pk, 10**12, "x", "", "7'; DROP TABLE app_note", "1, 2", "9" * 500, "é"]
    with configured("header", "user"):
        assert [see(user, **header(value)) for value in wrong] == [403] * len(wrong)
        answers = {client_of(user).get("/titles/", **header(value)).content for value in wrong}
        assert len(answers) == 1


def test_nobody_is_bound_by_a_header_and_nobody_is_denied(see: Any, tenants: Tenants) -> None:
    with configured("header", "user"):
        assert see(None, **header(tenants[0])) == NONE
        assert see(None, **header("garbage")) == NONE


def test_the_answer_says_that_it_varies(users: dict[str, Any]) -> None:
    client = client_of(users["a"])
    with configured({"NAME": "header", "OPTIONS": {"header": "X-Customer"}}, "user"):
        assert "X-Customer" in client.get("/titles/")["Vary"]
    with configured("user", "header"):
        assert "X-Tenant" not in client.get("/titles/")["Vary"]


def gone(request: HttpRequest) -> None:
    if "gone" in request.GET:
        raise Http404


async def response_of(user: Any, **options: Any) -> Any:
    client = AsyncClient()
    await client.aforce_login(user)
    return await client.get("/async/", **options)


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_says_that_it_varies(
    status: int, users: dict[str, Any], tenants: Tenants
) -> None:
    asked = {403: header(tenants[1]), 404: {"query_params": {"gone": ""}}}[status]
    with configured(f"{__name__}.gone", "header", f"{__name__}.by_name", "user"):
        for response in (
            client_of(users["a"]).get("/titles/", **asked),
            asyncio.run(response_of(users["a"], **asked)),
        ):
            assert response.status_code == status
            assert {"X-Tenant", "X-Customer"} <= set(response["Vary"].split(", "))


def test_a_user_without_a_tenant_is_an_error_all_the_same(users: dict[str, Any]) -> None:
    client = client_of(users["nobody"])
    with configured("header", "user"):
        for options in ({}, header(1)):
            with pytest.raises(ValueError, match="Non-admin user has rls_tenant_id=None"):
                client.get("/titles/", **options)
        client.raise_request_exception = False
        assert client.get("/titles/").status_code == 500


def test_a_user_without_the_protocol_is_an_error_all_the_same() -> None:
    class Stranger:
        is_authenticated = True

    request: Any = RequestFactory().get("/", **header(1))
    request.user = Stranger()
    with configured("header"), pytest.raises(ImproperlyConfigured, match="has no is_tenant_admin"):
        resolve(request)


@pytest.mark.parametrize("keys", ["12", b"12", None, len])
def test_tenants_that_are_no_collection_are_refused(keys: Any) -> None:
    class OfText:
        is_authenticated = True
        is_tenant_admin = False
        rls_tenant_id = 1
        rls_tenant_ids = keys

    class AsyncOfText(OfText):
        async def arls_tenant_ids(self) -> Any:
            return keys

    kind = type(keys).__name__
    said = rf"has the rls_tenant_ids {re.escape(repr(keys))}, a {kind}; it must be a collection of"
    request: Any = RequestFactory().get("/", **header(2))
    for user in (OfText(), AsyncOfText()):
        request.user = user
        with configured("header"):
            with pytest.raises(ImproperlyConfigured, match=said):
                resolve(request)
            with pytest.raises(ImproperlyConfigured, match=said):
                async_to_sync(aresolve)(request)


# The host name and the path: tenants are called A and B.

SUBDOMAIN: dict[str, Any] = {
    "NAME": "subdomain",
    "OPTIONS": {"domain": "example.com", "field": "name__iexact"},
}
PATH = {"NAME": "path", "OPTIONS": {"field": "name"}}


def on(name: str) -> dict[str, Any]:
    return {"headers": {"x-forwarded-host": f"{name}.example.com"}}


@pytest.mark.usefixtures("several")
def test_a_subdomain_is_for_its_members(see: Any, users: dict[str, Any], tenants: Tenants) -> None:
    with configured(SUBDOMAIN, "user"):
        assert see(users["both"], **on("a")) == A
        assert see(users["both"], **on("B")) == B
        assert see(users["both"], **on("www")) == see(users["both"], **on("WWW")) == A
        assert see(users["both"], headers={"x-forwarded-host": "example.com:8000"}) == A
        assert see(users["both"], headers={"x-forwarded-host": "b.example.com:8000"}) == B
        assert see(users["both"], headers={"x-forwarded-host": "b.example.com."}) == B
        assert see(users["both"], headers={"x-forwarded-host": "[::1]:8000"}) == A
        assert see(users["both"], headers={"x-forwarded-host": "b.example.com.evil.org"}) == A
        assert see(users["guest"], **on("a")) == 403
        assert see(users["admin"], **on("b")) == B
        assert [see(users["both"], **on(name)) for name in ("c", "x.a", "-a")] == [403] * 3
        assert see(None, **on("a")) == NONE
        assert see(None, **on("c")) == NONE


def test_a_subdomain_that_is_left_out_is_so_in_any_case(users: dict[str, Any]) -> None:
    # A domain may be written as in ALLOWED_HOSTS, too.
    options = {**SUBDOMAIN["OPTIONS"], "exclude": ["Admin"], "domain": ".Example.com."}
    with configured({"NAME": "subdomain", "OPTIONS": options}, "user"):
        for name in ("admin", "Admin", "ADMIN"):
            assert seen(users["a"], **on(name)) == A
        assert seen(users["a"], **on("www")) == seen(users["a"], **on("b")) == 403


def test_a_subdomain_can_be_open_to_all(see: Any, users: dict[str, Any]) -> None:
    options = {**SUBDOMAIN["OPTIONS"], "anonymous": True}
    with configured({"NAME": "subdomain", "OPTIONS": options}, "user"):
        assert see(None, **on("b")) == B
        assert see(None, **on("c")) == 403
        assert see(users["a"], **on("b")) == 403


@pytest.mark.usefixtures("several")
def test_a_path_is_for_its_members(users: dict[str, Any], tenants: Tenants) -> None:
    with configured(PATH, "user"):
        assert seen(users["both"], "/t/B/") == B
        assert seen(users["both"], "/titles/") == A
        assert seen(users["both"], "/t/") == 404
        assert seen(users["guest"], "/t/A/") == 403
        assert seen(users["guest"], "/t/%00/") == 403
        assert seen(users["guest"], f"/t/{'x' * 300}/") == 403
        assert seen(None, "/t/A/") == NONE
    with configured({"NAME": "path", "OPTIONS": {"field": "name", "prefix": ""}}, "user"):
        assert seen(users["both"], "/titles/") == 403
        assert seen(users["both"], "/B/titles/") == 404
    with configured({"NAME": "path", "OPTIONS": {"field": "pk"}}, "user"):
        assert seen(users["both"], f"/t/{tenants[1].pk}/") == B
        assert seen(users["both"], "/t/B/") == 403
        assert seen(users["both"], f"/t/{10**30}/") == 403
    # Of a UUID, and of a date, Django says otherwise that the text is none.
    with configured({"NAME": "path", "OPTIONS": {"field": "user__date_joined"}}, "user"):
        assert seen(users["both"], "/t/B/") == 403


def test_a_tenant_that_is_left_out_is_unknown(users: dict[str, Any]) -> None:
    options = {"field": "name", "filter": {"name__in": ["A"]}}
    with configured({"NAME": "path", "OPTIONS": options}, "user"):
        assert seen(users["admin"], "/t/A/") == A
        assert seen(users["admin"], "/t/B/") == 403


@pytest.mark.usefixtures("hidden")
def test_tenants_who_see_only_themselves_are_found(
    see: Any, users: dict[str, Any], settings: Any
) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": [SUBDOMAIN, PATH, "user"]}
    assert see(users["a"], **on("a")) == A
    assert see(users["a"], **on("b")) == 403
    assert [see(users["admin"], **on(name)) for name in ("a", "b", "c")] == [A, B, 403]
    assert seen(users["a"], "/t/A/") == A
    with tenant_context(users["a"].tenant_id):
        assert resolvers()[1].lookup.find("B") is not UNKNOWN  # type: ignore[attr-defined]
        assert current_binding() == Binding(users["a"].tenant_id)


def lookups(run: Any) -> int:
    """Return how many times the tenant was looked up."""
    with CaptureQueriesContext(connections["default"]) as captured:
        run()
    return sum("app_tenant" in query["sql"] for query in captured)


def test_a_tenant_is_looked_up_once(users: dict[str, Any], tenants: Tenants) -> None:
    client = client_of(users["admin"])
    with configured(PATH, "user"):
        assert lookups(lambda: client.get("/t/A/")) == 1
        assert lookups(lambda: client.get("/t/A/")) == 0
        assert lookups(lambda: client.get("/t/C/")) == 1
        assert lookups(lambda: client.get("/t/C/")) == 0


def test_a_tenant_that_is_saved_is_looked_up_again(users: dict[str, Any], tenants: Tenants) -> None:
    a, b = tenants
    client = client_of(users["admin"])
    with configured(PATH, "user"):
        assert client.get("/t/A/").json() == A
        a.name = "old"
        a.save()
        b.name = "A"
        b.save()
        assert client.get("/t/A/").json() == B
        Tenant.objects.create(name="C")
        assert client.get("/t/C/").json() == NONE


def test_a_tenant_that_another_model_saves_is_looked_up_again(tenants: Tenants) -> None:
    tenant = Suspended.objects.create(name="C")
    with configured(PATH, "user"):
        resolver: Any = resolvers()[0]
        for change in Suspended.save, Suspended.delete:
            assert resolver.lookup.find("C") == tenant.pk
            change(tenant)
            assert resolver.lookup.kept("C") is None


def test_rows_of_other_models_are_deleted_unread(tenants: Tenants) -> None:
    with configured(PATH, "user"):
        assert resolvers()
        with CaptureQueriesContext(connections["default"]) as captured:
            Tagging.objects.all().delete()
    assert not [query for query in captured if query["sql"].startswith("SELECT")]


def test_the_models_that_may_save_a_row() -> None:
    assert relatives(Tenant) == relatives(Suspended) >= {Tenant, Suspended}
    assert relatives(Item) == relatives(Book) >= {Item, Book, NewestFirst}
    assert relatives(Contract) >= {Contract, Document}
    # Also those that other tests have made, which stay until they are collected.
    assert Note in relatives(Note)
    assert all(issubclass(each, Note) for each in relatives(Note))


def test_a_tenant_that_is_saved_by_its_proxy_or_its_model_is_looked_up_again(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    with isolate_apps("tests.app") as isolated:

        class Customer(Tenant):
            class Meta:
                app_label = "app"
                proxy = True

    monkeypatch.setattr("tenantry.conf.apps", isolated)
    given = {"TENANT_MODEL": "app.Customer", "TENANT_PK_TYPE": "bigint"}
    with override_settings(RLS_TENANTS={**project.RLS_TENANTS, **given}):
        lookup = TenantLookup("name", {}, 30)
        for model in (Tenant, Customer):
            assert lookup.find("A") == lookup.kept("A") == tenants[0].pk
            model._default_manager.get(name="A").save()
            assert lookup.kept("A") is None


@pytest.mark.parametrize("alias", ["default", "owner"])
def test_what_was_read_before_a_change_was_committed_is_not_kept(
    alias: str, users: dict[str, Any], tenants: Tenants
) -> None:
    with configured(PATH, "user"):
        resolver: Any = resolvers()[0]
        with transaction.atomic(using=alias):
            resolver.lookup.find("A")
            tenants[0].name = "new"
            tenants[0].save(using=alias)
            assert resolver.lookup.kept("A") is None
            # What another thread reads, who does not see the change.
            resolver.lookup.keep(resolver.lookup.answers, "A", tenants[0].pk)
            assert resolver.lookup.find("A") == tenants[0].pk
        assert seen(users["admin"], "/t/A/") == 403


def test_a_tenant_is_saved_in_a_transaction_that_is_managed_by_hand(tenants: Tenants) -> None:
    with configured(PATH, "user"):
        resolver: Any = resolvers()[0]
        assert resolver.lookup.find("A") == tenants[0].pk
        transaction.set_autocommit(False)
        try:
            tenants[0].name = "new"
            tenants[0].save()
            assert resolver.lookup.kept("A") is None
            assert resolver.lookup.find("new") == tenants[0].pk
            transaction.commit()
        finally:
            transaction.set_autocommit(True)
        assert resolver.lookup.find("new") == tenants[0].pk


def test_an_answer_to_a_question_from_before_a_change_is_not_kept(tenants: Tenants) -> None:
    with configured(PATH, "user"):
        resolver: Any = resolvers()[0]

        def change(execute: Any, *arguments: Any) -> Any:
            found = execute(*arguments)
            # As where the tenant is saved before the answer is there.
            resolver.lookup.forget()
            return found

        for find in (resolver.lookup.find, async_to_sync(resolver.lookup.afind)):
            with connections["default"].execute_wrapper(change):
                assert find("A") == tenants[0].pk
            assert resolver.lookup.kept("A") is None


def test_an_answer_is_kept_for_its_time_only(
    users: dict[str, Any], tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(users["admin"])
    with configured(PATH, "user"):
        assert client.get("/t/A/").json() == A
        # As another process does it.
        Tenant.objects.filter(pk=tenants[0].pk).update(name="old")
        assert client.get("/t/A/").json() == A
        later = time.monotonic() + 31
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert client.get("/t/A/").status_code == 403


def test_names_that_somebody_makes_up_do_not_fill_the_memory(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.resolvers.lookup.KEPT", 10)
    with configured(PATH, "user"):
        resolver: Any = resolvers()[0]
        for number in range(100):
            resolver.lookup.find(f"n{number}")
        assert len(resolver.lookup.answers) <= 10


# Tokens

JWT: dict[str, Any] = {"NAME": "jwt", "OPTIONS": {"key": KEY, "algorithms": ["HS256"]}}


def bearer(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> dict[str, Any]:
    claims = {"exp": int(time.time()) + 60, **claims}
    kept = {name: value for name, value in claims.items() if value is not None}
    return {"headers": {"authorization": "Bearer " + jwt.encode(kept, key, algorithm)}}


def test_a_token_is_proof_enough(see: Any, users: dict[str, Any], tenants: Tenants) -> None:
    a, b = tenants
    with configured(JWT, "user"):
        assert see(None, **bearer(tenant_id=b.pk)) == B
        assert see(None, **bearer(tenant_id=str(a.pk))) == A
        assert see(users["a"]) == A
        assert see(None) == NONE
        assert see(None, headers={"authorization": "Basic eDp5"}) == NONE
        response = Client().get("/titles/", **bearer(tenant_id=b.pk))
        assert response["Vary"] == "Authorization"


def test_a_token_that_does_not_verify_is_denied(see: Any, tenants: Tenants) -> None:
    b = tenants[1].pk
    other = KEY.replace("a secret", "another secret")
    wrong = [
        bearer(key=other, tenant_id=b),
        bearer(tenant_id=b, exp=int(time.time()) - 60),
        bearer(tenant_id=b, exp=None),
        bearer(tenant_id=None),
        bearer(tenant_id=True),
        bearer(tenant_id=[b]),
        bearer(tenant_id="x"),
        bearer(algorithm="HS512", tenant_id=b),
        bearer(key="", algorithm="none", tenant_id=b),
        {"headers": {"authorization": "Bearer garbage"}},
        {"headers": {"authorization": "Bearer "}},
    ]
    with configured(JWT, "user"):
        assert [see(None, **given) for given in wrong] == [403] * len(wrong)


def test_clocks_may_differ_by_some_seconds(tenants: Tenants) -> None:
    now = int(time.time())
    wrong: list[dict[str, Any]] = [{"exp": now - 20}, {"iat": now + 20}]
    for leeway, answer in ((0, 403), (60, B)):
        options = {**JWT["OPTIONS"], "leeway": leeway}
        with configured({"NAME": "jwt", "OPTIONS": options}, "user"):
            for claims in wrong:
                assert seen(None, **bearer(tenant_id=tenants[1].pk, **claims)) == answer


def test_keys_are_rotated(tenants: Tenants) -> None:
    newer = KEY.replace("a secret", "a newer secret")
    other = KEY.replace("a secret", "another secret")
    b = tenants[1].pk
    late = int(time.time()) - 60
    options = {"key": [newer, KEY], "algorithms": ["HS256", "HS512"]}
    with configured({"NAME": "jwt", "OPTIONS": options}, "user"):
        assert seen(None, **bearer(key=newer, tenant_id=b)) == B
        assert seen(None, **bearer(algorithm="HS512", tenant_id=b)) == B
        assert seen(None, **bearer(key=other, tenant_id=b)) == 403
        for key in (newer, KEY):
            request = RequestFactory().get("/", **bearer(key=key, tenant_id=b, exp=late))
            with pytest.raises(TenantDeniedError, match="Signature has expired"):
                resolve(request)


def test_keys_of_several_algorithms_are_rotated(tenants: Tenants) -> None:
    secret = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    keys = [jwt.PyJWK.from_dict({"kty": "oct", "k": secret}, name) for name in ("HS256", "HS512")]
    options = {"key": keys, "algorithms": ["HS256", "HS512"]}
    with configured({"NAME": "jwt", "OPTIONS": options}, "user"):
        for name in ("HS256", "HS512"):
            assert seen(None, **bearer(algorithm=name, tenant_id=tenants[1].pk)) == B
        assert seen(None, **bearer(algorithm="HS384", tenant_id=tenants[1].pk)) == 403


def test_a_key_may_have_an_algorithm_of_its_own(tenants: Tenants) -> None:
    secret = base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("=")
    key = jwt.PyJWK.from_dict({"kty": "oct", "k": secret}, "HS256")
    options = {"key": key, "algorithms": ["HS256"]}
    with configured({"NAME": "jwt", "OPTIONS": options}, "user"):
        assert seen(None, **bearer(tenant_id=tenants[1].pk)) == B


@pytest.mark.parametrize("key_type", ["bigint", "uuid", "text"])
@pytest.mark.parametrize("claim", [7, "7", 7.5, True, ["7"], {"7": 7}, 10**30, "\0"])
def test_a_claim_of_another_type_is_denied(claim: Any, key_type: str) -> None:
    request = RequestFactory().get("/", **bearer(tenant_id=claim))
    tenants = {**project.RLS_TENANTS, "RESOLVERS": [JWT, "user"], "TENANT_PK_TYPE": key_type}
    with override_settings(RLS_TENANTS=tenants):
        if claim in ("7", 7) and key_type == "bigint":
            assert resolve(request).binding == Binding(7)
        elif claim == "7" and key_type == "text":
            assert resolve(request).binding == Binding("7")
        else:
            with pytest.raises(TenantDeniedError, match="claim 'tenant_id' is not a tenant key"):
                resolve(request)


def test_a_token_names_its_audience_and_its_issuer(tenants: Tenants) -> None:
    options = {**JWT["OPTIONS"], "audience": "us", "issuer": "them", "claim": "org"}
    b = tenants[1].pk
    with configured({"NAME": "jwt", "OPTIONS": options}, "user"):
        assert seen(None, **bearer(org=b, aud="us", iss="them")) == B
        assert seen(None, **bearer(org=b, aud="you", iss="them")) == 403
        assert seen(None, **bearer(org=b, aud="us", iss="me")) == 403
        assert seen(None, **bearer(org=b)) == 403


# Resolvers of a project's own


def by_query(request: HttpRequest) -> Any:
    name = request.GET.get("tenant")
    return name and Tenant.objects.get(name=name).pk


async def aby_query(request: HttpRequest) -> Any:
    name = request.GET.get("tenant")
    return name and (await Tenant.objects.aget(name=name)).pk


def by_admin(request: HttpRequest) -> Binding | None:
    return ADMIN if request.GET.get("key") == KEY else None


class ByKey(Resolver):
    authenticates = True

    def __init__(self, key: str) -> None:
        self.key = key

    def resolve(self, request: HttpRequest) -> Any:
        if request.GET.get("key") == self.key:
            return Tenant.objects.get(name="B").pk
        if "key" in request.GET:
            raise PermissionDenied("wrong key")
        return None

    async def aresolve(self, request: HttpRequest) -> Any:
        if request.GET.get("key") == self.key:
            return (await Tenant.objects.aget(name="B")).pk
        return None


@pytest.mark.parametrize("function", ["by_query", "aby_query"])
@pytest.mark.usefixtures("several")
def test_a_function_selects(see: Any, users: dict[str, Any], function: str) -> None:
    with configured(f"{__name__}.{function}", "user"):
        assert see(users["both"], query_params={"tenant": "B"}) == B
        assert see(users["guest"], query_params={"tenant": "A"}) == 403
        assert see(users["both"]) == A
        assert see(None, query_params={"tenant": "B"}) == NONE


def by_name(request: HttpRequest) -> Any:
    name = request.headers.get("X-Customer")
    return name and Tenant.objects.get(name=name).pk


by_name.vary = ["X-Customer"]  # type: ignore[attr-defined]


def varying(request: HttpRequest) -> None:
    """Name a header as a text."""


varying.vary = "X-Customer"  # type: ignore[attr-defined]


class ByName(Resolver):
    vary = ["X-Customer"]

    def resolve(self, request: HttpRequest) -> Any:
        return by_name(request)


class Varying(Resolver):
    vary = "X-Customer"


async def suspended(request: HttpRequest) -> Any:
    user: Any = await request.auser()
    return UNKNOWN if user.is_authenticated and user.tenant_id == 1 else None


@pytest.mark.parametrize("first", ["header", "session"])
def test_a_tenant_is_suspended_by_a_function_that_is_asked_first(
    first: str, see: Any, users: dict[str, Any], tenants: Tenants
) -> None:
    suspend = f"{__name__}.suspended"
    own = header(tenants[0].pk)
    with configured(suspend, first, "user"):
        assert see(users["a"]) == see(users["a"], **own) == 403
        assert see(users["admin"]) == ALL
    with configured("header", suspend, "user"):
        assert see(users["a"]) == 403
        assert see(users["a"], **own) == A


@pytest.mark.parametrize("name", ["by_name", "ByName"])
def test_the_headers_that_a_resolver_reads_are_named(name: str, users: dict[str, Any]) -> None:
    client = client_of(users["admin"])
    with configured(f"{__name__}.{name}", "user"):
        for name, titles in ("A", A), ("B", B):
            response = client.get("/titles/", headers={"x-customer": name})
            assert response.json() == titles
            assert "X-Customer" in response["Vary"]


def test_a_resolver_may_return_a_binding(see: Any, tenants: Tenants) -> None:
    with configured(f"{__name__}.by_admin", "user"):
        assert see(None, query_params={"key": KEY}) == ALL
        assert see(None) == NONE


class Trusted(Resolver):
    def __init__(self, key: Any) -> None:
        self.key = key

    def resolve(self, request: HttpRequest) -> Binding:
        return Binding(self.key)


def test_a_binding_of_a_resolver_has_a_key(tenants: Tenants) -> None:
    def resolved(key: Any) -> Any:
        with configured({"NAME": f"{__name__}.Trusted", "OPTIONS": {"key": key}}):
            return resolve(RequestFactory().get("/")).binding.tenant_id

    assert (resolved(7), resolved("7"), resolved(None)) == (7, 7, None)
    assert believed(Binding("7")) == Binding(7)
    with pytest.raises(TenantIdTypeError, match=r"not the instance .*; pass the tenant's \.pk"):
        resolved(tenants[0])
    with pytest.raises(InvalidTenantIdError, match="'seven' is not a decimal number"):
        resolved("seven")


def test_a_resolver_of_ones_own_takes_options(see: Any, tenants: Tenants) -> None:
    with configured({"NAME": f"{__name__}.ByKey", "OPTIONS": {"key": "k"}}, "user"):
        assert see(None, query_params={"key": "k"}) == B
        assert see(None) == NONE
        assert seen(None, query_params={"key": "x"}) == 403


def test_a_resolver_has_to_resolve() -> None:
    with pytest.raises(NotImplementedError, match=r"Resolver has no resolve\(\)"):
        Resolver().resolve(RequestFactory().get("/"))


# What is said of settings that cannot be

PEM = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
# The resolver, what it needs, its option, values that it does not take, and what is said of them.
OF_HS256 = {"key": "k", "algorithms": ["HS256"]}
BELOW = {"domain": "example.com", "field": "name"}
A_HEADER = r": header is .*; it must be the name of a header, such as"
WRONG_OPTIONS: list[tuple[str, dict[str, Any], str, list[Any], str]] = [
    ("header", {}, "header", [1, None, "", "X Tenant", "X-Tenant:"], A_HEADER),
    ("path", {"field": "name"}, "prefix", [1, None], r"prefix is .*; it must be a text such as"),
    ("path", {}, "field", [1, None, ""], r": field is .*; it must be a text such as 'slug'"),
    ("path", {}, "field", ["slug", "name__nonsense"], r"app.Tenant has no field '(slug|name__n)"),
    (
        "path",
        {"field": "name"},
        "filter",
        ["name", ["name"], {1: 2}],
        r"filter is .*; it must be a dict such as",
    ),
    (
        "path",
        {"field": "name"},
        "filter",
        [{"is_active": True}, {"id": "x"}, {"name__in": 1}],
        r"does not take the filter \{.*\}: ",
    ),
    ("path", {"field": "name"}, "anonymous", [1, None, "yes"], r"must be True or False"),
    (
        "path",
        {"field": "name"},
        "seconds",
        ["x", None, True, -1, float("inf"), float("nan")],
        r"'path' the options \['field', 'seconds'\]: seconds is .*; it must be a number of seconds",
    ),
    (
        "subdomain",
        BELOW,
        "domain",
        [None, 1, ".", "https://localhost:8000/", "localhost:8000", "example.com/x", "*.example"],
        r"'subdomain' the options .*: domain is .*; it must be a host name without a scheme",
    ),
    (
        "subdomain",
        BELOW,
        "exclude",
        ["www", b"www", None, [1]],
        r"exclude is .*; it must be a list such as \['www'\]",
    ),
    (
        "jwt",
        OF_HS256,
        "algorithms",
        [["HS255"], ["HS256", 1]],
        r"algorithms is \[.*\]; it must be some of .*HS256",
    ),
    ("jwt", OF_HS256, "algorithms", [1, None, "HS256", {}], r"needs a key, and the algorithms"),
    ("jwt", OF_HS256, "key", [PEM, 1, ["k", PEM]], r"key does not fit the algorithm 'HS256': "),
    ("jwt", OF_HS256, "key", [[], ["k", ""], [None]], r"needs a key, and the algorithms"),
    ("jwt", OF_HS256, "claim", [1, None, ""], r"claim is .*; it must be a text such as"),
    ("jwt", OF_HS256, "audience", [1, [1]], r"audience is .*; it must be a list such as"),
    ("jwt", OF_HS256, "leeway", ["x", None, -1], r"leeway is .*; it must be a number of seconds"),
    ("jwt", OF_HS256, "issuer", [1, ""], r"issuer is .*; it must be a text such as"),
    ("jwt", OF_HS256, "header", [1, None, ""], A_HEADER),
    ("jwt", OF_HS256, "scheme", [1, None, ""], r"scheme is .*; it must be a text such as"),
]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["users"], r"has 'users', which cannot be imported.*must be one of header, jwt, path"),
        (["no.such.module"], r"has 'no.such.module', which cannot be imported"),
        ([f"{__name__}.KEY"], r"must be a function of a request"),
        ([f"{__name__}.Tenant"], r"must be a function of a request"),
        ([{"NAME": f"{__name__}.by_query", "OPTIONS": {"a": 1}}], r"without OPTIONS"),
        (
            [{"NAME": "header", "OPTIONS": {"name": "X"}}],
            r"'header' the options \['name'\]: ",
        ),
        (["subdomain"], r"needs the domain whose subdomains are the tenants"),
        (
            [{"NAME": "subdomain", "OPTIONS": {"domian": "example.com"}}],
            r"'subdomain' the options \['domian'\]: the resolver 'subdomain' needs the domain",
        ),
        (["jwt"], r"needs a key, and the algorithms"),
        ([f"{__name__}.varying"], r"varying', whose vary is 'X-Customer'; it must be a list such"),
        ([f"{__name__}.Varying"], r"Varying' the options \[\]: vary is 'X-Customer'; it must be a"),
        ([{"NAME": "jwt", "OPTIONS": {"key": "k", "algorithms": ["none"]}}], r"needs a key"),
        ([{"NAME": "jwt", "OPTIONS": {"key": "k", "algorithms": "HS256"}}], r"needs a key"),
        *[
            ([{"NAME": name, "OPTIONS": {**needed, option: value}}], said)
            for name, needed, option, values, said in WRONG_OPTIONS
            for value in values
        ],
        ([], r"\['RESOLVERS'\] is \[\]; it must be a list of names"),
        ([1], r"\['RESOLVERS'\] is \[1\]; it must be a list of names"),
        ([{"OPTIONS": {}}], r"it must be a list of names"),
        ([{"NAME": "user", "OPTION": {}}], r"it must be a list of names"),
    ],
)
def test_a_resolver_that_cannot_be_made_is_refused_at_the_start(
    entries: list[Any], message: str
) -> None:
    with configured(*entries), pytest.raises(RLSConfigurationError, match=message):
        RLSTenantMiddleware(lambda request: HttpResponse())


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    message = r"needs PyJWT: pip install 'django-tenantry\[jwt\]'"
    with configured(JWT), pytest.raises(RLSConfigurationError, match=message):
        RLSTenantMiddleware(lambda request: HttpResponse())


def test_a_session_resolver_without_sessions_is_named() -> None:
    with configured("session"), pytest.raises(ImproperlyConfigured, match=r"request\.session"):
        resolve(RequestFactory().get("/"))


def test_a_denial_is_a_permission_that_is_denied() -> None:
    assert issubclass(TenantDeniedError, PermissionDenied)


def test_the_user_is_not_asked_for_where_a_token_is_enough(tenants: Tenants) -> None:
    request: Any = RequestFactory().get("/", **bearer(tenant_id=tenants[0].pk))
    with configured(JWT, "user"):
        assert resolve(request).binding == Binding(tenants[0].pk)


def test_a_page_that_denies_runs_as_nobody(users: dict[str, Any], tenants: Tenants) -> None:
    found: list[Binding] = []

    class Handlers:
        @staticmethod
        def handler403(request: HttpRequest, exception: Exception) -> HttpResponse:
            found.append(current_binding())
            return HttpResponse(str(exception), status=403)

    Handlers.urlpatterns = urlpatterns  # type: ignore[attr-defined]
    with configured("header", "user"), override_settings(ROOT_URLCONF=Handlers):
        response = client_of(users["a"]).get("/titles/", **header(tenants[1]))
    assert found == [UNBOUND]
    assert response.content == b"You may not act for this tenant."


def current(request: HttpRequest) -> Binding:
    return current_binding()


def test_nobody_has_no_tenants() -> None:
    request: Any = RequestFactory().get("/", **header(1))
    request.user = AnonymousUser()
    with configured("header"):
        assert resolve(request).binding == UNBOUND
    # And is nobody, whoever sends the request.
    with configured(f"{__name__}.current"), tenant_context(1):
        assert resolve(request).binding == UNBOUND
        assert async_to_sync(aresolve)(request).binding == UNBOUND


@pytest.fixture(autouse=True)
def whole() -> Iterator[None]:
    yield
    assert current_binding() == UNBOUND


@pytest.mark.parametrize(
    "entries",
    [
        [{"NAME": "jwt", "OPTIONS": {"key": "s3cret", "algorithm": ["HS256"]}}],
        [{"NAME": "jwt", "OPTIONS": {"key": "s3cret", "algorithms": ["HS256"]}}, 1],
        [{"NAME": "jwt", "OPTION": {"key": "s3cret", "algorithms": ["HS256"]}}],
        [{"NAME": f"{__name__}.by_query", "OPTIONS": {"key": "s3cret"}}],
        {"NAME": "jwt", "OPTIONS": {"key": "s3cret"}},
    ],
)
def test_no_error_shows_a_key(entries: Any, settings: Any) -> None:
    settings.RLS_TENANTS = {**project.RLS_TENANTS, "RESOLVERS": entries}
    with pytest.raises(RLSConfigurationError) as raised:
        resolvers()
    assert "s3cret" not in str(raised.value)
    assert "s3cret" not in repr(raised.value.__cause__)


def test_the_settings_do_not_show_a_key(settings: Any) -> None:
    jwt = {"NAME": "jwt", "OPTIONS": {"key": "s3cret", "algorithms": ["HS256"]}}
    settings.RLS_TENANTS = {**project.RLS_TENANTS, "RESOLVERS": [jwt]}
    assert "s3cret" not in repr(rls_tenants())
    with pytest.raises(RLSConfigurationError, match=r"no 'session'.*'NAME': 'jwt'") as raised:
        switch_tenant(RequestFactory().get("/"), 1)
    assert "s3cret" not in str(raised.value)
