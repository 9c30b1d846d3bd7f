"""Foreign keys to rows of other tenants, as validation and forms say it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from django.db import connections
from django.forms import modelform_factory
from django.test.utils import CaptureQueriesContext

from tenantry import admin_context, tenant_context
from tests.app.models import Author, Note, Tenant
from tests.fix_keys import errors_of

Scope = Callable[[int], AbstractContextManager[Any]]
SCOPES: list[Scope] = [tenant_context, lambda tenant: admin_context(), lambda tenant: nullcontext()]


def djangos_errors(field: str, key: int) -> list[tuple[str, Any]]:
    """Return what Django says of a key that no row has, as of `key`."""
    nobody = 10**9
    note = Note(title="x", **{f"{field}_id": nobody})
    ((message, code),) = errors_of(note.clean_fields)[field]
    assert str(nobody) in message
    return [(message.replace(str(nobody), str(key)), code)]


@pytest.mark.parametrize("scope", SCOPES, ids=["tenant", "admin", "unbound"])
def test_validation_says_what_django_says_of_a_missing_row(
    scope: Scope, tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    a, b = tenants
    with tenant_context(b.pk):
        foreign, parent = Author.objects.get(), Note.objects.all()[0]
    with tenant_context(a.pk):
        mine = Author.objects.get()
    with scope(a.pk):
        bad = noting(title="x", tenant_id=a.pk, author_id=foreign.pk, parent_id=parent.pk)
        found = errors_of(bad.validate_constraints)
        assert found["author"] == djangos_errors("author", foreign.pk)
        assert set(found) == {"author", "parent"}
        everything = errors_of(bad.full_clean)
        assert everything["author"] == found["author"]
        assert errors_of(lambda: bad.validate_constraints(exclude={"author", "parent"})) == {}
        assert set(errors_of(lambda: bad.validate_constraints(exclude={"parent", "tenant"}))) == {
            "author"
        }
        assert errors_of(noting(title="y", tenant_id=a.pk).validate_constraints) == {}
    if scope is not SCOPES[2]:
        with scope(a.pk):
            good = noting(title="x", tenant_id=a.pk, author_id=mine.pk)
            assert errors_of(good.validate_constraints) == {}
            # Where it would be written.
            good._state.db = "owner"
            with CaptureQueriesContext(connections["owner"]) as sent:
                assert errors_of(good.validate_constraints) == {}
            assert any('"app_author"' in each["sql"] for each in sent)


def test_an_instance_without_a_tenant_is_of_the_bound_one(
    tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    a, b = tenants
    with tenant_context(b.pk):
        foreign = Author.objects.get()
    with tenant_context(a.pk):
        assert set(errors_of(noting(author_id=foreign.pk).validate_constraints)) == {"author"}
        mine = noting(title="z", author=Author.objects.get(), parent=Note.objects.all()[0])
        assert errors_of(mine.validate_constraints) == {}
        # The admin may have changed its mind, and the database will say so.
        assert errors_of(noting(author_id=foreign.pk, tenant=None).validate_constraints) == {}
    with admin_context():
        assert errors_of(noting(author_id=foreign.pk).validate_constraints) == {}


def test_forms_report_it(tenants: tuple[Tenant, Tenant], noting: Any) -> None:
    a, b = tenants
    form_class = modelform_factory(noting, fields=["title", "author"])
    with tenant_context(b.pk):
        foreign = Author.objects.get()
    # The choices of the admin are those of all tenants.
    with admin_context():
        form = form_class({"title": "x", "author": foreign.pk}, instance=noting(tenant=a))
        assert form.errors == {"author": [djangos_errors("author", foreign.pk)[0][0]]}
        assert form_class(
            {"title": "x", "author": foreign.pk}, instance=noting(tenant=b)
        ).is_valid()
    without = modelform_factory(noting, fields=["title"])
    with tenant_context(a.pk):
        hidden = without({"title": "x"}, instance=noting(tenant=a, author_id=foreign.pk))
        assert hidden.is_valid()


def test_validation_fetches_nothing_that_was_deferred(
    tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    form_class = modelform_factory(noting, fields=["title"])
    with_author = modelform_factory(noting, fields=["title", "author"])
    with tenant_context(tenants[0].pk):
        author = Author.objects.get()
        note = noting.objects.only("title")[0]
        with CaptureQueriesContext(connections["default"]) as queries:
            assert form_class({"title": "new"}, instance=note).is_valid()
        assert len(queries) == 0
        assert with_author({"title": "new", "author": author.pk}, instance=note).is_valid()
        assert {"tenant_id", "parent_id"} <= note.get_deferred_fields()
