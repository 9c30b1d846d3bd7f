"""What a check says to do where the database does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError
from django.db import DataError, NotSupportedError, OperationalError, ProgrammingError, connections

from tenantry.checks.failures import GENERAL, advice_for
from tenantry.checks.registry import check_database
from tenantry.exceptions import UnsupportedServerError
from tests import settings as test_settings
from tests.fix_checks import broken, check, findings

IN = " in DATABASES['default']"


def fixes() -> set[tuple[str, str]]:
    """Return subject and fix of what could not be checked."""
    return {
        (subject, text.rpartition("; ")[2])
        for identifier, subject, text in findings()
        if identifier == "tenantry.E190"
    }


@pytest.fixture
def again(arrange: Any) -> Iterator[None]:
    connections["default"].close()
    yield
    connections["default"].close()


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("NAME", "nowhere", f"run CREATE DATABASE nowhere, or correct NAME{IN}"),
        ("USER", "nobody", f"run CREATE ROLE nobody LOGIN, or correct USER{IN}"),
        ("NAME", "my-db", f'run CREATE DATABASE "my-db", or correct NAME{IN}'),
        ("USER", "Nobody", f'run CREATE ROLE "Nobody" LOGIN, or correct USER{IN}'),
        # A word of SQL.
        ("USER", "user", f'run CREATE ROLE "user" LOGIN, or correct USER{IN}'),
        ("PORT", "1", f"start the server, or correct HOST and PORT{IN}"),
        ("HOST", "nowhere.invalid", f"start the server, or correct HOST and PORT{IN}"),
    ],
)
def test_a_setting_that_leads_nowhere_is_named(
    setting: str, value: str, fix: str, again: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, setting, value)
    assert fixes() == {("database 'default'", fix)}


def test_nothing_is_well_that_nobody_has_looked_at(
    again: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "PORT", "1")
    output, status = check("--verbose")
    said = "could not be reached, so nothing in it was checked: "
    assert f"database 'default':\n  tenantry.E190 {said}" in output
    assert output.endswith("\n0 OK, 1 wrong\n")
    assert status == 1
    # Django's own command asks for all that is wrong in a database, too.
    assert [each.id for each in check_database(databases=["default"])] == ["tenantry.E190"]
    with pytest.raises(CommandError, match=f"^database 'default' {said}.*; start the server"):
        check("--generate")


@pytest.mark.parametrize(
    ("how", "back", "fix"),
    [
        ("ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN", "run ALTER ROLE app LOGIN"),
        (
            "REVOKE CONNECT ON DATABASE tenantry FROM PUBLIC",
            "GRANT CONNECT ON DATABASE tenantry TO PUBLIC",
            "run GRANT CONNECT ON DATABASE tenantry TO app",
        ),
        (
            "ALTER ROLE app CONNECTION LIMIT 0",
            "ALTER ROLE app CONNECTION LIMIT -1",
            "close connections, or allow more",
        ),
    ],
)
def test_a_connection_that_is_refused_says_why(
    how: str, back: str, fix: str, again: None, arrange: psycopg.Connection[Any]
) -> None:
    with broken(arrange, how, back):
        assert fixes() == {("database 'default'", fix)}


@pytest.mark.parametrize(
    ("how", "back", "subject", "fix"),
    [
        (
            "REVOKE SELECT ON app_note FROM app",
            "GRANT SELECT ON app_note TO app",
            "table app_note",
            "run GRANT SELECT ON app_note TO app",
        ),
        (
            "REVOKE SELECT ON pg_roles FROM PUBLIC",
            "GRANT SELECT ON pg_roles TO PUBLIC",
            "role",
            "run GRANT SELECT ON pg_roles TO app",
        ),
    ],
)
def test_a_privilege_that_is_lacking_is_named(
    how: str, back: str, subject: str, fix: str, arrange: psycopg.Connection[Any]
) -> None:
    with broken(arrange, how, back):
        assert (subject, fix) in fixes()


@pytest.mark.guc_shape
@pytest.mark.parametrize(("role", "quoted"), [("nobody", "nobody"), ("No-body", '"No-body"')])
def test_a_role_of_the_settings_that_does_not_exist_is_named(
    role: str, quoted: str, again: None, settings: Any
) -> None:
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | {"APP_ROLE": role}
    assert findings() == [
        (
            "tenantry.E109",
            f"role {role}",
            f"is the APP_ROLE, and does not exist; run CREATE ROLE {quoted} LOGIN, or correct"
            " APP_ROLE in RLS_TENANTS",
        )
    ]


def failed(error: type[Exception], text: str, cause: BaseException | None = None) -> Any:
    found = error(text)
    found.__cause__ = cause
    return found


STATES = psycopg.errors


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (
            failed(OperationalError, 'FATAL: password authentication failed for user "app"'),
            f"correct USER and PASSWORD{IN}",
        ),
        (
            failed(OperationalError, 'FATAL: no pg_hba.conf entry for host "::1"'),
            "let the server's pg_hba.conf admit app",
        ),
        (failed(OperationalError, "FATAL: no such database: x"), f", or correct NAME{IN}"),
        (failed(OperationalError, 'FATAL: die Datenbank "x" existiert nicht'), GENERAL),
        (failed(UnsupportedServerError, "PostgreSQL 14"), "upgrade the server"),
        (failed(NotSupportedError, "PostgreSQL 12"), "upgrade the server"),
        (
            failed(
                ProgrammingError,
                "permission denied for schema s",
                STATES.InsufficientPrivilege("x"),
            ),
            "run GRANT USAGE ON SCHEMA s TO app",
        ),
        (
            failed(
                ProgrammingError,
                "permission denied for schema My schema",
                STATES.InsufficientPrivilege("x"),
            ),
            'run GRANT USAGE ON SCHEMA "My schema" TO app',
        ),
        (
            failed(
                ProgrammingError,
                "permission denied for table Odd table",
                STATES.InsufficientPrivilege("x"),
            ),
            'run GRANT SELECT ON "Odd table" TO app',
        ),
        (
            failed(DataError, 'role "x" does not exist', STATES.InvalidParameterValue("x")),
            f"run CREATE ROLE x NOLOGIN, or correct OPTIONS['assume_role']{IN}",
        ),
        (
            failed(DataError, 'role "X" does not exist', STATES.InvalidParameterValue("x")),
            f"run CREATE ROLE \"X\" NOLOGIN, or correct OPTIONS['assume_role']{IN}",
        ),
        (
            failed(ProgrammingError, "keine Berechtigung für x", STATES.InsufficientPrivilege("x")),
            "grant app what it lacks",
        ),
        (
            failed(ProgrammingError, 'column "x" does not exist', STATES.UndefinedColumn("x")),
            "run makemigrations and migrate",
        ),
        (
            failed(ProgrammingError, 'schema "x" existiert nicht', STATES.InvalidSchemaName("x")),
            "run makemigrations and migrate",
        ),
        (
            failed(ProgrammingError, "syntax error", STATES.SyntaxError("x")),
            "report it with the server's version, which does not understand the question",
        ),
        (failed(OperationalError, "canceled", STATES.QueryCanceled("x")), GENERAL),
    ],
)
def test_other_failures_say_what_to_do(error: Any, fix: str) -> None:
    assert advice_for(connections["default"], error).endswith(fix)


def test_without_a_user_the_role_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "USER", "")
    error = failed(ProgrammingError, "permission denied for x", STATES.InsufficientPrivilege("x"))
    advice = advice_for(connections["default"], error)
    assert advice == "grant the role that serves requests what it lacks"
