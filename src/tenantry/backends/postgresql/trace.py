"""What a connection sends, as libpq writes it down (``PQtrace``)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from psycopg.pq import Trace

from .apply import applies_binding

# A message from here: its length without the type, its kind, of a Parse the statement's name, and
# where its text begins, which is not escaped. A Sync has none.
QUERY = re.compile(rb'^F\t(\d+)\t(?:Sync$|(Query|Parse)\t (?:"([^"\n]*)" )?")', re.MULTILINE)
# Beside the text, a Query has its length and a zero; a Parse has two zeros, and a number.
OF_QUERY, OF_PARSE, OF_PARAMETER = 5, 8, 4
# The end of a Parse, after which the values of its parameters come.
VALUES = re.compile(rb'"[ \d]*\nF\t\d+\tBind\t "" "" ([^\n]*)')


class TracedConnection:
    """Write down what a psycopg connection sends until it is closed, or :meth:`stop` is called."""

    def __init__(self, connection: Any) -> None:
        self.pgconn = connection.pgconn
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self.pgconn.trace(self.file.fileno())
        self.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)

    def stop(self) -> list[list[str]]:
        """Return the SQL of each simple query, and of the parse messages before each sync."""
        if self.pgconn.pgconn_ptr:
            self.pgconn.untrace()
        with self.file:
            self.file.seek(0)
            return list(flushes(self.file.read()))


def flushes(trace: bytes) -> Iterator[list[str]]:
    """Yield the SQL in what libpq wrote, that of a flush at a time.

    That of a binding has a comment with its values.
    """
    flush: list[str] = []
    position = 0
    while found := QUERY.search(trace, position):
        length, start = int(found[1]), found.end()
        if found[2] == b"Query":
            position = start + length - OF_QUERY
            yield [trace[start:position].decode()]
        elif found[2] == b"Parse":
            position = start + length - OF_PARSE - len(found[3])
            # The types of parameters are in the length too; how many, is written after the text.
            parameters = 0
            while not trace.startswith(b'" %d' % parameters, position):
                parameters += 1
                position -= OF_PARAMETER
            text = trace[start:position]
            if applies_binding(text) and (values := VALUES.match(trace, position)):
                text += b" -- " + values[1]
            flush.append(text.decode())
        else:
            position = start
            if flush:
                yield flush
            flush = []
    if flush:
        yield flush


def binding_sent(statement: bytes, values: Sequence[bytes]) -> str:
    """Return how the SQL of a binding, and its values, begin in what libpq wrote."""
    # What cannot be printed is escaped.
    texts = (
        "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in value)
        for value in values
    )
    said = " ".join(f"{len(value)} '{text}'" for value, text in zip(values, texts, strict=True))
    return f"{statement.decode()} -- 0 {len(values)} {said} "
