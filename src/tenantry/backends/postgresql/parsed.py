"""Which statements the server's parser is known to take.

A SAVEPOINT may share a simple Query message with a statement only if that can be parsed: of a
message that cannot, nothing runs ("Message Flow, Simple Query" in the PostgreSQL documentation),
and the error could not be undone up to the savepoint. Nobody but the server can tell, so what it
has taken once is remembered. Names do not matter: they are looked up when the statement's turn
comes, after the SAVEPOINT.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

Statement = tuple[Any, ...]

# More than an application has; with the longest, 8 MiB.
MOST = 2048
LONGEST = 4096

_known: set[Statement] = set()


def statement(pgconn: Any, query: Any, params: Any) -> Statement | None:
    """Return the key by which a statement is remembered; None for one that cannot be.

    Parameters are merged into the text as literals, whose form :func:`form` describes.
    """
    if not isinstance(query, str) or len(query) > LONGEST:
        return None
    # Other encodings lack characters, which the server finds out before it parses.
    if pgconn.parameter_status(b"server_encoding") != b"UTF8":
        return None
    if params is None:
        return (pgconn.server_version, query)
    if not isinstance(params, list | tuple):
        return None
    return (pgconn.server_version, query, *map(form, params))


def form(value: Any) -> Any:
    """Return what the form of a literal depends on: the type, or more where that is not all."""
    kind = type(value)
    if isinstance(value, int):
        # PostgreSQL's grammar has other tokens for a sign, and for numbers beyond int4.
        return kind, value < 0, -(2**31) <= value < 2**31
    if isinstance(value, float | Decimal):
        # NaN and Infinity are in quotes.
        text = str(value)
        return kind, text[0] == "-", text[-1].isdigit()
    # A string with a backslash begins with an E.
    return (kind, "\\" in value) if isinstance(value, str) else kind


def is_known(statement: Statement | None) -> bool:
    """Return whether the server has taken `statement` before."""
    return statement in _known


def remember(statement: Statement | None) -> None:
    """Remember that the server has taken `statement`."""
    if statement is not None:
        if len(_known) >= MOST:
            _known.clear()
        _known.add(statement)
