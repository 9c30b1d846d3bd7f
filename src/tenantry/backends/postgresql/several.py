"""Strings of several statements: none may undo the binding that those after it rely on.

The binding is in front of the whole string, and set until the end of the transaction. ``ROLLBACK TO
SAVEPOINT`` undoes it, so that what follows would run as whoever was bound when the savepoint was
made; after ``COMMIT`` or ``ROLLBACK`` it would run as whatever the server session was left with.

The text is cut as PostgreSQL cuts it (documentation, "Lexical Structure"). Where that cannot be
known here, the words themselves are refused, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...exceptions import UnbindableStatementError
from .apply import COMMENT, GAP, excerpt, first_word

# What undoes a transaction, or a part of one, and what ends one.
ROLLBACKS = frozenset({b"ABORT", b"ROLLBACK"})
ENDS = ROLLBACKS | {b"COMMIT", b"END"}
# What may follow that: it reads no rows, and runs nothing that does.
CONTROL = ENDS | {b"BEGIN", b"RELEASE", b"SAVEPOINT", b"START"}
PREPARED = re.compile(GAP + rb"PREPARE" + GAP + rb"TRANSACTION\b", re.IGNORECASE)
END_WORDS = re.compile(rb"\b(?:ABORT|COMMIT|END|ROLLBACK|PREPARE)\b", re.IGNORECASE)
BLANK = re.compile(GAP + rb"\Z")

# What a string goes on with after the quote that would end it: a quote, after white space with a
# line break. A comment of several lines does not count as white space.
CONTINUED = rb"'(?:[^\S\n\r]|--[^\n\r]*+)*+[\n\r](?:\s|--[^\n\r]*+[\n\r])*+'"
# A string whose backslashes count may be continued; another one is then two of its kind. A word is
# taken whole, as it may hold a dollar sign and not be an E; a number may hold letters, but no
# dollar sign. All are possessive: this takes time by the length.
WHOLE = (
    rb"[eE]'(?:[^'\\]++|\\.|''|" + CONTINUED + rb")*+(?:'|\Z)"
    rb"|[A-Za-z_\x80-\xff][0-9A-Za-z_$\x80-\xff]*+"
    rb"|[0-9][0-9A-Za-z_\x80-\xff]*+"
    rb"|'[^']*+(?:'|\Z)"
    rb'|"[^"]*+(?:"|\Z)'
)
COMMENTS = rb"--[^\n\r]*+|" + COMMENT
DOLLAR = rb"\$(?:[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*+)?\$"
DOLLAR_QUOTE = re.compile(DOLLAR)
# All up to what separates statements, or needs a closer look.
WITHIN = re.compile(
    rb"(?:[^;'\"$/\-0-9A-Za-z_\x80-\xff]++|" + WHOLE + b"|" + COMMENTS + rb"|-(?!-)|/(?!\*))*+",
    re.DOTALL,
)
# White space, a comment, or what a statement is made of.
TOKEN = re.compile(
    rb"\s++|" + COMMENTS + b"|(" + WHOLE + b"|(?P<quote>" + DOLLAR + rb").*?(?:(?P=quote)|\Z)|.)",
    re.DOTALL,
)
# A function whose body may be in SQL: its statements are its own then, and it ends with END.
ROUTINE = re.compile(
    GAP + b"CREATE" + GAP + b"(?:OR" + GAP + b"REPLACE" + GAP + rb")?(?:FUNCTION|PROCEDURE)\b",
    re.IGNORECASE,
)


def refuse_undoing(statement: bytes, pgconn: Any) -> None:
    """Raise UnbindableStatementError if a part of `statement` undoes the binding of the next."""
    if b";" not in statement:
        return
    if is_cut_alike(pgconn):
        refused = undoes_binding(statement)
    else:
        refused = END_WORDS.search(statement) is not None
    if refused:
        shown = excerpt(statement)
        raise UnbindableStatementError(
            f"{shown!r} ends its transaction, or rolls back to a savepoint, and goes on after that,"
            " where the tenant is no longer bound; send its statements one by one"
        )


def ends(statement: bytes) -> bool:
    """Return whether one `statement` ends its transaction, or rolls back to a savepoint."""
    return first_word(statement) in ENDS or PREPARED.match(statement) is not None


def is_cut_alike(pgconn: Any) -> bool:
    """Return whether the server takes quotes for what they are here.

    In some encodings of a client a backslash may be part of a character.
    """
    return bool(
        pgconn.parameter_status(b"standard_conforming_strings") == b"on"
        and pgconn.parameter_status(b"client_encoding") == b"UTF8"
    )


def undoes_binding(text: bytes) -> bool:
    """Return whether a statement in `text` ends a transaction, and anything but control follows."""
    ended = body = False
    for statement in statements(text):
        if statement is None:
            return END_WORDS.search(text) is not None
        word = first_word(statement)
        if ended and word not in CONTROL and not BLANK.match(statement):
            return True
        if word == b"END" and body:
            body = False
        elif word in ENDS or PREPARED.match(statement):
            ended = True
        elif begins_body(statement):
            body = True
    return False


def begins_body(statement: bytes) -> bool:
    """Return whether the body of a function in SQL begins in `statement`, and goes on after it.

    The words may also be in quotes, and name an argument and its type.
    """
    if not ROUTINE.match(statement):
        return False
    depth, before = 0, b""
    for token in TOKEN.finditer(statement):
        if token[1] is None:
            continue
        word = token[1].upper()
        if (depth, before, word) == (0, b"BEGIN", b"ATOMIC"):
            return first_word(statement[token.end() :]) != b"END"
        depth += (word == b"(") - (word == b")")
        before = word
    return False


def statements(text: bytes) -> Iterator[bytes | None]:
    """Yield the parts of `text` that semicolons separate; None, at last, for what is not clear."""
    start = position = 0
    while True:
        position = WITHIN.match(text, position).end()  # type: ignore[union-attr]  # always matches
        found = text[position : position + 1]
        if found in (b";", b""):
            yield text[start:position]
            if not found:
                return
            start = position = position + 1
        elif found == b"$":
            # A parameter has one, a quote two.
            quote = DOLLAR_QUOTE.match(text, position)
            closed = text.find(quote[0], quote.end()) if quote else position
            if closed < 0:
                closed = len(text)
            position = closed + (len(quote[0]) if quote else 1)
        else:
            # A comment that does not end, or has too many in each other.
            yield None
            return
