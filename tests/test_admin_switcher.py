"""The switcher in the admin's header, which selects a tenant for the session."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core import checks
from django.db import connection
from django.test import Client, modify_settings, override_settings
from django.test.utils import CaptureQueriesContext

from tenantry.contrib.admin import RLSAdminSite
from tenantry.resolvers.places import SESSION_KEY
from tests import settings as project
from tests.app.models import Tenant, User
from tests.fix_admin import Browser, Desk, browser_of, titles
from tests.test_resolvers import Member

Desks = tuple[Desk, Desk]


def choices(page: str) -> list[tuple[str, str, bool]]:
    """Return the keys and names that the header offers, and which is the current one."""
    form = re.search(r'<form id="tenant-switcher".*?</form>', page, re.DOTALL)
    if form is None:
        return []
    found = re.findall(r'<option value="(\w*)"( selected)?>([^<]+)</option>', form[0])
    return [(key, name, bool(selected)) for key, selected, name in found]


def keys(desks: Desks) -> tuple[str, str]:
    a, b = desks
    return str(a.tenant.pk), str(b.tenant.pk)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tenants have names that people read."""
    monkeypatch.setattr(Tenant, "__str__", lambda tenant: f"Tenant {tenant.name}")


def test_a_user_of_several_switches(guest: Browser, desks: Desks, named: None) -> None:
    a, b = keys(desks)
    page = guest.page("desk/offer/", "0 offers")
    assert choices(page) == [
        ("", "No tenant", True),
        (a, "Tenant A", False),
        (b, "Tenant B", False),
    ]
    for key, name, missing in ((a, "A offer 1", "B "), (b, "B offer 1", "A ")):
        page = guest.send("switch-tenant/", "3 offers", name, tenant=key, next="/admin/desk/offer/")
        assert f"{missing}offer" not in page
        assert [choice for choice in choices(page) if choice[2]] == [
            (key, f"Tenant {name[0]}", True)
        ]
    page = guest.send("switch-tenant/", tenant="")
    assert choices(page)[0] == ("", "No tenant", True)
    assert titles(guest.get("/admin/desk/offer/")) == []


def test_a_user_with_a_tenant_of_its_own_is_never_without(desks: Desks, named: None) -> None:
    a, b = keys(desks)
    both = browser_of("both", tenant=desks[0].tenant, last_name=b)
    assert choices(both.page("")) == [(a, "Tenant A", True), (b, "Tenant B", False)]
    page = both.send("switch-tenant/", tenant=b)
    assert choices(page) == [(a, "Tenant A", False), (b, "Tenant B", True)]


def test_an_admin_works_for_one_tenant_or_all(chief: Browser, desks: Desks, named: None) -> None:
    a, b = keys(desks)
    assert choices(chief.page("desk/offer/", "6 offers"))[0] == ("", "All tenants", True)
    page = chief.send(
        "switch-tenant/", "3 offers", missing="A offer", tenant=b, next="/admin/desk/offer/"
    )
    assert ("", "All tenants", False) in choices(page)
    assert (b, "Tenant B", True) in choices(page)
    # Then it is as for the tenant's users.
    assert "By tenant" not in page
    assert 'id="id_tenant"' not in chief.page("desk/offer/add/")
    chief.send("desk/firm/add/", "was added", name="New", tenant=a)
    chief.send("switch-tenant/", tenant="")
    chief.page("desk/offer/", "6 offers")
    assert titles(chief.get("/admin/desk/firm/", {"tenant__id__exact": b}))[-1] == "New"


