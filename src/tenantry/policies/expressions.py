"""Whether text is one expression of SQL, which ends where it should."""

from __future__ import annotations

import re

# What PostgreSQL reads as one token (its documentation, "Lexical Structure"), as a parenthesis or a
# semicolon in it does not count; and what begins such a token without ending it. A comment in a
# comment is taken for one that does not end.
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
    """Return why `text` would change the meaning of the SQL around it, or None."""
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
