"""Session state: what a statement would leave on a server session that somebody else gets next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...exceptions import UnbindableStatementError
from .apply import GAP, excerpt, first_word
from .several import TOKEN

# Possessive quantifiers keep the time proportional to the length, whatever there is before a word.
SESSION_STATE = re.compile(
    rb"""
    (?: \A | ; ) {gap}
    (?:
        (?: LISTEN | DISCARD | RESET )\b
      | SET\b{gap}(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)
      | PREPARE\b{gap}(?!TRANSACTION\b)
      | DECLARE\b[^;]*\bWITH\b{gap}HOLD\b
      | (?: EXPLAIN\b[^;]*\b )?
        CREATE\b{gap}
        (?: (?:OR\b{gap}REPLACE\b{gap})?(?:(?:GLOBAL|LOCAL)\b{gap})?TEMP(?:ORARY)?\b
            # What is made ON a table is gone with it.
          | (?:(?!ON\b|pg_temp)\w++{gap})++ "?pg_temp(?:_\d++)?"?{gap}\.
        )
        (?![^;]*\bON\b{gap}COMMIT\b{gap}DROP\b)
      | (?: EXPLAIN\b[^;]*\b )?
        (?:SELECT|WITH)\b[^;]*(?<!INSERT\s)(?<!MERGE\s)\bINTO\b{gap}
        (?: (?:(?:GLOBAL|LOCAL)\b{gap})?TEMP(?:ORARY)?(?:\s|--|/\*|")
          | (?:UNLOGGED\b{gap})?(?:TABLE\b{gap})?"?pg_temp(?:_\d++)?"?{gap}\.
        )
    )
  | \bpg_(?:try_)?advisory_lock(?:_shared)?"?{gap}\(
    # Not where it is a parameter, or an expression, that says how long the value is to last.
  | \bset_config"?{gap}\( (?: (?:[^,();']|'(?:[^']|'')*+')*+ , ){2}
    {gap} (?:is_local{gap}(?:=>|:=){gap})? (?:false|'(?:f|false)'){gap}\)
    """.replace(b"{gap}", GAP),
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


# What a single statement begins with that reads or writes rows, and what it names in all that the
# pattern finds in one.
ROWS = frozenset({b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"WITH"})
NAMES = (b"temp", b"advisory_lock", b"_config")
# What a string begins with, and those that set_config() takes for false.
STRING = (b"'", b"e'", b"E'")
FALSE = frozenset({b"'f'", b"'false'"})
# A string that is run.
BODY = re.compile(
    rb"\bDO\b" + GAP + rb"(?:LANGUAGE\b" + GAP + rb"\w++" + GAP + rb")?e?'", re.IGNORECASE
)


def is_plain(statement: bytes) -> bool:
    """Return whether the pattern surely finds nothing, in a fraction of its time.

    It takes a millisecond for an ``IN`` of thousands.
    """
    if b";" in statement or first_word(statement) not in ROWS:
        return False
    lower = statement.lower()
    return not any(name in lower for name in NAMES)


def without_texts(statement: bytes) -> bytes:
    """Return `statement` without comments, and with its strings empty, whose words are no SQL.

    A text between dollar signs stays: it is a body more often than a value.
    """
    return TOKEN.sub(lambda token: b" " if token[1] is None else without_text(token[1]), statement)


def without_text(token: bytes) -> bytes:
    """Return `token`, or an empty string for one that no argument of set_config() is."""
    return b"''" if token.startswith(STRING) and token.lower() not in FALSE else token


def refuse_session_state(statement: bytes) -> None:
    """Raise UnbindableStatementError if `statement` would leave something to its session.

    It sees no function of the project's that does.
    """
    if is_plain(statement) or not SESSION_STATE.search(statement):
        return
    # Looking at each token takes longer than the pattern, which nearly always finds nothing.
    if BODY.search(statement) or SESSION_STATE.search(without_texts(statement)):
        shown = excerpt(statement)
        raise UnbindableStatementError(
            f"{shown!r} is for a whole session, but OPTIONS['pool_mode'] is 'transaction', so that"
            " its connection goes to somebody else next; use what ends with a transaction (SET with"
            " LOCAL, pg_advisory_xact_lock(), ON COMMIT DROP), or a database alias with pool_mode"
            " 'session'"
        )


@contextmanager
def whole_session(connection: Any) -> Iterator[None]:
    """Refuse nothing in the block, which is for the whole session of a connection of a pool."""
    per_transaction, connection.per_transaction = connection.per_transaction, False
    try:
        yield
    finally:
        connection.per_transaction = per_transaction
