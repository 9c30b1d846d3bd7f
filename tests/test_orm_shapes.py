"""Queries of every shape: each protected table is scoped, and the rows are the policy's."""

from __future__ import annotations

import re

import pytest
from django.apps import apps

from tenantry.protected import protections
from tests import shapes, shapes_of_models
from tests.app.models import Note
from tests.scoping import COMPARED, OFF, PROTECTED, Tenants, atomically, bindings, sent, unscoped

SHAPES = shapes.SHAPES | shapes_of_models.SHAPES


def test_the_tables_are_those_that_are_expected() -> None:
    found = protections(apps)
    assert {table: each.way.column for table, each in found.items()} == PROTECTED
    assert not any(each.way.hops or each.flags for each in found.values())


def test_a_plan_compares_the_tenant(library: Tenants) -> None:
    for binding, value, scope in bindings(library):
        with scope:
            plan = Note.objects.filter(title__contains="1").explain()
        tenants = {str(value)} if binding in ("A", "B") else set()
        assert set(re.findall(r"\(tenant_id = '?(\d+)", plan)) == tenants, plan
        # Older servers do not say that NULL is false.
        nothing = re.search("One-Time Filter: (?:false|NULL::boolean)", plan)
        assert bool(nothing) is (binding == "unbound"), plan


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str, library: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES[name]
    seen = []

    def read() -> None:
        seen.append(atomically(shape.read))

    for binding, value, scope in bindings(library):
        with scope:
            statements = sent(read)
            with monkeypatch.context() as patch:
                patch.setattr(OFF, lambda apps: {})
                alone = sent(read)
        expected = shape.expected(binding)
        assert seen[-2:] == [expected, expected], binding
        assert not [sql for sql in alone if COMPARED.search(sql)]
        for sql in statements:
            if binding == "admin":
                assert not COMPARED.search(sql)
            else:
                assert unscoped(sql, value) == {}, sql
        assert shape.sql in "".join(statements)
    # What finds the tables in SQL would otherwise be able to find none.
    assert any(map(COMPARED.search, statements)) is (name not in ("no row", "raw"))
