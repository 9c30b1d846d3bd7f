"""Notes and tags in Django's admin: those of the user's tenant, or of all for an administrator."""

from django.contrib import admin

from tenantry.contrib.admin import RLSTenantModelAdmin, RLSTenantTabularInline

from .models import Note, NoteTag, Tag


class NoteTagInline(RLSTenantTabularInline):
    """The tags of a note."""

    model = NoteTag
    extra = 1
    autocomplete_fields = ["tag"]


@admin.register(Note)
class NoteAdmin(RLSTenantModelAdmin):
    """Notes, whose author is who writes them: the list of users is that of all tenants."""

    list_display = ["title", "created_at"]
    search_fields = ["title", "body"]
    date_hierarchy = "created_at"
    exclude = ["author"]
    inlines = [NoteTagInline]

    def save_model(self, request, obj, form, change):
        """Save a note; a new one is the user's."""
        if not change:
            obj.author = request.user
        super().save_model(request, obj, form, change)


@admin.register(Tag)
class TagAdmin(RLSTenantModelAdmin):
    """Tags, to choose from as well."""

    search_fields = ["name"]
