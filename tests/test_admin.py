"""The admin: whose rows each page shows and writes, for users of one, several and all tenants."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from django.forms import ModelForm
from django.test.utils import CaptureQueriesContext

from tenantry import admin_context, tenant_context
from tests.app.models import User
from tests.desk.models import Firm, Folder, Line, Offer, Remark, Sheet
from tests.fix_admin import Browser, Desk, titles

Desks = tuple[Desk, Desk]
B_ROWS = "B "


def names(browser: Browser, **query: Any) -> list[str]:
    """Return the titles that a list of offers shows on its first page, of two."""
    return titles(browser.get("/admin/desk/offer/", query))


def inline(prefix: str, rows: dict[str, Any], initial: int = 0) -> dict[str, Any]:
    """Return what the form of an inline sends, of whose rows the first `initial` are there."""
    total = len({name.partition("-")[0] for name in rows})
    fields = {f"{prefix}-TOTAL_FORMS": total, f"{prefix}-INITIAL_FORMS": initial}
    return fields | {f"{prefix}-{name}": value for name, value in rows.items()}


REMARKS = "desk-remark-content_type-object_id"


def offer(desk: Desk, *, title: str = "New", **fields: Any) -> dict[str, Any]:
    """Return what the form of an offer sends."""
    form = {"title": title, "made": "2026-01-02", "state": "new", "firm": desk.firm.pk}
    return {**form, **inline("line_set", {}), **inline(REMARKS, {}), **fields}


def rows(model: Any, **fields: Any) -> list[tuple[str, int]]:
    """Return the names of rows of all tenants, and whose they are."""
    with admin_context():
        found = model.objects.filter(**fields).order_by("pk")
        return [(str(row), getattr(row, "tenant_id", None) or row.customer_id) for row in found]


# The list.


def test_the_list_is_of_the_tenant(member: Browser) -> None:
    page = member.page("desk/offer/", "A offer 1", missing=B_ROWS)
    assert names(member) == ["A offer 1", "A offer 2"]
    assert names(member, p=2) == ["A offer 3"]
    assert names(member, q="offer") == ["A offer 1", "A offer 2"]
    assert names(member, q="B") == []
    assert names(member, made__year=2022) == ["A offer 2"]
    assert names(member, state="new", firm__id__exact=1) == ["A offer 1", "A offer 2"]
    assert "3 offers" in page
    assert ">2021<" in page


def test_the_list_of_an_admin_is_of_all(chief: Browser) -> None:
    chief.page("desk/offer/", "6 offers")
    assert names(chief, p=3) == ["B offer 2", "B offer 3"]
    assert names(chief, q="B offer 3") == ["B offer 3"]


def test_filters_offer_what_the_list_may_show(
    member: Browser, chief: Browser, desks: Desks
) -> None:
    page = member.page("desk/offer/", "?firm__id__exact=2", missing="?firm__id__exact=3")
    assert "By tenant" not in page
    assert "column-tenant" not in page
    page = chief.page("desk/offer/", "?firm__id__exact=2", "?firm__id__exact=3")
    assert "By tenant" in page
    assert "column-tenant__name" in page
    assert names(chief, tenant__id__exact=desks[1].tenant.pk) == ["B offer 1", "B offer 2"]
    # Where the options name no tenant.
    page = chief.page("desk/line/", "By tenant", "column-tenant", "By offer")
    page = member.page("desk/line/", "By offer", missing=B_ROWS)
    assert "By tenant" not in page


@pytest.mark.parametrize("lookup", ["tenant__id__exact", "tenant_id", "tenant__name__startswith"])
def test_a_tenant_does_not_filter_by_tenants(lookup: str, member: Browser) -> None:
    assert member.get("/admin/desk/offer/", {lookup: 1}).status_code == 400


def test_a_popup_filters_by_tenants_as_its_foreign_key_does(
    member: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [{"name": "x"}, lambda: {"tenant__name": "A"}]
    monkeypatch.setattr(Firm._meta, "related_fkey_lookups", limits)
    popup: dict[str, Any] = {"_to_field": "id", "_popup": 1}
    member.page("desk/firm/", "A firm", tenant__name="A", **popup)
    for name, value in ("tenant__name", "B"), ("tenant__name__exact", "A"), ("tenant", "1"):
        response = member.get("/admin/desk/firm/", {name: value, **popup})
        assert response.status_code == 400


def test_the_list_is_edited_in_place(member: Browser, chief: Browser, desks: Desks) -> None:
    form: dict[str, Any] = {
        "form-TOTAL_FORMS": 1,
        "form-INITIAL_FORMS": 1,
        "form-0-id": desks[0].offers[0].pk,
        "form-0-state": "sent",
        "form-0-tenant": desks[1].tenant.pk,
        "_save": "Save",
    }
    for browser in (member, chief):
        browser.send("desk/offer/", "1 offer was changed", **form)
        assert rows(Offer, state="sent") == [("A offer 1", desks[0].tenant.pk)]
        with admin_context():
            Offer.objects.update(state="new")
    member.post("/admin/desk/offer/", {**form, "form-0-id": desks[1].offers[0].pk})
    assert rows(Offer, state="sent") == []


def test_inputs_of_a_list_stay_inputs_without_the_tenants_column(
    member: Browser, chief: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.desk.admin.OfferAdmin.list_display", ["tenant", "title", "state"])
    monkeypatch.setattr("tests.desk.admin.OfferAdmin.list_editable", ["title", "state"])
    for browser in (member, chief):
        page = browser.page("desk/offer/", 'name="form-0-title" value="A offer 1"')
        sent = dict(re.findall(r'name="(form-[\w-]+)" value="([^"]*)"', page))
        sent["form-0-state"] = "sent" if browser is member else "paid"
        browser.send("desk/offer/", "1 offer was changed", **sent, _save="Save")
        assert rows(Offer, state=sent["form-0-state"])[0][0] == "A offer 1"


# Adding.


def test_a_new_row_is_of_the_tenant(member: Browser, desks: Desks) -> None:
    page = member.page("desk/offer/add/", 'name="title"', missing="B firm")
    assert 'id="id_tenant"' not in page
    a, b = desks
    form = offer(a, tenant=b.tenant.pk, others=[a.firm.pk])
    form |= inline("line_set", {"0-text": "New line", "0-tenant": b.tenant.pk})
    form |= inline(REMARKS, {"0-text": "New remark", "0-customer": b.tenant.pk})
    member.send("desk/offer/add/", "was added successfully", **form)
    assert rows(Offer, title="New") == [("New", a.tenant.pk)]
    assert rows(Line, text="New line") == [("New line", a.tenant.pk)]
    assert rows(Remark, text="New remark") == [("New remark", a.tenant.pk)]
    with tenant_context(a.tenant.pk):
        assert Offer.objects.get(title="New").others.get() == a.firm


def test_an_admin_says_whose_a_row_is(chief: Browser, desks: Desks) -> None:
    chief.page("desk/offer/add/", 'id="id_tenant"')
    chief.page("desk/firm/add/", 'id="id_tenant"')
    b = desks[1]
    form = offer(b) | inline("line_set", {"0-text": "New line"})
    form |= inline(REMARKS, {"0-text": "New remark"})
    chief.send("desk/offer/add/", "This field is required.", **form)
    chief.send("desk/offer/add/", "was added successfully", **form, tenant=b.tenant.pk)
    assert rows(Offer, title="New") == [("New", b.tenant.pk)]
    # What belongs to the row is its tenant's.
    assert rows(Line, text="New line") == [("New line", b.tenant.pk)]
    assert rows(Remark, text="New remark") == [("New remark", b.tenant.pk)]


INVALID = "Select a valid choice"


def test_a_row_of_another_tenant_is_no_choice(
    member: Browser, chief: Browser, desks: Desks
) -> None:
    a, b = desks
    supplier = inline("line_set", {"0-text": "New line", "0-supplier": b.firm.pk})
    for fields in ({"firm": b.firm.pk}, {"others": [b.firm.pk]}, supplier):
        form = offer(a) | fields
        member.send("desk/offer/add/", INVALID, **form)
        chief.send("desk/offer/add/", INVALID, **form, tenant=a.tenant.pk)
        address = f"desk/offer/{a.offers[1].pk}/change/"
        member.send(address, INVALID, **form)
        chief.send(address, INVALID, **form)
    assert rows(Offer, title="New") == []
    assert rows(Line, text="New line") == []
    chief.send("desk/offer/add/", INVALID, **offer(a, tenant=99))


def test_keys_that_are_unique_in_a_tenant_are_checked(
    member: Browser, chief: Browser, desks: Desks
) -> None:
    a, b = desks
    twice = "with this Tenant and Name already exists"
    member.send("desk/firm/add/", twice, name="A firm")
    chief.send("desk/firm/add/", twice, name="A firm", tenant=a.tenant.pk)
    line = inline("line_set", {"0-text": "A line"})
    member.send("desk/offer/add/", "Tenant and Text already exists", **offer(a) | line)
    two = inline("line_set", {"0-text": "New", "1-text": "New"})
    member.send("desk/offer/add/", "Please correct the duplicate", **offer(a) | two)
    # Not those of another tenant, of which nothing is said.
    member.send("desk/firm/add/", "was added", name="B firm")
    chief.send("desk/firm/add/", "was added", name="A firm", tenant=b.tenant.pk)
    assert rows(Firm, name="B firm") == [("B firm", b.tenant.pk), ("B firm", a.tenant.pk)]


def test_who_runs_as_nobody_adds_nothing(guest: Browser, desks: Desks) -> None:
    assert names(guest) == []
    assert "Add offer" not in guest.page("desk/offer/", "0 offers")
    assert guest.get("/admin/desk/offer/add/").status_code == 403
    assert guest.post("/admin/desk/offer/add/", offer(desks[0])).status_code == 403


# One row.


def test_a_row_is_changed(member: Browser, chief: Browser, desks: Desks) -> None:
    a, b = desks
    address = f"desk/offer/{a.offers[0].pk}/change/"
    page = member.page(address, "A line", "A remark", missing=B_ROWS)
    assert "field-tenant" not in page
    page = chief.page(address, "A line", "A remark", "field-tenant")
    assert 'id="id_tenant"' not in page
    for browser in (member, chief):
        # No row moves to another tenant.
        form = offer(a, title=f"{browser}", tenant=b.tenant.pk)
        browser.send(address, "was changed successfully", **form)
        assert rows(Offer, pk=a.offers[0].pk) == [(f"{browser}", a.tenant.pk)]


def test_inlines_change_their_rows(member: Browser, chief: Browser, desks: Desks) -> None:
    a, b = desks
    address = f"desk/offer/{a.offers[0].pk}/change/"
    for browser in (member, chief):
        lines = {"0-id": a.line.pk, "0-text": "Changed", "1-text": f"{browser}"}
        form = offer(a, **inline("line_set", lines, 1))
        browser.send(address, "was changed successfully", **form)
        assert (f"{browser}", a.tenant.pk) in rows(Line)
        assert ("Changed", a.tenant.pk) in rows(Line)
    lines = {"0-id": b.line.pk, "0-text": "Stolen", "0-DELETE": "on"}
    member.send(address, **offer(a, **inline("line_set", lines, 1)))
    assert rows(Line, pk=b.line.pk) == [("B line", b.tenant.pk)]


@pytest.mark.parametrize("page", ["change", "delete", "history"])
def test_a_row_of_another_tenant_does_not_exist(page: str, member: Browser, desks: Desks) -> None:
    key = desks[1].offers[0].pk
    doubt = f"Offer with ID “{key}” doesn\u2019t exist. Perhaps it was deleted?"
    member.page(f"desk/offer/{key}/{page}/", doubt, missing="B offer")
    if page != "history":
        form = offer(desks[0], post="yes")
        member.send(f"desk/offer/{key}/{page}/", doubt, missing="B offer", **form)
    assert rows(Offer, pk=key) == [("B offer 1", desks[1].tenant.pk)]


def test_a_row_is_deleted_with_what_belongs_to_it(member: Browser, desks: Desks) -> None:
    a, b = desks
    address = f"desk/firm/{a.firm.pk}/delete/"
    member.page(address, "A offer 3", "A line", missing=B_ROWS)
    member.send(address, "was deleted successfully", post="yes")
    assert rows(Firm) == [
        ("A rival", a.tenant.pk),
        ("B firm", b.tenant.pk),
        ("B rival", b.tenant.pk),
    ]
    assert {tenant for _, tenant in [*rows(Offer), *rows(Line)]} == {b.tenant.pk}


def test_an_admin_deletes_rows_of_a_tenant(chief: Browser, desks: Desks) -> None:
    address = f"desk/firm/{desks[0].firm.pk}/delete/"
    chief.page(address, "A offer 3", "A line", missing=B_ROWS)
    chief.send(address, "was deleted successfully", post="yes")
    assert rows(Firm, name__endswith="firm") == [("B firm", desks[1].tenant.pk)]


# What acts on several rows.


def test_actions_take_rows_of_the_tenant(member: Browser, chief: Browser, desks: Desks) -> None:
    a, b = desks
    both: dict[str, Any] = {"_selected_action": [a.offers[0].pk, b.offers[0].pk], "index": 0}
    member.send("desk/offer/", **both, action="close")
    assert rows(Offer, state="closed") == [("A offer 1", a.tenant.pk)]
    member.send("desk/offer/", "A line", missing=B_ROWS, **both, action="delete_selected")
    form = {**both, "action": "delete_selected", "post": "yes"}
    member.send("desk/offer/", "Successfully deleted 1 offer", **form)
    assert len(rows(Offer)) == 5
    chief.send("desk/offer/", "Successfully deleted 1 offer", **form)
    assert ("B offer 1", b.tenant.pk) not in rows(Offer)


def test_all_rows_are_those_of_the_tenant(member: Browser, desks: Desks) -> None:
    every: dict[str, Any] = {
        "_selected_action": [desks[0].offers[0].pk],
        "index": 0,
        "select_across": 1,
    }
    member.send("desk/offer/", **every, action="close")
    assert [title for title, _ in rows(Offer, state="closed")] == [
        "A offer 1",
        "A offer 2",
        "A offer 3",
    ]


# Choices of rows.


def found(browser: Browser, term: str) -> list[str]:
    query = {"app_label": "desk", "model_name": "line", "field_name": "supplier", "term": term}
    results = browser.get("/admin/autocomplete/", query).json()["results"]
    return [result["text"] for result in results]


def test_choices_complete_themselves_with_rows_of_the_tenant(
    member: Browser, chief: Browser, guest: Browser
) -> None:
    assert found(member, "firm") == ["A firm"]
    assert found(chief, "firm") == ["A firm", "B firm"]
    assert found(member, "B") == []
    assert found(guest, "firm") == []


def test_the_window_of_a_raw_key_shows_rows_of_the_tenant(member: Browser, desks: Desks) -> None:
    member.page("desk/firm/", "A firm", missing=B_ROWS, _to_field="id", _popup=1)
    # Nor does the form name another's row.
    form = offer(desks[0], firm=desks[1].firm.pk)
    member.send("desk/offer/add/", INVALID, missing="B firm", **form)


# What was done.


def test_the_history_is_that_of_a_row_one_can_see(
    member: Browser, chief: Browser, desks: Desks
) -> None:
    a, b = desks
    for row in (a.firm, b.firm):
        chief.send(f"desk/firm/{row.pk}/change/", "was changed", name=f"{row} changed")
    member.page(f"desk/firm/{a.firm.pk}/history/", "Changed Name.", "chief", missing=B_ROWS)
    # Recent actions are a user's own.
    member.page("", "None available", missing="changed")
    chief.page("", "A firm changed", "B firm changed")
    assert apps.get_model("admin", "LogEntry")._default_manager.count() == 2


# Inlines of what belongs to no tenant.


def sheets(desk: Desk | None, rows: dict[str, Any]) -> dict[str, Any]:
    tenant = {} if desk is None else {"1-tenant": desk.tenant.pk}
    return {"name": "Shared folder"} | inline("sheet_set", rows | tenant, 1)


def test_an_inline_of_a_shared_row(
    member: Browser, guest: Browser, chief: Browser, desks: Desks, folder: Folder
) -> None:
    a, b = desks
    address = f"desk/folder/{folder.pk}/change/"
    page = member.page(address, "A sheet", missing=B_ROWS)
    assert "0-tenant" not in page
    assert "sheet_set-0-text" not in guest.page(address, missing="A sheet")
    with admin_context():
        first = Sheet.objects.get(text="A sheet").pk
    row = {"0-id": first, "0-text": "A sheet", "1-text": "New"}
    member.send(address, "was changed", **sheets(b, row))
    assert rows(Sheet, text="New") == [("New", a.tenant.pk)]
    # An admin sees those of all tenants, and says whose a new one is; the others keep theirs.
    chief.page(address, "A sheet", "B sheet", 'name="sheet_set-3-tenant"')
    form = sheets(b, row | {"1-text": "Of B", "0-tenant": b.tenant.pk})
    chief.send(address, "was changed", **form)
    assert rows(Sheet, text="Of B") == [("Of B", b.tenant.pk)]
    assert rows(Sheet, pk=first) == [("A sheet", a.tenant.pk)]
    chief.send(address, "This field is required.", **sheets(None, row))


def test_an_inline_of_the_tenant(member: Browser, chief: Browser, desks: Desks) -> None:
    a, b = desks
    form = {"name": "B"} | inline("firm_set", {"0-name": "New"})
    address = f"app/tenant/{b.tenant.pk}/change/"
    member.page(address, missing="B firm")
    member.send(address, INVALID, **form)
    assert rows(Firm, name="New") == []
    page = chief.page(address, "B firm", missing="A firm")
    assert "0-tenant_" not in page
    chief.send(address, "was changed", **form)
    assert rows(Firm, name="New") == [("New", b.tenant.pk)]
    member.send(f"app/tenant/{a.tenant.pk}/change/", "was changed", **{**form, "name": "A"})
    assert rows(Firm, name="New") == [("New", b.tenant.pk), ("New", a.tenant.pk)]


def test_what_is_not_staff_sees_a_login(desks: Desks) -> None:
    User.objects.create(username="customer", tenant=desks[0].tenant)
    browser = Browser()
    browser.force_login(User.objects.get())
    browser.page("desk/offer/", "Log in", missing="A offer")


# The cost.


def statements(browser: Browser, address: str, **form: Any) -> list[str]:
    with CaptureQueriesContext(connection) as queries:
        assert browser.post(f"/admin/{address}", form).status_code == 302
    return [re.sub(r"[\W\d].*", "", query["sql"].split("\n")[-1]) for query in queries]


def test_a_save_costs_what_it_costs_django(member: Browser) -> None:
    member.send("desk/firm/add/", name="To have the content type")
    found = statements(member, "desk/firm/add/", name="New")
    # The session and the user. In the transaction: is the name free in the tenant, which in older
    # Djangos cleans the tenant too; the row and the log.
    checks = ["SELECT"] if hasattr(ModelForm, "validate_constraints") else ["SELECT"] * 2
    assert found == ["SELECT", "SELECT", "BEGIN", *checks, "INSERT", "INSERT", "COMMIT"]
