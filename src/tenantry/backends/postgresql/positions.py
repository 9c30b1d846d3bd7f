"""Errors that speak of the user's statement, not of the message that carried it."""

from __future__ import annotations

import re
from typing import Any

from psycopg import Error
from psycopg.pq import DiagnosticField

# libpq shows the line of the error, and below it a caret under the position.
SHOWN_LINE = re.compile(r"^LINE (\d+): (.*)\n( *\^)", re.MULTILINE)


class ShiftedResult:
    """A ``PGresult`` whose error position does not count the text before the statement."""

    def __init__(self, result: Any, characters: int) -> None:
        self._result = result
        self._characters = characters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)

    def error_field(self, field: DiagnosticField) -> bytes | None:
        """Return the field, with a statement position that is the user's."""
        value: bytes | None = self._result.error_field(field)
        if field is DiagnosticField.STATEMENT_POSITION and value:
            return str(max(int(value) - self._characters, 1)).encode()
        return value


def without_prefix(error: Error, prefix: bytes) -> Error:
    """Return `error` with its positions as if the one-line `prefix` had not been sent."""
    if error.diag.statement_position is None:
        return error
    # psycopg has no public way to make an error with another position; .diag reads from here.
    error._info = ShiftedResult(error._info, len(prefix.decode()))  # type: ignore[assignment]
    error.args = tuple(
        SHOWN_LINE.sub(_one_line_up, arg) if isinstance(arg, str) else arg for arg in error.args
    )
    return error


def _one_line_up(match: re.Match[str]) -> str:
    line, text, caret = int(match[1]) - 1, match[2], match[3]
    narrower = len(match[1]) - len(str(line))
    return f"LINE {line}: {text}\n{caret[narrower:]}"
