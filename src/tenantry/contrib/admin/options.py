"""Options of the admin for protected models, and of their inlines.

The rows that the admin shows, and those of every choice, are those of the binding without this. The
options are about the tenant's field, which an admin sees and others do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import BaseModelAdmin, InlineModelAdmin
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.admin.widgets import url_params_from_lookup_dict
from django.http import HttpRequest

from ...binding import current_binding
from .fields import needs_tenant, tenant_field
from .forms import TenantInlineFormSet, save_files, tenant_form, tenant_formset


class TenantOptions(BaseModelAdmin):  # type: ignore[type-arg]
    """What the options of a model and those of an inline share."""

    model: Any

    @property
    def tenant_field(self) -> Any:
        """The field that names the tenant of a row; None where the model has none."""
        return tenant_field(self.model)

    @property
    def tenant_name(self) -> str | None:
        """The name of that field."""
        field = self.tenant_field
        return None if field is None else field.name

    def shows_tenant(self, request: HttpRequest) -> bool:
        """Return whether the request shows the tenant of rows: that of an admin over all."""
        return current_binding().is_admin

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Return whether the user may add rows: nobody may for no tenant."""
        binding = current_binding()
        nobody = not binding.is_admin and binding.tenant_id is None
        if nobody and needs_tenant(self.model):
            return False
        return super().has_add_permission(request, *args)

    def get_exclude(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that the form leaves out: the tenant, unless the request shows it."""
        exclude: Any = super().get_exclude(request, obj)
        field = self.tenant_field
        if field is None:
            return exclude
        if exclude is None:
            # As Django does if the options exclude nothing.
            exclude = self.form._meta.exclude or ()
        others = [name for name in exclude if name != field.name]
        return others if self.shows_tenant(request) else [*others, field.name]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that are not inputs."""
        names = super().get_readonly_fields(request, obj)
        return self.without_tenant(names)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fieldsets: with the tenant if the request shows it, and else without."""
        fieldsets = super().get_fieldsets(request, obj)
        field = self.tenant_field
        if field is None:
            return fieldsets
        if not self.shows_tenant(request):
            return [
                (title, {**options, "fields": fields})
                for title, options in fieldsets
                if (fields := self.lines_without_tenant(options["fields"]))
            ]
        if field.name in flatten_fieldsets(fieldsets):
            return fieldsets
        (title, options), *others = fieldsets
        return [(title, {**options, "fields": [field.name, *options["fields"]]}), *others]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the field of a form; that of the tenant has no empty choice."""
        if db_field == self.tenant_field:
            kwargs["required"] = True
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def lines_without_tenant(self, lines: Sequence[Any]) -> list[Any]:
        """Return the lines of a fieldset, each a field or several, without the tenant."""
        several = [
            self.without_tenant(line) if isinstance(line, list | tuple) else line for line in lines
        ]
        return [line for line in self.without_tenant(several) if line]

    def without_tenant(self, entries: Sequence[Any]) -> list[Any]:
        """Return fields, columns or filters without those of the tenant."""
        field = self.tenant_field
        if field is None:
            return [*entries]
        names = {field.name, field.attname}
        return [entry for entry in entries if first_name(entry) not in names]


class RLSTenantModelAdmin(TenantOptions, admin.ModelAdmin):  # type: ignore[type-arg]
    """Admin options of a protected model: the binding decides whose rows are shown and added.

    A request that runs as a tenant does not show the tenant's field, nor columns and filters of it,
    and stamps what it adds. An admin's shows and filters by it, wants it for a new row, and refuses
    relations to another tenant's rows. No row moves to another tenant.
    """

    def __init__(self, model: Any, admin_site: Any) -> None:
        super().__init__(model, admin_site)
        if needs_tenant(model):
            self.form = tenant_form(self.form, self.tenant_name)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that are not inputs: the tenant of a row that is there."""
        names = super().get_readonly_fields(request, obj)
        field = self.tenant_field
        return [*names, field.name] if obj and field and self.shows_tenant(request) else names

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns of the list, the tenant's at the end if the request shows it.

        Where no other is left, ``__str__`` is.
        """
        shown = self.with_tenant_if_shown(request, super().get_list_display(request))
        return shown or ["__str__"]

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> Any:
        """Return the columns that lead to a row: without the tenant's, the first that is left.

        None where all that are left are inputs.
        """
        links = super().get_list_display_links(request, list_display)
        if links is None:
            return None
        # Django shows a link in the place of an input, and saves the list as if it had been empty.
        free = [column for column in list_display if column not in self.list_editable]
        return [column for column in free if column in links] or free[:1] or None

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Return the filters of the list, the tenant's at the end if the request shows it."""
        return self.with_tenant_if_shown(request, super().get_list_filter(request))

    def with_tenant_if_shown(self, request: HttpRequest, entries: Sequence[Any]) -> Sequence[Any]:
        """Return columns or filters, the tenant's added if the request shows it, or left out."""
        others = self.without_tenant(entries)
        if not self.shows_tenant(request):
            return others
        named = self.tenant_field is None or len(others) < len(entries)
        return entries if named else [*entries, self.tenant_field.name]

    def lookup_allowed(self, lookup: str, value: Any, request: Any = None) -> bool:
        """Return whether the address of a list may filter so."""
        if not current_binding().is_admin and not self.without_tenant([lookup]):
            return is_of_popup(self.model, lookup, value)
        return super().lookup_allowed(lookup, value, request)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save a row, and its files in the directory of its tenant."""
        save_files(obj)
        super().save_model(request, obj, form, change)

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the form of a row of the list, whose columns may be inputs."""
        if needs_tenant(self.model):
            kwargs.setdefault("form", tenant_form(forms.ModelForm, self.tenant_name))
        return super().get_changelist_form(request, **kwargs)

    def get_changelist_formset(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the formset of the rows of the list."""
        if needs_tenant(self.model):
            base = kwargs.get("formset", forms.BaseModelFormSet)
            kwargs["formset"] = tenant_formset(base)
        return super().get_changelist_formset(request, **kwargs)


class RLSTenantInlineMixin(TenantOptions, InlineModelAdmin):  # type: ignore[type-arg]
    """Admin options of an inline of a protected model; put it before another inline class.

    Its rows are of the tenant of the row that they belong to. Where that one has none, an admin
    chooses.
    """

    def __init__(self, parent_model: Any, admin_site: Any) -> None:
        super().__init__(parent_model, admin_site)
        if needs_tenant(self.model):
            self.form = tenant_form(self.form, self.tenant_name)
            self.formset = tenant_formset(self.formset, TenantInlineFormSet)

    def shows_tenant(self, request: HttpRequest) -> bool:
        """Return whether an admin has to say the tenant of a row."""
        return (
            super().shows_tenant(request)
            and tenant_field(self.parent_model) is None
            and not self.belongs_to_a_tenant
        )

    @property
    def belongs_to_a_tenant(self) -> bool:
        """Whether the row that these belong to is the tenant itself."""
        field = self.tenant_field
        return bool(
            issubclass(self.formset, forms.BaseInlineFormSet)
            and (self.fk_name or field.name) == field.name
            and field.remote_field
            and issubclass(self.parent_model, field.remote_field.model)
        )


class RLSTenantTabularInline(RLSTenantInlineMixin, admin.TabularInline):  # type: ignore[type-arg]
    """An inline of a protected model, a row in a line."""


class RLSTenantStackedInline(RLSTenantInlineMixin, admin.StackedInline):  # type: ignore[type-arg]
    """An inline of a protected model, a row in a block."""


def is_of_popup(model: Any, lookup: str, value: Any) -> bool:
    """Return whether a foreign key to `model` limits its choices so, which a popup then shows."""
    for given in model._meta.related_fkey_lookups:
        limits = given() if callable(given) else given
        if (lookup, value) in url_params_from_lookup_dict(limits).items():
            return True
    return False


def first_name(entry: Any) -> str | None:
    """Return the name of the field that a column, a filter with its class or a lookup begins with.

    None for what is no name.
    """
    if isinstance(entry, list | tuple):
        entry = entry[0] if entry else None
    return entry.partition("__")[0] if isinstance(entry, str) else None
