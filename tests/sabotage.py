"""Tables broken on purpose, or written otherwise, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

NAMES = "SELECT policyname FROM pg_policies WHERE tablename = %s"
POLICIES = """\
SELECT format('CREATE POLICY %%I ON %%I AS %%s FOR %%s TO %%s USING (%%s) WITH CHECK (%%s)',
  policyname, tablename, permissive, cmd, array_to_string(roles, ','), qual, with_check)
FROM pg_policies WHERE tablename = %s"""
PREDICATES = """\
SELECT format('%I.%I', schemaname, tablename), policyname, qual FROM pg_policies
WHERE schemaname = 'public' AND qual = with_check"""


@contextmanager
def called_by_name(connection: Connection, function: str) -> Iterator[None]:
    """Let policies call `function` where they spell out what it returns, as pgrls wants it."""
    row = connection.execute(
        "SELECT pg_get_function_sqlbody(to_regproc(%s))", [function]
    ).fetchone()
    assert row
    body = row[0].removeprefix("RETURN ")
    policies = [row for row in connection.execute(PREDICATES).fetchall() if body in row[2]]
    try:
        for table, name, using in policies:
            alter(connection, table, name, using.replace(body, f"{function}()"))
        yield
    finally:
        for table, name, using in policies:
            alter(connection, table, name, using)


def alter(connection: Connection, table: str, name: str, predicate: str) -> None:
    sql = f"ALTER POLICY {name} ON {table} USING ({predicate}) WITH CHECK ({predicate})"
    connection.execute(sql.encode())


@contextmanager
def broken(connection: Connection, table: str, how: str) -> Iterator[None]:
    """Break a table, and put everything back that is asked about here."""
    policies = connection.execute(POLICIES, [table]).fetchall()
    connection.execute(how.encode())
    try:
        yield
    finally:
        for (name,) in connection.execute(NAMES, [table]).fetchall():
            connection.execute(f'DROP POLICY {name} ON "{table}"'.encode())
        for (sql,) in policies:
            connection.execute(sql.encode())
        connection.execute(f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY'.encode())
        connection.execute(f'ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY'.encode())
