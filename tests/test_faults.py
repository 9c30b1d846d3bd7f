"""Connections that break, at every place of a request: as with stock Django, and then it works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import psycopg
import pytest
from django.db import (
    DatabaseError,
    InterfaceError,
    InternalError,
    OperationalError,
    connections,
    transaction,
)

from tests.app.models import Tenant
from tests.fix_faults import (
    KINDS,
    STOCK_OF,
    Outcome,
    Site,
    assert_whole,
    forget,
    outcome_of,
)

Tenants = tuple[Tenant, Tenant]
Fault = Callable[[], None]


def ask(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::int", [1])
        assert cursor.fetchone() == (1,)


def between_statements(connection: Any, fault: Fault) -> None:
    ask(connection)
    fault()
    ask(connection)


def before_the_first_statement(connection: Any, fault: Fault) -> None:
    ask(connection)
    with transaction.atomic(using=connection.alias):
        fault()
        ask(connection)


def after_the_first_statement(connection: Any, fault: Fault) -> None:
    with transaction.atomic(using=connection.alias):
        ask(connection)
        fault()
        ask(connection)


def in_a_nested_block(connection: Any, fault: Fault) -> None:
    with transaction.atomic(using=connection.alias):
        ask(connection)
        with transaction.atomic(using=connection.alias):
            fault()
            ask(connection)


def after_a_nested_block(connection: Any, fault: Fault) -> None:
    with transaction.atomic(using=connection.alias):
        with transaction.atomic(using=connection.alias):
            ask(connection)
        fault()


def at_commit(connection: Any, fault: Fault) -> None:
    with transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO app_shared (text) VALUES ('lost')")
        fault()


def at_rollback(connection: Any, fault: Fault) -> None:
    with transaction.atomic(using=connection.alias):
        ask(connection)
        fault()
        raise ZeroDivisionError


def in_a_named_cursor(connection: Any, fault: Fault) -> None:
    # One of the driver, because Django's has no name where the binding is sealed.
    with (
        transaction.atomic(using=connection.alias),
        connection.wrap_database_errors,
        connection.connection.cursor("c") as cursor,
    ):
        cursor.execute("SELECT generate_series(1, 10)")
        assert cursor.fetchmany(2) == [(1,), (2,)]
        fault()
        cursor.fetchmany(2)


def before_a_stream(connection: Any, fault: Fault) -> None:
    ask(connection)
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        fault()
        list(cursor.stream("SELECT 1"))


def before_copy(connection: Any, fault: Fault) -> None:
    ask(connection)
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        fault()
        with cursor.copy("COPY app_shared (text) FROM STDIN") as copy:
            copy.write("lost\n")


def in_copy(connection: Any, fault: Fault) -> None:
    with (
        transaction.atomic(using=connection.alias),
        connection.cursor() as cursor,
        cursor.copy("COPY app_shared (text) FROM STDIN") as copy,
    ):
        copy.write("lost\n")
        fault()
        copy.write("lost\n")


def before_executemany(connection: Any, fault: Fault) -> None:
    ask(connection)
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        fault()
        cursor.executemany("INSERT INTO app_shared (text) VALUES (%s)", [["lost"]])


LOST = "INSERT INTO app_shared (text) VALUES ('lost')"


def before_a_pipeline(connection: Any, fault: Fault) -> None:
    """Be in a transaction that has begun, before psycopg's pipeline mode is entered."""
    with (
        transaction.atomic(using=connection.alias),
        connection.wrap_database_errors,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")
        fault()
        with cursor.connection.pipeline():
            cursor.connection.execute(LOST)


def in_a_pipeline(connection: Any, fault: Fault) -> None:
    """Be between two statements of it, the first of which has been run."""
    with (
        transaction.atomic(using=connection.alias),
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.connection.pipeline() as pipeline,
    ):
        cursor.connection.execute(LOST)
        pipeline.sync()
        fault()
        cursor.connection.execute(LOST)


def at_the_end_of_a_pipeline(connection: Any, fault: Fault) -> None:
    """Be outside a transaction, where its statements are one up to the Sync."""
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.connection.pipeline(),
    ):
        cursor.connection.execute(LOST)
        assert cursor.connection.execute("SELECT 1").fetchone() == (1,)
        cursor.connection.execute(LOST)
        fault()


