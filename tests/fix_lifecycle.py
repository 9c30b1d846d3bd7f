"""What tables hold, as nobody who is bound sees it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connections

from tenantry.lifecycle.tables import owned_tables

Contents = dict[str, list[str]]


@pytest.fixture
def contents(superuser: psycopg.Connection[Any], project: None) -> Callable[[], Contents]:
    """Return a function that reads all rows of all tables of tenants, whoever owns them."""

    def read() -> Contents:
        return {
            name: [
                row
                for (row,) in superuser.execute(
                    f"SELECT to_json(t)::text FROM {table.quoted} t ORDER BY 1".encode()
                )
            ]
            for name, table in owned_tables(connections["default"]).items()
        }

    return read


def command(name: str, *arguments: object) -> str:
    """Run a command, and return what it writes."""
    output = io.StringIO()
    call_command(name, *map(str, arguments), stdout=output, stderr=io.StringIO())
    return output.getvalue()
