"""The compiled predicate changes no result: the policy alone would show the same rows."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.core.exceptions import FieldError
from django.db import Error, NotSupportedError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry import admin_context, tenant_context
from tests.querysets import Read, reads
from tests.scoping import COMPARED, Tenants, sent
from tests.test_orm_shapes import OFF

# Keys that point at what is not there, at rows of another tenant, and from a third.
ODD_ROWS = """
INSERT INTO app_tenant (name) VALUES ('C');
INSERT INTO app_author (name, tenant_id) VALUES ('author of A', 3), ('A%', 1);
UPDATE app_note SET author_id = a.id FROM app_author a WHERE title = 'A 1' AND a.tenant_id = 2;
INSERT INTO app_note (title, tenant_id, author_id, parent_id)
  SELECT 'C of ' || title, 3, author_id, id FROM app_note WHERE tenant_id IN (1, 2);
INSERT INTO app_note (title, tenant_id, author_id, parent_id)
  SELECT 'A of ' || title, 1, author_id, id FROM app_note WHERE tenant_id = 3;
INSERT INTO app_shared (text, note_id) VALUES ('on nothing', NULL);
INSERT INTO app_shared (text, note_id) SELECT 'odd', id FROM app_note WHERE tenant_id = 3;
UPDATE app_item SET replaces_id = (SELECT id FROM app_item WHERE name = 'B old')
  WHERE name = 'A book';
INSERT INTO app_item (name, tenant_id, replaces_id)
  SELECT 'C odd', 3, id FROM app_item WHERE name IN ('A old', 'A new', 'B book');
INSERT INTO app_item (name, tenant_id, replaces_id)
  SELECT 'B odd', 2, id FROM app_item WHERE name = 'C odd';
INSERT INTO app_book (item_ptr_id, pages) SELECT id, 3 FROM app_item WHERE name = 'C odd';
INSERT INTO app_tagging (item_id, tag_id, weight, tenant_id)
  SELECT i.id, t.id, 3, x FROM app_item i, app_tag t, generate_series(1, 3) x
  WHERE (i.name, t.name, x) IN (
    ('A old', 'B blue', 1), ('B new', 'A red', 1), ('A new', 'A red', 2), ('C odd', 'A red', 3));
INSERT INTO app_comment (text, content_type_id, object_id, tenant_id)
  SELECT 'odd ' || c.text, c.content_type_id, i.id, 3 - c.tenant_id
  FROM app_comment c JOIN app_item i ON i.id = c.object_id;
INSERT INTO app_comment (text, content_type_id, object_id, tenant_id)
  SELECT 'on nothing', min(content_type_id), 999, 1 FROM app_comment;
INSERT INTO app_invoice (tenant_id, number, total) VALUES (3, 1, 50);
INSERT INTO app_payment (tenant_id, number, amount) VALUES (1, 9, 1), (3, 1, 1);
"""
SETTINGS = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
BINDINGS: dict[str, Any] = {
    "A": lambda: tenant_context(1),
    "B": lambda: tenant_context(2),
    "C": lambda: tenant_context(3),
    "admin": admin_context,
    "unbound": nullcontext,
}


REFUSALS = (FieldError, NotSupportedError, NotImplementedError, TypeError, ValueError)


def outcome(read: Read, scope: AbstractContextManager[Any]) -> tuple[str, Any]:
    """Return what is read, or how Django or PostgreSQL refuse it."""
    try:
        with scope:
            return "read", read()
    except REFUSALS as error:
        return "refused", repr(error)
    except Error as error:
        cause = error.__cause__
        return "refused", cause.sqlstate if isinstance(cause, psycopg.Error) else repr(cause)


def test_rows_with_and_without_the_predicate(
    library: Tenants, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.execute(ODD_ROWS)
    kinds: Counter[str] = Counter()
    results: list[tuple[str, Any]] = []

    def evaluate(read: Read, binding: str) -> str:
        return "\n".join(sent(lambda: results.append(outcome(read, BINDINGS[binding]()))))

    @SETTINGS
    @given(read=reads(), binding=st.sampled_from(list(BINDINGS)))
    def compare(read: Read, binding: str) -> None:
        sql = evaluate(read, binding)
        with monkeypatch.context() as patch:
            patch.setattr(OFF, lambda apps: {})
            evaluate(read, binding)
        scoped, alone = results[-2:]
        assert scoped == alone, sql
        kinds[scoped[0]] += 1
        kinds["rows"] += scoped[0] == "read" and bool(scoped[1])
        kinds["scoped"] += COMPARED.search(sql) is not None

    compare()
    # Most of what is drawn is a query that is scoped and has rows.
    assert kinds["refused"] * 5 < kinds["read"] < kinds["rows"] * 3, kinds
    assert kinds["read"] < kinds["scoped"] * 2, kinds
