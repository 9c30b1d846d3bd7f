"""``check_rls`` finds what is wrong with roles, tables and policies, and says how to mend it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from tests.app.models import Tenant

pytestmark = pytest.mark.guc_shape

Tenants = tuple[Tenant, Tenant]


def check(*arguments: str) -> tuple[str, int]:
    """Run the command, and return its output and exit status."""
    output = io.StringIO()
    try:
        call_command("check_rls", *arguments, stdout=output)
    except SystemExit as error:
        return output.getvalue(), int(error.code or 0)
    return output.getvalue(), 0


@pytest.fixture
def arrange(tenants: Tenants, postgres: Any) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection that may break things, in the database that is checked."""
    with psycopg.connect(postgres.dsn("postgres", "tenantry"), autocommit=True) as connection:
        yield connection


@contextmanager
def broken(connection: psycopg.Connection[Any], how: str, back: str) -> Iterator[None]:
    connection.execute(how.encode())
    try:
        yield
    finally:
        connection.execute(back.encode())


@pytest.mark.parametrize("alias", ["default", "pool", "pooled"])
def test_a_healthy_database_is_ok(alias: str, tenants: Tenants) -> None:
    output, status = check("--database", alias, "--verbose")
    assert status == 0, output
    for subject in ("role app", "table app_note", "table Odd table", "table app_book"):
        assert f"{subject}: OK" in output
    assert "app_shared" not in output
    assert output.endswith(" OK, 0 wrong\n")
    connections[alias].close()


BREAKS = {
    "off": (
        "ALTER TABLE app_note DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE app_note ENABLE ROW LEVEL SECURITY",
        'has Row-Level Security switched off; run ALTER TABLE "app_note" ENABLE',
    ),
    "owner": (
        "ALTER TABLE app_note NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE app_note FORCE ROW LEVEL SECURITY",
        'does not bind its owner; run ALTER TABLE "app_note" FORCE',
    ),
    "stray policy": (
        "CREATE POLICY stray ON app_note USING (true)",
        "DROP POLICY stray ON app_note",
        "has the permissive policy stray",
    ),
    "truncate": (
        "GRANT TRUNCATE ON app_note TO app",
        "REVOKE TRUNCATE ON app_note FROM app",
        "can be emptied by this role",
    ),
    "member of the owner": (
        "GRANT owner TO app",
        "REVOKE owner FROM app",
        "belongs to owner, which this role is or can become",
    ),
    "weaker policy": (
        "ALTER POLICY tenantry_isolation ON app_note USING (true)",
        "ALTER POLICY tenantry_isolation ON app_note USING ({})",
        "differs from what the models ask for: it is 'true', and should be 'CASE WHEN",
    ),
    "weaker check": (
        "ALTER POLICY tenantry_isolation ON app_book WITH CHECK (true)",
        "ALTER POLICY tenantry_isolation ON app_book WITH CHECK ({})",
        "differs from what the models ask for",
    ),
    "no policy": (
        "ALTER POLICY tenantry_isolation ON app_note RENAME TO other",
        "ALTER POLICY other ON app_note RENAME TO tenantry_isolation",
        "has no policy of tenantry; run makemigrations and migrate",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_with_the_fix(name: str, arrange: psycopg.Connection[Any]) -> None:
    how, back, message = BREAKS[name]
    table = "app_book" if "app_book" in how else "app_note"
    row = arrange.execute(
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = %s::regclass",
        [table],
    ).fetchone()
    assert row
    with broken(arrange, how, back.format(row[0])):
        output, status = check()
        assert status == 1
        assert f"table {table}:" in output
        assert message in output
        found = json.loads(check("--json")[0])
        problems = {each["subject"]: each["problems"] for each in found}
        assert any(message in problem for problem in problems[f"table {table}"])
        assert problems["role app"] == []
    assert check() == (f"{len(found)} OK, 0 wrong\n", 0)


@pytest.mark.parametrize(
    ("how", "back", "message"),
    [
        ("ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS", "has BYPASSRLS; run ALTER ROLE"),
        ("ALTER ROLE app SUPERUSER", "ALTER ROLE app NOSUPERUSER", "is a superuser"),
        (
            "CREATE ROLE seesall BYPASSRLS; GRANT seesall TO app",
            "DROP ROLE seesall",
            "can become seesall, whom no policy binds; run REVOKE seesall FROM app",
        ),
    ],
)
def test_a_role_that_is_exempt_is_found(
    how: str, back: str, message: str, arrange: psycopg.Connection[Any]
) -> None:
    with broken(arrange, how, back):
        output, status = check()
    assert status == 1
    assert "role app:" in output
    assert message in output


def test_a_check_that_cannot_run_says_so(tenants: Tenants, arrange: Any) -> None:
    with (
        broken(
            arrange,
            "REVOKE TEMPORARY ON DATABASE tenantry FROM PUBLIC",
            "GRANT TEMPORARY ON DATABASE tenantry TO PUBLIC",
        ),
        pytest.raises(CommandError, match="could not be checked: permission denied"),
    ):
        check()


def test_a_database_of_another_engine_is_refused(tenants: Tenants) -> None:
    connections["default"].settings_dict["ENGINE"] = "django.db.backends.postgresql"
    try:
        with pytest.raises(CommandError, match="not tenantry's; name another one with --database"):
            check()
    finally:
        connections["default"].settings_dict["ENGINE"] = "tenantry.backends.postgresql"
