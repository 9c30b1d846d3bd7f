"""What tests of projects use, and functions that run as a user they are given."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from tenantry import admin_context, current_tenant_sql, tenant_context, with_rls_context
from tenantry.binding import UNBOUND, Binding, current_binding
from tenantry.testing import (
    TenantTestCase,
    TenantTransactionTestCase,
    assert_rls_blocks_without_context,
    assert_rls_enabled,
    assert_rls_policy_exists,
    create_tenant,
    rls_as_tenant,
    rls_bypass,
)
from tests.app.models import Book, Note, Shared, Tenant, User
from tests.fix_checks import broken

Tenants = tuple[Tenant, Tenant]


def titles() -> list[str]:
    return [note.title for note in Note.objects.order_by("id")]


def test_scopes_for_tests(tenants: Tenants) -> None:
    a, _ = tenants
    with rls_bypass():
        assert len(titles()) == 4
    for tenant in (a, a.pk, str(a.pk)):
        with rls_as_tenant(tenant):
            assert titles() == ["A 1", "A 2"]
    with rls_as_tenant(tenant_id=a.pk):
        assert titles() == ["A 1", "A 2"]


def test_assertions_hold_for_what_is_protected(library: Tenants) -> None:
    # By name, too: an assertion may be about a table without a model.
    for model in (Note, Book, "app_note", '"app_note"'):
        assert_rls_enabled(model)
        assert_rls_policy_exists(model)
        assert_rls_blocks_without_context(model)
        with tenant_context(library[0].pk):
            assert_rls_blocks_without_context(model)


def test_assertions_fail_for_what_is_not(
    library: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    with pytest.raises(AssertionError, match=r"app.Shared is not protected: .* is \(False, False"):
        assert_rls_enabled(Shared)
    with pytest.raises(AssertionError, match=r"app.Shared has no policy '\w+': \[\]; run migrate"):
        assert_rls_policy_exists(Shared)
    with pytest.raises(AssertionError, match="has no policy 'nobody'"):
        assert_rls_policy_exists(Note, policy_name="nobody")
    with pytest.raises(AssertionError, match=r"4 of 4 rows of app.Shared are visible without"):
        assert_rls_blocks_without_context(Shared)
    with pytest.raises(AssertionError, match=r"^the table 'app_shared' is not protected"):
        assert_rls_enabled("app_shared")
    with pytest.raises(AssertionError, match=r"^the table 'nothing' is not protected: .* is None"):
        assert_rls_enabled("nothing")
    force = "ALTER TABLE app_note {} ROW LEVEL SECURITY"
    with (
        broken(superuser, force.format("NO FORCE"), force.format("FORCE")),
        pytest.raises(AssertionError, match=r"is \(True, False\), not \(True, True\)"),
    ):
        assert_rls_enabled(Note)
    with (
        broken(superuser, force.format("DISABLE"), force.format("ENABLE")),
        pytest.raises(AssertionError, match=r"4 of 4 rows of app.Note are visible"),
    ):
        assert_rls_blocks_without_context(Note)


def test_an_empty_table_proves_nothing(tenants: Tenants) -> None:
    with rls_bypass():
        Note.objects.all().delete()
    with pytest.raises(AssertionError, match=r"app.Note has no rows, so that nothing can be seen"):
        assert_rls_blocks_without_context(Note)


def test_the_current_tenant_in_raw_sql(tenants: Tenants) -> None:
    sql = f"SELECT title FROM app_note WHERE tenant_id = {current_tenant_sql()} ORDER BY id"

    def run() -> list[str]:
        with connections["default"].cursor() as cursor:
            cursor.execute(sql)
            return [title for (title,) in cursor.fetchall()]

    assert run() == []
    with tenant_context(tenants[1].pk):
        assert run() == ["B 1", "B 2"]
    with admin_context():
        assert run() == []


# Functions that run as a user.


@with_rls_context
def seen(prefix: str, as_user: Any = None) -> list[str]:
    return [title for title in titles() if title.startswith(prefix)]


@with_rls_context(user_param="member")
async def seen_async(*, member: Any) -> list[str]:
    return [note.title async for note in Note.objects.order_by("id")]


def user(tenant: Tenant | None, *, admin: bool = False) -> Any:
    name = f"{tenant.name if tenant else 'nobody'}{admin}"
    return User.objects.create(username=name, tenant=tenant, is_tenant_admin=admin)


async def test_a_function_runs_as_the_user_it_is_given(tenants: Tenants) -> None:

    a, b = tenants
    make: Callable[..., Any] = sync_to_async(user)
    of_a, of_b, admin = await make(a), await make(b), await make(None, admin=True)
    async with tenant_context(a.pk):
        run: Callable[..., Any] = sync_to_async(seen)
        assert await run("B", of_b) == await run("B", as_user=of_b) == ["B 1", "B 2"]
        assert await run("B", as_user=admin) == ["B 1", "B 2"]
        assert await run("", of_a) == ["A 1", "A 2"]
        # Never in the caller's scope.
        for nobody in (None, AnonymousUser()):
            assert await run("", nobody) == await seen_async(member=nobody) == []
        assert await run("") == []
        assert await seen_async(member=of_b) == ["B 1", "B 2"]
    assert current_binding() == UNBOUND


def test_a_user_without_a_tenant_is_refused_by_the_functions_name(tenants: Tenants) -> None:
    nobody = user(None)
    with pytest.raises(ValueError, match=r"^seen\(\): Non-admin user has rls_tenant_id=None\. Ass"):
        seen("", as_user=nobody)
    odd = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id="x")
    with pytest.raises(ValueError, match=r"^seen\(\): tenant_id 'x' is not a decimal number"):
        seen("", as_user=odd)


def test_a_user_model_without_the_protocol_is_refused_by_the_functions_name() -> None:
    odd = SimpleNamespace(is_authenticated=True, is_tenant_admin=False)
    with pytest.raises(ImproperlyConfigured, match=r"^seen\(\): the user .* has no rls_tenant_id"):
        seen("", as_user=odd)


def test_what_is_no_user_is_refused(tenants: Tenants) -> None:
    said = "is not a user: it has no is_authenticated; pass a user, or None to run unbound"
    odd: Any
    for odd in ("ada", 1, [], SimpleNamespace(rls_tenant_id=1)):
        with pytest.raises(TypeError) as raised:
            seen("", as_user=odd)
        assert str(raised.value) == f"seen(): {type(odd).__name__} {said}"
        with pytest.raises(TypeError, match="has no is_authenticated"):
            Note.objects.for_user(odd)


class Report:
    """Is async, and has no name of its own."""

    async def __call__(self, as_user: Any) -> Any:
        return current_binding()


async def test_an_object_runs_as_the_user_it_is_given(tenants: Tenants) -> None:
    of_b = await sync_to_async(user)(tenants[1])
    report = with_rls_context(Report())
    async with tenant_context(tenants[0].pk):
        assert await report(of_b) == Binding(tenants[1].pk)
        assert await report(as_user=None) == UNBOUND
    with pytest.raises(ValueError, match=r"Report object at .*\(\): Non-admin user has"):
        await report(await sync_to_async(user)(None))
    with pytest.raises(TypeError, match=r"Report object at .*\(\) has no argument 'member'"):
        with_rls_context(Report(), user_param="member")


def test_a_function_without_a_user_is_refused() -> None:
    with pytest.raises(TypeError, match=r"f\(\) has no argument 'as_user' for the user that it"):

        @with_rls_context
        def f(user: Any) -> None: ...

    with pytest.raises(TypeError, match="cannot decorate the generator function"):

        @with_rls_context
        def g(as_user: Any) -> Any:
            yield


def test_the_argument_is_a_setting(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "USER_PARAM_NAME": "who"}

    @with_rls_context
    def f(who: Any) -> list[str]:
        return titles()

    assert f(user(tenants[0])) == ["A 1", "A 2"]


# Test cases.


class NoteTests(TenantTestCase):
    """Is run by the test below, not by pytest."""

    __test__ = False
    note: Note

    @classmethod
    def setUpTestData(cls) -> None:
        super().setUpTestData()
        cls.note = Note.objects.create(title="ours")

    def test_the_note_is_the_tenants(self) -> None:
        assert self.note.tenant_id == self.tenant.pk == current_binding().tenant_id
        assert titles() == ["ours"]


def test_a_test_case_runs_as_its_tenant(tenants: Tenants) -> None:
    result = unittest.TestResult()
    unittest.TestSuite([NoteTests("test_the_note_is_the_tenants")]).run(result)
    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert current_binding() == UNBOUND
    with rls_bypass():
        assert len(titles()) == 4


def test_a_test_case_that_commits_does_so_too(tenants: Tenants) -> None:
    case = TenantTransactionTestCase("setUp")
    case.setUp()
    assert titles() == []
    assert current_binding().tenant_id == case.tenant.pk
    case.doCleanups()
    assert current_binding() == UNBOUND


def test_a_tenant_that_is_more_than_texts_is_somebody_elses_to_create(settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "TENANT_MODEL": "app.Payment"}
    with pytest.raises(TypeError, match=r"^app.Payment needs a value for 'number', .* override"):
        create_tenant("one")


def test_a_tenant_who_sees_only_itself_is_created(hidden: Tenants) -> None:
    tenant = create_tenant("C")
    assert current_binding() == UNBOUND
    with rls_as_tenant(tenant):
        assert Tenant.objects.get() == tenant