@pytest.mark.parametrize("who", ["chief", "guest"])
def test_tenants_who_see_only_themselves_are_offered(
    who: str,
    request: pytest.FixtureRequest,
    desks: Desks,
    hidden: Any,
    named: None,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": ["session", "user"]}
    mine = property(lambda user: list(filter(None, user.last_name.split(","))))
    monkeypatch.setattr(Member, "rls_tenant_ids", mine)
    browser: Browser = request.getfixturevalue(who)
    a, b = keys(desks)
    for key in (a, b):
        assert choices(browser.send("switch-tenant/", tenant=key))[1:] == [
            (a, "Tenant A", key == a),
            (b, "Tenant B", key == b),
        ]
    User.objects.filter(username="guest").update(last_name=b)
    monkeypatch.setattr(RLSAdminSite, "get_tenants", lambda *args: Tenant.objects.all())
    offered = [key for key, *_ in choices(browser.page(""))]
    assert offered == (["", a, b] if who == "chief" else ["", b])


def test_a_tenant_that_is_not_offered_is_shown_while_it_is_selected(
    chief: Browser, desks: Desks, named: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = keys(desks)
    some = Tenant.objects.filter(pk=a)
    monkeypatch.setattr(RLSAdminSite, "get_tenants", lambda site, request: some)
    page = chief.send("switch-tenant/", tenant=b)
    assert choices(page) == [("", "All tenants", False), (b, b, True), (a, "Tenant A", False)]


def test_a_tenant_that_is_gone_is_not_shown(chief: Browser, desks: Desks, named: None) -> None:
    gone = Tenant.objects.create(name="C")
    page = chief.send("switch-tenant/", tenant=gone.pk)
    assert (str(gone.pk), "Tenant C", True) in choices(page)
    gone.delete()
    assert choices(chief.page("desk/offer/", "6 offers"))[0] == ("", "All tenants", True)


def test_who_has_one_tenant_has_no_switcher(member: Browser, settings: Any) -> None:
    assert choices(member.page("")) == []
    # A user model that knows one tenant only.
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    plain = Browser()
    plain.force_login(User.objects.get(username="member"))
    assert choices(plain.page("", "Site administration")) == []


def test_without_selections_there_is_no_switcher(chief: Browser) -> None:
    with override_settings(RLS_TENANTS=project.RLS_TENANTS):
        assert "tenant-switcher-tenant" not in chief.page("desk/offer/", "6 offers")


def test_what_a_user_may_not_select_is_denied(
    member: Browser, guest: Browser, desks: Desks
) -> None:
    _, b = keys(desks)
    for key in (b, "99", "x", "1; SELECT"):
        assert member.post("/admin/switch-tenant/", {"tenant": key}).status_code == 403
    guest.send("switch-tenant/", tenant=b)
    assert guest.post("/admin/switch-tenant/", {"tenant": "99"}).status_code == 403
    assert titles(guest.get("/admin/desk/offer/"))[0] == "B offer 1"


def test_only_a_form_of_the_staff_switches(desks: Desks) -> None:
    _, b = keys(desks)
    user = User.objects.create(username="customer", last_name=b)
    browser = Browser()
    form = {"tenant": b}
    for _ in ("anonymous", "customer"):
        response = browser.post("/admin/switch-tenant/", form)
        assert response["Location"].startswith("/admin/login/")
        assert SESSION_KEY not in browser.session
        browser.force_login(user)
    user.is_staff = True
    user.save()
    assert browser.get("/admin/switch-tenant/", form).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(user)
    assert strict.post("/admin/switch-tenant/", form).status_code == 403
    page = strict.get("/admin/").content.decode()
    token = re.search(r'id="tenant-switcher".*?csrfmiddlewaretoken" value="(\w+)"', page, re.DOTALL)
    assert token
    form["csrfmiddlewaretoken"] = token[1]
    assert strict.post("/admin/switch-tenant/", form).status_code == 302


@pytest.mark.parametrize(
    ("given", "followed"),
    [
        ("/admin/desk/offer/?q=x", "/admin/desk/offer/?q=x"),
        ("https://evil.example/", "/admin/"),
        ("//evil.example/", "/admin/"),
        ("javascript:alert(1)", "/admin/"),
        ("", "/admin/"),
    ],
)
def test_it_goes_on_at_an_address_of_the_site(given: str, followed: str, chief: Browser) -> None:
    response = chief.post("/admin/switch-tenant/", {"tenant": "", "next": given})
    assert response["Location"] == followed


def test_it_goes_on_where_it_was(chief: Browser, desks: Desks) -> None:
    following = r'name="next" value="([^"]*)"'
    page = chief.page("desk/offer/", q="A")
    assert re.findall(following, page) == ["/admin/desk/offer/?q=A"]
    # A row may not be there for another tenant, nor is the answer to a form.
    page = chief.page(f"desk/offer/{desks[0].offers[0].pk}/change/")
    assert re.findall(following, page) == [""]
    assert re.findall(following, chief.send("desk/firm/add/", name="")) == [""]


@pytest.mark.parametrize("lookup", ["tenant__id__exact", "tenant__name", "tenant_id"])
def test_it_goes_on_without_a_filter_by_tenants(
    lookup: str, chief: Browser, desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.desk.admin.OfferAdmin.list_filter", ["tenant__name", "tenant"])
    b = desks[1].tenant
    given = {lookup: "B" if "name" in lookup else str(b.pk), "state": "new", "q": "offer"}
    following = r'name="next" value="([^"]*)"'
    (found,) = re.findall(following, chief.page("desk/offer/", "B offer 1", **given))
    assert found == "/admin/desk/offer/?state=new&amp;q=offer"
    page = chief.page("desk/offer/add/", _changelist_filters=urlencode(given))
    assert re.findall(following, page) == ["/admin/desk/offer/add/"]
    page = chief.page("desk/folder/", name__startswith="S")
    assert re.findall(following, page) == ["/admin/desk/folder/?name__startswith=S"]
    unescaped = found.replace("&amp;", "&")
    chief.send("switch-tenant/", "3 offers", missing="A offer", tenant=b.pk, next=unescaped)


def test_with_many_tenants_it_asks_for_the_key(chief: Browser, desks: Desks) -> None:
    page = chief.get("/other/").content.decode()
    assert choices(page) == []
    assert 'type="text" name="tenant" id="tenant-switcher-tenant" value=""' in page
    assert 'action="/other/switch-tenant/"' in page
    response = chief.post("/other/switch-tenant/", {"tenant": f" {desks[1].tenant.pk} "})
    assert response["Location"] == "/other/"
    assert f'value="{desks[1].tenant.pk}"' in chief.get("/other/").content.decode()
    assert titles(chief.get("/other/desk/offer/"))[0] == "B offer 1"


def test_popups_ask_for_no_tenants(chief: Browser) -> None:
    for address, asked in ("desk/folder/", 1), ("desk/folder/?_popup=1", 0):
        with CaptureQueriesContext(connection) as queries:
            page = chief.page(address)
        assert page.count('id="tenant-switcher"') == asked
        assert sum('FROM "app_tenant"' in query["sql"] for query in queries) == asked


def messages() -> list[str | None]:
    return [message.id for message in checks.run_checks(tags=[checks.Tags.admin])]


def test_a_template_that_is_hidden_is_reported(admin_site: None) -> None:
    assert "tenantry.W156" not in messages()
    with modify_settings(INSTALLED_APPS={"remove": ["tenantry.contrib.admin"]}):
        assert "tenantry.W156" in messages()
        with modify_settings(INSTALLED_APPS={"append": ["tenantry.contrib.admin"]}):
            assert "tenantry.W156" in messages()


@pytest.mark.parametrize(("named", "is_told"), [("user", True), ("session", False), ("-", False)])
def test_a_switcher_that_nothing_would_read_is_reported(
    named: str, is_told: bool, admin_site: None, settings: Any
) -> None:
    # The last one cannot be made, which is reported by another check.
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "RESOLVERS": [named]}
    assert ("tenantry.W156" in messages()) is is_told