PIPELINES = [before_a_pipeline, in_a_pipeline, at_the_end_of_a_pipeline]
PLACES = [
    between_statements,
    before_the_first_statement,
    after_the_first_statement,
    in_a_nested_block,
    after_a_nested_block,
    at_commit,
    at_rollback,
    in_a_named_cursor,
    before_a_stream,
    before_copy,
    in_copy,
    before_executemany,
]
# Where statements with server-side parameters go otherwise.
ON_SERVER = [
    between_statements,
    before_the_first_statement,
    after_the_first_statement,
    in_a_nested_block,
    after_a_nested_block,
    before_executemany,
]


def terminate(site: Site) -> None:
    site.terminate()


def cut(site: Site) -> None:
    for path in site.paths.values():
        path.cut()


def kill_pooler(site: Site) -> None:
    site.lose_clients(site.bouncer.kill)
    site.bouncer.start()


def restart_pooler(site: Site) -> None:
    site.lose_clients(site.bouncer.stop)
    site.bouncer.start()


def drop_clients(site: Site) -> None:
    site.lose_clients(lambda: site.bouncer.admin("KILL tenantry"))
    site.bouncer.admin("RESUME tenantry")


FAULTS = [
    ("direct", terminate),
    ("direct", cut),
    ("bounced", terminate),
    ("bounced", cut),
    ("bounced", kill_pooler),
    ("bounced", restart_pooler),
    ("bounced", drop_clients),
]


@pytest.fixture(params=FAULTS, ids=lambda fault: f"{fault[1].__name__}-{fault[0]}")
def fault(request: pytest.FixtureRequest, site: Site) -> tuple[str, Fault]:
    path, happen = request.param
    return path, lambda: happen(site)


def both(kind: str, path: str, run: Callable[[Any], object]) -> tuple[Outcome, Outcome]:
    """Return what happens with stock Django, and what happens with ours."""
    outcomes = []
    for engine in (STOCK_OF[kind], kind):
        wrapper: Any = connections[f"{path}_{engine}"]
        if wrapper.pool:
            # Nobody connects while the fault happens.
            wrapper.pool.open(wait=True)
        outcomes.append(outcome_of(lambda wrapper=wrapper: run(wrapper)))  # type: ignore[misc]
        if engine != kind:
            forget(wrapper)
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *product(KINDS, PLACES),
        *product(["server_side"], ON_SERVER),
        *product(["plain", "transaction"], PIPELINES),
    ],
)
def test_it_fails_as_stock_django_does_and_the_next_request_works(
    kind: str,
    place: Callable[[Any, Fault], None],
    fault: tuple[str, Fault],
    site: Site,
    tenants: Tenants,
) -> None:
    path, happen = fault
    stock, ours = both(kind, path, lambda connection: place(connection, happen))
    if place is between_statements and kind == "transaction":
        # The connection was back in the pool, which looks before it lends one.
        assert ours is None
    elif stock == (InternalError, psycopg.InternalError, None):
        # psycopg loses the reason that PgBouncer gives for COMMIT and FETCH. It is not lost when
        # they have something of ours in front.
        assert ours in (stock, (OperationalError, psycopg.errors.ProtocolViolation, "08P01"))
    elif (place is in_a_nested_block or kind == "server_side") and ours and stock:
        # What is in front of the statement goes in one pipeline with it, in which psycopg may read
        # the end of the connection before the error that says why.
        assert ours[0] is stock[0]
        assert ours[1:] in (stock[1:], (psycopg.OperationalError, None))
    else:
        assert ours == stock
    assert_whole(site, f"{path}_{kind}", tenants)
    # PgBouncer hides what happens to a server session between two transactions.
    written = 2 if stock is None and place in (before_copy, before_executemany) else 0
    assert site.value("SELECT count(*) FROM app_shared") == written


@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_that_runs_is_interrupted_as_in_stock_django(
    kind: str, fault: tuple[str, Fault], site: Site, tenants: Tenants
) -> None:
    path, happen = fault

    def run(connection: Any) -> None:
        # A server session notices late that nobody waits for it, so each has a name.
        statement = f"SELECT pg_sleep(30) AS {connection.alias}"

        def wait() -> None:
            site.wait_for_activity(statement)
            happen()

        saboteur = threading.Thread(target=wait)
        saboteur.start()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            saboteur.join()

    stock, ours = both(kind, path, run)
    assert ours == stock
    assert ours
    assert issubclass(ours[0], DatabaseError | InterfaceError)
    assert_whole(site, f"{path}_{kind}", tenants)
