"""The tenant that a user selects for a session."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

import tenantry
from tenantry.exceptions import RLSConfigurationError, TenantDeniedError, TenantIdTypeError
from tests import settings as project
from tests.app.models import Tenant, User
from tests.test_resolvers import (
    ALL,
    NONE,
    A,
    B,
    Member,
    Tenants,
    async_titles,
    client_of,
    configured,
    several,
    titles,
    users,
)

__all__ = ["several", "users"]
pytestmark = pytest.mark.usefixtures("several")


def switch(request: HttpRequest) -> HttpResponse:
    tenantry.switch_tenant(request, request.POST["tenant"])
    return titles(request)


async def aswitch(request: HttpRequest) -> HttpResponse:
    await tenantry.aswitch_tenant(request, request.POST["tenant"])
    return await async_titles(request)


def clear(request: HttpRequest) -> HttpResponse:
    tenantry.clear_tenant_selection(request)
    return titles(request)


async def aclear(request: HttpRequest) -> HttpResponse:
    await tenantry.aclear_tenant_selection(request)
    return await async_titles(request)


urlpatterns = [
    path("titles/", titles),
    path("async/", async_titles),
    path("switch/", switch),
    path("aswitch/", aswitch),
    path("clear/", clear),
    path("aclear/", aclear),
]


@pytest.fixture(autouse=True)
def by_session(settings: Any) -> Any:
    settings.ROOT_URLCONF = __name__
    with configured("session", "user"):
        yield


@pytest.mark.parametrize("a", ["", "a"], ids=["sync", "async"])
def test_a_selection_holds_for_the_requests_that_follow(
    a: str, users: dict[str, Any], tenants: Tenants
) -> None:
    client = client_of(users["both"])
    assert client.get("/titles/").json() == A
    # The request that selects keeps its own.
    assert client.post(f"/{a}switch/", {"tenant": tenants[1].pk}).json() == A
    assert client.get("/titles/").json() == B
    assert client.get("/async/").json() == B
    assert "Cookie" in client.get("/titles/")["Vary"]
    assert client_of(users["both"]).get("/titles/").json() == A
    assert client.post(f"/{a}clear/").json() == B
    assert client.get("/titles/").json() == A


async def test_a_selection_needs_no_thread(users: dict[str, Any], tenants: Tenants) -> None:
    client = AsyncClient()
    await client.aforce_login(users["both"])
    assert (await client.post("/aswitch/", {"tenant": tenants[1].pk})).json() == A
    assert (await client.get("/async/")).json() == B
    assert (await client.post("/aclear/")).json() == B
    assert (await client.get("/async/")).json() == A


@pytest.mark.parametrize("a", ["", "a"], ids=["sync", "async"])
def test_what_may_not_be_selected_is_denied_and_changes_nothing(
    a: str, users: dict[str, Any], tenants: Tenants
) -> None:
    client = client_of(users["guest"])
    client.post(f"/{a}switch/", {"tenant": tenants[1].pk})
    answers = set()
    for wrong in (tenants[0].pk, 10**12, "x", "", "7'; DROP TABLE app_note"):
        response = client.post(f"/{a}switch/", {"tenant": wrong})
        answers.add((response.status_code, response.content))
        assert client.get("/titles/").json() == B
    assert len(answers) == 1
    assert answers.pop()[0] == 403


@pytest.mark.parametrize("key_type", ["bigint", "uuid", "text"])
@pytest.mark.parametrize("wrong", [None, True, 7.5, [7], 7, "\0"])
def test_what_can_be_no_key_is_denied(wrong: Any, key_type: str, users: dict[str, Any]) -> None:
    request: Any = RequestFactory().post("/")
    request.user = users["a"]
    tenants = {**project.RLS_TENANTS, "RESOLVERS": ["session"], "TENANT_PK_TYPE": key_type}
    with override_settings(RLS_TENANTS=tenants), pytest.raises(TenantDeniedError):
        tenantry.switch_tenant(request, wrong)


def test_an_instance_is_a_mistake(users: dict[str, Any], tenants: Tenants) -> None:
    request: Any = RequestFactory().post("/")
    request.user = users["a"]
    with pytest.raises(TenantIdTypeError, match=r"not the instance .*; pass the tenant's \.pk"):
        tenantry.switch_tenant(request, tenants[0])


def test_an_admin_selects_among_the_tenants_that_exist(
    users: dict[str, Any], tenants: Tenants
) -> None:
    client = client_of(users["admin"])
    assert client.post("/switch/", {"tenant": tenants[1].pk}).status_code == 200
    assert client.get("/titles/").json() == B
    assert client.post("/switch/", {"tenant": 10**12}).status_code == 403
    assert client.get("/titles/").json() == B
    client.post("/clear/")
    assert client.get("/titles/").json() == ALL


@pytest.mark.parametrize("a", ["", "a"], ids=["sync", "async"])
def test_an_admins_selection_is_forgotten_with_its_tenant(
    a: str, users: dict[str, Any], tenants: Tenants
) -> None:
    where = "/async/" if a else "/titles/"
    gone = Tenant.objects.create(name="C")
    client = client_of(users["admin"])
    client.post(f"/{a}switch/", {"tenant": gone.pk})
    assert client.get(where).json() == NONE
    gone.delete()
    assert client.get(where).json() == ALL
    assert "tenantry.tenant" not in client.session


def test_a_members_selection_is_not_looked_for(users: dict[str, Any], tenants: Tenants) -> None:
    one = User.objects.create(username="one", tenant=tenants[1])
    client = client_of(one)
    client.post("/switch/", {"tenant": tenants[1].pk})
    with CaptureQueriesContext(connections["default"]) as captured:
        assert client.get("/titles/").json() == B
    assert not [query for query in captured if "app_tenant" in query["sql"]]


def test_a_selection_that_no_longer_holds_is_forgotten(
    users: dict[str, Any], tenants: Tenants
) -> None:
    a, b = tenants
    both = users["both"]
    client = client_of(both)
    client.post("/switch/", {"tenant": b.pk})
    assert client.get("/titles/").json() == B
    User.objects.filter(pk=both.pk).update(last_name=str(a.pk))
    assert client.get("/titles/").json() == A
    # It does not come back.
    User.objects.filter(pk=both.pk).update(last_name=f"{a.pk},{b.pk}")
    assert client.get("/titles/").json() == A


async def test_a_selection_that_no_longer_holds_is_forgotten_in_async_code(
    users: dict[str, Any], tenants: Tenants
) -> None:
    a, b = tenants
    both = users["both"]
    client = AsyncClient()
    await client.aforce_login(both)
    await client.post("/aswitch/", {"tenant": b.pk})
    assert (await client.get("/async/")).json() == B
    await User.objects.filter(pk=both.pk).aupdate(last_name=str(a.pk))
    assert (await client.get("/async/")).json() == A
    await User.objects.filter(pk=both.pk).aupdate(last_name=f"{a.pk},{b.pk}")
    assert (await client.get("/async/")).json() == A


@pytest.mark.parametrize("garbage", ["x", "", 10**30, "7'; DROP TABLE app_note"])
def test_a_selection_that_is_garbage_is_forgotten(
    garbage: object, users: dict[str, Any], tenants: Tenants
) -> None:
    client = client_of(users["both"])
    session = client.session
    session["tenantry.tenant"] = garbage
    session.save()
    assert client.get("/titles/").json() == A
    assert "tenantry.tenant" not in client.session


def test_a_tenant_that_is_deleted_is_no_longer_selected(
    users: dict[str, Any], tenants: Tenants
) -> None:
    gone = Tenant.objects.create(name="C")
    User.objects.filter(pk=users["both"].pk).update(last_name=str(gone.pk))
    client = client_of(users["both"])
    client.post("/switch/", {"tenant": gone.pk})
    assert client.get("/titles/").json() == NONE
    gone.delete()
    assert client.get("/titles/").json() == A


@pytest.mark.parametrize("a", ["", "a"], ids=["sync", "async"])
def test_tenants_who_see_only_themselves_are_selected(
    a: str, users: dict[str, Any], hidden: Tenants, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": ["session", "user"]}
    keys = property(lambda user: list(filter(None, user.last_name.split(","))))
    monkeypatch.setattr(Member, "rls_tenant_ids", keys)
    for name in ("both", "admin"):
        client = client_of(users[name])
        for tenant, seen in zip((*hidden, *hidden), (A, B, A, B), strict=True):
            assert client.post(f"/{a}switch/", {"tenant": tenant.pk}).status_code == 200
            assert client.get("/titles/").json() == seen
        assert client.post(f"/{a}switch/", {"tenant": 10**12}).status_code == 403
    assert client_of(users["a"]).post(f"/{a}switch/", {"tenant": hidden[1].pk}).status_code == 403


def test_nobody_selects(tenants: Tenants) -> None:
    client = Client()
    assert client.post("/switch/", {"tenant": tenants[0].pk}).status_code == 403
    assert client.get("/titles/").json() == NONE


def test_a_selection_ends_with_the_login(users: dict[str, Any], tenants: Tenants) -> None:
    client = client_of(users["both"])
    client.post("/switch/", {"tenant": tenants[1].pk})
    client.force_login(users["admin"])
    assert client.get("/titles/").json() == ALL


def test_a_selection_that_nothing_would_read_is_refused(users: dict[str, Any]) -> None:
    request: Any = RequestFactory().post("/")
    request.user = users["both"]
    with configured("header", "user"), pytest.raises(RLSConfigurationError) as raised:
        tenantry.switch_tenant(request, 1)
    assert str(raised.value) == (
        "RLS_TENANTS['RESOLVERS'] has no 'session', so nothing would read the selection; put it"
        " before 'user' (now: ['header', 'user'])"
    )
