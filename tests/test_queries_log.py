"""What ``connection.queries`` lists is what Django's own backend lists, statement by statement."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction
from django.db.backends.postgresql.base import DatabaseWrapper as DjangosWrapper
from django.db.models import Count, F, Max
from django.test import TransactionTestCase
from django.test.utils import CaptureQueriesContext

from tenantry import admin_context, tenant_context
from tenantry.backends.postgresql.options import OWN
from tenantry.context import Scope
from tests import settings
from tests.app.models import Note, Shared, Tenant
from tests.fix_wire import Wire

Operation = Callable[[str], object]
# Django 6.1 renamed it.
new_savepoint: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint
ROWS = "INSERT INTO app_shared (text, note_id) VALUES ('a', 1), ('b', NULL), ('c', 2)"
ALIASES = ["default", "pool", "pooled", "wire_server_side", "not_riding"]


def rows(alias: str) -> Any:
    return Shared.objects.using(alias).order_by("id")


def execute(alias: str, *arguments: Any) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(*arguments)


# Reads.


def lists(alias: str) -> None:
    assert [row.text for row in rows(alias).filter(text__lt="c")] == ["a", "b"]
    assert rows(alias).filter(text="%s").first() is None
    assert rows(alias).in_bulk([1, 2])


def aggregates(alias: str) -> None:
    assert rows(alias).count() == 3
    assert rows(alias).filter(note=None).exists()
    assert rows(alias).aggregate(Max("text")) == {"text__max": "c"}
    assert list(rows(alias).values("text").annotate(n=Count("id")))


def combines(alias: str) -> None:
    assert len(rows(alias).order_by().union(rows(alias).order_by().filter(text="a"))) == 3
    assert rows(alias).filter(id__in=rows(alias).order_by().filter(text="b").values("id"))
    assert rows(alias).filter(text="a").explain()


def locks(alias: str) -> None:
    with transaction.atomic(using=alias):
        assert len(rows(alias).select_for_update(skip_locked=True)) == 3


def iterates(alias: str) -> None:
    assert [row.text for row in rows(alias).iterator(chunk_size=1)] == ["a", "b", "c"]
    with transaction.atomic(using=alias):
        assert next(rows(alias).iterator(chunk_size=2)).text == "a"


def reads_raw(alias: str) -> None:
    assert len(Shared.objects.using(alias).raw("SELECT * FROM app_shared WHERE id > %s", [1])) == 2
    execute(alias, "SELECT %s, '%%', %s", [None, "o'clock"])
    execute(alias, "SELECT '%'")
    execute(alias, "SELECT %(a)s, %(a)s", {"a": 1})
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1; SELECT 2")
    execute(alias, " \n-- a comment\nSELECT 3")


def calls(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.callproc("pg_backend_pid")
        cursor.callproc("upper", ["x"])
        assert cursor.fetchall() == [("X",)]


def streams(alias: str) -> None:
    connection: Any = connections[alias]
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        assert len(list(cursor.stream("SELECT generate_series(1, 3)"))) == 3
        with cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
            assert list(copy.rows())


# Writes.


def writes(alias: str) -> None:
    row = Shared.objects.using(alias).create(text="d")
    row.text = "e"
    row.save()
    row.save(update_fields=["text"])
    Shared.objects.using(alias).bulk_create([Shared(text=str(n)) for n in range(5)], batch_size=2)
    rows(alias).filter(text="e").update(text=F("text"))
    rows(alias).filter(text__in=["1", "2"]).delete()
    row.delete()


def gets_or_creates(alias: str) -> None:
    Shared.objects.using(alias).get_or_create(text="a")
    Shared.objects.using(alias).get_or_create(text="new")
    Shared.objects.using(alias).update_or_create(text="b", defaults={"note": None})


def executes_many(alias: str) -> None:
    insert = "INSERT INTO app_shared (text) VALUES (%s)"
    with connections[alias].cursor() as cursor:
        cursor.executemany(insert, [["d"], ["e"]])
        # Django takes any iterable; its types do not.
        rows: Any = ([text] for text in "fg")
        cursor.executemany(insert, rows)
        cursor.executemany(insert, [])


def vacuums(alias: str) -> None:
    execute(alias, "VACUUM (SKIP_LOCKED) app_shared")


# Transactions.


def commits(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        transaction.on_commit(lambda: execute(alias, "SELECT 'hook'"), using=alias)
    with transaction.atomic(using=alias, durable=True):
        pass


def nests(alias: str) -> None:
    with transaction.atomic(using=alias):
        with transaction.atomic(using=alias), transaction.atomic(using=alias, savepoint=False):
            execute(alias, "SELECT 1")
        with transaction.atomic(using=alias):
            pass
        with transaction.atomic(using=alias):
            execute(alias, "SELECT 2")
        execute(alias, "SELECT 3")


def rolls_back(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1")
        transaction.set_rollback(True, using=alias)
    with transaction.atomic(using=alias):
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            execute(alias, "SELECT 2")
            raise ZeroDivisionError
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            raise ZeroDivisionError
        execute(alias, "SELECT 3")
    with transaction.atomic(using=alias):
        with suppress(ZeroDivisionError), transaction.atomic(using=alias, savepoint=False):
            raise ZeroDivisionError
        with suppress(DatabaseError):
            execute(alias, "SELECT 4")


def has_savepoints(alias: str) -> None:
    with transaction.atomic(using=alias):
        one, two = new_savepoint(using=alias), new_savepoint(using=alias)
        execute(alias, "SELECT 1")
        transaction.savepoint_rollback(two, using=alias)
        transaction.savepoint_commit(two, using=alias)
        transaction.savepoint_commit(one, using=alias)
        three = new_savepoint(using=alias)
        transaction.savepoint_rollback(three, using=alias)
        execute(alias, "SELECT 2")


def commits_by_hand(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    try:
        execute(alias, "SELECT 1")
        transaction.commit(using=alias)
        with transaction.atomic(using=alias):
            execute(alias, "SELECT 2")
        transaction.rollback(using=alias)
    finally:
        transaction.set_autocommit(True, using=alias)


def sets_the_level(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        execute(alias, "SHOW transaction_isolation")


def connects(alias: str) -> None:
    connections[alias].close()
    execute(alias, "SELECT 1")


# Errors.


def fails(statement: str, alias: str, *params: Any) -> None:
    execute(alias, statement, *params)


def fails_among_several(alias: str) -> None:
    with transaction.atomic(using=alias):
        execute(alias, "SELECT 1; SELECT nonsense")


def fails_in_a_block(alias: str) -> None:
    with transaction.atomic(using=alias):
        for statement in ("SELEC 1", "SELECT 1/0", "INSERT INTO app_shared (id) VALUES (1)"):
            with suppress(DatabaseError), transaction.atomic(using=alias):
                execute(alias, "SELECT 1")
                execute(alias, statement)
            with suppress(DatabaseError), transaction.atomic(using=alias):
                execute(alias, statement)
        execute(alias, "SELECT nonsense")


def goes_on_after_an_error(alias: str) -> None:
    with transaction.atomic(using=alias):
        with suppress(DatabaseError):
            execute(alias, "SELECT nonsense")
        execute(alias, "SELECT 1")


def fails_at_commit(alias: str) -> None:
    with transaction.atomic(using=alias):
        Shared.objects.using(alias).create(text="d", note_id=999)


def fails_among_many(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.executemany("SELECT 1 / %s", [[1], [0]])


OPERATIONS: list[Operation] = [
    *(lists, aggregates, combines, locks, iterates, reads_raw, calls, streams),
    *(writes, gets_or_creates, executes_many, vacuums),
    *(commits, nests, rolls_back, has_savepoints, commits_by_hand, sets_the_level, connects),
    partial(fails, "SELEC 1"),
    fails_among_several,
    lambda alias: fails("SELECT %s, %s", alias, [1]),
    *(fails_in_a_block, goes_on_after_an_error, fails_at_commit, fails_among_many),
]


# Django's backend sees no rows of protected tables here, as it binds nobody.


def reads_protected(alias: str) -> None:
    list(Note.objects.using(alias).select_related("author").filter(title__contains="%"))
    list(Shared.objects.using(alias).prefetch_related("note").filter(note__isnull=False))
    Note.objects.using(alias).filter(author__name="x").count()
    Note.objects.using(alias).filter(parent__title="x").update(title="y")


@pytest.fixture(params=ALIASES)
def ours(request: pytest.FixtureRequest, alias: Callable[..., str], wire: Wire) -> str:
    if request.param == "not_riding":
        return alias("default", {"ride_along": False})
    return str(request.param)


@pytest.fixture
def stock(ours: str) -> Iterator[str]:
    """Return the alias of Django's own backend, with the settings that it knows."""
    entry = connections[ours].settings_dict
    options = {name: value for name, value in entry["OPTIONS"].items() if name not in OWN}
    connections["stock"] = DjangosWrapper({**entry, "OPTIONS": options}, "stock")
    yield "stock"
    connection: Any = connections["stock"]
    connection.close()
    if options.get("pool"):
        connection.close_pool()
    del connections["stock"]


