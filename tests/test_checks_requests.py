"""What is wrong with MIDDLEWARE, and with the model of the users."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import models
from django.http import HttpRequest
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, users
from tenantry.checks import requests
from tenantry.checks.registry import check_requests
from tenantry.checks.requests import DJANGOS, OURS, inspect_requests
from tenantry.middleware import RLSTenantMiddleware
from tenantry.resolvers.places import HeaderResolver
from tests import settings as test_settings
from tests.app.models import Tenant

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
TENANTS = test_settings.RLS_TENANTS


def plain(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    return get_response


class Bound(RLSTenantMiddleware):
    """The middleware of a project."""


class Authenticated(AuthenticationMiddleware):
    """The middleware of a project."""


class Trusted(HeaderResolver):
    """A header that a proxy has set, which needs no user."""

    authenticates = True


def by_function(request: HttpRequest) -> None:
    """Name no tenant."""


def found() -> dict[str, str]:
    return {each.id: f"{each.subject} {each.message}; {each.fix}" for each in inspect_requests()}


def test_a_healthy_project_has_no_findings() -> None:
    assert found() == {}


@pytest.mark.parametrize(
    "installed",
    [
        [SESSIONS, DJANGOS],
        [f"{__name__}.plain"],
        [f"{__name__}.nothing"],
        ["tenantry.middleware.finished"],
    ],
)
def test_requests_that_nobody_binds_are_found(installed: list[str], settings: Any) -> None:
    settings.MIDDLEWARE = installed
    assert found() == {
        "tenantry.W181": "MIDDLEWARE has no RLSTenantMiddleware, so that views run in no scope and"
        f" see no rows of protected tables; put {OURS!r} into it, after {DJANGOS!r}"
    }


@pytest.mark.parametrize(
    "installed",
    [
        [],
        [SESSIONS, DJANGOS, OURS],
        [SESSIONS, DJANGOS, f"{__name__}.plain", f"{__name__}.Bound"],
        [SESSIONS, f"{__name__}.Authenticated", OURS],
        # Of a project that finds out by itself who asks.
        [f"{__name__}.plain", OURS],
    ],
)
def test_requests_that_somebody_binds_or_nobody_makes_are_not(
    installed: list[str], settings: Any
) -> None:
    settings.MIDDLEWARE = installed
    assert found() == {}


@pytest.mark.parametrize(
    ("others", "times"),
    [([OURS], "twice"), ([f"{__name__}.Bound"], "twice"), ([OURS, f"{__name__}.Bound"], "3 times")],
)
def test_a_middleware_that_is_there_more_than_once_is_found(
    others: list[str], times: str, settings: Any
) -> None:
    settings.MIDDLEWARE = [SESSIONS, DJANGOS, OURS, f"{__name__}.plain", *others]
    assert found() == {
        "tenantry.W185": f"MIDDLEWARE has RLSTenantMiddleware {times}, so that each request looks"
        f" for its tenant {times}; remove all but one"
    }


@isolate_apps("tests.app")
def test_without_protected_models_there_is_nothing_to_miss(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thing(models.Model):
        class Meta:
            app_label = "app"

    monkeypatch.setattr(requests, "apps", Thing._meta.apps)
    settings.MIDDLEWARE = [SESSIONS]
    assert found() == {}
    settings.RLS_TENANTS = {**TENANTS, "EXTERNAL_MODELS": {"taggit.Tag": "tenant_id"}}
    assert list(found()) == ["tenantry.W181"]

    class Protected(models.Model):
        tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="tenant")]

    settings.RLS_TENANTS = TENANTS
    assert list(found()) == ["tenantry.W181"]


ORDERS = [
    [SESSIONS, OURS, DJANGOS],
    [OURS, SESSIONS, f"{__name__}.Authenticated"],
    [f"{__name__}.Bound", DJANGOS],
]


@pytest.mark.parametrize("resolver", ["user", "header", "session"])
@pytest.mark.parametrize("installed", ORDERS)
def test_a_middleware_that_asks_for_the_user_too_early_is_found(
    installed: list[str], resolver: str, settings: Any
) -> None:
    settings.MIDDLEWARE = installed
    settings.RLS_TENANTS = {**TENANTS, "RESOLVERS": [f"{__name__}.by_function", resolver]}
    assert found() == {
        "tenantry.E182": "MIDDLEWARE has RLSTenantMiddleware before AuthenticationMiddleware, so"
        f" that there is no request.user to ask for the tenant; put {OURS!r} after {DJANGOS!r}"
    }


@pytest.mark.parametrize("resolver", [f"{__name__}.by_function", f"{__name__}.Trusted"])
def test_a_middleware_that_asks_for_no_user_may_be_anywhere(resolver: str, settings: Any) -> None:
    settings.MIDDLEWARE = [OURS, SESSIONS, DJANGOS]
    settings.RLS_TENANTS = {**TENANTS, "RESOLVERS": [resolver]}
    settings.AUTH_USER_MODEL = "app.Shared"
    assert found() == {}


@pytest.mark.parametrize("installed", [[OURS, SESSIONS, DJANGOS], []])
@pytest.mark.parametrize(
    ("resolver", "message"),
    [
        (f"{__name__}.nothing", f"has '{__name__}.nothing', which cannot be imported: "),
        ("usr", "has 'usr', which cannot be imported: "),
        (
            "subdomain",
            "the resolver 'subdomain' needs the domain whose subdomains are the tenants: ",
        ),
        (
            {"NAME": "path", "OPTIONS": {"field": "nonsense"}},
            "gives 'path' the options ['field']: app.Tenant has no field 'nonsense', or does not",
        ),
    ],
)
def test_a_resolver_that_cannot_be_made_is_found(
    resolver: object, message: str, installed: list[str], settings: Any
) -> None:
    settings.MIDDLEWARE = installed
    settings.RLS_TENANTS = {**TENANTS, "RESOLVERS": [resolver, "user"]}
    assert message in found()["tenantry.E184"]
    assert found()["tenantry.E184"].startswith("RLS_TENANTS['RESOLVERS'] cannot be made, so that")
    (of_django,) = [each for each in check_requests() if each.id == "tenantry.E184"]
    assert of_django.level == checks.ERROR


def test_a_project_without_users_has_its_own(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [OURS, DJANGOS]
    monkeypatch.setattr(requests, "apps", SimpleNamespace(is_installed=lambda name: False))
    assert found() == {}


def test_users_that_say_nothing_are_found(settings: Any) -> None:
    settings.AUTH_USER_MODEL = "app.Shared"
    assert found() == {
        "tenantry.W183": "model app.Shared is the user model and has no is_tenant_admin and no"
        " rls_tenant_id, so that requests of logged-in users fail; add what is missing, as a field"
        " or a property, or let a resolver of your own in RLS_TENANTS['RESOLVERS'] take the tenant"
        " from another table"
    }


def test_what_users_lack_is_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.app.models.Shared.is_tenant_admin", False, raising=False)
    settings.AUTH_USER_MODEL = "app.Shared"
    assert "has no rls_tenant_id, so that" in found()["tenantry.W183"]


@pytest.mark.parametrize("label", ["nowhere.User", "nowhere"])
def test_users_that_are_not_installed_lack_nothing(label: str, settings: Any) -> None:
    settings.AUTH_USER_MODEL = label
    assert found() == {}


def test_who_binds_requests_otherwise_silences_it(project: None, settings: Any) -> None:
    settings.MIDDLEWARE = [SESSIONS]
    (found,) = [
        each for each in checks.run_checks(tags=["security"]) if str(each.id) == "tenantry.W181"
    ]
    assert found.level == checks.WARNING
    settings.SILENCED_SYSTEM_CHECKS = ["tenantry.W181"]
    call_command("check", tags=["security"], fail_level="WARNING")


@pytest.mark.parametrize(
    ("has", "lacks"),
    [
        ({}, "no is_tenant_admin and no rls_tenant_id, which tenantry reads; add them to"),
        (
            {"rls_tenant_id": 1},
            "no is_tenant_admin, which tenantry reads; add it to the user model",
        ),
        ({"is_tenant_admin": True}, "no rls_tenant_id, which tenantry reads; add it to the user"),
    ],
)
def test_the_error_names_all_that_a_user_lacks(has: dict[str, object], lacks: str) -> None:
    user = SimpleNamespace(is_authenticated=True, **has)
    with pytest.raises(ImproperlyConfigured) as raised:
        users.binding_of(user)
    assert lacks in str(raised.value)
