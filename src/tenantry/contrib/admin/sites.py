"""A site of the admin with a switcher of tenants in its header."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig
from django.core import checks
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.http import url_has_allowed_host_and_scheme

from ...exceptions import RLSConfigurationError
from ...selection import clear_tenant_selection, switch_tenant
from .switcher import Switcher, can_switch, may_switch, switcher, tenants_for

TEMPLATES = "tenantry.contrib.admin"


class TenantAdminSiteMixin(AdminSite):
    """Let admins, and users of several tenants, select the tenant that they work for.

    ``RLS_TENANTS["RESOLVERS"]`` must have ``"session"``, and ``INSTALLED_APPS``
    ``"tenantry.contrib.admin"`` before the admin.
    """

    # With more tenants, the header asks for a key instead of listing them.
    tenant_switcher_limit = 200

    def get_urls(self) -> list[Any]:
        """Return the addresses of the site, with that of the switch."""
        view = self.admin_view(self.switch_tenant)
        return [path("switch-tenant/", view, name="switch_tenant"), *super().get_urls()]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return the context of every page, with what to call for the switcher."""
        return {**super().each_context(request), "tenant_switcher": partial(self.switcher, request)}

    def switcher(self, request: HttpRequest) -> Switcher | None:
        """Return what the header shows; None for a user who has nothing to switch."""
        if not self.has_permission(request) or not may_switch(request.user):
            return None
        return switcher(request, self.get_tenants(request), self.tenant_switcher_limit)

    def get_tenants(self, request: HttpRequest) -> Any:
        """Return the tenants to choose from, which may be fewer than those that are allowed."""
        return tenants_for(request.user)

    def switch_tenant(self, request: HttpRequest) -> HttpResponse:
        """Select the tenant that a form names, or none; denied with 403 if the user may not."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        tenant = request.POST.get("tenant", "").strip()
        if tenant:
            switch_tenant(request, tenant)
        else:
            clear_tenant_selection(request)
        following = request.POST.get("next", "")
        if not url_has_allowed_host_and_scheme(
            following, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        ):
            following = reverse("admin:index", current_app=self.name)
        return HttpResponseRedirect(following)

    def check(self, app_configs: Any) -> list[checks.CheckMessage]:
        """Return what is wrong with the site: why the switcher is not shown."""
        names = [app.name for app in apps.get_app_configs()]
        # Also of a site without Django's admin, which the templates are of.
        first = [name for name in names if name in (TEMPLATES, "django.contrib.admin")][:1]
        hints = []
        if first == ["django.contrib.admin"]:
            hints.append(f"Put {TEMPLATES!r} into INSTALLED_APPS, before the admin.")
        # E184 reports resolvers that cannot be made.
        with suppress(RLSConfigurationError):
            if not can_switch():
                hints.append("Put 'session' into RLS_TENANTS['RESOLVERS'], before 'user'.")
        message = f"The admin site {self.name!r} cannot show its switcher of tenants."
        return super().check(app_configs) + [
            checks.Warning(message, hint=hint, id="tenantry.W156") for hint in hints
        ]


class RLSAdminSite(TenantAdminSiteMixin):
    """Django's site of the admin, with the switcher."""


class RLSAdminConfig(AdminConfig):
    """Django's app of the admin, whose site is :class:`RLSAdminSite`.

    In ``INSTALLED_APPS``, it goes in the place of ``"django.contrib.admin"``.
    """

    default = False
    default_site = "tenantry.contrib.admin.RLSAdminSite"