@pytest.fixture
def logged(
    superuser: psycopg.Connection[Any],
) -> Callable[[Operation, str], tuple[list[str], object]]:
    """Return a function that returns what an operation has in the log, and its error."""

    def logged(operation: Operation, alias: str) -> tuple[list[str], object]:
        superuser.execute("TRUNCATE app_shared RESTART IDENTITY")
        superuser.execute(ROWS)
        error: object = None
        with CaptureQueriesContext(connections[alias]) as captured:
            try:
                operation(alias)
            except (DatabaseError, psycopg.Error) as raised:
                error = type(raised), type(raised.__cause__)
        assert all(query.keys() == {"sql", "time"} for query in captured)
        return numbered([str(query["sql"]) for query in captured]), error

    return logged


def numbered(statements: list[str]) -> list[str]:
    """Return the statements, with numbers for the names of savepoints and cursors."""
    names: dict[str, str] = {}

    def number(name: re.Match[str]) -> str:
        return names.setdefault(name[0], f"name {len(names)}")

    if settings.IS_SEALED:
        # There Django's cursors have no names.
        statements = [re.sub("^DECLARE .*? CURSOR .*?FOR ", "", each) for each in statements]
    return [re.sub(r'"(s\d+_x|_django_curs_\d+_sync_)\d+"', number, each) for each in statements]


def test_the_log_is_that_of_djangos_backend(
    ours: str,
    stock: str,
    logged: Callable[[Operation, str], tuple[list[str], object]],
    tenants: tuple[Tenant, Tenant],
) -> None:
    connections[ours].ensure_connection()
    unlogged = []
    for operation in [*OPERATIONS, reads_protected]:
        expected = logged(operation, stock)
        # The admin's queries have no condition on the tenant.
        scopes: list[Scope] = [admin_context()]
        if operation is not reads_protected:
            scopes.append(tenant_context(tenants[0].pk))
        for scope in scopes:
            with scope:
                assert logged(operation, ours) == expected, operation
        if expected == ([], None):
            unlogged.append(operation)
    # Django has no procedures in its log.
    assert unlogged == [calls]


def test_djangos_assertion_counts_the_statements_that_it_counts_on_its_own_backend(
    ours: str,
    stock: str,
    logged: Callable[[Operation, str], tuple[list[str], object]],
    tenants: tuple[Tenant, Tenant],
) -> None:
    for operation in (lists, nests, has_savepoints):
        statements, _ = logged(operation, stock)
        with (
            tenant_context(tenants[0].pk),
            TransactionTestCase().assertNumQueries(len(statements), using=ours),
        ):
            operation(ours)
