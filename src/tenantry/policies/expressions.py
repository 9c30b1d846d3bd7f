"""Whether text is one expression of SQL, which ends where it should."""

from __future__ import annotations

import re

# What PostgreSQL reads as one token (its documentation, "Lexical Structure"), as far as it may
# hold a parenthesis or a semicolon that is none; and what begins such a token without ending it.
# Comments in comments are taken for such as do not end.
TOKEN = re.compile(
    r"""
    [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*"
    | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    | --[^\n]*\n | /\*(?:(?!/\*).)*?\*/
    | (?P<open>[eE]?' | " | -- | /\* | \$(?:[^\W\d]\w*)?\$)
    | [\w][\w$]*
    | (?P<sign>[();])
    | .
    """,
    re.DOTALL | re.VERBOSE,
)


def unbalanced(text: str) -> str | None:
    """Return what in `text` would change the meaning of the SQL around it, if anything."""
    depth = 0
    for token in TOKEN.finditer(text):
        if token["open"]:
            return f"what begins with {token['open']} does not end"
        sign = token["sign"]
        if sign == ";":
            return "it has a semicolon"
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth < 0:
            return "it closes a parenthesis that it has not opened"
    return "it does not close a parenthesis" if depth else None
