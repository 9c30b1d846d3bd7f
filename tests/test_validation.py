"""What is unique in a tenant, in forms that do not show the tenant."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.test.utils import isolate_apps

from tenantry import (
    CurrentTenant,
    RLSConstraint,
    RLSProtectedModel,
    admin_context,
    tenant_context,
)
from tests.app.models import Note, Tenant

Tenants = tuple[Tenant, Tenant]
TAKEN = "Note with this Tenant and Title already exists."
NoteForm = forms.modelform_factory(Note, fields=["title"])
NoteFormSet = forms.modelformset_factory(Note, fields=["title"], extra=2)


def tenant() -> Any:
    """Return the field by which isolated models name the installed one."""
    return models.ForeignKey(Tenant, models.CASCADE, related_name="+", db_default=CurrentTenant())


def titles_of(tenant: Tenant) -> list[str]:
    with tenant_context(tenant.pk):
        return list(Note.objects.values_list("title", flat=True))


def test_a_form_refuses_what_the_tenant_has(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        assert NoteForm({"title": "A 1"}).errors == {"__all__": [TAKEN]}
        note = Note.objects.get(title="A 2")
        assert NoteForm({"title": "A 1"}, instance=note).errors == {"__all__": [TAKEN]}
        # A row is no duplicate of itself.
        assert NoteForm({"title": "A 2"}, instance=note).is_valid()


def test_what_another_tenant_has_is_free(tenants: Tenants) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        Note.objects.create(title="only in a")
    with tenant_context(b.pk):
        form = NoteForm({"title": "only in a"})
        assert form.is_valid(), form.errors
        form.save()
        assert NoteForm({"title": "only in a"}).errors == {"__all__": [TAKEN]}
    assert "only in a" in titles_of(a)
    assert "only in a" in titles_of(b)


def test_rows_that_are_twice_in_a_formset_are_refused(tenants: Tenants) -> None:
    data = {"form-TOTAL_FORMS": "2", "form-INITIAL_FORMS": "0"}
    with tenant_context(tenants[0].pk):
        twice = NoteFormSet(
            data | {"form-0-title": "new", "form-1-title": "new"}, queryset=Note.objects.none()
        )
        [error] = twice.non_form_errors()
        assert str(error).startswith("Please correct the duplicate data")
        once = NoteFormSet(
            data | {"form-0-title": "new", "form-1-title": "newer"}, queryset=Note.objects.none()
        )
        assert once.is_valid(), once.errors
        assert len(once.save()) == 2


def test_an_admins_row_is_checked_where_it_names_its_tenant(tenants: Tenants) -> None:
    a, b = tenants
    with admin_context():
        # The view may still name one.
        assert NoteForm({"title": "A 1"}).is_valid()
        assert NoteForm({"title": "A 1"}, instance=Note(tenant=a)).errors == {"__all__": [TAKEN]}
        assert NoteForm({"title": "A 1"}, instance=Note(tenant=b)).is_valid()


def test_an_admins_formset_has_rows_of_several_tenants(tenants: Tenants) -> None:
    with admin_context():
        for tenant in tenants:
            Note.objects.create(title="same", tenant=tenant)
        notes = Note.objects.filter(title="same")
        data = {"form-TOTAL_FORMS": "2", "form-INITIAL_FORMS": "2"}
        for number, note in enumerate(notes):
            data |= {f"form-{number}-id": str(note.pk), f"form-{number}-title": "same"}
        assert NoteFormSet(data, queryset=notes).is_valid()


@isolate_apps("tests.app")
def test_the_only_row_of_a_tenant_is_no_error_of_a_hidden_field(tenants: Tenants) -> None:
    class Only(RLSProtectedModel):
        tenant = tenant()
        title = models.TextField()

        class Meta:
            app_label = "app"
            db_table = "app_note"
            managed = False
            constraints = [models.UniqueConstraint(fields=["tenant"], name="only")]

    form = forms.modelform_factory(Only, fields=["title"])
    with tenant_context(tenants[0].pk):
        assert form({"title": "new"}).errors == {
            "__all__": ["Only with this Tenant already exists."]
        }
        Note.objects.all().delete()
        assert form({"title": "new"}).is_valid()


def test_nobody_is_asked_for_a_tenant_that_is_not_known(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "STRICT_MODE": True}
    # A sign-up makes the tenant, or opens its scope, after it has validated.
    assert NoteForm({"title": "A 1"}).is_valid()
    assert NoteForm({"title": "A 1"}, instance=Note(tenant=tenants[0])).is_valid()


@isolate_apps("tests.app")
def test_older_options_are_checked_too(tenants: Tenants) -> None:
    class Old(RLSProtectedModel):
        tenant = tenant()
        title = models.TextField()

        class Meta:
            app_label = "app"
            db_table = "app_note"
            managed = False
            unique_together = [("tenant", "title")]

    with tenant_context(tenants[0].pk):
        with pytest.raises(ValidationError, match="already exists"):
            Old(title="A 1").validate_unique(exclude={"tenant"})
        Old(title="unheard of").validate_unique(exclude={"tenant"})


def test_what_is_no_key_is_an_error_of_the_tenant(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        with pytest.raises(ValidationError) as caught:
            Note(tenant_id="abc", title="A 1").full_clean()
        assert "tenant" in caught.value.error_dict
        # Nor is it compared where a form does not show it.
        Note(tenant_id="abc", title="A 1").validate_constraints(exclude={"tenant"})


@isolate_apps("tests.app")
def test_a_proxy_is_checked_as_what_it_is_a_proxy_of(tenants: Tenants) -> None:
    class Bill(RLSProtectedModel):
        tenant: Any = None
        customer = models.ForeignKey(
            Tenant,
            models.CASCADE,
            related_name="+",
            db_column="tenant_id",
            db_default=CurrentTenant(),
        )
        title = models.TextField()

        class Meta:
            app_label = "app"
            db_table = "app_note"
            managed = False
            constraints = [
                RLSConstraint(field="customer", name="bill_rls"),
                models.UniqueConstraint(fields=["customer", "title"], name="once"),
            ]

    class Reminder(Bill):
        class Meta:
            app_label = "app"
            proxy = True

    form = forms.modelform_factory(Reminder, fields=["title"])
    with tenant_context(tenants[0].pk):
        assert form({"title": "A 1"}).errors == {
            "__all__": ["Bill with this Customer and Title already exists."]
        }
        assert form({"title": "new"}).is_valid()


@isolate_apps("tests.app")
def test_a_name_of_no_field_may_be_left_out(tenants: Tenants) -> None:
    class Renamed(RLSProtectedModel):
        tenant = None
        customer = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="customer")]

    # As Django takes it: code for many models need not know which of them has the field.
    with tenant_context(tenants[0].pk):
        Renamed().full_clean(exclude=["tenant", "customer"])


def test_fields_of_its_own_stay_left_out(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        Note(title="A 1").validate_constraints(exclude={"title"})
        with pytest.raises(ValidationError, match="already exists"):
            Note(title="A 1").validate_constraints()
