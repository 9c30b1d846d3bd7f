"""A state machine that knows what each tenant may see, and compares it with what the database says.

Scopes, transactions, savepoints, cursors and errors come in any order that a program could bring
about. The model is a list of rows with the semantics of transactions; what a binding sees of it is
one comprehension. Between transactions other clients leave values on the server session, and
nothing of ours may stay there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from functools import wraps
from itertools import islice
from typing import Any

import psycopg
from django.db import DatabaseError, ProgrammingError, transaction
from django.db.models import Count
from hypothesis import stateful
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition

from tests import natively, settings
from tests.app.models import Author, Note
from tests.model import INSERT, NAMES, Block, Model, Open

TITLES = "SELECT title FROM app_note ORDER BY id"
TITLES_WHERE = "SELECT title FROM app_note WHERE id > %s ORDER BY id"
PROBE = (
    "SELECT pg_backend_pid(), coalesce(current_setting('rls.current_tenant', true), ''), "
    + settings.IS_ADMIN
).encode()
# The server session cancels its own statement, in the middle of it.
CANCELLED = "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(10)"
WRITE = ("UPDATE app_note SET title = title || %s", ["p"])
WAYS = ("execute", "executemany", "stream", "copy", "pipeline")
BROKEN = ("SELECT nonsense", "SELEC 1", "SELECT 1/0", "SELECT 1; SELEC 2", "SELECT '")
# Django 6.1 renamed it.
new_savepoint: Any = getattr(transaction, "savepoint_create", None) or transaction.savepoint

names = st.sampled_from(NAMES)

Act = Callable[..., None]
# What rules do, with how they do it: a run in which one of these never happens proves less.
KINDS: set[str] = set()


def rule(*, how: tuple[str, ...] = (), **given: st.SearchStrategy[Any]) -> Callable[[Act], Act]:
    """Be a rule of hypothesis', and count in the world how often it was done.

    It is chosen `how`, if there are several ways.
    """
    if how:
        given["how"] = st.sampled_from(how)

    def decorate(act: Act) -> Act:
        KINDS.update([f"{act.__name__} {each}" for each in how] or [act.__name__])

        @wraps(act)
        def counted(machine: Machine, **values: Any) -> None:
            act(machine, **values)
            machine.world.done[f"{act.__name__} {values['how']}" if how else act.__name__] += 1

        chosen: Act = stateful.rule(**given)(counted)  # type: ignore[call-overload]
        return chosen

    return decorate


class Machine(Model):
    """Do what programs do, and compare each read with the model."""

    # Scopes.

    @rule(binding=st.sampled_from([*NAMES, "admin"]))
    def bind(self, binding: str) -> None:
        self.enter(binding)

    @precondition(lambda self: self.scopes)
    @rule()
    def unbind(self) -> None:
        self.leave()

    # Transactions.

    @precondition(lambda self: not self.failed and len(self.blocks) < 4)
    @rule(how=("savepoint", "no savepoint"))
    def begin(self, how: str) -> None:
        # Nothing could undo an error up to a transaction by hand: Django would commit it.
        savepoint = how == "savepoint" or not self.blocks or self.blocks[-1].by_hand
        mark = self.mark(transaction.atomic(using=self.alias, savepoint=savepoint))
        mark.block.__enter__()
        self.blocks.append(Block(mark, undoes=savepoint))
        self.quiet = True

    @precondition(lambda self: not self.blocks)
    @rule()
    def begin_by_hand(self) -> None:
        transaction.set_autocommit(False, using=self.alias)
        self.blocks.append(Block(self.mark(), by_hand=True))
        self.quiet = True

    @precondition(lambda self: self.blocks)
    @rule(quiet=st.booleans(), again=st.booleans())
    def commit(self, quiet: bool, again: bool) -> None:
        block = self.blocks.pop()
        failed = self.failed
        try:
            if block.by_hand:
                transaction.commit(using=self.alias)
            else:
                block.start.block.__exit__(None, None, None)
        except DatabaseError:
            if not failed:
                raise
        if failed and block.undoes:
            self.restore(block.start)
        self.after_block(quiet)
        self.after_hand(block, again)

    @precondition(lambda self: self.blocks)
    @rule(raises=st.booleans(), quiet=st.booleans(), again=st.booleans())
    def roll_back(self, raises: bool, quiet: bool, again: bool) -> None:
        block = self.undo(raises)
        self.after_block(quiet)
        self.after_hand(block, again)

    def undo(self, raises: bool) -> Block:
        block = self.blocks.pop()
        if block.by_hand:
            transaction.rollback(using=self.alias)
        elif raises:
            error = ZeroDivisionError()
            assert not block.start.block.__exit__(ZeroDivisionError, error, None)
        else:
            transaction.set_rollback(True, using=self.alias)
            block.start.block.__exit__(None, None, None)
        if block.undoes:
            self.restore(block.start)
        else:
            self.failed = True
        return block

    def after_hand(self, block: Block, again: bool) -> None:
        """Begin another transaction by hand, if that was one, or let the database commit again."""
        if block.by_hand and again:
            self.blocks.append(Block(self.mark(), by_hand=True))
        elif block.by_hand:
            transaction.set_autocommit(True, using=self.alias)

    def after_block(self, quiet: bool) -> None:
        self.quiet = quiet
        if self.blocks:
            return
        self.bury(lambda cursor: cursor.transaction_ends_it)
        for cursor in self.dead:
            cursor.close()
        self.dead.clear()

    @precondition(lambda self: self.blocks and not self.failed)
    @rule()
    def save(self) -> None:
        block = self.blocks[-1]
        mark = self.mark()
        mark.savepoint = new_savepoint(using=self.alias)
        block.savepoints.append(mark)
        self.quiet = True

    @precondition(lambda self: self.blocks and self.blocks[-1].savepoints)
    @rule(back=st.integers(1, 2), quiet=st.booleans())
    def roll_back_to(self, back: int, quiet: bool) -> None:
        savepoints = self.blocks[-1].savepoints
        del savepoints[max(len(savepoints) - back, 0) + 1 :]
        mark = savepoints[-1]
        if self.wrapper.in_atomic_block:
            transaction.set_rollback(False, using=self.alias)
        transaction.savepoint_rollback(mark.savepoint, using=self.alias)
        self.restore(mark)
        self.quiet = quiet

    @precondition(lambda self: self.blocks and self.blocks[-1].savepoints and not self.failed)
    @rule()
    def release(self) -> None:
        mark = self.blocks[-1].savepoints.pop()
        transaction.savepoint_commit(mark.savepoint, using=self.alias)
        self.quiet = True

    # Reads.

    @precondition(lambda self: not self.failed)
    @rule(how=("raw", "params", "orm", "count", "copy", "stream", "pipeline", "by hand"))
    def read(self, how: str) -> None:
        if how == "count":
            found: Any = dict(
                Author.objects.using(self.alias)
                .annotate(count=Count("note"))
                .values_list("name", "count")
            )
            counts = {name: sum(n == name for n, _ in self.rows) for name in NAMES}
            self.expect(found, {name: n for name, n in counts.items() if self.sees(name)})
        elif how == "orm":
            notes = Note.objects.using(self.alias).select_related("author")
            found = list(notes.filter(author__name__gte="A").values_list("author__name", "title"))
            self.expect(found, [row for row in self.rows if self.sees(row[0])])
        else:
            self.expect(self.titles(how), self.visible())

    def titles(self, how: str) -> list[str]:
        if how == "copy" and settings.IS_SEALED and not self.blocks:
            how = "raw"  # It is refused outside a transaction.
        with self.cursor() as cursor:
            if how == "copy":
                with cursor.copy(f"COPY ({TITLES}) TO STDOUT") as copy:
                    return [row[0] for row in copy.rows()]
            if how == "stream":
                return [row[0] for row in cursor.stream(TITLES_WHERE, [0])]
            if how == "by hand" and self.blocks:
                by_hand = psycopg.Cursor(self.wrapper.connection)
                return [row[0] for row in by_hand.execute(TITLES_WHERE, [0])]
            if how == "pipeline":
                with cursor.connection.pipeline():
                    cursor.execute(TITLES_WHERE, [0])
                    return [row[0] for row in cursor.fetchall()]
            cursor.execute(*((TITLES,) if how == "raw" else (TITLES_WHERE, [0])))
            return [row[0] for row in cursor.fetchall()]

    @precondition(lambda self: self.blocks and not self.failed)
    @rule(others=st.lists(st.sampled_from([*NAMES, "admin"]), min_size=1, max_size=3))
    def go_on_in_a_pipeline_after_an_error(self, others: list[str]) -> None:
        with self.cursor() as cursor, cursor.connection.pipeline() as pipeline:
            with suppress(DatabaseError, psycopg.Error), transaction.atomic(using=self.alias):
                cursor.execute("SELECT 1 / 0")
                pipeline.sync()
            for other in others:
                self.enter(other)
                cursor.execute(TITLES_WHERE, [0])
                self.expect([row[0] for row in cursor.fetchall()], self.visible())
                self.leave()

    @precondition(lambda self: not self.failed)
    @rule(
        how=("alone", "around a block", "around one that raises"),
        steps=st.lists(
            st.tuples(st.sampled_from([*NAMES, "admin"]), st.booleans()), min_size=1, max_size=4
        ),
    )
    def go_through_scopes_in_a_pipeline(self, how: str, steps: list[tuple[str, bool]]) -> None:
        """Queue reads and writes; read what has come of them at the end."""
        found: list[tuple[Any, Any]] = []
        before = self.mark()
        with self.cursor() as cursor, cursor.connection.pipeline() as pipeline:
            block: Any = nullcontext() if how == "alone" else transaction.atomic(using=self.alias)
            with suppress(ZeroDivisionError), block:
                for other, writes in steps:
                    self.enter(other)
                    found.append((cursor.connection.cursor(), self.queue_one(writes)))
                    found[-1][0].execute(*WRITE if writes else (TITLES_WHERE, [0]))
                    self.leave()
                if how == "around one that raises":
                    pipeline.sync()
                    raise ZeroDivisionError
            pipeline.sync()
            for queued, expected in found:
                rows = queued.description and [row[0] for row in queued.fetchall()]
                self.expect(queued.rowcount if rows is None else rows, expected)
        if how == "around one that raises":
            self.restore(before)

    def queue_one(self, writes: bool) -> Any:
        """Return what is to come of a statement: the rows, or how many are written."""
        expected = self.visible()
        if writes:
            self.append("p")
        return len(expected) if writes else expected

    @precondition(lambda self: not self.failed)
    @rule(first=st.integers(1, 2), other=st.sampled_from([*NAMES, "admin"]))
    def stream_across_scopes(self, first: int, other: str) -> None:
        expected = self.visible()
        with self.cursor() as cursor, closing(cursor.stream(TITLES)) as stream:
            found = [row[0] for row in islice(stream, first)]
            self.enter(other)
            found += [row[0] for row in stream]
            self.leave()
        self.expect(found, expected)

    @precondition(lambda self: not self.failed and len(self.cursors) < 3)
    @rule(first=st.integers(0, 2), orm=st.booleans(), quiet=st.booleans())
    def open_cursor(self, first: int, orm: bool, quiet: bool) -> None:
        rows, inside = self.visible(), bool(self.blocks)
        if orm:
            notes = Note.objects.using(self.alias).order_by().iterator(chunk_size=1)
            # It starts at the first row.
            first = max(first, 1)

            def fetch(n: int | None) -> list[str]:
                return [note.title for note in islice(notes, n)]

            close = notes.close
        elif inside:
            cursor = self.wrapper._cursor(f"c{self.tick()}")
            # Without ORDER BY, whose sort would read all rows at the first FETCH.
            cursor.execute("SELECT title FROM app_note")

            def fetch(n: int | None) -> list[str]:
                return [row[0] for row in (cursor.fetchall() if n is None else cursor.fetchmany(n))]

            close = cursor.close
        else:
            return
        opened = Open(self.tick(), fetch, close, rows, inside)
        on_client = self.wrapper.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
        if settings.IS_SEALED or (orm and on_client):
            opened.transaction_ends_it = False
        if first:
            found = fetch(first)
            self.expect(len(found), min(first, len(rows)))
            opened.rows = sorted((Counter(rows) - Counter(found)).elements())
            self.expect(sorted(found + opened.rows), sorted(rows))
        self.cursors.append(opened)
        self.quiet = quiet

    @precondition(lambda self: self.cursors and not self.failed)
    @rule(index=st.integers(0, 2), other=st.sampled_from([*NAMES, "admin"]))
    def drain_in_another_scope(self, index: int, other: str) -> None:
        cursor = self.cursors.pop(index % len(self.cursors))
        self.enter(other)
        self.expect(sorted(cursor.fetch(None)), sorted(cursor.rows))
        self.leave()
        cursor.close()

    # Writes.

    @precondition(lambda self: not self.failed)
    @rule(name=names, orm=st.booleans(), protect=st.booleans())
    def insert(self, name: str, orm: bool, protect: bool) -> None:
        title = self.new_title(name)
        tenant, author = self.world.tenants[name], self.world.authors[name]

        def write() -> None:
            if orm:
                notes = Note.objects.using(self.alias)
                notes.create(title=title, tenant_id=tenant, author_id=author)
            else:
                self.execute(INSERT, [title, tenant, author])

        if self.sees(name):
            write()
            self.rows.append((name, title))
        else:
            self.refused(write, ProgrammingError, protect)

    @precondition(lambda self: not self.failed)
    @rule(how=("raw", "many", "orm"))
    def update(self, how: str) -> None:
        count = len(self.visible())
        if how == "orm":
            found = Note.objects.using(self.alias).update(parent=None)
        elif how == "raw":
            found = self.execute("UPDATE app_note SET title = title || '.'")
            self.append(".")
        else:
            with self.cursor() as cursor:
                cursor.executemany("UPDATE app_note SET title = title || %s", [["x"], ["y"]])
                found, count = cursor.rowcount, 2 * count
            self.append("xy")
        self.expect(found, count)

    @precondition(lambda self: not self.failed and self.rows)
    @rule(index=st.integers(0, 5), orm=st.booleans())
    def delete(self, index: int, orm: bool) -> None:
        name, title = row = self.rows[index % len(self.rows)]
        if orm:
            found = Note.objects.using(self.alias).filter(title=title).delete()[0]
        else:
            found = self.execute("DELETE FROM app_note WHERE title = %s", [title])
        self.expect(found, int(self.sees(name)))
        if self.sees(name):
            self.rows.remove(row)

    # Native async, on connections of its own.

    @precondition(lambda self: not self.blocks and not self.holds_session())
    @rule(
        ways=st.permutations(natively.WAYS),
        other=st.sampled_from([*NAMES, "admin"]),
        ticks=st.integers(0, 8),
    )
    def read_natively(self, ways: list[str], other: str, ticks: int) -> None:
        # Some releases of PgBouncer end when a client cancels and leaves.
        if self.world.foreign is None:
            self.world.run(natively.cancel(self.alias, ticks))
        for how in ways[:3]:
            self.expect(self.world.run(natively.titles(self.alias, how)), self.visible())
        self.enter(other)
        expected = self.visible()
        self.leave()
        found = self.world.run(natively.titles(self.alias, ways[0], self.scope(other)))
        assert found == expected, f"{self.alias} as {other}: {found!r}, not {expected!r}"

    @precondition(lambda self: not self.blocks and not self.holds_session())
    @rule(name=names)
    def insert_natively(self, name: str) -> None:
        title = self.new_title(name)
        values = [title, self.world.tenants[name], self.world.authors[name]]
        written = self.world.run(natively.is_written(self.alias, values))
        self.expect(written, self.sees(name))
        if written:
            self.rows.append((name, title))

    # Errors.

    @precondition(lambda self: not self.failed)
    @rule(statement=st.sampled_from(BROKEN), how=WAYS, protect=st.booleans())
    def fail(self, statement: str, how: str, protect: bool) -> None:
        self.refused(lambda: self.run(statement, how), (DatabaseError, psycopg.Error), protect)

    @precondition(lambda self: not self.failed)
    @rule(how=WAYS, protect=st.booleans())
    def cancel(self, how: str, protect: bool) -> None:
        self.refused(lambda: self.run(CANCELLED, how), (DatabaseError, psycopg.Error), protect)

    def run(self, statement: str, how: str) -> None:
        with self.cursor() as cursor:
            if how == "execute":
                cursor.execute(statement)
            elif how == "executemany":
                cursor.executemany(statement, [[], []])
            elif how == "pipeline":
                with cursor.connection.pipeline():
                    cursor.execute(statement)
            elif how == "copy":
                with cursor.copy(f"COPY ({statement}) TO STDOUT") as copy:
                    list(copy.rows())
            else:
                list(cursor.stream(statement))

    @precondition(lambda self: not self.failed)
    @rule(protect=st.booleans(), quiet=st.booleans())
    def fail_before_it_is_sent(self, protect: bool, quiet: bool) -> None:
        self.refused(
            lambda: self.execute("SELECT %s, %s", [1]), ProgrammingError, protect, sent=False
        )
        self.quiet = quiet

    # The session.

    @precondition(lambda self: not self.holds_session())
    @rule(name=st.sampled_from(["", *NAMES]), admin=st.sampled_from(["", settings.ADMIN_VALUE]))
    def pollute(self, name: str, admin: str) -> None:
        """Leave values on the session, as another client of a pooler could."""
        self.leave_behind(name, admin)

    def leave_behind(self, name: str, admin: str) -> None:
        tenant = str(self.world.tenants[name]) if name else ""
        with self.world.session() as execute:
            execute(f"SET rls.current_tenant = '{tenant}'".encode())
            value = admin or settings.NO_ADMIN
            execute(f"SET {settings.ADMIN_PARAMETER} = '{value}'".encode())
            self.left[execute(PROBE)[0][0]] = (tenant, admin)

    @precondition(lambda self: not self.holds_session())
    @rule()
    def probe(self) -> None:
        self.find_what_was_left()

    def find_what_was_left(self) -> None:
        with self.world.session() as execute:
            pid, *found = execute(PROBE)[0]
        left = self.left.get(pid, ("", ""))
        self.expect(tuple(value.decode() for value in found), left)

    @precondition(lambda self: not self.blocks)
    @rule()
    def close(self) -> None:
        self.cursors.clear()
        self.wrapper.close()

    @precondition(lambda self: not self.blocks)
    @rule()
    def vacuum(self) -> None:
        self.execute("VACUUM app_shared")

    # Always.

    @invariant()
    def reads_equal_the_model(self) -> None:
        self.world.operations += 1
        quiet, self.quiet = self.quiet, False
        if quiet:
            return
        if self.failed:
            self.refused(lambda: self.titles("raw"), DatabaseError, protect=False)
        else:
            self.expect(self.titles("raw"), self.visible())

    @invariant()
    def the_session_is_held_in_transactions_only(self) -> None:
        if not self.blocks:
            assert not self.holds_session()
            if not self.cursors and self.wrapper.per_transaction:
                assert self.wrapper.connection is None

    def teardown(self) -> None:
        try:
            while self.blocks:
                block = self.undo(raises=True)
                self.after_block(quiet=False)
                self.after_hand(block, again=False)
            self.reads_equal_the_model()
            self.find_what_was_left()
            self.leave_behind("", "")
        finally:
            while self.scopes:
                self.leave()
            self.cursors.clear()
            self.wrapper.close()
            if self.wrapper.settings_dict["OPTIONS"].get("pool"):
                self.wrapper.close_pool()
