"""Requests: whether somebody binds them, and whether their user says to which tenant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..conf import installed_middleware, rls_tenants, user_model
from ..dependents import is_protected
from ..exceptions import RLSConfigurationError
from ..middleware import RLSTenantMiddleware
from ..resolvers.base import resolvers
from ..resolvers.places import (
    HeaderResolver,
    PathResolver,
    SessionResolver,
    SubdomainResolver,
)
from ..resolvers.user import UserResolver
from ..users import missing_of
from .findings import Finding

# A project's own resolvers may ask for a user or not; nothing tells.
ASK_FOR_USER = (HeaderResolver, PathResolver, SessionResolver, SubdomainResolver, UserResolver)
OURS = "tenantry.middleware.RLSTenantMiddleware"
DJANGOS = "django.contrib.auth.middleware.AuthenticationMiddleware"


def inspect_requests() -> Iterator[Finding]:
    """Yield why requests are bound to nobody, or fail."""
    try:
        resolvers()
    except RLSConfigurationError as error:
        yield Finding(
            "tenantry.E184",
            "RLS_TENANTS['RESOLVERS']",
            f"cannot be made, so that no server starts: {error}",
            "correct what the message names",
        )
    installed = [imported(path) for path in installed_middleware()]
    ours = first(installed, RLSTenantMiddleware)
    if (number := len(places(installed, RLSTenantMiddleware))) > 1:
        times = "twice" if number == 2 else f"{number} times"
        yield Finding(
            "tenantry.W185",
            "MIDDLEWARE",
            f"has RLSTenantMiddleware {times}, so that each request looks for its tenant {times}",
            "remove all but one",
        )
    if ours is None:
        if installed and has_protected_models():
            yield Finding(
                "tenantry.W181",
                "MIDDLEWARE",
                "has no RLSTenantMiddleware, so that views run in no scope and see no rows of"
                " protected tables",
                f"put {OURS!r} into it, after {DJANGOS!r}",
            )
    elif user_is_asked_for():
        # It imports models of its app.
        has_auth = apps.is_installed("django.contrib.auth")
        djangos = first(installed, imported(DJANGOS)) if has_auth else None
        if djangos is not None and ours < djangos:
            yield Finding(
                "tenantry.E182",
                "MIDDLEWARE",
                "has RLSTenantMiddleware before AuthenticationMiddleware, so that there is no"
                " request.user to ask for the tenant",
                f"put {OURS!r} after {DJANGOS!r}",
            )
        yield from inspect_user(user_model())


def inspect_user(model: Any) -> Iterator[Finding]:
    """Yield what users lack, of the model that they are of."""
    if model is not None and (missing := missing_of(model)):
        yield Finding(
            "tenantry.W183",
            f"model {model._meta.label}",
            f"is the user model and has no {' and no '.join(missing)}, so that requests of"
            " logged-in users fail",
            "add what is missing, as a field or a property, or let a resolver of your own in"
            " RLS_TENANTS['RESOLVERS'] take the tenant from another table",
        )


def imported(path: str) -> Any:
    """Return what a dotted path names; None where it cannot be had, which Django says itself."""
    try:
        return import_string(path)
    except (ImportError, ImproperlyConfigured, RuntimeError):
        return None


def first(installed: Sequence[Any], middleware: type) -> int | None:
    """Return where the first subclass of a middleware is; None if there is none."""
    return next(iter(places(installed, middleware)), None)


def places(installed: Sequence[Any], middleware: type) -> list[int]:
    """Return where the subclasses of a middleware are."""
    return [
        index
        for index, each in enumerate(installed)
        if isinstance(each, type) and issubclass(each, middleware)
    ]


def has_protected_models() -> bool:
    """Return whether a view could miss rows."""
    models = apps.get_models(include_auto_created=True)
    return bool(rls_tenants().external_models) or any(is_protected(each, apps) for each in models)


def user_is_asked_for() -> bool:
    """Return whether the tenant of a request depends on its user."""
    try:
        found = resolvers()
    except RLSConfigurationError:
        return False  # E184 reports it, and the middleware raises it when a server starts.
    return any(isinstance(each, ASK_FOR_USER) and not each.authenticates for each in found)
