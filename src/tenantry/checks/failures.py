"""Why a database did not answer, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

from django.db import Error, NotSupportedError

from ..policies.predicates import readable
from .findings import Finding

# Of tables, columns, functions and schemas that are not there.
MISSING = {"42P01", "42703", "42883", "3F000"}

GENERAL = "let the role that serves requests connect, read the catalogs and select from the tables"

# For a connection that was not made libpq has no SQLSTATE, only a text, which a server may write in
# another language; then the general advice holds. PgBouncer has texts of its own.
CONNECTING = {
    r"Connection refused|No such file|[Tt]imeout|timed out|could not translate|resolve": (
        "start the server, or correct HOST and PORT in DATABASES[{alias!r}]"
    ),
    r"database .*does not exist|no such database": (
        "run CREATE DATABASE {name}, or correct NAME in DATABASES[{alias!r}]"
    ),
    r"role .*does not exist|no such user": (
        "run CREATE ROLE {user} LOGIN, or correct USER in DATABASES[{alias!r}]"
    ),
    r"not permitted to log in": "run ALTER ROLE {user} LOGIN",
    r"password": "correct USER and PASSWORD in DATABASES[{alias!r}]",
    r"permission denied for database": "run GRANT CONNECT ON DATABASE {name} TO {user}",
    r"pg_hba\.conf": "let the server's pg_hba.conf admit {user}",
    r"too many|connection slots": "close connections, or allow more",
}
# By the beginning of the SQLSTATE of a statement, and a text.
STATEMENTS = [
    ("42501", r"schema (.+)", "run GRANT USAGE ON SCHEMA {0} TO {user}"),
    ("42501", r"(?:table|view) (.+)", "run GRANT SELECT ON {0} TO {user}"),
    ("42501", r"", "grant {user} what it lacks"),
    (
        "22023",
        r'role "(.+)"',
        "run CREATE ROLE {0} NOLOGIN, or correct OPTIONS['assume_role'] in DATABASES[{alias!r}]",
    ),
    ("42601", r"", "report it with the server's version, which does not understand the question"),
    # Tables, columns, functions and schemas that are not there.
    ("42", r"does not exist", "run makemigrations and migrate"),
    ("3F", r"", "run makemigrations and migrate"),
]


def is_missing(error: Error) -> bool:
    """Return whether what a database was asked about is not there."""
    return getattr(error.__cause__, "sqlstate", None) in MISSING


def unchecked(
    connection: Any,
    subject: str,
    error: Error,
    failed: str = "could not be checked",
    *,
    awaited: bool = False,
) -> Finding:
    """Return the finding that something could not be checked."""
    reason = " ".join(str(error).split())
    advice = advice_for(connection, error)
    return Finding("tenantry.E190", subject, f"{failed}: {reason}", advice, awaited)


def advice_for(connection: Any, error: Error) -> str:
    """Return what to do about `error`, with which a database has answered."""
    if isinstance(error, NotSupportedError):
        return "upgrade the server"
    settings = connection.settings_dict
    names = {
        "alias": connection.alias,
        "name": readable(settings["NAME"] or "postgres"),
        "user": readable(settings["USER"]) if settings["USER"] else "the role that serves requests",
    }
    text = str(error)
    sqlstate = getattr(error.__cause__, "sqlstate", None)
    if sqlstate is None:
        for reason, advice in CONNECTING.items():
            if re.search(reason, text):
                return advice.format(**names)
    else:
        for state, reason, advice in STATEMENTS:
            if sqlstate.startswith(state) and (found := re.search(reason, text)):
                return advice.format(*map(readable, found.groups()), **names)
    return GENERAL
