"""The SQL that leaves for the server, with the bindings that go along."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections, models
from django.db.backends.signals import connection_created

from ..backends.postgresql.apply import (
    NO_ROLE,
    Session,
    applies_binding,
    binding_query,
    first_word,
    prefix,
)
from ..backends.postgresql.several import CONTROL
from ..backends.postgresql.several import statements as parts_of
from ..backends.postgresql.trace import TracedConnection, binding_sent
from ..binding import Binding
from ..conf import rls_tenants, tenant_key


class Wire:
    """The SQL that connections of one database have sent: ``statements``, in their order."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.statements: list[str] = []
        self._flushes: list[list[str]] = []
        self._traced: list[TracedConnection] = []

    def __repr__(self) -> str:
        return "\n".join(self.statements) or "(nothing was sent)"

    def watch(self, connection: Any) -> None:
        """Write down what a psycopg connection sends, such as that of ``aconnection()``."""
        if all(each.pgconn is not connection.pgconn for each in self._traced):
            self._traced.append(TracedConnection(connection))

    def opened(self, *, connection: Any, **kwargs: Any) -> None:
        """Watch a connection that Django opens meanwhile."""
        if connection.alias == self.using:
            self.watch(connection.connection)

    def stop(self) -> None:
        """Look at what has been written."""
        for each in self._traced:
            self._flushes += each.stop()
        self.statements += [statement for flush in self._flushes for statement in flush]
        self._traced.clear()

    def not_bound_to(self, tenant: Any) -> Iterator[str]:
        """Yield the statements that have not the binding of a tenant in front of them.

        Transaction control needs none.
        """
        key = tenant_key().parse(tenant.pk if isinstance(tenant, models.Model) else tenant)
        connection: Any = connections[self.using]
        version: int = connection.pg_version
        options = connection.settings_dict["OPTIONS"]
        session = Session(options.get("assume_role") or NO_ROLE)
        bindings = [Binding(key, read_only=read_only) for read_only in (False, True)]
        texts = [
            prefix(binding, b"SELECT", version, session).text.decode().strip()
            for binding in bindings
        ]
        queries = tuple(binding_sent(*binding_query(binding, session)) for binding in bindings)
        for flush in self._flushes:
            carried = False
            for statement in flush:
                if applies_binding(statement.encode()):
                    carried = statement.startswith(queries)
                is_bound = carried or any(text in statement for text in texts)
                if not (is_bound or is_control(statement)):
                    yield statement


def is_control(text: str) -> bool:
    """Return whether all statements in `text` begin or end a transaction, or a part of one."""
    return all(
        part is not None and (first_word(part) in CONTROL or not part.strip())
        for part in parts_of(text.encode())
    )


@contextmanager
def assert_sql(
    *parts: str, count: int | None = None, bound_to: Any = None, using: str = DEFAULT_DB_ALIAS
) -> Iterator[Wire]:
    """Look at the SQL that a block sends, as libpq writes it down on its way to the server.

    Each of `parts` must be in one of the statements; `count` is how many messages with SQL there
    are, each of which is a round trip unless they are pipelined; and every one of them, but for
    those of transaction control alone, must carry the binding of the tenant `bound_to`, an instance
    or a primary key. The :class:`Wire` that is yielded has ``statements`` when the block has ended.

    It watches the connections of this thread, and those that Django opens meanwhile; give it one of
    ``aconnection()`` with ``wire.watch()``.

    Raises AssertionError that shows what was sent, and ValueError for `bound_to` where bindings are
    sealed: a signed binding is not in the text of a statement.
    """
    if bound_to is not None and rls_tenants().sealed:
        raise ValueError(
            "bound_to does not work where RLS_TENANTS['SEALED'] is set: a signed binding is not in"
            " the text of a statement; assert on rows instead"
        )
    wire = Wire(using)
    connection = connections[using]
    if connection.connection is not None:
        wire.watch(connection.connection)
    connection_created.connect(wire.opened)
    try:
        yield wire
    finally:
        connection_created.disconnect(wire.opened)
        wire.stop()
    for part in parts:
        if not any(part in statement for statement in wire.statements):
            raise AssertionError(f"no statement has {part!r}; sent:\n{wire!r}")
    if count is not None and len(wire.statements) != count:
        raise AssertionError(f"{len(wire.statements)} messages, not {count}; sent:\n{wire!r}")
    if bound_to is not None:
        strays = wire.not_bound_to(bound_to) if wire.statements else [""]
        for statement in strays:
            raise AssertionError(f"not bound to {bound_to!r}: {statement}\nsent:\n{wire!r}")
