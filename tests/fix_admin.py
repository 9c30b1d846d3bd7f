"""A site of the admin, with rows of two tenants and a browser of each kind of user."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client, override_settings
from pytest_django.plugin import DjangoDbBlocker

from tenantry import admin_context, tenant_context
from tests import settings_admin
from tests.app.models import Tenant, User
from tests.desk.models import Firm, Folder, Line, Offer, Remark, Sheet


@dataclass(frozen=True)
class Desk:
    """Hold what a tenant has: two firms, three offers, and a line and a remark on the first."""

    tenant: Tenant
    firm: Firm
    offers: list[Offer]
    line: Line
    remark: Remark


def desk(tenant: Tenant, folder: Folder) -> Desk:
    """Return the rows of a tenant, all of whose names begin with its own."""
    name = tenant.name
    with tenant_context(tenant.pk):
        firm = Firm.objects.create(name=f"{name} firm")
        Firm.objects.create(name=f"{name} rival")
        offers = [
            Offer.objects.create(
                title=f"{name} offer {i}", made=datetime.date(2020 + i, 5, 1), firm=firm
            )
            for i in (1, 2, 3)
        ]
        offers[0].others.add(firm)
        line = Line.objects.create(text=f"{name} line", offer=offers[0], supplier=firm)
        remark = Remark.objects.create(text=f"{name} remark", about=offers[0], customer=tenant)
        Sheet.objects.create(text=f"{name} sheet", folder=folder)
    return Desk(tenant, firm, offers, line, remark)


@pytest.fixture(scope="module")
def admin_site(
    project: None, superuser: psycopg.Connection[Any], django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """Install the admin for the tests of a module, and serve it to users of all kinds."""
    names = [name for name in dir(settings_admin) if name.isupper() and name != "DATABASES"]
    changed = {name: getattr(settings_admin, name) for name in names}
    changed = {
        name: value for name, value in changed.items() if value != getattr(settings, name, None)
    }
    with django_db_blocker.unblock(), override_settings(**changed):
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)
        yield
    # Other tests look at all tables that there are.
    tables = superuser.execute(
        "SELECT format('%I', tablename) FROM pg_tables"
        " WHERE tablename LIKE 'desk\\_%' OR tablename = 'django_admin_log'"
    )
    superuser.execute(f"DROP TABLE {', '.join(table for (table,) in tables)} CASCADE".encode())
    if settings.SHAPE == "guc":
        superuser.execute("DELETE FROM django_migrations WHERE app IN ('admin', 'desk')")


@pytest.fixture
def folder(admin_site: None, tenants: tuple[Tenant, Tenant]) -> Folder:
    """Return a row of a shared table, the only one."""
    with admin_context():
        Folder.objects.all().delete()
    return Folder.objects.create(name="Shared folder")


@pytest.fixture
def desks(tenants: tuple[Tenant, Tenant], folder: Folder) -> tuple[Desk, Desk]:
    a, b = tenants
    return desk(a, folder), desk(b, folder)


class Browser(Client):
    """Be a client whose user has logged in, and that reads pages of the admin."""

    def page(self, address: str, *found: str, missing: str = "\0", **query: Any) -> str:
        """Return the page, after a look at what is in it and what is not."""
        return seen(self.get(f"/admin/{address}", query, follow=True), *found, missing=missing)

    def send(self, address: str, *found: str, missing: str = "\0", **form: Any) -> str:
        """Return the page that answers to a form."""
        response = self.post(f"/admin/{address}", form, follow=True)
        return seen(response, *found, missing=missing)


def seen(response: Any, *found: str, missing: str) -> str:
    assert response.status_code == 200, response.status_code
    page: str = response.content.decode()
    for text in found:
        assert text in page, text
    assert missing not in page
    return page


def browser_of(name: str, **fields: Any) -> Browser:
    """Return the browser of a new user with every permission of Django's."""
    user = User.objects.create(username=name, is_staff=True, is_superuser=True, **fields)
    browser = Browser()
    browser.force_login(user)
    return browser


@pytest.fixture
def member(desks: tuple[Desk, Desk]) -> Browser:
    """Return the browser of a user of tenant A."""
    return browser_of("member", tenant=desks[0].tenant)


@pytest.fixture
def guest(desks: tuple[Desk, Desk]) -> Browser:
    """Return the browser of a user of both tenants, of which none is its own."""
    a, b = (desk.tenant.pk for desk in desks)
    return browser_of("guest", last_name=f"{a},{b}")


@pytest.fixture
def chief(desks: tuple[Desk, Desk]) -> Browser:
    """Return the browser of an admin."""
    return browser_of("chief", is_tenant_admin=True)


def titles(response: Any) -> list[str]:
    """Return the titles in a list of rows."""
    return [str(row) for row in response.context["cl"].result_list]
