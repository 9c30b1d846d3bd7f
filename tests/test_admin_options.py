"""Options of the admin that name the tenant, or not: what is made of them in each binding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import flatten_fieldsets
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import FieldDoesNotExist
from django.db import models
from django.test import RequestFactory, override_settings

from tenantry import RLSConstraint, admin_context, tenant_context
from tenantry.binding import current_binding
from tenantry.contrib.admin import RLSTenantModelAdmin, RLSTenantTabularInline
from tenantry.contrib.admin.fields import needs_tenant, tenant_field
from tenantry.contrib.admin.forms import belongs_to
from tests import settings as project
from tests.app.models import Author, Book, Item, Label, NewestFirst, Note, Shared, Tag, Tenant, User
from tests.desk.models import Badge, Firm, Folder, Line, Offer, Remark, Seal, Slip
from tests.fix_admin import Desk

pytestmark = pytest.mark.usefixtures("admin_site")


class Part(models.Model):
    """Protected by what it refers to."""

    note = models.ForeignKey(Note, on_delete=models.CASCADE)

    class Meta:
        app_label = "desk"
        managed = False
        constraints = [RLSConstraint(path="note__tenant")]


class Declaring(forms.ModelForm):  # type: ignore[type-arg]
    """Has the tenant among its own fields."""

    tenant = forms.ModelChoiceField(Tenant.objects.all(), label="Whose")
    more = forms.CharField(required=False)

    def clean(self) -> None:
        super().clean()
        self.cleaned_data["name"] += self.cleaned_data["more"]


class Leaving(forms.ModelForm):  # type: ignore[type-arg]
    """Leaves the tenant out."""

    class Meta:
        model = Firm
        exclude = ["tenant"]  # noqa: DJ006


def options(**attributes: Any) -> Any:
    return type("Options", (RLSTenantModelAdmin,), attributes)(Firm, AdminSite())


def request() -> Any:
    made: Any = RequestFactory().get("/")
    made.user = User(is_active=True, is_superuser=True, is_staff=True)
    return made


def form(made: Any, obj: Any = None) -> list[str]:
    """Return the fields of a form, all of which are in its fieldsets."""
    fieldsets = flatten_fieldsets(made.get_fieldsets(request(), obj))
    readonly = made.get_readonly_fields(request(), obj)
    built = made.get_form(request(), obj, fields=fieldsets)(instance=obj)
    shown = [name for name in fieldsets if name not in readonly]
    assert set(shown) <= set(built.fields), "the page cannot be shown"
    assert "tenant" not in built.fields or current_binding().is_admin
    return [f"({name})" if name in readonly else name for name in fieldsets]


WAYS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["tenant", "name", "logo"]),
    ({"fields": ["name"]}, ["tenant", "name"]),
    ({"fields": [("name", "tenant")]}, ["name", "tenant"]),
    ({"exclude": ["tenant"]}, ["tenant", "name", "logo"]),
    ({"readonly_fields": ["tenant"]}, ["tenant", "name", "logo"]),
    ({"form": Leaving}, ["tenant", "name", "logo"]),
    ({"form": Declaring, "fields": ["name", "more", "tenant"]}, ["name", "more", "tenant"]),
    (
        {"fieldsets": [("Whose", {"fields": ["tenant"]}), ("What", {"fields": ["name"]})]},
        ["tenant", "name"],
    ),
]


@pytest.mark.parametrize(("attributes", "expected"), WAYS)
def test_forms_have_the_tenant_for_an_admin_only(
    attributes: dict[str, Any], expected: list[str], tenants: tuple[Tenant, Tenant]
) -> None:
    made = options(**attributes)
    with tenant_context(tenants[0].pk):
        firm = Firm.objects.create(name="A")
        without = [name for name in expected if name != "tenant"]
        assert form(made) == without
        assert form(made, firm) == without
    assert form(made) == without
    with admin_context():
        assert sorted(form(made)) == sorted(expected)
        changed = sorted(name.strip("()") for name in form(made, firm))
        assert changed == sorted(expected)
        assert "(tenant)" in form(made, firm)


def test_an_admin_has_to_choose_where_the_model_would_not_ask() -> None:
    with admin_context():
        built = RLSTenantModelAdmin(Remark, AdminSite()).get_form(request())
        assert built.base_fields["customer"].required


def test_a_choice_of_a_shared_row_is_of_every_tenant(tenants: tuple[Tenant, Tenant]) -> None:
    made = RLSTenantModelAdmin(Remark, AdminSite())
    data = {"customer": tenants[1].pk, "text": "x", "object_id": 1}
    with admin_context():
        # Which has a field `model`.
        kind = ContentType.objects.get_for_model(Firm)
        sent = made.get_form(request())({**data, "content_type": kind.pk})
        assert sent.is_valid(), sent.errors
        assert sent.save().customer == tenants[1]


def slips(desks: tuple[Desk, Desk]) -> Iterator[Slip]:
    for desk in desks:
        with admin_context():
            slip = Slip.objects.create(offer=desk.offers[0])
        yield slip


@pytest.mark.parametrize("name", ["supplier", "after"])
def test_an_admin_does_not_mix_tenants_where_a_path_leads_to_them(
    name: str, desks: tuple[Desk, Desk]
) -> None:
    made = RLSTenantModelAdmin(Slip, AdminSite()).get_form(request())
    own, foreign = (desk.firm for desk in desks) if name == "supplier" else slips(desks)
    offer = desks[0].offers[1].pk
    with admin_context():
        for row in None, Slip.objects.create(offer_id=offer):
            assert made({"offer": offer, name: own.pk}, instance=row).is_valid()
            sent = made({"offer": offer, name: foreign.pk}, instance=row)
            assert list(sent.errors) == [name]
        assert list(made({}).errors) == ["offer"]


def test_an_admin_moves_no_row_to_another_tenant_by_its_path(desks: tuple[Desk, Desk]) -> None:
    a, b = desks
    made = RLSTenantModelAdmin(Slip, AdminSite()).get_form(request())
    with admin_context():
        slip = Slip.objects.create(offer=a.offers[0])
        for offer, errors in (a.offers[1], []), (b.offers[0], ["offer"]):
            # As it is read for a page.
            sent = made({"offer": offer.pk}, instance=Slip.objects.get(pk=slip.pk))
            assert list(sent.errors) == errors
        assert sent.errors["offer"] == [
            "Select a valid choice. That choice is not one of the available choices."
        ]
        # One that is new goes where the admin says.
        assert made({"offer": b.offers[0].pk}).is_valid()


def test_an_admin_does_not_mix_tenants_in_an_inline_of_a_relation(
    desks: tuple[Desk, Desk],
) -> None:
    a, b = desks
    through: Any = Offer.others.through
    inline = type("Inline", (RLSTenantTabularInline,), {"model": through})(Offer, AdminSite())
    for firm, valid in (a.firm, True), (b.firm, False):
        with admin_context():
            formset = inline.get_formset(request())
            data = {"TOTAL_FORMS": 1, "INITIAL_FORMS": 0, "0-firm": firm.pk}
            data = {f"{formset.get_default_prefix()}-{key}": value for key, value in data.items()}
            assert formset(data, instance=a.offers[1]).is_valid() is valid


def test_an_inline_by_a_path_is_of_its_parents_tenant(desks: tuple[Desk, Desk]) -> None:
    inline = type("Inline", (RLSTenantTabularInline,), {"model": Slip})(Firm, AdminSite())
    for desk, valid in zip(desks, (True, False), strict=True):
        with admin_context():
            formset = inline.get_formset(request())
            data = {"TOTAL_FORMS": 1, "INITIAL_FORMS": 0, "0-offer": desk.offers[0].pk}
            data = {f"{formset.get_default_prefix()}-{key}": value for key, value in data.items()}
            assert formset(data, instance=desks[0].firm).is_valid() is valid


def test_what_an_external_model_has_no_field_for_is_asked(
    desks: tuple[Desk, Desk], superuser: psycopg.Connection[Any]
) -> None:
    a, _ = desks
    superuser.execute("ALTER TABLE desk_folder ADD COLUMN whose bigint")
    folder = Folder.objects.get()
    try:
        superuser.execute("UPDATE desk_folder SET whose = %s", [a.tenant.pk])
        external = {**project.RLS_TENANTS, "EXTERNAL_MODELS": {"desk.Folder": "whose"}}
        with override_settings(RLS_TENANTS=external), admin_context():
            rows = [folder, Folder.objects.all()]
            assert [belongs_to(desk.tenant.pk, row) for desk in desks for row in rows] == [
                True,
                True,
                False,
                False,
            ]
    finally:
        superuser.execute("ALTER TABLE desk_folder DROP COLUMN whose")


def test_a_title_without_fields_is_left_out(tenants: tuple[Tenant, Tenant]) -> None:
    made = options(**WAYS[-1][0])
    with tenant_context(tenants[0].pk):
        assert [title for title, _ in made.get_fieldsets(request())] == ["What"]


def test_columns_and_filters() -> None:
    def column(row: Firm) -> str:
        return row.name

    made = options(list_display=["tenant", column, "name"], list_filter=["tenant__name", "name"])
    plain = options(list_display=[column])
    assert made.get_list_display(request()) == [column, "name"]
    assert made.get_list_filter(request()) == ["name"]
    assert plain.get_list_display(request()) == [column]
    assert options(list_display=["tenant"]).get_list_display(request()) == ["__str__"]
    with admin_context():
        assert made.get_list_display(request()) == ["tenant", column, "name"]
        assert made.get_list_filter(request()) == ["tenant__name", "name"]
        assert plain.get_list_display(request()) == [column, "tenant"]
        assert plain.get_list_filter(request()) == ["tenant"]


LINKS: list[tuple[dict[str, Any], Any, Any]] = [
    ({"list_display": ["tenant", "name"]}, ["name"], ["tenant"]),
    ({"list_display": ["tenant", "name"], "list_editable": ["name"]}, None, ["tenant"]),
    ({"list_display": ["tenant", "name", "id"], "list_editable": ["name"]}, ["id"], ["tenant"]),
    ({"list_display": ["name", "tenant"], "list_display_links": ["tenant"]}, ["name"], ["tenant"]),
    (
        {"list_display": ["name", "tenant", "id"], "list_display_links": ["tenant", "id"]},
        ["id"],
        ["tenant", "id"],
    ),
    ({"list_display": ["tenant", "name"], "list_display_links": None}, None, None),
    ({"list_display": ["tenant"]}, ["__str__"], ["tenant"]),
]


@pytest.mark.parametrize(("attributes", "of_a_tenant", "of_an_admin"), LINKS)
def test_links_of_a_list(attributes: dict[str, Any], of_a_tenant: Any, of_an_admin: Any) -> None:
    made = options(**attributes)
    for scope, expected in (tenant_context(1), of_a_tenant), (admin_context(), of_an_admin):
        with scope:
            shown = made.get_list_display(request())
            assert made.get_list_display_links(request(), shown) == expected


def test_rows_of_a_list_are_edited_like_one(tenants: tuple[Tenant, Tenant]) -> None:
    made = options(list_display=["name", "tenant"], list_editable=["name", "tenant"])
    formset = made.get_changelist_formset(request())
    with tenant_context(tenants[0].pk):
        firm, other = (Firm.objects.create(name=name) for name in ("A", "Other"))
        assert list(formset.form(instance=firm).fields) == ["name"]
        data = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": firm.pk}
        for name, valid in (("Other", False), ("New", True)):
            sent = formset(
                {**data, "form-0-name": name}, queryset=Firm.objects.exclude(pk=other.pk)
            )
            assert sent.is_valid() is valid
    with admin_context():
        assert formset.form(instance=firm).fields["tenant"].disabled


class Looking(forms.BaseModelFormSet):  # type: ignore[type-arg]
    """A formset of a project, which looks at what its forms have."""

    def clean(self) -> None:
        super().clean()
        assert all("tenant" not in form.cleaned_data for form in self.forms if form.is_valid())


def test_rows_of_several_tenants_are_edited_in_a_list(tenants: tuple[Tenant, Tenant]) -> None:
    made = options(list_display=["__str__", "name"], list_editable=["name"])
    formset = made.get_changelist_formset(request(), formset=Looking)

    def is_valid(*names: str) -> bool:
        firms = Firm.objects.order_by("pk")
        data: dict[str, Any] = {"form-TOTAL_FORMS": len(names), "form-INITIAL_FORMS": len(names)}
        for i, (firm, name) in enumerate(zip(firms, names, strict=True)):
            data |= {f"form-{i}-id": firm.pk, f"form-{i}-name": name}
        return bool(formset(data, queryset=firms).is_valid())

    a, b = tenants
    with admin_context():
        for name, tenant in ("1", a), ("2", b), ("3", a):
            Firm.objects.create(name=name, tenant=tenant)
        assert is_valid("X", "X", "Y")
        assert not is_valid("X", "Y", "X")
    with tenant_context(a.pk):
        assert is_valid("X", "Y")
        assert not is_valid("X", "X")


@pytest.mark.parametrize("model", [Badge, Seal])
def test_a_second_row_of_a_tenant_that_has_one_is_an_error_of_the_form(
    model: Any, tenants: tuple[Tenant, Tenant]
) -> None:
    made = RLSTenantModelAdmin(model, AdminSite())
    name = tenant_field(model).name
    for number, tenant in enumerate(tenants):
        with tenant_context(tenant.pk):
            first = made.get_form(request())({"text": "1"})
            assert first.is_valid(), first.errors
            first.save()
            second = made.get_form(request())({"text": ""})
            said = f"{model.__name__} with this {name.capitalize()} already exists."
            assert second.errors == {"__all__": [said], "text": ["This field is required."]}
        with admin_context():
            assert model.objects.count() == number + 1
            second = made.get_form(request())({"text": "2", name: tenant.pk})
            assert second.errors == {name: [said]}


def test_a_form_of_the_project_is_kept(tenants: tuple[Tenant, Tenant]) -> None:
    made = options(form=Declaring)
    data = {"name": "A", "more": "!", "tenant": tenants[1].pk}
    with tenant_context(tenants[0].pk):
        sent = made.get_form(request())(data)
        assert sent.is_valid()
        assert (sent.save().name, sent.instance.tenant) == ("A!", tenants[0])


def test_an_inline_of_a_shared_model_is_as_in_django() -> None:
    inline = type("Inline", (RLSTenantTabularInline,), {"model": Shared})(Note, AdminSite())
    with admin_context():
        assert list(inline.get_formset(request()).form.base_fields) == ["text", "note"]
    assert inline.has_add_permission(request(), None)


def test_a_shared_model_is_as_in_django() -> None:
    made = RLSTenantModelAdmin(Folder, AdminSite())
    for scope in (admin_context(), tenant_context(1)):
        with scope:
            assert form(made) == ["name"]
            assert list(made.get_list_filter(request())) == []
            assert list(made.get_list_display(request())) == ["__str__"]
    assert made.has_add_permission(request())
    assert issubclass(made.get_changelist_form(request()), forms.ModelForm)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Note, "tenant"),
        (Label, "customer"),
        (Book, "tenant"),
        (NewestFirst, "tenant"),
        (Item, "tenant"),
        (Part, None),
    ],
)
def test_what_a_row_needs_to_be_added(model: Any, name: str | None) -> None:
    field = tenant_field(model)
    assert (field and field.name) == name
    assert needs_tenant(model)
    made = RLSTenantModelAdmin(model, AdminSite())
    assert not made.has_add_permission(request())
    with tenant_context(1):
        assert made.has_add_permission(request())


@pytest.mark.parametrize("wrong", [{"field": "tenat"}, {"path": "title__tenant"}])
def test_a_constraint_that_is_misspelled_is_left_to_its_check(
    wrong: dict[str, Any], tenants: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = type("Lines", (RLSTenantTabularInline,), {"model": Note, "fk_name": "author"})
    authors = type("Authors", (RLSTenantModelAdmin,), {"inlines": [lines]})
    monkeypatch.setattr(Note._meta, "constraints", [RLSConstraint(**wrong, name="wrong")])
    # What was found out about the models is forgotten, before and after.
    with override_settings(RLS_TENANTS=project.RLS_TENANTS):
        options = [RLSTenantModelAdmin(Note, AdminSite()), authors(Author, AdminSite())]
        assert [each.check() for each in options] == [[], []]
        (error,) = Note.check(databases=["default"])
        assert "app.Note" in error.msg
        with pytest.raises(FieldDoesNotExist, match=r"app\.Note"):
            Note.objects.count()


def test_a_model_of_another_package() -> None:
    assert tenant_field(Shared) is None
    assert not needs_tenant(Shared)
    for column, found in ("note_id", "note"), ("tenant_id", None):
        external = {**project.RLS_TENANTS, "EXTERNAL_MODELS": {"app.Shared": column}}
        with override_settings(RLS_TENANTS=external):
            field = tenant_field(Shared)
            assert (field and field.name) == found
            assert needs_tenant(Shared)
            assert tenant_field(Tag).name == "tenant"


@pytest.mark.parametrize("texts", [["New", "", ""], ["", "", ""], ["New", "Newer", ""]])
def test_blank_rows_of_an_inline_are_no_duplicates(texts: list[str], desks: Any) -> None:
    made = type("Inline", (RLSTenantTabularInline,), {"model": Line})(Offer, AdminSite())
    data: dict[str, Any] = {"line_set-TOTAL_FORMS": 3, "line_set-INITIAL_FORMS": 0}
    data |= {f"line_set-{number}-text": text for number, text in enumerate(texts)}
    for scope in (tenant_context(desks[0].tenant.pk), admin_context()):
        with scope:
            found = made.get_formset(request())(data, instance=desks[0].offers[0])
            assert found.is_valid(), found.non_form_errors()


def test_rows_of_an_inline_that_are_the_same_are_duplicates(desks: Any) -> None:
    made = type("Inline", (RLSTenantTabularInline,), {"model": Line})(Offer, AdminSite())
    data: dict[str, Any] = {"line_set-TOTAL_FORMS": 3, "line_set-INITIAL_FORMS": 0}
    data |= {f"line_set-{number}-text": "New" for number in range(2)}
    for scope in (tenant_context(desks[0].tenant.pk), admin_context()):
        with scope:
            found = made.get_formset(request())(data, instance=desks[0].offers[0])
            assert not found.is_valid()
            assert "Please correct the duplicate data" in str(found.non_form_errors())
