"""What the state machine knows: the rows, the scopes and what is open, and what a binding sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction
from hypothesis.stateful import RuleBasedStateMachine
from psycopg.pq import TransactionStatus

from tenantry import admin_context, tenant_context

if TYPE_CHECKING:
    from tests.soak import World

NAMES = ("A", "B")
INSERT = "INSERT INTO app_note (title, tenant_id, author_id) VALUES (%s, %s, %s)"

Gucs = tuple[str, str]
Rows = list[tuple[str, str]]


@dataclass
class Mark:
    """Be a state that a rollback returns to."""

    moment: int
    rows: Rows
    block: Any = None
    savepoint: str = ""


@dataclass
class Block:
    """Be an open ``atomic()``, or what is like one, with the savepoints made by hand inside it."""

    start: Mark
    savepoints: list[Mark] = field(default_factory=list)
    # Whether an error in it is undone at its end, or at that of the block around it.
    undoes: bool = True
    # Whether it is no block, but a transaction that is begun and ended by hand.
    by_hand: bool = False


@dataclass
class Open:
    """Be a cursor whose rows were chosen by the binding at its start."""

    moment: int
    # Returns up to so many rows, all without a number.
    fetch: Callable[[int | None], list[str]]
    close: Callable[[], None]
    rows: list[str]
    transaction_ends_it: bool


class Model(RuleBasedStateMachine):
    """A list of rows with the semantics of transactions, and the bindings of the scopes."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.world.alias
        # Nothing of an example that failed is left.
        self.wrapper: Any = connections.create_connection(self.alias)
        connections[self.alias] = self.wrapper
        self.rows: Rows = []
        self.scopes: list[tuple[Any, str]] = []
        self.blocks: list[Block] = []
        self.cursors: list[Open] = []
        self.dead: list[Open] = []
        self.left: dict[bytes, Gucs] = {}
        self.failed = False
        # Whether the next invariant does not send anything, which would end what is deferred.
        self.quiet = False
        self.moment = 0
        self.world.superuser.execute("DELETE FROM app_note")
        for name in NAMES * 2:
            title = self.new_title(name)
            values = (title, self.world.tenants[name], self.world.authors[name])
            self.world.superuser.execute(INSERT, values)
            self.rows.append((name, title))

    # The model.

    def scope(self, binding: str) -> Any:
        tenants = self.world.tenants
        return admin_context() if binding == "admin" else tenant_context(tenants[binding])

    def enter(self, binding: str) -> None:
        scope = self.scope(binding)
        scope.__enter__()
        self.scopes.append((scope, binding))
        self.quiet = True

    def leave(self) -> None:
        self.scopes.pop()[0].__exit__(None, None, None)
        self.quiet = True

    @property
    def binding(self) -> str:
        return self.scopes[-1][1] if self.scopes else ""

    def sees(self, name: str) -> bool:
        return self.binding in (name, "admin")

    def visible(self) -> list[str]:
        return [title for name, title in self.rows if self.sees(name)]

    def new_title(self, name: str) -> str:
        return f"{name}{self.tick()}"

    def tick(self) -> int:
        self.moment += 1
        return self.moment

    def mark(self, block: Any = None, savepoint: str = "") -> Mark:
        return Mark(self.tick(), list(self.rows), block, savepoint)

    def restore(self, mark: Mark) -> None:
        self.rows = list(mark.rows)
        self.failed = False
        self.bury(lambda cursor: cursor.transaction_ends_it and cursor.moment > mark.moment)

    def bury(self, condition: Callable[[Open], bool]) -> None:
        """Forget cursors that are gone; CLOSE would find no such cursor in a transaction."""
        self.dead += [cursor for cursor in self.cursors if condition(cursor)]
        self.cursors = [cursor for cursor in self.cursors if not condition(cursor)]

    def append(self, suffix: str) -> None:
        self.rows = [
            (name, title + suffix if self.sees(name) else title) for name, title in self.rows
        ]

    # Expectations.

    def expect(self, found: Any, expected: Any) -> None:
        binding = self.binding or "nobody"
        assert found == expected, f"{self.alias} as {binding}: {found!r}, not {expected!r}"

    def refused(self, act: Callable[[], Any], error: Any, protect: bool, sent: bool = True) -> None:
        """Run what must fail, in a savepoint if it is to `protect` the transaction."""
        try:
            if protect:
                with transaction.atomic(using=self.alias):
                    act()
            else:
                act()
        except error:
            self.failed = bool(self.blocks) and not protect and sent
        else:
            raise AssertionError(f"{self.alias} as {self.binding or 'nobody'}: was not refused")

    def cursor(self) -> Any:
        return self.wrapper.cursor()

    def execute(self, statement: str, params: Any = None) -> Any:
        with self.cursor() as cursor:
            cursor.execute(statement, params)
            return cursor.fetchall() if cursor.description else cursor.rowcount

    def holds_session(self) -> bool:
        driver = self.wrapper.connection
        return driver is not None and driver.pgconn.transaction_status != TransactionStatus.IDLE
