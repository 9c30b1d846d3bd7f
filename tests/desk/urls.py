"""The addresses of the admin, and of a second one."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.urls import path

from tenantry.contrib.admin import RLSAdminSite
from tests.desk.models import Offer


class OtherSite(RLSAdminSite):
    """Asks for the key of a tenant, as a site of many tenants does."""

    site_header = "Other"
    tenant_switcher_limit = 0

    def get_tenants(self, request: Any) -> Any:
        return super().get_tenants(request).order_by("pk")[:1]


other = OtherSite("other")
other.register(Offer)
urlpatterns = [path("admin/", admin.site.urls), path("other/", other.urls)]
