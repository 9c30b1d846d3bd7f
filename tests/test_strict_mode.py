"""Strict mode: an ORM query of a protected model in no scope is an error, not an empty result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import CreateModel
from django.db.migrations.state import ProjectState
from django.test.utils import override_settings

from tenantry import (
    RLSConstraint,
    aclose_pools,
    admin_context,
    arows,
    bypass_flag,
    tenant_context,
)
from tenantry.exceptions import NoTenantContextError
from tests import settings
from tests.app.models import Author, Book, Item, NewestFirst, Note, Shared, Tenant
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
    # The table of a child has no tenant of its own.
    lambda: Book.objects.using("wire").count(),
    lambda: list(Book.objects.using("wire").values("item_ptr_id", "pages")),
    lambda: Book.objects.using("wire").update(pages=1),
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


def test_what_finds_nothing_in_any_scope_needs_none(wire: Wire) -> None:
    nothing = Note.objects.using("wire").none()
    assert [list(nothing), nothing.count(), nothing.exists(), nothing.update(title="x")] == [
        [],
        0,
        False,
        0,
    ]
    assert list(Shared.objects.using("wire").filter(note__in=nothing)) == []
    assert wire.queries == []


@pytest.mark.parametrize("label", ["app.Item", "app"])
def test_a_proxy_is_excluded_with_the_model_that_has_the_table(
    label: str, tenants: Tenants
) -> None:
    with override_settings(RLS_TENANTS=STRICT | {"STRICT_MODE_EXCLUDE": [label]}):
        assert list(Item.objects.all()) == []
        assert list(NewestFirst.objects.all()) == []
    with pytest.raises(NoTenantContextError, match=r"or name app\.Item in"):
        list(NewestFirst.objects.all())


def relation(*flags_of_left: str) -> Any:
    """Return a model of a many-to-many relation, and exclude none."""
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("owner", models.BigIntegerField()),
    ]
    many: tuple[str, Any] = ("rights", models.ManyToManyField("strict.Right"))
    state = ProjectState()
    for name, more, flags in (("Right", [], ("login", "audit")), ("Left", [many], flags_of_left)):
        rls = RLSConstraint(field="owner", name=name, extra_bypass_flags=flags)
        CreateModel(name, fields + more, {"constraints": [rls]}).state_forwards("strict", state)
    left: Any = state.apps.get_model("strict", "Left")
    return left.rights.through


def is_refused(model: Any) -> bool:
    try:
        model._default_manager.all().query.get_compiler("default").as_sql()
    except NoTenantContextError:
        return True
    return False


def test_the_table_of_a_relation_needs_a_scope() -> None:
    through = relation()
    assert is_refused(through)
    with tenant_context(1):
        assert not is_refused(through)
    for label in ("strict.Left", "strict"):
        with override_settings(RLS_TENANTS=STRICT | {"STRICT_MODE_EXCLUDE": [label]}):
            assert not is_refused(through)
    with override_settings(RLS_TENANTS=STRICT | {"STRICT_MODE_EXCLUDE": ["strict.Right"]}):
        assert is_refused(through)


def test_a_flag_reads_a_relation_if_it_reads_both_ends() -> None:
    with override_settings(RLS_TENANTS=STRICT | {"BYPASS_FLAGS": ["login", "audit"]}):
        for flags, is_read in (((), False), (("audit",), False), (("login",), True)):
            through = relation(*flags)
            with bypass_flag("login"):
                assert is_refused(through) is not is_read


async def test_strict_mode_holds_without_a_thread(tenants: Tenants) -> None:
    with pytest.raises(NoTenantContextError):
        await arows(Note.objects.all())
    await aclose_pools()


def test_a_user_without_a_tenant_in_strict_mode_is_told_too(tenants: Tenants) -> None:
    with pytest.raises(NoTenantContextError):
        list(Note.objects.for_user(None))
