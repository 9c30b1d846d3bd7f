"""Results, errors and logs speak of the user's statement only."""

from __future__ import annotations

import pickle
from typing import Any

import psycopg
import pytest
from django.db import ProgrammingError, connections, transaction
from django.test.utils import CaptureQueriesContext
from psycopg.pq import ExecStatus

from example_asgi.servers import Postgres
from tenantry import tenant_context
from tests.app.models import Tenant

pytestmark = pytest.mark.usefixtures("tenants")
BROKEN = "SELECT 'é',\n  nonsense"


@pytest.fixture
def raw() -> Any:
    connections["default"].ensure_connection()
    return connections["default"].connection


def test_the_cursor_knows_only_the_results_of_the_statement(raw: Any) -> None:
    cursor = raw.cursor()
    cursor.execute("SELECT 1 AS one, 2 AS two")
    assert [column.name for column in cursor.description] == ["one", "two"]
    assert (cursor.rowcount, cursor.statusmessage) == (1, "SELECT 1")
    assert cursor.nextset() is None
    if hasattr(cursor, "results"):  # From psycopg 3.3 on.
        assert len(list(cursor.results())) == 1
        with pytest.raises(IndexError):
            cursor.set_result(1)


def test_rowcount_is_that_of_the_statement(tenants: tuple[Tenant, Tenant], raw: Any) -> None:
    with tenant_context(tenants[0].pk):
        cursor = raw.execute("UPDATE app_note SET title = title || '!'")
    assert (cursor.rowcount, cursor.statusmessage) == (2, "UPDATE 2")
    assert cursor.description is None
    with pytest.raises(psycopg.ProgrammingError, match="didn't produce records"):
        cursor.fetchall()


@pytest.mark.parametrize("empty", ["", "  ", "-- nothing", ";"])
def test_an_empty_statement_has_an_empty_result(raw: Any, empty: str) -> None:
    cursor = raw.execute(empty)
    assert cursor.pgresult.status == ExecStatus.EMPTY_QUERY
    assert (cursor.rowcount, cursor.statusmessage, cursor.description) == (-1, None, None)


def test_a_cursor_is_reused_over_statements_and_errors(raw: Any) -> None:
    cursor = raw.cursor()
    for _ in range(2):
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
        with pytest.raises(psycopg.errors.UndefinedColumn):
            cursor.execute(BROKEN)
    with pytest.raises(psycopg.ProgrammingError, match="no result"):
        cursor.fetchone()


def test_a_closed_cursor_refuses_statements(raw: Any) -> None:
    cursor = raw.cursor()
    cursor.close()
    with pytest.raises(psycopg.InterfaceError, match="the cursor is closed"):
        cursor.execute("SELECT 1")


def test_notifications_come_as_to_a_stock_connection(raw: Any) -> None:
    raw.execute("LISTEN news")
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_notify('news', %s)", ["1"])
    [news] = raw.notifies(timeout=10, stop_after=1)
    assert (news.channel, news.payload, news.pid) == ("news", "1", raw.info.backend_pid)
    raw.execute("UNLISTEN news")


def test_queries_log_the_statement_alone(tenants: tuple[Tenant, Tenant]) -> None:
    connection = connections["default"]
    with (
        tenant_context(tenants[0].pk),
        CaptureQueriesContext(connection) as captured,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT %s", [7])
        cursor.executemany("SELECT %s", [[1], [2]])
    assert captured[0]["sql"] == "SELECT 7"
    assert "rls." not in str(captured.captured_queries)


@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_an_error_shows_line_and_position_in_the_statement(alias: str) -> None:
    with connections[alias].cursor() as cursor, pytest.raises(ProgrammingError) as caught:
        cursor.execute(BROKEN)
    error = caught.value.__cause__
    assert isinstance(error, psycopg.errors.UndefinedColumn)
    assert str(error).splitlines()[1:] == ["LINE 2:   nonsense", "          ^"]
    assert error.diag.statement_position == str(BROKEN.index("nonsense") + 1)
    assert error.diag.sqlstate == "42703"
    assert error.pgresult is not None
    assert error.pgresult.status == ExecStatus.FATAL_ERROR
    assert pickle.loads(pickle.dumps(error)).diag.statement_position == "15"


def test_an_error_is_the_same_as_on_a_stock_connection(raw: Any, postgres: Postgres) -> None:
    stock_connection = psycopg.connect(postgres.dsn("app", "tenantry"), autocommit=True)
    for statement in [BROKEN, "\n" * 8 + "SELECT nonsense", "SELECT 1 / 0", "SELECT '" + "x" * 200]:
        errors = []
        for cursor in (raw.cursor(), psycopg.ClientCursor(stock_connection)):
            with pytest.raises(psycopg.Error) as caught:
                cursor.execute(statement)
            errors.append(caught.value)
        ours, stock = errors
        assert type(ours) is type(stock)
        assert str(ours) == str(stock)
        assert ours.diag.statement_position == stock.diag.statement_position
    stock_connection.close()


def test_mogrify_shows_the_statement_alone(raw: Any) -> None:
    assert raw.cursor().mogrify("SELECT %s", ["x"]) == "SELECT 'x'"


def test_set_transaction_is_still_the_first_of_its_transaction() -> None:
    with transaction.atomic(), connections["default"].cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("serializable",)


def test_begin_can_name_an_isolation_level(raw: Any) -> None:
    raw.execute(" /* mine */ BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert raw.execute("SHOW transaction_isolation").fetchone() == ("repeatable read",)
    raw.execute("COMMIT")
    assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
