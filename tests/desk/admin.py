"""The admin of the test project."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.contenttypes.admin import GenericTabularInline
from django.db.models import QuerySet
from django.http import HttpRequest

from tenantry.contrib.admin import (
    RLSTenantInlineMixin,
    RLSTenantModelAdmin,
    RLSTenantStackedInline,
    RLSTenantTabularInline,
)
from tests.app.models import Tenant
from tests.desk.models import Firm, Folder, Line, Offer, Remark, Sheet


class LineInline(RLSTenantTabularInline):
    model = Line
    extra = 1
    autocomplete_fields = ["supplier"]


class RemarkInline(RLSTenantInlineMixin, GenericTabularInline):
    model = Remark
    extra = 1


class SheetInline(RLSTenantStackedInline):
    model = Sheet
    extra = 1


class FirmInline(RLSTenantTabularInline):
    model = Firm
    extra = 1


@admin.register(Firm)
class FirmAdmin(RLSTenantModelAdmin):
    search_fields = ["name"]


@admin.register(Offer)
class OfferAdmin(RLSTenantModelAdmin):
    list_display = ["title", "state", "tenant__name"]
    list_editable = ["state"]
    list_filter = ["state", "firm", ("tenant", admin.RelatedOnlyFieldListFilter)]
    list_per_page = 2
    search_fields = ["title"]
    date_hierarchy = "made"
    fieldsets = [
        (None, {"fields": [("tenant", "title"), "made", "state"]}),
        ("Firms", {"fields": ["firm", "others"]}),
    ]
    raw_id_fields = ["firm"]
    filter_horizontal = ["others"]
    inlines = [LineInline, RemarkInline]
    actions = ["close"]

    @admin.action(description="Close")
    def close(self, request: HttpRequest, queryset: QuerySet[Offer]) -> None:
        queryset.update(state="closed")


@admin.register(Line)
class LineAdmin(RLSTenantModelAdmin):
    list_filter = ["offer"]


@admin.register(Folder)
class FolderAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    inlines = [SheetInline]


@admin.register(Tenant)
class TenantAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    inlines = [FirmInline]
