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
from tests import querysets
from tests.fix_hanging import Hanging
from tests.fix_opened import Opened
from tests.querysets import RELATIONS, TEXTS, TO_ONE, Read, reads
from tests.scoping import COMPARED, OFF, Tenants, sent

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
# The same of what hangs on others, and what hangs on nothing.
ODD_HANGING = """
INSERT INTO migrated_line (name, item_id, up_id)
  SELECT 'odd ' || i.name, i.id, l.id FROM app_item i, migrated_line l
  WHERE (i.name, l.name) IN (
    ('A old', 'B first'), ('B new', 'A second'), ('C odd', 'A first'));
INSERT INTO migrated_line (name, item_id, up_id)
  SELECT 'none', NULL, id FROM migrated_line WHERE name = 'A first';
INSERT INTO migrated_word (name, line_id)
  SELECT 'odd ' || name, id FROM migrated_line WHERE name LIKE 'odd%' OR name = 'none';
INSERT INTO migrated_word (name, line_id) VALUES ('none', NULL);
INSERT INTO migrated_shelf (name, tenant_id) VALUES ('C shelf', 3), ('A empty', 1);
INSERT INTO migrated_shelf_tags (shelf_id, tag_id)
  SELECT s.id, t.id FROM migrated_shelf s, app_tag t WHERE (s.name, t.name) IN (
    ('A shelf', 'B red'), ('A shelf', 'A blue'), ('B shelf', 'A red'), ('C shelf', 'A red'));
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


def compare(
    reads: st.SearchStrategy[Read], many: settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare what is read with the predicate, and without."""
    kinds: Counter[str] = Counter()
    results: list[tuple[str, Any]] = []

    def evaluate(read: Read, binding: str) -> str:
        return "\n".join(sent(lambda: results.append(outcome(read, BINDINGS[binding]()))))

    @many
    @given(read=reads, binding=st.sampled_from(list(BINDINGS)))
    def compare_one(read: Read, binding: str) -> None:
        sql = evaluate(read, binding)
        with monkeypatch.context() as patch:
            patch.setattr(OFF, lambda apps: {})
            evaluate(read, binding)
        scoped, alone = results[-2:]
        assert scoped == alone, sql
        kinds[scoped[0]] += 1
        kinds["rows"] += scoped[0] == "read" and bool(scoped[1])
        kinds["scoped"] += COMPARED.search(sql) is not None

    compare_one()
    # Most of what is drawn is a query that is scoped and has rows.
    assert kinds["refused"] * 5 < kinds["read"] < kinds["rows"] * 3, kinds
    assert kinds["read"] < kinds["scoped"] * 2, kinds


def test_rows_with_and_without_the_predicate(
    library: Tenants, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.execute(ODD_ROWS)
    compare(reads(), SETTINGS, monkeypatch)


def test_rows_that_hang_on_others_with_and_without_the_predicate(
    hanging: Hanging, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.execute(f"{ODD_ROWS}{ODD_HANGING}".encode())
    # Of tables that it knows nothing of PostgreSQL expects too much to plan their queries well.
    superuser.execute("ANALYZE")
    add_paths(hanging.paths(), monkeypatch)
    compare(reads(list(hanging)), settings(SETTINGS, max_examples=150), monkeypatch)


def add_paths(paths: list[tuple[Any, list[str], list[str], list[str]]], patch: Any) -> None:
    for model, texts, relations, to_one in paths:
        patch.setitem(TEXTS, model, texts)
        patch.setitem(RELATIONS, model, relations)
        patch.setitem(TO_ONE, model, to_one)


def test_rows_that_are_shared_with_and_without_the_predicate(
    opened: Opened, superuser: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.execute("ANALYZE")
    add_paths(opened.paths(), monkeypatch)
    models = [model for model, *_ in opened.paths()]
    monkeypatch.setattr(querysets, "SHARED", set(models))
    compare(reads(models), settings(SETTINGS, max_examples=75), monkeypatch)
