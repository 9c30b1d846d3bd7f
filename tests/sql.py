"""SQL of a test, on the connection of requests or another one."""

from __future__ import annotations

from typing import Any

from django.db import connections


def run(sql: str, params: Any = None, *, alias: str = "default") -> Any:
    """Return the rows of a statement, or how many it has changed."""
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else cursor.rowcount
