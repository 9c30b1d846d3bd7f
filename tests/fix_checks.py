"""Break the real database, and ask ``check_rls`` and Django what they find."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.core.management import call_command

from tenantry.checks import server
from tests.app.models import Tenant


@pytest.fixture(scope="session", autouse=True)
def newest_releases() -> Iterator[None]:
    """Take the servers of the tests for the newest releases, which they need not be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "FIXED", {})
        yield


def check(*arguments: str) -> tuple[str, int]:
    """Run the command, and return its output and exit status."""
    output = io.StringIO()
    try:
        call_command("check_rls", *arguments, stdout=output)
    except SystemExit as error:
        return output.getvalue(), int(error.code or 0)
    return output.getvalue(), 0


def findings(*arguments: str) -> list[tuple[str, str, str]]:
    """Return id, subject and the whole text of all that is found."""
    return [
        (each["id"], report["subject"], f"{each['message']}; {each['fix']}")
        for report in json.loads(check("--json", *arguments)[0])
        for each in report["findings"]
    ]


@pytest.fixture
def arrange(tenants: tuple[Tenant, Tenant], postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection that may break things, in the database that is checked."""
    with psycopg.connect(postgres.dsn("postgres", "tenantry"), autocommit=True) as connection:
        yield connection


@contextmanager
def broken(connection: psycopg.Connection[Any], how: str, back: str) -> Iterator[None]:
    """Do `how` for the block, and undo it by `back`."""
    connection.execute(how.encode())
    try:
        yield
    finally:
        connection.execute(back.encode())
