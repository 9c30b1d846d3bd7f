"""How many functions in Python a statement, a transaction, a query and a scope call.

Unlike microseconds, they are the same on every machine. A change that needs more says so here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper

from tenantry import aconnection, tenant_context
from tests.app.models import Note


@pytest.fixture
def stock(project: None) -> Iterator[str]:
    """Yield the alias of a connection of Django's own backend."""
    connections["stock"] = DatabaseWrapper({**connections["default"].settings_dict}, "stock")
    yield "stock"
    connections["stock"].close()
    del connections["stock"]


def calls(action: Callable[[str], object], alias: str) -> int:
    """Return how many functions `action` calls once everything is cached."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    for _ in range(3):
        action(alias)
    # What other tests have left would be cleaned up in between.
    gc.disable()
    sys.setprofile(count)
    try:
        action(alias)
    finally:
        sys.setprofile(None)
        gc.enable()
    return counted


def statement(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        assert cursor.fetchall() == [(1,)]


def block(alias: str) -> None:
    with transaction.atomic(using=alias), transaction.atomic(using=alias):
        statement(alias)


QUERIES = [Note.objects.filter(title="x"), Note.objects.select_related("author", "parent__author")]


def query(alias: str) -> None:
    QUERIES[0].query.get_compiler(alias).as_sql()


def joins(alias: str) -> None:
    QUERIES[1].query.get_compiler(alias).as_sql()


def scope(alias: str) -> None:
    with tenant_context(1):
        pass


@pytest.mark.guc_shape
@pytest.mark.parametrize(
    ("action", "most"), [(statement, 4), (block, -113), (query, 6), (joins, 26)]
)
def test_few_calls_are_added(action: Callable[[str], object], most: int, stock: str) -> None:
    # Python 3.11 counts comprehensions, too. A block needs fewer calls than Django's.
    theirs = calls(action, stock)
    with tenant_context(1):
        added = calls(action, "default") - theirs
    # Before PostgreSQL 18, each statement is asked whether it has to be the first of its message.
    old = connections["default"].pg_version < 180000  # type: ignore[attr-defined]
    assert added <= most + (old and action in (statement, block))


def test_a_scope_takes_few_calls() -> None:
    # Two more where asgiref has left an event loop on the thread.
    assert calls(scope, "default") <= 15


def test_a_cursor_keeps_nothing_in_a_dict(tenants: tuple[Any, Any]) -> None:
    # In which Python would look first for each of its methods.
    with connections["default"].cursor() as cursor, transaction.atomic():
        cursor.execute("SELECT %s", [1])
        cursor.executemany("SELECT %s", [[1], [2]])
        assert vars(cursor.cursor) == {}


def test_a_cursor_of_a_pool_keeps_nothing_in_a_dict(pool: Any) -> None:
    with pool.cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        assert vars(cursor.cursor) == {}


async def test_an_async_cursor_keeps_nothing_in_a_dict(tenants: tuple[Any, Any]) -> None:
    async with aconnection() as connection:
        cursor = await connection.execute("SELECT %s", [1])
        await cursor.executemany("SELECT %s", [[1], [2]])
        assert vars(cursor) == {}
