"""LEFT JOINs that go on from the tenant of a row that an earlier LEFT JOIN has not found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.db.models import Count

from tenantry import admin_context, tenant_context
from tests.app.models import Author, Label, Note, Shared, Tenant

AUTHOR = "note__author"
TENANT = f"{AUTHOR}__tenant__name"


@pytest.fixture
def rows(tenants: tuple[Tenant, Tenant], superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Bind B, and make rows: on notes by B, by A and by nobody, and on no note."""
    a, b = tenants
    with tenant_context(a.pk):
        foreign = Author.objects.get()
    with tenant_context(b.pk):
        own = Author.objects.get()
        for title, author in (("own", own.pk), ("foreign", foreign.pk), ("nobody", None)):
            note = Note.objects.create(title=title, author_id=author)
            Shared.objects.create(text=title, note=note)
        Shared.objects.create(text="no note")
        # What PostgreSQL expects of tables that it knows nothing of makes it join these first.
        superuser.execute(b"DELETE FROM pg_statistic WHERE starelid::regclass::text LIKE 'app\\_%'")
        yield


def values(path: str) -> dict[str, Any]:
    """Return what the rows have under a path, by their texts."""
    return dict(Shared.objects.order_by("pk").values_list("text", path).distinct())


def test_a_row_that_is_missing_is_of_no_tenant(rows: None) -> None:
    missing = dict.fromkeys(["foreign", "nobody", "no note"])
    assert values(TENANT) == {"own": "B", **missing}
    everywhere = dict.fromkeys(["own", "foreign", "nobody"], "B")
    assert values("note__tenant__name") == {**everywhere, "no note": None}
    excluded = Shared.objects.exclude(**{TENANT: "B"})
    assert {*excluded.values_list("text", flat=True)} == {*missing}
    assert Shared.objects.filter(**{f"{AUTHOR}__tenant__isnull": True}).count() == 3
    grouped = Shared.objects.values(TENANT).annotate(n=Count("pk")).order_by()
    assert {each[TENANT]: each["n"] for each in grouped} == {"B": 1, None: 3}
    fetched: Any = Shared.objects.select_related(f"{AUTHOR}__tenant").get(text="own")
    assert fetched.note.author.tenant.name == "B"
    with admin_context():
        assert values(TENANT) == {"own": "B", "foreign": "A", "nobody": None, "no note": None}


def test_neither_is_what_its_tenant_leads_to(rows: None) -> None:
    """The key of the tenant is one more column that PostgreSQL takes for a constant."""
    Label.objects.create(text="label", customer_id=Tenant.objects.get(name="B").pk)
    missing = dict.fromkeys(["foreign", "nobody", "no note"])
    assert values(f"{AUTHOR}__tenant__label__text") == {"own": "label", **missing}
    assert values(f"{AUTHOR}__tenant__label__customer__name") == {"own": "B", **missing}


def test_only_such_a_join_says_so(rows: None) -> None:
    there = '"app_author"."tenant_id" IS NOT NULL'
    sql = str(Shared.objects.values_list(TENANT).query)
    assert sql.count("IS NOT NULL") == 1
    assert f'("app_author"."tenant_id" = "app_tenant"."id" AND {there})' in sql
    for queryset in (
        Shared.objects.values_list("note__tenant"),
        Note.objects.filter(author__tenant__name="B", parent__title="x"),
        Author.objects.select_related("tenant"),
        Note.objects.values_list("author__name", "parent__author__name"),
    ):
        assert 'tenant_id" IS NOT NULL' not in str(queryset.query), queryset.query


@pytest.mark.role_shape
def test_raw_sql_has_to_say_so_itself(rows: None) -> None:
    """The policies alone compare with a constant here, and PostgreSQL may join too much."""
    sql = (
        "SELECT s.text, t.name FROM app_shared s LEFT JOIN app_note n ON s.note_id = n.id"
        " LEFT JOIN app_author a ON n.author_id = a.id"
        " LEFT JOIN app_tenant t ON a.tenant_id = t.id AND a.tenant_id IS NOT NULL"
    )
    with connections["default"].cursor() as cursor:
        cursor.execute(sql)
        found = dict(cursor.fetchall())
    assert found == {"own": "B", **dict.fromkeys(["foreign", "nobody", "no note"])}
