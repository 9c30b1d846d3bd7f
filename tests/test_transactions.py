"""Transaction control rides along: what it costs, and that nothing else about it is different."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    ProgrammingError,
    connections,
    transaction,
)
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from psycopg.pq import TransactionStatus

from tenantry import admin_context, tenant_context
from tenantry.backends.postgresql import parsed
from tenantry.exceptions import UnbindableStatementError
from tests.app.models import Note, Shared, Tenant
from tests.fix_servers import WIRED
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
ALIAS = "wire"
# Django 6.1 renamed it.
new_savepoint: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint


@pytest.fixture(autouse=True)
def nothing_is_known_to_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "_known", set())


def atomic(**options: Any) -> Any:
    return transaction.atomic(using=ALIAS, **options)


def read() -> list[tuple[int]]:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("SELECT 1")
        rows: list[tuple[int]] = cursor.fetchall()
        return rows


def write(text: str) -> None:
    Shared.objects.using(ALIAS).create(text=text)


def fail(statement: str = "SELECT nonsense") -> None:
    connections[ALIAS].cursor().execute(statement)


def written() -> list[str]:
    return sorted(Shared.objects.values_list("text", flat=True))


def control(wire: Wire) -> list[str]:
    """Return the transaction control on the wire, a line a message, savepoints by number."""
    names: dict[str, str] = {}
    lines = []
    for query in wire.queries:
        words = []
        for statement in query.replace("\n", ";").split(";"):
            verb, _, name = statement.partition('"')
            if verb.startswith(("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT")):
                number = names.setdefault(name, f"s{len(names) + 1}") if name else ""
                words.append((verb.split()[0] + " " + number).strip())
            elif verb.startswith(("SELECT 1", "INSERT")):
                words.append(verb.split()[0])
        lines.append("; ".join(words))
    return lines


def nested() -> None:
    with atomic(), atomic():
        read()


def three_nested() -> None:
    with atomic():
        for _ in range(3):
            with atomic():
                read()


def empty() -> None:
    with atomic(), atomic():
        pass


def empty_savepoint() -> None:
    with atomic():
        read()
        with atomic():
            pass


def plain() -> None:
    with atomic():
        read()


def rolled_back() -> None:
    with atomic():
        read()
        transaction.set_rollback(True, using=ALIAS)


def never_sent() -> None:
    with atomic(), atomic():
        transaction.set_rollback(True, using=ALIAS)


def inner_rolled_back() -> None:
    with atomic():
        with atomic():
            read()
            transaction.set_rollback(True, using=ALIAS)
        read()


CASES: list[tuple[Callable[[], None], list[str], int]] = [
    (empty, [], 0),
    (never_sent, [], 0),
    (plain, ["BEGIN; SELECT", "COMMIT"], 2),
    (rolled_back, ["BEGIN; SELECT", "ROLLBACK"], 2),
    (empty_savepoint, ["BEGIN; SELECT", "COMMIT"], 2),
    (nested, ["BEGIN; SAVEPOINT s1; SELECT", "RELEASE s1; COMMIT"], 2),
    (
        three_nested,
        [
            "BEGIN; SAVEPOINT s1; SELECT",
            # Sent one by one, in case that the server cannot parse the statement.
            "RELEASE s1",
            "SAVEPOINT s2",
            "",
            "SELECT",
            # It could.
            "RELEASE s2; SAVEPOINT s3; SELECT",
            "RELEASE s3; COMMIT",
        ],
        4,
    ),
    (
        inner_rolled_back,
        ["BEGIN; SAVEPOINT s1; SELECT", "ROLLBACK s1", "RELEASE s1; SELECT", "COMMIT"],
        4,
    ),
]


@pytest.mark.parametrize(("block", "messages", "round_trips"), CASES)
def test_control_rides_with_statements(
    block: Callable[[], None], messages: list[str], round_trips: int, wire: Wire
) -> None:
    block()
    assert control(wire) == messages
    assert wire.round_trips == round_trips
    assert connections[ALIAS].connection.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.parametrize("block", [case[0] for case in CASES])
def test_the_log_is_djangos(
    block: Callable[[], None], wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logged() -> list[str]:
        with CaptureQueriesContext(connections[ALIAS]) as captured:
            block()
        return [query["sql"].partition('"')[0] for query in captured]

    riding = logged()
    monkeypatch.setattr(connections[ALIAS].connection, "rides", False)
    assert riding == logged()


@contextmanager
def connected_with(**options: Any) -> Iterator[None]:
    """Connect anew, to both aliases of the wire, with other OPTIONS."""
    before = {alias: connections.settings[alias]["OPTIONS"] for alias in WIRED}

    def use(given: dict[str, dict[str, Any]]) -> None:
        for alias in WIRED:
            connections[alias].close()
            del connections[alias]
            connections.settings[alias]["OPTIONS"] = given[alias]
            connections[alias].ensure_connection()

    use({alias: {**before[alias], **options} for alias in WIRED})
    try:
        yield
    finally:
        use(before)


@pytest.fixture(params=[True, False], ids=["riding", "in messages of its own"])
def either_way(request: pytest.FixtureRequest, wire: Wire) -> Iterator[None]:
    """Run a test with transaction control that rides along, and with such that does not."""
    with connected_with(ride_along=request.param):
        yield


def test_an_option_turns_it_off(wire: Wire) -> None:
    with connected_with(ride_along=False):
        wire.clear()
        nested()
        assert control(wire) == ["BEGIN", "SAVEPOINT s1", "SELECT", "RELEASE s1", "COMMIT"]


@pytest.mark.usefixtures("either_way")
def test_committed_rows_are_there_and_rolled_back_ones_are_not(wire: Wire) -> None:
    with atomic():
        write("outer")
        with atomic():
            write("inner")
        with pytest.raises(ProgrammingError), atomic():
            write("lost")
            fail()
        with atomic():
            write("after the error")
            transaction.set_rollback(True, using=ALIAS)
        write("last")
    assert written() == ["inner", "last", "outer"]


BROKEN = ["SELECT nonsense", "SELEC 1", "SELECT 'unterminated", "SELECT 1; SELEC 2", "SELECT 1/0"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("statement", BROKEN)
@pytest.mark.parametrize("first", [False, True])
def test_a_savepoint_undoes_any_error(statement: str, first: bool, wire: Wire) -> None:
    """Also one that stops the server from parsing the message, savepoint included."""
    with atomic():
        if not first:
            write("kept")
        with pytest.raises((ProgrammingError, DataError)), atomic():
            fail(statement)
        write("after")
    assert written() == (["after"] if first else ["after", "kept"])


def test_it_does_where_the_driver_is_asked_to_prepare_the_statement(wire: Wire) -> None:
    with atomic():
        write("kept")
        with pytest.raises(psycopg.errors.SyntaxError), atomic():
            connections[ALIAS].connection.execute("SELEC 1", prepare=True)
        write("after")
    assert written() == ["after", "kept"]


def test_what_the_server_has_parsed_once_shares_a_message_with_the_savepoint(wire: Wire) -> None:
    def save(text: str | int) -> list[str]:
        wire.clear()
        with atomic(), connections[ALIAS].cursor() as cursor:
            read()
            with atomic():
                cursor.execute("INSERT INTO app_shared (text) VALUES (%s)", [text])
        return control(wire)

    known = ["BEGIN; SELECT", "SAVEPOINT s1; INSERT", "RELEASE s1; COMMIT"]
    unknown = ["BEGIN; SELECT", "SAVEPOINT s1", "", "INSERT", "RELEASE s1; COMMIT"]
    assert save("a") == unknown
    assert save("b") == known
    # Of another type, which has literals of another form, or with a sign, or too long for an int.
    assert save(1) == unknown
    assert save(2) == known
    assert save(-2) == unknown
    assert save(2**31) == unknown
    assert save("c" * parsed.LONGEST) == known
    assert written() == sorted(["-2", "1", "2", str(2**31), "a", "b", "c" * parsed.LONGEST])


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("expression", "ones", "other"),
    [
        ("'x'::varchar(%s)", [5, 6], 99999999999),
        ("'2026-11-28'::timestamp(%s)", [1, 2], -1),
    ],
)
def test_a_value_that_the_grammar_refuses_ends_its_savepoint_only(
    wire: Wire, expression: str, ones: list[int], other: int
) -> None:
    with atomic():
        for value in (*ones, other):
            with (
                suppress(ProgrammingError, DataError),
                atomic(),
                connections[ALIAS].cursor() as cursor,
            ):
                cursor.execute(f"SELECT {expression}", [value])
        assert read() == [(1,)]


def test_what_is_known_to_parse_is_bounded(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "MOST", 3)
    with atomic():
        for number in range(8):
            read()
            with atomic():
                connections[ALIAS].cursor().execute(f"SELECT {number}")
            with atomic():
                connections[ALIAS].cursor().execute("SELECT 1 -- " + "x" * parsed.LONGEST)
    assert len(parsed._known) == 2


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        # The grammar has these literals here, and no others.
        ("SELECT INTERVAL %s", [["1 s"], [None]]),
        ("SELECT 1 IS %s", [[None], [1]]),
        ("SELECT %s; SELECT %s", [[1, 2], [[1], None], ["a", "b"]]),
        # An error that is not the parser's.
        ("SELECT 1 / %s", [[1], [0], [0]]),
        # What does not tell.
        ("SELECT %(a)s", [{"a": 1}, {"a": 2}]),
        # Of a type whose literals have several forms.
        ("SELECT %s", [[1.5], [-1.5], [float("nan")], [Decimal(1)], [Decimal("NaN")], ["a\\b"]]),
    ],
)
def test_errors_after_what_is_known_to_parse_are_undone_up_to_the_savepoint(
    statement: str, parameters: list[Any], wire: Wire
) -> None:
    with atomic():
        write("kept")
        for values in parameters:
            with suppress(ProgrammingError, DataError), atomic():
                write("lost")
                with atomic():
                    connections[ALIAS].cursor().execute(statement, values)
                transaction.set_rollback(True, using=ALIAS)
        write("after")
    assert written() == ["after", "kept"]


def test_a_character_that_the_database_lacks_is_undone_up_to_the_savepoint(
    superuser: psycopg.Connection[Any], project: Any
) -> None:
    """It is refused before the message is parsed."""
    superuser.execute(
        "CREATE DATABASE latin OWNER owner ENCODING latin1 LOCALE 'C' TEMPLATE template0"
    )
    connection = connections.create_connection("default")
    connection.settings_dict = {**connection.settings_dict, "NAME": "latin"}
    connections["default"].close()
    connections["default"] = connection
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            for text in ["a", "b", "\N{EURO SIGN}", "c"]:
                with suppress(DataError), transaction.atomic():
                    cursor.execute("SELECT %s", [text])
                    seen = cursor.fetchone()
        assert seen == ("c",)
    finally:
        connection.close()
        del connections["default"]
        superuser.execute("DROP DATABASE latin")


def test_who_looks_at_statements_finds_those_of_savepoints(wire: Wire) -> None:
    def nest() -> None:
        with atomic(), suppress(ZeroDivisionError):
            with atomic():
                read()
            with atomic():
                raise ZeroDivisionError

    seen: list[str] = []

    def look(execute: Any, sql: str, *args: Any) -> Any:
        seen.append(sql)
        return execute(sql, *args)

    with connections[ALIAS].execute_wrapper(look):
        nest()
    with CaptureQueriesContext(connections[ALIAS]) as captured:
        nest()
    for found in (seen, [query["sql"] for query in captured]):
        verbs = [sql.split()[0] for sql in found if sql not in ("BEGIN", "COMMIT")]
        rolled_back = ["SAVEPOINT", "ROLLBACK", "RELEASE"]
        assert verbs == ["SAVEPOINT", "SELECT", "RELEASE", *rolled_back]


@pytest.mark.usefixtures("either_way")
def test_no_savepoint_waits_in_a_transaction_that_is_to_be_rolled_back(wire: Wire) -> None:
    with atomic():
        sid = new_savepoint(using=ALIAS)
        transaction.set_rollback(True, using=ALIAS)
        for act in (transaction.savepoint_commit, transaction.savepoint_rollback):
            with pytest.raises(TransactionManagementError):
                act(sid, using=ALIAS)
        with pytest.raises(TransactionManagementError):
            new_savepoint(using=ALIAS)


def stream_broken(connection: Any) -> None:
    list(connection.cursor().stream("SELEC 1"))


def copy_broken(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY ("):
        pass


def declare_broken(connection: Any) -> None:
    with connection.connection.cursor("c") as cursor:
        cursor.execute("SELEC 1")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("broken", [*BROKEN, stream_broken, copy_broken, declare_broken])
def test_an_error_ends_the_transaction_it_is_in(
    broken: str | Callable[[Any], None], wire: Wire
) -> None:
    connection = connections[ALIAS]
    connection.set_autocommit(False)
    try:
        with pytest.raises((ProgrammingError, DataError, psycopg.errors.SyntaxError)):
            if isinstance(broken, str):
                fail(broken)
            else:
                broken(connection)
        with pytest.raises(InternalError, match="current transaction is aborted"):
            read()
        connection.rollback()
        assert read() == [(1,)]
        connection.rollback()
    finally:
        connection.set_autocommit(True)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("alias", ["wire", "wire_server_side"])
def test_an_error_in_autocommit_begins_no_transaction_of_an_earlier_statement(
    alias: str, wire: Wire, tenants: Tenants
) -> None:
    connection: Any = connections[alias]
    with connection.cursor() as cursor, connection.connection.cursor("c") as named:
        with transaction.atomic(using=alias):
            named.execute("SELECT 1")
        with transaction.atomic(using=alias):
            cursor.execute("SELECT 1")
        with tenant_context(tenants[0].pk):
            with pytest.raises(DataError, match="division by zero"):
                cursor.execute("SELECT 1/0")
            assert connection.connection.info.transaction_status == TransactionStatus.IDLE
            with pytest.raises(psycopg.ProgrammingError, match="2 placeholders but 1 parameters"):
                named.execute("SELECT %s, %s", [1])
            assert connection.connection.info.transaction_status == TransactionStatus.IDLE
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


PAIR = "SELECT %s, %s"


def execute_one(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(PAIR, [1])


def execute_many(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(PAIR, [[1], [2]])


def stream_one(connection: Any) -> None:
    with connection.cursor() as cursor:
        list(cursor.stream(PAIR, [1]))


def copy_one(connection: Any) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY ({PAIR}) TO STDOUT", [1]):
        pass


def declare_one(connection: Any) -> None:
    with connection.connection.cursor("c") as cursor:
        cursor.execute(PAIR, [1])


def prepare_one(connection: Any) -> None:
    connection.connection.execute(PAIR, [1], prepare=True)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    "send", [execute_one, execute_many, stream_one, copy_one, declare_one, prepare_one]
)
@pytest.mark.parametrize("alias", WIRED)
def test_a_statement_that_cannot_be_sent_leaves_the_savepoint_as_it_is(
    alias: str, send: Callable[[Any], None]
) -> None:
    """Its parameters are looked at before anything is sent, the savepoint included."""
    connection = connections[alias]
    notes = Shared.objects.using(alias)

    def refused() -> Any:
        # Django does not wrap the errors of what it does not have.
        return pytest.raises((ProgrammingError, psycopg.ProgrammingError), match="2 placeholders")

    for known in (False, True):
        with transaction.atomic(using=alias):
            notes.create(text="kept")
            with refused(), transaction.atomic(using=alias):
                if known:
                    notes.create(text="lost")
                send(connection)
            notes.create(text="after")
            with transaction.atomic(using=alias):
                with refused():
                    send(connection)
                notes.create(text="inside")
            with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                with refused():
                    send(connection)
                notes.create(text="undone")
                raise ZeroDivisionError
        assert written() == ["after", "inside", "kept"]
        Shared.objects.all().delete()


@pytest.mark.usefixtures("either_way")
def test_manual_transactions_begin_again_by_themselves(wire: Wire) -> None:
    connection = connections[ALIAS]
    connection.set_autocommit(False)
    try:
        write("one")
        connection.commit()
        write("two")
        connection.rollback()
        write("three")
        connection.commit()
    finally:
        connection.set_autocommit(True)
    assert written() == ["one", "three"]


@pytest.mark.usefixtures("either_way")
def test_savepoints_by_hand(wire: Wire) -> None:
    with atomic():
        one = new_savepoint(using=ALIAS)
        two = new_savepoint(using=ALIAS)
        transaction.savepoint_rollback(one, using=ALIAS)
        write("a")
        transaction.savepoint_rollback(one, using=ALIAS)
        write("b")
        three = new_savepoint(using=ALIAS)
        transaction.savepoint_commit(three, using=ALIAS)
        transaction.savepoint_commit(one, using=ALIAS)
        assert two != three
    assert written() == ["b"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("end", [transaction.savepoint_commit, transaction.savepoint_rollback])
def test_a_savepoint_ends_with_the_one_around_it(end: Callable[..., None], wire: Wire) -> None:
    with suppress(ZeroDivisionError), atomic():
        outer = new_savepoint(using=ALIAS)
        write("a")
        inner = new_savepoint(using=ALIAS)
        end(outer, using=ALIAS)
        with pytest.raises(DatabaseError, match="does not exist"):
            transaction.savepoint_rollback(inner, using=ALIAS)
        raise ZeroDivisionError


@pytest.mark.usefixtures("either_way")
def test_durable_and_on_commit(wire: Wire) -> None:
    done = []
    with atomic(durable=True):
        with pytest.raises(RuntimeError, match="durable"), atomic(durable=True):
            pass
        transaction.on_commit(lambda: done.append(written()), using=ALIAS)
        write("x")
        with atomic(savepoint=False):
            write("y")
    assert done == [["x", "y"]]


@pytest.mark.usefixtures("either_way")
def test_an_error_in_a_block_without_savepoint_breaks_the_outer_one(wire: Wire) -> None:
    with atomic():
        write("lost")
        with pytest.raises(ProgrammingError), atomic(savepoint=False):
            fail()
        with pytest.raises(TransactionManagementError):
            read()
    assert written() == []


@pytest.mark.usefixtures("either_way")
def test_a_deferred_constraint_fails_at_commit(wire: Wire) -> None:
    with pytest.raises(IntegrityError), atomic(), atomic():
        Shared.objects.using(ALIAS).create(text="x", note_id=10**6)
    assert read() == [(1,)]
    assert written() == []


def test_the_isolation_level_rides_with_begin(wire: Wire) -> None:
    with (
        connected_with(isolation_level=psycopg.IsolationLevel.SERIALIZABLE),
        atomic(),
        connections[ALIAS].cursor() as cursor,
    ):
        wire.clear()
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("serializable",)
    assert wire.queries[0].startswith("BEGIN ISOLATION LEVEL SERIALIZABLE;")


@pytest.mark.usefixtures("either_way")
def test_psycopgs_own_transactions_nest_inside(wire: Wire) -> None:
    connection = connections[ALIAS].connection
    with atomic():
        write("outer")
        with atomic():
            with pytest.raises(ZeroDivisionError), connection.transaction():
                write("lost")
                raise ZeroDivisionError
            with connection.transaction():
                write("kept")
    assert written() == ["kept", "outer"]


def test_the_drivers_statements_are_in_the_block(wire: Wire) -> None:
    connection = connections[ALIAS].connection
    with atomic():
        with atomic():
            connection.execute("INSERT INTO app_shared (text) VALUES ('raw')")
        assert connection.info.transaction_status == TransactionStatus.INTRANS
        assert connection.autocommit is False
    assert written() == ["raw"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("sent", [0, 1, 2])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_drivers_commit_and_rollback_end_all_savepoints(end: str, sent: int) -> None:
    """Those that the server has, and those that wait: of two, `sent` are of the first kind."""
    connection = connections[ALIAS]
    connection.set_autocommit(False)
    try:
        write("first")
        savepoints = []
        for number in range(2):
            savepoints.append(new_savepoint(using=ALIAS))
            if number < sent:
                write(f"in savepoint {number}")
        getattr(connection.connection, end)()
        assert connection.connection.info.transaction_status == TransactionStatus.IDLE
        kept = ["first", *(f"in savepoint {number}" for number in range(sent))]
        assert written() == (kept if end == "commit" else [])
        # Nothing of them is in the next transaction.
        for act in (transaction.savepoint_commit, transaction.savepoint_rollback):
            for savepoint in savepoints:
                write("lost")
                with pytest.raises(OperationalError, match=r"savepoint .* does not exist"):
                    act(savepoint, using=ALIAS)
                connection.rollback()
        write("last")
        connection.connection.commit()
        assert written() == sorted([*(kept if end == "commit" else []), "last"])
    finally:
        connection.set_autocommit(True)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_block_that_the_driver_has_ended_cannot_go_on(end: str, sent: bool) -> None:
    driver = connections[ALIAS].connection
    with pytest.raises(OperationalError, match=r"savepoint .* does not exist"), atomic():
        write("first")
        with atomic():
            if sent:
                write("inside")
            getattr(driver, end)()
            write("lost")
    assert written() == (["first", "inside"][: 1 + sent] if end == "commit" else [])
    assert read() == [(1,)]


@pytest.mark.usefixtures("either_way")
def test_copy_stream_and_executemany_begin_too(wire: Wire, tenants: Tenants) -> None:
    connection = connections[ALIAS]
    titles = "SELECT title FROM app_note ORDER BY id"
    with tenant_context(tenants[0].pk):
        for _ in range(2):
            with atomic(), connection.cursor() as cursor:
                with atomic(), cursor.copy(f"COPY ({titles}) TO STDOUT") as copy:
                    assert list(copy.rows()) == [("A 1",), ("A 2",)]
                with atomic():
                    assert list(cursor.stream(titles)) == [("A 1",), ("A 2",)]
                with atomic():
                    cursor.executemany("UPDATE app_note SET title = title || %s", [["!"], ["?"]])
                    transaction.set_rollback(True, using=ALIAS)
                with pytest.raises(psycopg.errors.SyntaxError), atomic(), cursor.copy("COPY ("):
                    pass
                with pytest.raises(psycopg.errors.SyntaxError), atomic():
                    list(cursor.stream("SELEC"))
                assert [note.title for note in Note.objects.using(ALIAS).iterator(1)] == [
                    "A 1",
                    "A 2",
                ]


@pytest.mark.usefixtures("either_way")
def test_a_named_cursor_opens_in_a_savepoint(wire: Wire, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), atomic():
        for _ in range(2):
            read()
            with atomic():
                notes = Note.objects.using(ALIAS).order_by("id").iterator(1)
                assert [note.title for note in notes] == ["A 1", "A 2"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("binary", [False, True])
def test_a_fetch_that_fails_is_undone_up_to_the_savepoint(
    binary: bool, wire: Wire, tenants: Tenants
) -> None:
    connection: Any = connections[ALIAS]
    with tenant_context(tenants[0].pk), atomic():
        with connection.connection.cursor("c") as cursor:
            cursor.execute("SELECT 1 / (i - 1) FROM generate_series(1, 2) i", binary=binary)
            with pytest.raises(psycopg.errors.DivisionByZero), atomic():
                cursor.fetchone()
        write("kept")
    assert written() == ["kept"]


@pytest.mark.usefixtures("either_way")
def test_a_cursor_made_by_hand_is_bound_in_a_transaction_and_refused_outside(
    wire: Wire, tenants: Tenants
) -> None:
    connection = connections[ALIAS].connection
    titles = "SELECT title FROM app_note ORDER BY id"
    for cursor_class in (psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor):
        cursor: Any = cursor_class(connection)
        with tenant_context(tenants[0].pk):
            with pytest.raises(UnbindableStatementError, match="made by hand"):
                cursor.execute(titles)
            with atomic(), atomic():
                assert cursor.execute(titles).fetchall() == [("A 1",), ("A 2",)]
                with tenant_context(tenants[1].pk):
                    assert cursor.execute(titles).fetchall() == [("B 1",), ("B 2",)]
        with atomic():
            assert cursor.execute(titles).fetchall() == []


@pytest.mark.parametrize("binary", [False, True])
def test_a_server_side_cursor_made_by_hand_is_refused_when_it_fetches(
    binary: bool, wire: Wire, tenants: Tenants
) -> None:
    """It would run as whoever made the last statement, not as its DECLARE."""
    connection: Any = connections[ALIAS].connection
    titles = "SELECT title FROM app_note ORDER BY id"
    with atomic(), psycopg.ServerCursor(connection, "c", scrollable=True) as cursor:
        with tenant_context(tenants[0].pk):
            cursor.execute(titles, binary=binary)
        with admin_context():
            assert len(connection.execute(titles).fetchall()) == 4
        with tenant_context(tenants[0].pk):
            for read in (
                cursor.fetchone,
                cursor.fetchall,
                cursor.__iter__().__next__,
                partial(cursor.scroll, 1),
            ):
                with pytest.raises(UnbindableStatementError, match=r"connection\.cursor\(name\)"):
                    read()
            # Nothing was sent, and SQL may still read from it.
            rows = connection.execute("FETCH ALL c").fetchall()
            assert rows == [("A 1",), ("A 2",)]


def test_a_connection_that_breaks_in_a_transaction_is_replaced(
    wire: Wire, superuser: psycopg.Connection[Any]
) -> None:
    connection = connections[ALIAS]

    def lose_the_server() -> None:
        with atomic():
            write("lost")
            pid = connection.connection.info.backend_pid
            superuser.execute("SELECT pg_terminate_backend(%s)", [pid])
            with atomic():
                read()

    with pytest.raises(OperationalError):
        lose_the_server()
    assert written() == []
    connection.close_if_unusable_or_obsolete()
    assert read() == [(1,)]


@pytest.mark.usefixtures("either_way")
def test_a_block_in_psycopgs_pipeline_is_a_transaction(wire: Wire) -> None:
    with connections[ALIAS].connection.pipeline():
        with atomic():
            write("kept")
            with suppress(ZeroDivisionError), atomic():
                write("lost")
                raise ZeroDivisionError
            assert read() == [(1,)]
            with suppress(ZeroDivisionError), atomic():
                by_hand = psycopg.Cursor(connections[ALIAS].connection)
                by_hand.execute("INSERT INTO app_shared (text) VALUES ('lost by hand')")
                raise ZeroDivisionError
            with atomic():
                write("kept, too")
            # Its result is read, so that libpq knows of nothing that goes on.
            write("kept, last")
        with suppress(ZeroDivisionError), atomic():
            write("undone")
            raise ZeroDivisionError
        write("in autocommit")
    assert written() == ["in autocommit", "kept", "kept, last", "kept, too"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("sent", [False, True])
def test_a_name_means_the_last_savepoint_that_has_it(sent: bool, wire: Wire) -> None:
    with atomic():
        transaction.clean_savepoints(using=ALIAS)
        one = new_savepoint(using=ALIAS)
        if sent:
            write("undone")
        transaction.clean_savepoints(using=ALIAS)
        two = new_savepoint(using=ALIAS)
        assert one == two
        if sent:
            write("undone, too")
            transaction.savepoint_rollback(two, using=ALIAS)
            write("undone, last")
        transaction.savepoint_commit(two, using=ALIAS)
        write("undone with the first")
        transaction.savepoint_rollback(one, using=ALIAS)
        write("kept")
        transaction.savepoint_commit(one, using=ALIAS)
    assert written() == ["kept"]


def test_autocommit_is_not_changed_in_a_transaction(tenants: Tenants) -> None:
    refused = partial(pytest.raises, psycopg.ProgrammingError, match="can't change 'autocommit'")
    with atomic():
        read()
        connection = connections[ALIAS].connection
        with refused():
            connection.autocommit = True
        assert not connection.autocommit
    with connection.pipeline():
        connection.execute("BEGIN")
        # All is read, and no Sync has said yet that there is a transaction.
        assert connection.execute("SELECT 1").fetchone() == (1,)
        with refused():
            connection.autocommit = False
        connection.execute("ROLLBACK")
    assert connection.autocommit
