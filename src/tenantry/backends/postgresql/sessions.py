"""Session state: what a statement would leave on a server session that somebody else gets next."""

from __future__ import annotations

import re

from ...exceptions import UnbindableStatementError

# By the start of a statement, past comments; advisory locks by their function's name.
SESSION_STATE = re.compile(
    rb"""
    (?: \s+ | --[^\n]*(?:\n|$) | /\*.*?\*/ )*
    (?:
        LISTEN\b
      | SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)
      | PREPARE\s+(?!TRANSACTION\b)
      | DECLARE\b.*\bWITH\s+HOLD\b
      | CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\b
      | .*\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(
    )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def refuse_session_state(statement: bytes) -> None:
    """Raise UnbindableStatementError if `statement` would outlive its transaction.

    It sees the first statement of a string only, and no function that sets a parameter.
    """
    if SESSION_STATE.match(statement):
        shown = statement.decode(errors="replace")[:60]
        raise UnbindableStatementError(
            f"{shown!r} is for a whole session, but OPTIONS['pool_mode'] is 'transaction', so that"
            " its connection goes to somebody else next; use what ends with a transaction (SET with"
            " LOCAL, pg_advisory_xact_lock()), or a database alias with pool_mode 'session'"
        )
