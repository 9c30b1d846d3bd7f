"""Cache keys: what one binding caches, no other finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

import pytest
from django.core.cache import cache, caches
from django.core.checks import ERROR, run_checks
from django.http import HttpRequest, HttpResponse
from django.template import Context, Engine
from django.test import Client, override_settings
from django.urls import path
from django.views.decorators.cache import cache_page
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry import admin_context, bind_request, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding
from tenantry.context import Scope
from tenantry.contrib.cache import make_key, namespace, shared
from tenantry.naming import name_of
from tenantry.validators import FLAG
from tests.app.models import Note, Tenant, User

Tenants = tuple[Tenant, Tenant]
KEYED = {
    "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
    "KEY_FUNCTION": "tenantry.contrib.cache.make_key",
}


@pytest.fixture(autouse=True)
def keyed(settings: Any) -> Iterator[None]:
    settings.CACHES = {"default": {**KEYED, "LOCATION": "keyed"}}
    yield
    caches["default"].clear()


def bindings(tenants: Tenants) -> dict[str, AbstractContextManager[Any]]:
    return {
        "a": tenant_context(tenants[0].pk),
        "b": tenant_context(tenants[1].pk),
        "admin": admin_context(),
        "bypass": Scope(Binding(bypass="login")),
        "nobody": nullcontext(),
    }


def test_what_one_binding_caches_no_other_finds(tenants: Tenants) -> None:
    for name, scope in bindings(tenants).items():
        with scope:
            assert cache.get("key") is None
            cache.set("key", name)
            cache.set_many({"1": name, "2": name})
            assert cache.get_or_set("other", name) == name
            cache.add("count", 1)
            cache.incr("count")
    for name, scope in bindings(tenants).items():
        with scope:
            assert cache.get_many(["key", "1", "2", "other"]) == dict.fromkeys(
                ["key", "1", "2", "other"], name
            )
            assert cache.get("count") == 2
    with tenant_context(tenants[0].pk):
        cache.delete("key")
        assert "key" not in cache
    with tenant_context(tenants[1].pk):
        assert cache.get("key") == "b"


async def test_tasks_find_what_is_their_own(tenants: Tenants) -> None:
    async def visit(tenant: Tenant) -> Any:
        async with tenant_context(tenant.pk):
            await cache.aset("task", tenant.name)
            await asyncio.sleep(0)
            return await cache.aget("task")

    assert await asyncio.gather(*map(visit, tenants)) == ["A", "B"]


def test_what_is_shared_everybody_finds(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        cache.set(shared("rates"), "1.08")
        assert cache.get("rates") is None
    for scope in bindings(tenants).values():
        with scope:
            assert cache.get(shared("rates")) == "1.08"
            assert cache.get_many([shared("rates"), "rates"]) == {"rates": "1.08"}


keys = st.text(max_size=40)
ids = st.one_of(
    st.integers(), st.uuids(), st.text(min_size=1), st.sampled_from([".", "..", "1:admin", "=a"])
)
flags = st.sampled_from(["nobody", "shared"]) | st.from_regex(FLAG, fullmatch=True)
anybody = st.one_of(
    ids.map(Binding),
    st.sampled_from([UNBOUND, ADMIN]),
    st.builds(lambda name: Binding(bypass=name), flags),
)


def key_in(binding: Binding, key: str) -> str:
    with Scope(binding):
        return make_key(key, "prefix", 1)


@given(anybody, keys, anybody, keys)
@example(UNBOUND, "", Binding(bypass="nobody"), "")
@example(Binding(bypass="shared"), "", UNBOUND, "")
def test_no_two_bindings_share_a_key(one: Binding, key: str, other: Binding, again: str) -> None:
    # A tenant has ids of one type only.
    same = namespace(one) == namespace(other)
    if type(one.tenant_id) is type(other.tenant_id):
        assert same == (one == other)
    assert (key_in(one, key) == key_in(other, again)) == (same and key == again)
    assert key_in(one, key) != key_in(other, shared(again))


@given(ids, ids)
def test_names_of_tenants_are_names_of_files_and_of_one_tenant(one: Any, other: Any) -> None:
    name = name_of(one)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" /\\:.*?\"'<>|")
    assert 0 < len(name) <= 100
    if type(one) is type(other) and one != other:
        # Also where small letters and capitals are the same.
        assert name.lower() != name_of(other).lower()


def test_names_are_readable_where_they_can_be() -> None:
    assert name_of(7) == "7"
    assert name_of("acme-2") == "acme-2"
    assert name_of("Acme.") == "%41cme%2E"
    assert name_of(UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    assert name_of("é" * 200).startswith("=")


# Pages.


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("|".join(Note.objects.order_by("id").values_list("title", flat=True)))


def authenticating(request: HttpRequest) -> Any:
    bind_request(request, User.objects.get(username=request.headers["X-User"]))
    return cache_page(60)(page)(request)


LIBRARIES = {"cache": "django.templatetags.cache"}
FRAGMENT = "{% load cache %}{% cache 60 titles %}{{ titles }}{% endcache %}"


def fragment(request: HttpRequest) -> HttpResponse:
    titles = "|".join(Note.objects.order_by("id").values_list("title", flat=True))
    template = Engine(libraries=LIBRARIES).from_string(FRAGMENT)
    return HttpResponse(template.render(Context({"titles": titles})))


urlpatterns = [
    path("page/", cache_page(60)(page)),
    path("fragment/", fragment),
    path("authenticating/", authenticating),
]


@pytest.mark.parametrize("where", ["/page/", "/fragment/"])
def test_cached_pages_are_their_tenants(where: str, settings: Any, tenants: Tenants) -> None:
    settings.ROOT_URLCONF = __name__
    users = [
        User.objects.create(username="a", tenant=tenants[0]),
        User.objects.create(username="b", tenant=tenants[1]),
    ]
    seen = []
    for _ in range(2):
        for user in users:
            client = Client()
            client.force_login(user)
            seen.append(client.get(where).content)
        for tenant in tenants:
            # What is cached stays as it was.
            with tenant_context(tenant.pk):
                Note.objects.create(title=f"later {len(seen)}")
    assert seen == [b"A 1|A 2", b"B 1|B 2"] * 2
    assert Client().get(where).content == b""


def test_a_page_is_cached_inside_of_a_view_that_authenticates(
    settings: Any, tenants: Tenants
) -> None:
    settings.ROOT_URLCONF = __name__
    for name, tenant in zip("ab", tenants, strict=True):
        User.objects.create(username=name, tenant=tenant)
    seen = []
    for _ in range(2):
        for name, tenant in zip("ab", tenants, strict=True):
            seen.append(Client().get("/authenticating/", headers={"X-User": name}).content)
            with tenant_context(tenant.pk):
                Note.objects.create(title=f"later {len(seen)}")
    assert seen == [b"A 1|A 2", b"B 1|B 2"] * 2


# The check.


@pytest.mark.parametrize(
    ("engine", "alias", "warned"),
    [
        ("django.contrib.sessions.backends.cache", "called", True),
        ("django.contrib.sessions.backends.cache", "default", True),
        ("django.contrib.sessions.backends.cached_db", "default", True),
        ("django.contrib.sessions.backends.cache", "sessions", False),
        ("django.contrib.sessions.backends.db", "default", False),
    ],
)
def test_sessions_in_such_a_cache_are_found(engine: str, alias: str, warned: bool) -> None:
    plain = {"BACKEND": KEYED["BACKEND"]}
    with override_settings(
        CACHES={
            "default": KEYED,
            "called": {**KEYED, "KEY_FUNCTION": make_key},
            "sessions": plain,
        },
        SESSION_ENGINE=engine,
        SESSION_CACHE_ALIAS=alias,
    ):
        found = [each for each in run_checks(tags=["caches"]) if each.id == "tenantry.E171"]
    assert bool(found) == warned
    if warned:
        assert found[0].level == ERROR
        assert "SESSION_CACHE_ALIAS" in str(found[0].hint)
