"""Tables broken on purpose, or written otherwise, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

Connection = psycopg.Connection[Any]

NAMES = "SELECT policyname FROM pg_policies WHERE tablename = %s"
POLICIES = """\
SELECT format('CREATE POLICY %%I ON %%I AS %%s FOR %%s TO %%s%%s%%s',
  policyname, tablename, permissive, cmd, array_to_string(roles, ','),
  ' USING (' || qual || ')', ' WITH CHECK (' || with_check || ')')
FROM pg_policies WHERE tablename = %s"""


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
