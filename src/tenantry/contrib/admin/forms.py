"""Forms of rows that belong to a tenant, which the binding says, the parent row, or the admin."""

from __future__ import annotations

from functools import cache
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import connections, models

from ...binding import Binding, current_binding
from ...context import ContinuedScope
from ..storage import TenantStorageMixin
from .fields import first_step, protection_of, tenant_field, tenant_of_row


class TenantForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form of a row that belongs to a tenant.

    The tenant is a field of the form for an admin who adds a row, and never changes after. Other
    forms take it from `parent`, the row that an inline belongs to, from the row that a path leads
    to, or from the binding.
    """

    def __init__(self, *args: Any, parent: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parent = parent
        self.checks_keys = False
        self.tenant_field = tenant_field(self._meta.model)
        if self.tenant_field is None:
            return
        name = self.tenant_field.name
        if not current_binding().is_admin:
            self.fields.pop(name, None)
        elif name in self.fields and not self.instance._state.adding:
            self.fields[name].disabled = True

    def clean(self) -> dict[str, Any]:
        """Stamp the row, and refuse rows of other tenants; the database would too, with an error.

        For an admin, who sees all rows, the choices are those of all tenants.
        """
        cleaned = super().clean()
        if cleaned is not None:
            self.cleaned_data = cleaned
        tenant = self.tenant()
        if tenant is None:
            return self.cleaned_data
        binding = current_binding()
        if not binding.is_admin and tenant != binding.tenant_id:
            raise invalid_choice(tenant)
        if self.tenant_field is not None and self.tenant_field.name not in self.fields:
            setattr(self.instance, self.tenant_field.attname, tenant)
        if binding.is_admin:
            self.keep_tenant(tenant)
            for name in [*self.cleaned_data]:
                if not belongs_to(tenant, self.cleaned_data[name]):
                    self.add_error(name, invalid_choice(self.cleaned_data[name]))
        return self.cleaned_data

    def keep_tenant(self, tenant: Any) -> None:
        """Add an error where a row that is there would become another tenant's by its path."""
        first = first_step(self._meta.model)
        if self.tenant_field is not None or self.instance._state.adding or first is None:
            return
        before = tenant_of_row(self.instance)
        if before is not None and before != tenant:
            chosen = self.cleaned_data.get(first)
            self.add_error(first if first in self.fields else None, invalid_choice(chosen))

    def tenant(self) -> Any:
        """Return the key of the tenant that the row is for; None where it is not known."""
        field = self.tenant_field
        if field is not None and field.name in self.fields:
            chosen = self.cleaned_data.get(field.name)
            return chosen.pk if isinstance(chosen, models.Model) else chosen
        if field is not None and not self.instance._state.adding:
            return getattr(self.instance, field.attname)
        if self.parent is not None and (tenant := tenant_of_row(self.parent)) is not None:
            return tenant
        if field is None:
            return tenant_of_row(self.instance, self.cleaned_data)
        return current_binding().tenant_id

    def add_error(self, field: str | None, error: Any) -> None:
        """Add an error; that of a tenant which the form does not show is one of the whole form."""
        several = field is None and hasattr(error, "error_dict")
        errors = error.error_dict if several else {field: error}
        tenant = self.tenant_field and self.tenant_field.name
        for name, found in errors.items():
            is_hidden = name == tenant and name not in self.fields
            super().add_error(None if is_hidden else name, found)

    def validate_unique(self) -> None:
        """Check keys that are unique in a tenant too, although the form does not show it."""
        self.checks_keys = True
        super().validate_unique()

    def save(self, commit: bool = True, **options: Any) -> Any:
        """Save the row, and its files in the directory of its tenant."""
        if commit and not self.errors:
            save_files(self.instance)
        return super().save(commit=commit, **options)

    def _get_validation_exclusions(self) -> set[str]:
        exclude: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        # The first time it is about fields alone, and would ask the database for the tenant; but in
        # older Djangos about constraints too.
        if self.checks_keys or not hasattr(forms.ModelForm, "validate_constraints"):
            exclude.discard(self.tenant_field and self.tenant_field.name)
        return exclude


class TenantFormSet(forms.BaseModelFormSet):  # type: ignore[type-arg]
    """Rows of a tenant, or of several, whose forms may not show it."""

    def validate_unique(self) -> None:
        """Compare what is unique in a tenant with the other rows of the tenant."""
        field = tenant_field(self.model)
        hidden = [
            form
            for form in self.forms
            # A row that was left blank has nothing at all.
            if field is not None
            and form.is_valid()
            and form.cleaned_data
            and field.name not in form.cleaned_data
        ]
        # Django compares what the forms have; a project's code sees in them what they show.
        for form in hidden:
            form.cleaned_data[field.name] = getattr(form.instance, field.attname)
        try:
            super().validate_unique()
        finally:
            for form in hidden:
                form.cleaned_data.pop(field.name, None)


class TenantInlineFormSet(TenantFormSet):
    """The rows of an inline, which are their parent's tenant's."""

    # Of the classes for inlines, which this is mixed into.
    instance: Any

    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        """Return what forms are made with: the parent too."""
        return {**super().get_form_kwargs(index), "parent": self.instance}


@cache
def tenant_form(base: Any, name: str | None) -> Any:
    """Return a subclass of a form of a project that has the tenant's field as its options say."""
    excluded = getattr(getattr(base, "_meta", None), "exclude", None) or ()
    meta = {"exclude": [each for each in excluded if each != name]}
    attributes = {"Meta": type("Meta", (base.Meta,), meta)} if name in excluded else {}
    return type(base)(base.__name__, (TenantForm, base), attributes)


@cache
def tenant_formset(base: Any, kind: type[TenantFormSet] = TenantFormSet) -> Any:
    """Return a subclass of a formset of a project that is of the `kind`, too."""
    return type(base.__name__, (kind, base), {})


def save_files(row: models.Model) -> None:
    """Save new files of a row that an admin saves, who has no directory, in that of its tenant."""
    fields = [
        field
        for field in row._meta.concrete_fields
        if isinstance(field, models.FileField) and isinstance(field.storage, TenantStorageMixin)
    ]
    if not fields or not current_binding().is_admin:
        return
    tenant = tenant_of_row(row)
    if tenant is not None:
        # For the files only: what is written to the database is the admin's.
        with ContinuedScope(Binding(tenant)):
            for field in fields:
                field.pre_save(row, row._state.adding)


def belongs_to(tenant: Any, value: Any) -> bool:
    """Return whether what a field chose, a row or several, is of the tenant or of none.

    Rows that do not say so in a field cost a query.
    """
    rows = value if isinstance(value, models.QuerySet) else [value]
    model: Any = value.model if isinstance(value, models.QuerySet) else type(value)
    field = tenant_field(model)
    if field is not None:
        return all(getattr(row, field.attname) == tenant for row in rows)
    found = protection_of(model) if issubclass(model, models.Model) else None
    if found is None:
        return True
    owner, protection = found
    chosen = owner._base_manager.filter(pk__in=[row.pk for row in rows])
    quote = connections[chosen.db].ops.quote_name
    condition = protection.condition(quote(owner._meta.db_table), quote)
    strangers = chosen.extra(where=[f"NOT ({condition})"], params=[tenant])  # noqa: S610 - quoted
    return not strangers.exists()


def invalid_choice(value: Any) -> ValidationError:
    """Return the error of a choice that does not exist."""
    message = forms.ModelChoiceField.default_error_messages["invalid_choice"]
    return ValidationError(message, code="invalid_choice", params={"value": value})
