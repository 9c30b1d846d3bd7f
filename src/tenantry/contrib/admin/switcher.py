"""The choice of a tenant in the header of the admin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.http import HttpRequest
from django.utils.translation import gettext as _

from ...binding import current_binding
from ...conf import tenant_model
from ...resolvers.base import resolvers
from ...resolvers.places import SessionResolver
from ...tenants import are_hidden, seeing_all
from ...users import binding_of, has_several_tenants, tenants_of
from .options import TenantOptions


@dataclass(frozen=True, slots=True)
class Choice:
    """Hold a tenant's key, or none, as a form sends it, and what people read."""

    key: str
    label: str
    selected: bool


@dataclass(frozen=True, slots=True)
class Switcher:
    """Hold what the header shows: choices, or the key of the tenant where they are too many."""

    choices: list[Choice]
    current: str
    next_url: str


def can_switch() -> bool:
    """Return whether a selection would be read."""
    return any(isinstance(resolver, SessionResolver) for resolver in resolvers())


def may_switch(user: Any) -> bool:
    """Return whether a user may select a tenant: an admin, or a user of several."""
    return can_switch() and (binding_of(user).is_admin or has_several_tenants(user))


def tenants_for(user: Any) -> Any:
    """Return the tenants that a user may select."""
    return selectable(user, tenant_model()._default_manager.all())


def selectable(user: Any, tenants: Any) -> Any:
    """Return those of `tenants` that a user may select."""
    own = binding_of(user)
    return tenants if own.is_admin else tenants.filter(pk__in={*tenants_of(user), own.tenant_id})


def switcher(request: HttpRequest, tenants: Any, limit: int) -> Switcher | None:
    """Return the choice among `tenants`, by name; without choices if they are more than `limit`.

    None where there is nothing to choose.
    """
    current, own = current_binding(), binding_of(request.user)
    key = "" if current.tenant_id is None else str(current.tenant_id)
    if are_hidden():
        # What the site offers may count on it that others are not seen.
        tenants = selectable(request.user, tenants)
    with seeing_all():
        found = list(tenants[: limit + 1])
    if len(found) > limit:
        return Switcher([], key, next_url(request))
    choices = sorted(
        (Choice(str(tenant.pk), str(tenant), str(tenant.pk) == key) for tenant in found),
        key=lambda choice: choice.label,
    )
    if key and not any(choice.selected for choice in choices):
        # That of a tenant which the site does not offer, or which is gone.
        choices.insert(0, Choice(key, key, True))
    if own.tenant_id is None:
        nothing = _("All tenants") if own.is_admin else _("No tenant")
        choices.insert(0, Choice("", nothing, not key))
    return Switcher(choices, key, next_url(request)) if len(choices) > 1 else None


def next_url(request: HttpRequest) -> str:
    """Return where to go on after the switch: here, unless this page is about one row.

    What filters a list by the tenant is left behind, which a tenant's list refuses.
    """
    match = request.resolver_match
    if request.method != "GET" or (match and "object_id" in match.kwargs):
        return ""
    query = request.GET.copy()
    # The query of the list that a form has been opened from.
    query.pop("_changelist_filters", None)
    # Django has no public way from an address to the options of its model.
    options = getattr(match and match.func, "model_admin", None)
    if isinstance(options, TenantOptions):
        for name in {*query} - {*options.without_tenant([*query])}:
            del query[name]
    return urlsplit(request.get_full_path())._replace(query=query.urlencode()).geturl()
