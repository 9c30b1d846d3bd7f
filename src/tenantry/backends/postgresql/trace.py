"""What a connection sends, as libpq writes it down (``PQtrace``)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from typing import Any

from psycopg.pq import Trace

# A message from here: its length without the type, its kind, of a Parse the statement's name, and
# where its text begins, which is not escaped.
QUERY = re.compile(rb'^F\t(\d+)\t(Query|Parse)\t (?:"([^"\n]*)" )?"', re.MULTILINE)
# Beside the text, a Query has its length and a zero; a Parse has two zeros, and a number.
OF_QUERY, OF_PARSE, OF_PARAMETER = 5, 8, 4


class TracedConnection:
    """Write down what a psycopg connection sends until it is closed, or :meth:`stop` is called."""

    def __init__(self, connection: Any) -> None:
        self.pgconn = connection.pgconn
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self.pgconn.trace(self.file.fileno())
        self.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)

    def stop(self) -> list[str]:
        """Return the SQL of each simple query and each parse message, in order."""
        if self.pgconn.pgconn_ptr:
            self.pgconn.untrace()
        with self.file:
            self.file.seek(0)
            return list(statements(self.file.read()))


def statements(trace: bytes) -> Iterator[str]:
    """Yield the SQL in what libpq wrote."""
    position = 0
    while found := QUERY.search(trace, position):
        length, start = int(found[1]), found.end()
        if found[2] == b"Query":
            position = start + length - OF_QUERY
        else:
            position = start + length - OF_PARSE - len(found[3])
            # The types of parameters are in the length too; how many, is written after the text.
            parameters = 0
            while not trace.startswith(b'" %d' % parameters, position):
                parameters += 1
                position -= OF_PARAMETER
        yield trace[start:position].decode()
