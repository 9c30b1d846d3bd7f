"""What the methods of a many-to-many relation do to its rows, one by one, in each binding."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import psycopg
import pytest
from django.db import DatabaseError

from tenantry import admin_context, tenant_context
from tests.app.models import Item, Tag, Tagging, Tenant
from tests.fix_migrations import Migrate
from tests.migrated import manager, many, model, tags

Tenants = tuple[Tenant, Tenant]
# The keys of tags that an item is related to, and the tenant of that.
Rows = list[tuple[int, int]]


class Relation(NamedTuple):
    """Hold an item of tenant A, two tags of A of which the first is related to it, and its rows."""

    item: Any
    first: Any
    second: Any
    # What the database knows of a tenant.
    said_by_the_admin: dict[str, Any]


@pytest.fixture
def automatic(tenants: Tenants, migrate: Migrate) -> Relation:
    """Return a relation whose table Django makes."""
    state = many(migrate, model("Tag", is_open=False), model("Doc", is_open=False, tags=tags()))
    made = []
    for tenant in tenants:
        with tenant_context(tenant.pk):
            doc = manager(state, "Doc").create()
            first, second = (manager(state, "Tag").create() for _ in range(2))
            doc.tags.add(first)
            made.append(Relation(doc, first, second, {}))
    return made[0]


@pytest.fixture
def explicit(tenants: Tenants) -> Relation:
    """Return a relation by a protected model."""
    made = []
    for tenant in tenants:
        with tenant_context(tenant.pk):
            item = Item.objects.create(name="item")
            first, second = (Tag.objects.create(name=name) for name in ("first", "second"))
            Tagging.objects.create(item=item, tag=first)
            more = {"through_defaults": {"tenant_id": tenant.pk}}
            made.append(Relation(item, first, second, more))
    return made[0]


BINDINGS: dict[str, Callable[[Tenants], AbstractContextManager[Any]]] = {
    "A": lambda tenants: tenant_context(tenants[0].pk),
    "B": lambda tenants: tenant_context(tenants[1].pk),
    "admin": lambda tenants: admin_context(),
    "nobody": lambda tenants: nullcontext(),
}
METHODS: dict[str, Callable[[Relation, dict[str, Any]], None]] = {
    "add": lambda of, more: of.item.tags.add(of.second, **more),
    "set": lambda of, more: of.item.tags.set([of.second], **more),
    "remove": lambda of, more: of.item.tags.remove(of.first),
    "clear": lambda of, more: of.item.tags.clear(),
}


AFTER = {"add": ["first", "second"], "set": ["second"], "remove": [], "clear": []}
# The table, and how to tell whose a row of it is.
TABLES = {
    "automatic": (
        "migrated_doc_tags",
        "SELECT tag_id, tenant_id FROM migrated_doc_tags r JOIN migrated_tag t ON t.id = tag_id",
    ),
    "explicit": ("app_tagging", "SELECT tag_id, tenant_id FROM app_tagging"),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("binding", BINDINGS)
def test_each_method_changes_the_rows_of_who_is_bound(
    binding: str,
    kind: str,
    request: pytest.FixtureRequest,
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
) -> None:
    relation: Relation = request.getfixturevalue(kind)
    table, sql = TABLES[kind]

    def rows() -> Rows:
        return sorted(superuser.execute(sql.encode()).fetchall())

    a, b = (tenant.pk for tenant in tenants)
    before = rows()
    others = [row for row in before if row[1] == b]
    assert before == [(relation.first.pk, a), *others]
    assert len(others) == 1
    superuser.execute(f"CREATE TEMPORARY TABLE kept AS TABLE {table}".encode())
    for method, call in METHODS.items():
        more = {}
        if method in ("add", "set") and binding == "admin":
            more = relation.said_by_the_admin
        expected = [(getattr(relation, name).pk, a) for name in AFTER[method]]
        result: AbstractContextManager[Any] = nullcontext()
        if binding in ("B", "nobody"):
            expected = [(relation.first.pk, a)]
            if method in ("add", "set"):
                if (kind, binding) == ("explicit", "B"):
                    # A row of B's own: only a SameTenant refuses what it refers to.
                    expected.append((relation.second.pk, b))
                else:
                    result = pytest.raises(DatabaseError)
        with BINDINGS[binding](tenants), result:
            call(relation, more)
        assert rows() == sorted([*expected, *others]), method
        superuser.execute(f"DELETE FROM {table}; INSERT INTO {table} TABLE kept".encode())
    superuser.execute("DROP TABLE kept")
