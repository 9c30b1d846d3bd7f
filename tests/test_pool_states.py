"""The pool's connections and what is open on them: transactions by hand, closing, receivers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import psycopg
import pytest
from django.core.handlers.base import BaseHandler
from django.db import InterfaceError, OperationalError, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row
from psycopg.sql import SQL, Identifier

from tenantry import tenant_context
from tenantry.backends.postgresql.apply import first_word
from tenantry.backends.postgresql.cursor import ServerSideCursor
from tenantry.backends.postgresql.sessions import refuse_session_state
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Note, Shared, Tenant
from tests.fix_aliases import Add
from tests.fix_faults import wait_for
from tests.fix_pool import ALIAS, SIZE

Tenants = tuple[Tenant, Tenant]
pytestmark = pytest.mark.usefixtures("pool")


def write(text: str, alias: str = ALIAS) -> None:
    Shared.objects.using(alias).create(text=text)


def texts() -> list[str]:
    return sorted(Shared.objects.values_list("text", flat=True))


def in_a_thread(work: Callable[[], object]) -> None:
    """Run `work` in a thread, and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    for error in raised:
        raise error


def execute(connection: Any, statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# Closing.


def test_transactions_by_hand_end_when_the_connection_is_closed(pool: Any) -> None:
    write("before")
    pool.set_autocommit(False)
    write("given up")
    pool.close()
    write("after")
    assert pool.get_autocommit()
    assert texts() == ["after", "before"]


def test_nobody_else_is_left_in_a_transaction_by_hand(pool: Any) -> None:
    others = [connections.create_connection(ALIAS) for _ in range(SIZE)]
    try:
        for other in others:
            execute(other, "SELECT 1")  # So that a checkout is all that it takes.
        pool.set_autocommit(False)
        write("given up")
        pool.rollback()
        pool.close()
        with ExitStack() as stack:
            # Both driver connections, whichever it was.
            for number, other in enumerate(others):
                cursor = stack.enter_context(other.cursor())
                cursor.execute("INSERT INTO app_shared (text) VALUES (%s)", [f"kept {number}"])
    finally:
        for other in others:
            other.close()
    assert texts() == ["kept 0", "kept 1"]


def test_a_connection_that_is_closed_in_a_block_begins_anew(pool: Any) -> None:
    with pytest.raises(InterfaceError), transaction.atomic(using=ALIAS):
        write("given up")
        pool.close()
        raise InterfaceError
    write("in autocommit")
    with transaction.atomic(using=ALIAS):
        write("in a block")
    assert texts() == ["in a block", "in autocommit"]
    assert pool.connection is None


def test_it_answers_whether_it_is_usable_between_transactions(pool: Any) -> None:
    execute(pool, "SELECT 1")
    assert pool.connection is None
    assert pool.is_usable()
    assert pool.connection is None
    pool.close_pool()
    pool.settings_dict["PORT"], port = 1, pool.settings_dict["PORT"]
    try:
        assert not pool.is_usable()
    finally:
        pool.close_pool()
        pool.settings_dict["PORT"] = port


def test_a_hook_that_raises_keeps_no_connection(pool: Any) -> None:
    def fail() -> None:
        raise ValueError("from the hook")

    with pytest.raises(ValueError, match="from the hook"), transaction.atomic(using=ALIAS):
        write("committed")
        transaction.on_commit(fail, using=ALIAS)
    assert pool.connection is None
    assert texts() == ["committed"]


def test_databases_are_created_from_one_that_has_no_pool(pool: Any) -> None:
    with pool._nodb_cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        assert cursor.db.is_usable()


def test_a_cursor_keeps_the_connection_for_as_long_as_it_is_to(pool: Any) -> None:
    cursor = pool.cursor()
    cursor.execute("SELECT 1")
    pool.close()
    # Nor does it keep another one.
    execute(pool, "SELECT 1")
    assert pool.connection is None
    cursor = pool.cursor()
    # It goes back by its own thread only, which may be about to begin a transaction on it.
    in_a_thread(cursor.close)
    assert pool.connection is not None
    execute(pool, "SELECT 1")
    assert pool.connection is None
    cursor = pool.cursor()
    pool.taken += 1
    # As garbage is collected while a method hands out the connection.
    cursor.close()
    assert pool.connection is not None
    pool.taken -= 1
    execute(pool, "SELECT 1")
    assert pool.connection is None


# What is open on the driver's side.


def test_sql_that_begins_a_transaction_keeps_the_connection(pool: Any) -> None:
    execute(pool, "BEGIN")
    write("undone")
    execute(pool, "ROLLBACK")
    assert texts() == []
    execute(pool, "BEGIN; INSERT INTO app_shared (text) VALUES ('kept')")
    write("kept, too")
    execute(pool, "COMMIT")
    assert texts() == ["kept", "kept, too"]
    assert pool.connection is None


def test_a_failed_transaction_of_sql_keeps_it_until_it_ends(pool: Any) -> None:
    execute(pool, "BEGIN")
    with pytest.raises(Exception, match="nonsense"):
        execute(pool, "SELECT nonsense")
    assert pool.connection is not None
    execute(pool, "ROLLBACK")
    assert pool.connection is None


def test_psycopgs_own_block_keeps_the_connection(pool: Any) -> None:
    pool.ensure_connection()
    with pytest.raises(ValueError, match="undo"), pool.connection.transaction():
        write("undone")
        write("undone, too")
        raise ValueError("undo")
    assert texts() == []


def test_so_it_does_after_sql_has_ended_the_transaction(pool: Any) -> None:
    pool.ensure_connection()
    driver = pool.connection
    with driver.transaction():
        write("undone")
        execute(pool, "ROLLBACK")
        assert pool.connection is driver
        write("kept")
    assert texts() == ["kept"]
    execute(pool, "SELECT 1")
    assert pool.connection is None


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_copy_of_a_wrapper_ends_without_the_connection_of_the_original(
    mode: str, pool: Any, alias: Add
) -> None:
    added = alias(options={"pool": {"min_size": 1, "max_size": 2}, "pool_mode": mode})
    with transaction.atomic(added):
        write("first", added)
        before = set(threading.enumerate())
        copied = copy.copy(connections[added])
        del copied
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        write("second", added)
    assert texts() == ["first", "second"]


@pytest.mark.parametrize("alias", ["default", ALIAS])
@pytest.mark.parametrize("by_sql", [True, False])
def test_rows_are_iterated_in_such_transactions(by_sql: bool, alias: str, pool: Any) -> None:
    connection: Any = connections[alias]
    connection.ensure_connection()
    if by_sql:
        execute(connection, "BEGIN")
    with nullcontext() if by_sql else connection.connection.transaction():
        write("x", alias)
        assert [each.text for each in Shared.objects.using(alias).iterator(1)] == ["x"]
        if by_sql:
            execute(connection, "COMMIT")
    assert texts() == ["x"]


@pytest.mark.parametrize("alias", ["default", ALIAS])
def test_rows_are_iterated_while_another_thread_closes_a_cursor(
    alias: str, pool: Any, superuser: psycopg.Connection[Any]
) -> None:
    """An async iteration that is left closes its cursor on the thread of the event loop."""
    connection: Any = connections[alias]
    write("x", alias)
    connection.ensure_connection()
    driver = connection.connection
    with superuser.transaction():
        superuser.execute("SELECT pg_advisory_xact_lock(1)")
        # Any statement will do, and this one takes as long as it has to.
        other = threading.Thread(target=driver.execute, args=["SELECT pg_advisory_xact_lock(1)"])
        other.start()
        wait_for(lambda: driver.pgconn.transaction_status == TransactionStatus.ACTIVE)
        cursor = connection.chunked_cursor()
    other.join()
    with cursor:
        cursor.execute("SELECT text FROM app_shared")
        assert cursor.fetchall() == [("x",)]


def test_psycopgs_pipeline_keeps_the_connection(pool: Any, tenants: Tenants) -> None:
    pool.ensure_connection()
    driver = pool.connection
    with tenant_context(tenants[0].pk), driver.pipeline():
        assert Note.objects.using(ALIAS).count() == 2
        write("in the pipeline")
        assert pool.connection is driver
    assert texts() == ["in the pipeline"]


@pytest.mark.unsealed
@pytest.mark.parametrize("lost", [False, True])
def test_a_cursor_that_cannot_be_closed_keeps_no_connection(
    lost: bool, pool: Any, superuser: psycopg.Connection[Any]
) -> None:
    cursor = pool.chunked_cursor()
    cursor.execute("SELECT pg_backend_pid() FROM generate_series(1, 2)")
    (pid,) = cursor.fetchone()
    if lost:
        superuser.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    else:
        execute(pool, f'CLOSE "{cursor.name}"')
    with pytest.raises(psycopg.Error):
        cursor.close()
    assert pool.connection is None
    cursor.close()
    # Nor does the next one get the session, on which it may still be open.
    with pool.cursor() as other:
        other.execute("SELECT pg_backend_pid()")
        assert other.fetchone() != (pid,)


# Receivers of Django's signal.


def test_receivers_see_each_driver_connection_once(pool: Any) -> None:
    seen: list[int] = []

    def receive(connection: Any, **kwargs: Any) -> None:
        if connection.alias == ALIAS:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                seen.extend(cursor.fetchone())

    def hold_both() -> None:
        with connections[ALIAS].cursor() as cursor:
            cursor.execute("SELECT 1")
            in_a_thread(lambda: execute(connections[ALIAS], "SELECT 1"))

    execute(pool, "SELECT 1")
    pool.close_pool()
    connection_created.connect(receive)
    try:
        for _ in range(3):
            hold_both()
            execute(pool, "SELECT 1")
        # Whoever connects as Django does hears of it each time, as from Django's own pool.
        assert len(set(seen)) == SIZE
        at_first = len(seen)
        for _ in range(2 * SIZE):
            execute(pool, "SELECT 1")
        assert len(seen) == at_first
        pool.close_pool()
        pool.ensure_connection()
        assert pool.connection is not None
        assert len(seen) == at_first + 1
        execute(pool, "SELECT 1")
    finally:
        connection_created.disconnect(receive)


@pytest.mark.parametrize("hook", ["get_new_connection", "init_connection_state"])
def test_a_derived_engine_sees_each_driver_connection_once(
    hook: str, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    given = getattr(pool, hook)

    def derived(*args: Any) -> Any:
        found = given(*args)
        seen.append(found or pool.connection)
        return found

    monkeypatch.setattr(pool, hook, derived)
    other = connections.create_connection(ALIAS)
    for _ in range(2):
        execute(pool, "SELECT 1")
        with other.cursor() as cursor:
            cursor.execute("SELECT 1")
            execute(pool, "SELECT 1")
    other.close()
    assert len(seen) == len(set(seen)) == SIZE


def test_a_receiver_that_fails_keeps_no_connection(pool: Any) -> None:
    def fail(connection: Any, **kwargs: Any) -> None:
        raise OperationalError("from the receiver")

    execute(pool, "SELECT 1")
    pool.close_pool()
    connection_created.connect(fail)
    try:
        with pytest.raises(OperationalError, match="from the receiver"):
            execute(pool, "SELECT 1")
    finally:
        connection_created.disconnect(fail)
    assert pool.connection is None
    execute(pool, "SELECT 1")
    assert pool.connection is None


@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_the_next_one_gets_the_connection_as_the_settings_want_it(
    mode: str, in_time: bool, alias: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also who has waited in vain, and gets what somebody returns before the error is raised."""
    level = psycopg.IsolationLevel.REPEATABLE_READ
    size = {"min_size": 1, "max_size": 1, "timeout": 30 if in_time else 0.1}
    using = alias(options={"pool": size, "pool_mode": mode, "isolation_level": level})

    def choose(connection: Any, **kwargs: Any) -> None:
        if connection.alias == using:
            connection.connection.prepared_max = 7
            connection.connection.add_notice_handler(repr)
            connection.connection.add_notify_handler(repr)

    def give_back() -> None:
        for each in holding:
            if mode == "session":
                each.close()
            else:
                execute(each, "SELECT 1")
            assert each.connection is None
        holding.clear()

    connection_created.connect(choose)
    monkeypatch.setattr("tenantry.backends.postgresql.pool.collect", give_back)
    wrappers = [connections.create_connection(using) for _ in range(2)]
    holding: list[Any] = []
    try:
        execute(wrappers[0], "SELECT 1")
        for wrapper in [*wrappers, *wrappers]:
            wrapper.ensure_connection()
            driver: Any = wrapper.connection
            assert driver.isolation_level == level
            assert driver.prepared_max == 7
            assert driver.read_only is driver.deferrable is None
            assert driver.row_factory is tuple_row
            assert issubclass(driver.server_cursor_factory, ServerSideCursor)
            assert set(driver._notice_handlers) == set(driver._notify_handlers) == {repr}
            driver.add_notice_handler(print)
            driver.add_notify_handler(print)
            driver.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            driver.read_only = driver.deferrable = True
            driver.row_factory = dict_row
            driver.cursor_factory = psycopg.Cursor
            driver.server_cursor_factory = psycopg.ServerCursor
            driver.prepare_threshold = driver.prepared_max = 1
            holding.append(wrapper)
            if in_time:
                give_back()
    finally:
        connection_created.disconnect(choose)
        for wrapper in wrappers:
            wrapper.close()


def test_a_driver_connection_that_somebody_kept_is_refused_while_its_pool_has_it(pool: Any) -> None:
    with transaction.atomic(using=ALIAS):
        write("in time")
        kept = pool.connection
        cursor = kept.cursor()
    late = "INSERT INTO app_shared (text) VALUES ('late')"
    for use in (kept, cursor):
        with pytest.raises(psycopg.InterfaceError, match="has gone back to its pool"):
            use.execute(late)
    for block in (kept.pipeline, kept.transaction):
        with pytest.raises(psycopg.InterfaceError, match="has gone back"), block():
            raise AssertionError("it was opened")
    assert texts() == ["in time"]
    # Whoever asks for one next may use it.
    others = [connections.create_connection(ALIAS) for _ in range(SIZE)]
    with ExitStack() as stack:
        for other in others:
            stack.callback(other.close)
            execute(other, "BEGIN")
        assert kept in [other.connection for other in others]
        kept.commit()


def test_the_pool_itself_may_be_used(pool: Any) -> None:
    # Those that have gone back to it, too.
    others = [connections.create_connection(ALIAS) for _ in range(SIZE)]
    with ExitStack() as stack:
        for other in others:
            stack.callback(other.close)
            execute(other, "BEGIN")
        pids = {other.connection.info.backend_pid for other in others}
        for other in others:
            execute(other, "COMMIT")
    pool.pool.check()
    for _ in range(2 * SIZE):
        with pool.pool.connection() as driver:
            assert driver.info.backend_pid in pids
            driver.execute("INSERT INTO app_shared (text) VALUES ('x')")
        with pytest.raises(psycopg.InterfaceError, match="has gone back to its pool"):
            driver.execute("SELECT 1")
    assert texts() == ["x"] * 2 * SIZE


def test_a_connection_that_is_given_up_in_a_transaction_is_refused_too(pool: Any) -> None:
    with pytest.raises(InterfaceError), transaction.atomic(using=ALIAS):
        write("given up")
        kept = pool.connection
        pool.close()
        raise InterfaceError
    assert not kept.closed
    with pytest.raises(psycopg.InterfaceError, match="has gone back to its pool"):
        kept.execute("SELECT 1")


def test_a_reset_may_say_what_is_for_a_whole_session(alias: Add) -> None:
    def reset(connection: Any) -> None:
        connection.execute("RESET work_mem")

    using = alias(options={"pool": {"min_size": 1, "max_size": 1, "reset": reset}})
    connection = connections[using]
    # A parameter, which nobody takes for SQL, says that it is for the session.
    leave = "SELECT pg_backend_pid() FROM set_config('work_mem', '64kB', %s)"
    find = "SELECT pg_backend_pid() WHERE current_setting('work_mem') <> '64kB'"
    with connection.cursor() as cursor:
        cursor.execute(leave, [False])
        left = cursor.fetchone()
    with connection.cursor() as cursor:
        cursor.execute(find)
        assert cursor.fetchone() == left
    with pytest.raises(UnbindableStatementError, match="is for a whole session"):
        execute(connection, "RESET work_mem")


# What would stay on the session.


@pytest.mark.parametrize(
    "statement",
    [
        "DISCARD ALL",
        "RESET timezone",
        "SET/**/timezone = 'UTC'",
        "/* /**/ */SET--\n/* LOCAL */timezone = 'UTC'",
        "SELECT 1; LISTEN news",
        "SELECT title INTO/**/TEMP/**/t FROM app_note",
        "WITH n AS (SELECT 1) SELECT * INTO TEMPORARY TABLE t FROM n",
        "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
        "CREATE/**/OR REPLACE/**/TEMP VIEW v AS SELECT 1",
        "CREATE TABLE pg_temp.leak AS SELECT * FROM app_note",
        'create unlogged table if not exists "pg_temp" . leak as select 1',
        "CREATE TABLE pg_temp.leak ON COMMIT PRESERVE ROWS AS SELECT 1",
        "EXPLAIN ANALYZE CREATE TABLE pg_temp_3.leak AS SELECT 1",
        "CREATE VIEW pg_temp.v AS SELECT 1",
        "SELECT title INTO pg_temp.leak FROM app_note",
        "SELECT title INTO TABLE pg_temp.leak FROM app_note",
        "WITH n AS (SELECT 1) SELECT * INTO UNLOGGED TABLE pg_temp.leak FROM n",
        'SELECT pg_catalog."pg_advisory_lock"/**/(4)',
        "SELECT set_config('work_mem', '1GB', false)",
        "SELECT pg_catalog.set_config('app.said', 'it''s ('::text, is_local/**/=> FALSE)",
        "SELECT set_config('work_mem', 'pg_advisory_lock(', 'False')",
        "SELECT 'it''s; SET x', E'\\'; SET x', $$;$$, \"'\" FROM (SELECT 1) t(\"'\"); LISTEN news",
        "SELECT 1 -- it's\n; LISTEN news -- it's",
        "DO $$ BEGIN PERFORM pg_advisory_lock(4); END $$",
        "DO 'BEGIN PERFORM pg_advisory_lock(4); END'",
        "do/**/language plpgsql E'BEGIN PERFORM pg_advisory_lock(4); END'",
    ],
)
def test_what_would_stay_on_the_session_is_refused(statement: str, pool: Any) -> None:
    with pytest.raises(UnbindableStatementError, match="is for a whole session"):
        execute(pool, statement)


def test_so_is_what_a_named_cursor_would_leave(pool: Any) -> None:
    refused = pytest.raises(UnbindableStatementError, match="is for a whole session")
    with transaction.atomic(using=ALIAS), pool.connection.cursor("c") as cursor, refused:
        cursor.execute("SELECT pg_advisory_lock(%s)", [4])


@pytest.fixture
def temporary(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Let the app make temporary objects, which in the sealed shape nobody does."""
    superuser.execute("GRANT TEMPORARY ON DATABASE tenantry TO app")
    yield
    superuser.execute("REVOKE TEMPORARY ON DATABASE tenantry FROM app")


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TEMP TABLE t (n int) ON/**/COMMIT DROP",
        "CREATE TABLE pg_temp.t (n int) ON COMMIT DROP",
        "CREATE TEMP TABLE t (n int) ON COMMIT DROP; WITH n AS (SELECT 1)"
        " INSERT INTO pg_temp.t SELECT * FROM n; SELECT * FROM pg_temp.t",
        "SET /* SESSION */LOCAL work_mem = '1MB'",
        "INSERT INTO app_shared (text) VALUES ('x')",
        "SELECT set_config('app.said', 'it''s (x, false)', true), false",
    ],
)
def test_what_ends_with_the_transaction_is_not(statement: str, pool: Any) -> None:
    with transaction.atomic(using=ALIAS):
        execute(pool, statement)


@pytest.mark.parametrize("params", [None, [0]])
def test_a_cursor_with_hold_that_keeps_no_connection_is_refused(params: Any, pool: Any) -> None:
    statement = "SELECT title FROM app_note" + (" WHERE id > %s" if params else "")
    pool.ensure_connection()
    with (
        pool.connection.cursor("held", withhold=True) as held,
        pytest.raises(UnbindableStatementError, match="'held' cannot be WITH HOLD: its connection"),
    ):
        held.execute(statement, params)
    # Django's keep it, until they are closed.
    with pool.chunked_cursor() as cursor:
        cursor.execute(statement, params)
        assert pool.connection is not None
    assert pool.connection is None


def test_what_a_parameter_says_is_no_sql(pool: Any) -> None:
    text = "; LISTEN to pg_advisory_lock(1)"
    write(text)
    assert texts() == [text]
    with pool.cursor() as cursor:
        for statement in (b"SELECT %s", SQL("SELECT {}, %s").format(1)):
            cursor.execute(statement, [text])
            assert cursor.fetchone()[-1] == text
        with cursor.copy("COPY (SELECT %s) TO STDOUT", [text]) as copy:
            assert list(copy.rows()) == [(text,)]
        with pytest.raises(UnbindableStatementError):
            cursor.execute(SQL("SELECT 1; LISTEN {}").format(Identifier("x")))


@pytest.mark.parametrize(
    "said",
    [
        "a; SET b",
        "it's pg_advisory_lock(1)",
        "\\'; CREATE TEMP TABLE t (n int)",
        "set_config('a', 'b', false)",
    ],
)
def test_what_a_string_says_is_no_sql(said: str, pool: Any) -> None:
    with pool.cursor() as cursor:
        cursor.callproc("upper", [said])
        assert cursor.fetchall() == [(said.upper(),)]
        for statement in (cursor.mogrify("SELECT %s", [said]), SQL("SELECT {}").format(said)):
            cursor.execute(statement)
            assert cursor.fetchall() == [(said,)]
        cursor.execute("SELECT 'a''; LISTEN b' /* ; LISTEN it's */, 1 -- ; LISTEN it's")
        assert cursor.fetchall() == [("a'; LISTEN b", 1)]


@pytest.mark.parametrize("ahead", [b" ", b"\n", b"--\n", b"/**/", b"-- a\n /* b */ "])
def test_what_comes_before_a_statement_takes_no_time(ahead: bytes) -> None:
    # With a quantifier in another this would not end.
    refuse_session_state(ahead * 3000 + b"(SELECT 1)")
    refuse_session_state(b"SELECT " + b"set_config('," * 30000)
    refuse_session_state(b"CREATE" + ahead * 3000 + b"x" + ahead * 3000 + b"TABLE")
    assert first_word(ahead * 3000 + b"(SELECT 1)") == b""
    assert first_word(ahead * 3000 + b"SELECT 1") == b"SELECT"


# Views in transactions.


@pytest.mark.parametrize("fails", [False, True])
def test_a_view_in_a_transaction_holds_the_connection_as_long(pool: Any, fails: bool) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        write("by the view")
        assert pool.connection is not None
        if fails:
            raise ValueError("from the view")
        return HttpResponse()

    settings = connections.settings[ALIAS]
    settings["ATOMIC_REQUESTS"] = True
    try:
        in_transaction: Any = BaseHandler().make_view_atomic(view)
        if fails:
            with pytest.raises(ValueError, match="from the view"):
                in_transaction(HttpRequest())
        else:
            in_transaction(HttpRequest())
    finally:
        settings["ATOMIC_REQUESTS"] = False
    assert pool.connection is None
    assert texts() == ([] if fails else ["by the view"])
