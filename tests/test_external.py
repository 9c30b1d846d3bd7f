"""Tables of other packages, protected by an operation; and requests that only read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.db import InternalError, ProgrammingError, connections, transaction
from django.db.migrations.state import ProjectState
from django.http import HttpResponse
from django.test import RequestFactory

from tenantry import admin_context, tenant_context
from tenantry.binding import Binding
from tenantry.checks.inspection import inspect_database
from tenantry.context import Scope
from tenantry.exceptions import RLSConfigurationError
from tenantry.middleware import RLSTenantMiddleware
from tenantry.operations import AddRLSPolicy
from tests import settings as test_settings
from tests.app.models import Tag, Tenant, User
from tests.fix_migrations import Migrate
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]


def run(sql: str, params: Any = None, *, alias: str = "default") -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else cursor.rowcount


@pytest.fixture
def groups(
    tenants: Tenants, migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> Iterator[Tenants]:
    """Protect Django's own table of groups."""
    state = ProjectState.from_apps(apps)
    migrate(AddRLSPolicy("auth.Group", "owner_id"), state)
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "owner_id"},
    }
    yield tenants
    superuser.execute("TRUNCATE auth_group CASCADE")


def test_a_model_of_another_package_is_isolated(groups: Tenants, wire: Wire) -> None:
    a, b = groups
    for tenant in groups:
        with tenant_context(tenant.pk):
            Group.objects.create(name=f"of {tenant.name}")
            run("INSERT INTO auth_group (name) VALUES (%s)", [f"raw of {tenant.name}"])
    assert (Group.objects.count(), run("SELECT count(*) FROM auth_group")) == (0, [(0,)])
    for tenant in groups:
        with tenant_context(tenant.pk):
            names = sorted(Group.objects.values_list("name", flat=True))
            assert names == [f"of {tenant.name}", f"raw of {tenant.name}"]
            assert run("SELECT count(*) FROM auth_group") == [(2,)]
            assert f'"auth_group"."owner_id" = {tenant.pk}' in str(Group.objects.all().query)
    with admin_context():
        assert Group.objects.count() == 4
    with tenant_context(a.pk):
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("UPDATE auth_group SET owner_id = %s", [b.pk])
        user = User.objects.create(username="u", tenant=a)
        user.groups.set(Group.objects.all())
        assert User.objects.filter(groups__name="of A").count() == 1
        assert User.objects.filter(groups__name="of B").count() == 0
    assert list(inspect_database(connections["default"])) == []


def test_the_operation_is_undone(groups: Tenants) -> None:
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'auth_group'"
    assert run(columns, alias="owner") == [(3,)]


def test_the_policy_that_is_missing_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "id"},
    }
    found = {each.id for each in inspect_database(connections["default"])}
    assert {"tenantry.E111", "tenantry.E114"} <= found


def test_a_model_that_is_not_installed_is_refused(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"taggit.Tag": "tenant_id"},
    }
    with pytest.raises(RLSConfigurationError, match=r"'taggit.Tag', which is not installed"):
        list(Tag.objects.all())


@pytest.mark.parametrize("value", [[], {"Tag": "tenant_id"}, {"taggit.Tag": None}])
def test_a_bad_setting_is_refused(value: object, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "EXTERNAL_MODELS": value}
    with pytest.raises(RLSConfigurationError, match="a dict of model labels and tenant columns"):
        tenant_context(1)


def test_the_operation_can_be_written_again() -> None:
    name, args, kwargs = AddRLSPolicy("auth.Group", key_type="bigint").deconstruct()
    assert (name, args) == ("AddRLSPolicy", ["auth.Group", "tenant_id"])
    assert kwargs == {"create_column": True, "key_type": "bigint"}
    assert AddRLSPolicy(*args, **kwargs).migration_name_fragment == "protect_auth_group"
    assert "Protect auth.Group by tenant_id" in AddRLSPolicy("auth.Group").describe()


# Requests that only read.


def respond(method: str, user: User) -> list[str]:
    """Return what a request that writes a tag came to."""
    outcome = []

    def view(request: Any) -> HttpResponse:
        outcome.append(f"{Tag.objects.count()} tags")
        try:
            with transaction.atomic():
                Tag.objects.create(name="written")
        except InternalError as error:
            outcome.append(str(error))
        try:
            with tenant_context(user.tenant_id):
                Tag.objects.create(name="written in a scope")
        except InternalError as error:
            outcome.append(str(error))
        return HttpResponse()

    request = RequestFactory().generic(method, "/")
    request.user = user
    RLSTenantMiddleware(view)(request)
    return outcome


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_a_get_cannot_write(method: str, tenants: Tenants, settings: Any) -> None:
    a = tenants[0]
    user = User.objects.create(username="u", tenant=a)
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "READ_ONLY_REQUESTS": True}
    refused = "cannot execute INSERT in a read-only transaction"
    expected = ["0 tags"] + [refused] * 2 * (method in ("GET", "HEAD"))
    assert respond(method, user) == expected
    # Nothing of it is left.
    with tenant_context(a.pk):
        Tag.objects.create(name="after")


def test_read_only_is_off_by_default(tenants: Tenants) -> None:
    user = User.objects.create(username="u", tenant=tenants[0])
    assert respond("GET", user) == ["0 tags"]


def test_read_only_goes_with_the_statement(wire: Wire, tenants: Tenants) -> None:
    with Scope(Binding(read_only=True)), connections["wire"].cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("on",)
        cursor.execute("SELECT 1")
    assert wire.round_trips == 2
    with connections["wire"].cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        assert cursor.fetchone() == ("off",)
