"""Strict mode: an ORM query of a protected model in no scope is an error, not an empty result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections
from django.test.utils import override_settings

from tenantry import aclose_pools, admin_context, arows, tenant_context
from tenantry.exceptions import NoTenantContextError
from tests import settings
from tests.app.models import Author, Note, Shared, Tenant
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
STRICT = {**settings.RLS_TENANTS, "STRICT_MODE": True}


@pytest.fixture(autouse=True)
def strict(tenants: Tenants) -> Iterator[None]:
    with override_settings(RLS_TENANTS=STRICT):
        yield


QUERIES: list[Callable[[], Any]] = [
    lambda: list(Note.objects.all()),
    lambda: list(Note._base_manager.all()),
    lambda: Note.objects.count(),
    lambda: Note.objects.using("wire").update(title="x"),
    lambda: Note.objects.using("wire").filter(title="x").delete(),
    lambda: Note.objects.using("wire").create(title="x"),
    lambda: Note.objects.using("wire").bulk_create([Note(title="x")]),
    lambda: list(Shared.objects.select_related("note")),
    lambda: list(Shared.objects.filter(note__in=Note.objects.all())),
    lambda: list(Tenant.objects.filter(author__name="x")),
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_in_no_scope_is_an_error(query: Callable[[], Any], wire: Wire) -> None:
    with pytest.raises(NoTenantContextError, match=r"a query of app\.\w+ runs in no scope"):
        query()
    assert wire.queries == []


@pytest.mark.parametrize("query", QUERIES[:3])
def test_a_query_in_a_scope_runs(query: Callable[[], Any], tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        assert query()
    with admin_context():
        assert query()


def test_what_is_not_protected_runs_anywhere(tenants: Tenants) -> None:
    Shared.objects.create(text="everybody's")
    assert Shared.objects.get().text == "everybody's"
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM app_note")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("label", ["app.Note", "app"])
def test_what_is_excluded_runs_unbound(label: str, tenants: Tenants) -> None:
    with override_settings(RLS_TENANTS=STRICT | {"STRICT_MODE_EXCLUDE": [label]}):
        assert list(Note.objects.all()) == []
        if label == "app.Note":
            with pytest.raises(NoTenantContextError, match=r"app\.Author"):
                list(Author.objects.all())


async def test_strict_mode_holds_without_a_thread(tenants: Tenants) -> None:
    with pytest.raises(NoTenantContextError):
        await arows(Note.objects.all())
    await aclose_pools()


def test_a_user_without_a_tenant_in_strict_mode_is_told_too(tenants: Tenants) -> None:
    with pytest.raises(NoTenantContextError):
        list(Note.objects.for_user(None))
