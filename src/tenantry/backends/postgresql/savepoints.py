"""Savepoints: those that the server has, and the statements that it has not heard yet."""

from __future__ import annotations

SAVEPOINT, RELEASE, ROLLBACK_TO = "SAVEPOINT ", "RELEASE SAVEPOINT ", "ROLLBACK TO SAVEPOINT "


class SavepointSQL(str):
    """A statement of Django's about a savepoint, which may wait for the next message."""

    __slots__ = ()


def last(names: list[str], name: str) -> int:
    """Return where `name` stands last in `names`, which is the savepoint that SQL means by it."""
    return len(names) - 1 - names[::-1].index(name)


class Savepoints:
    """Follow the savepoints of a transaction.

    What the server knows cannot tell them: it has not heard of those that wait, and it names those
    that it has in no answer.
    """

    def __init__(self) -> None:
        self.pending: list[str] = []
        # The names, in order, of those that a message has carried and none has released.
        self.sent: list[str] = []

    def defer(self, statement: SavepointSQL) -> bool:
        """Keep `statement` for the next message; return False if it must be sent now."""
        if statement.startswith(SAVEPOINT):
            self.pending.append(statement)
            return True
        release = statement.startswith(RELEASE)
        name = statement.removeprefix(RELEASE if release else ROLLBACK_TO)
        created = SAVEPOINT + name
        if created in self.pending:
            # Nothing has happened since the savepoint, so there is nothing to keep or to undo.
            del self.pending[last(self.pending, created) + (not release) :]
            return True
        # A name that is unknown here may be unknown there: the error belongs to who sends it.
        if name not in self.sent:
            return False
        # Those that wait are inside of it, and end with it. A RELEASE is sent: it may be of another
        # savepoint of that name, which hides this one.
        if self.pending:
            self.pending = [each for each in self.pending if not each.startswith(SAVEPOINT)]
        if not release:
            return False
        del self.sent[last(self.sent, name) :]
        self.pending.append(statement)
        return True

    def note(self, statement: str) -> None:
        """Remember what `statement` does, which is sent now."""
        if statement.startswith(SAVEPOINT):
            self.sent.append(statement.removeprefix(SAVEPOINT))
            return
        release = statement.startswith(RELEASE)
        name = statement.removeprefix(RELEASE if release else ROLLBACK_TO)
        if name in self.sent:
            del self.sent[last(self.sent, name) + (not release) :]

    def take(self) -> list[bytes]:
        """Return the statements that have waited, which must now be sent."""
        statements, self.pending = self.pending, []
        for statement in statements:
            # What a RELEASE does is known since it has waited.
            if statement.startswith(SAVEPOINT):
                self.note(statement)
        return [statement.encode() for statement in statements]

    def clear(self) -> None:
        """Forget everything, at the end of a transaction."""
        self.pending.clear()
        self.sent.clear()
