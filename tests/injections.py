"""SQL that an attacker has got into a statement of one tenant, and what stops it from the others.

``{a}`` and ``{b}`` stand for the tenants, ``{key}`` for the name of the key that signs,
``{forged}`` for a token of the admin that nobody has signed, and ``{titles}`` for a query of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import time
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError

from tenantry.exceptions import UnbindableStatementError
from tenantry.seal import seal_keys
from tests import settings
from tests.app.models import Tenant

TITLES = "SELECT title FROM app_note ORDER BY id"
OWNER = "must be owner of "
SCHEMA = "permission denied for schema tenantry"
KEYS = "permission denied for table seal_keys"
ROW = "violates row-level security policy"
UNDOES = "rolls back to a savepoint, and goes on after that"
NOT_SEALED = "the tenant is not sealed"
NOT_VALID = "the seal of the tenant is not valid"
# The rows of the tenant itself, and none.
OWN = "A 1"
NONE = r"\[\]\] \["


@dataclass(frozen=True)
class Injection:
    """Be SQL, a regular expression for what it shows where bindings are sealed, and where it works.

    The expression says what is to stop it: an injection that is not well written would be stopped
    everywhere. It shows a row of the other tenant in the unsealed shapes that `opens` names.
    """

    sql: str
    shows: str
    opens: str = ""

    def param(self, *marks: Any) -> Any:
        """Return it as a parameter of a test, which needs the roles that it names."""
        if "app_admin" in self.sql:
            marks = (*marks, pytest.mark.admin_role)
        return pytest.param(self, marks=marks, id=self.sql)


# With others after them in the same string.
STATEMENTS = [
    Injection("SET rls.current_tenant = '{b}'", NOT_SEALED, "guc role"),
    Injection("SET LOCAL rls.current_tenant = '{b}'", NOT_SEALED, "guc role"),
    Injection("SELECT set_config('rls.current_tenant', '{b}', true)", NOT_SEALED, "guc role"),
    Injection("SELECT set_config('rls.current_tenant', '{b}', false)", NOT_SEALED, "guc role"),
    Injection(
        "SELECT set_config('rls.current_tenant',"
        " regexp_replace(current_setting('rls.current_tenant'), '{a}$', '{b}'), true)",
        NOT_VALID,
        "guc role",
    ),
    Injection(
        "SELECT set_config('rls.current_tenant',"
        " replace(current_setting('rls.current_tenant'), '::', ':admin:'), true)",
        NOT_VALID,
    ),
    Injection("SELECT set_config('rls.current_tenant', '{forged}', true)", NOT_VALID),
    Injection("SET rls.is_admin = 'true'", OWN, "guc"),
    Injection("RESET rls.current_tenant", NONE),
    Injection("RESET ALL", NONE),
    Injection("SET ROLE app_admin", OWN, "role"),
    Injection("SET LOCAL ROLE app_admin", OWN, "role"),
    Injection("SELECT set_config('role', 'app_admin', true)", OWN, "role"),
    Injection("SET ROLE owner", "permission denied to set role"),
    Injection("SET ROLE postgres", "permission denied to set role"),
    Injection("SET SESSION AUTHORIZATION postgres", "permission denied to set session auth"),
    Injection("SET row_security = off", "would be affected by row-level security policy"),
    Injection("SET session_replication_role = replica", "permission denied to set parameter"),
    Injection(
        "DO $$ BEGIN PERFORM set_config('rls.current_tenant', '{b}', true); END $$",
        NOT_SEALED,
        "guc role",
    ),
    Injection("DO $$ BEGIN EXECUTE 'SET LOCAL ROLE app_admin'; END $$", OWN, "role"),
    # What the policy and its function call, under the same names.
    Injection(
        "CREATE FUNCTION pg_temp.rls_sealed(text) RETURNS text LANGUAGE sql AS $$ SELECT '{b}' $$;"
        " SET search_path = pg_temp, tenantry, public",
        OWN,
    ),
    Injection(
        "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql"
        " AS $$ SELECT decode(repeat('0', 64), 'hex') $$;"
        " SET search_path = pg_temp, pg_catalog, public;"
        " SELECT set_config('rls.current_tenant', '{forged}', true)",
        NOT_VALID,
    ),
    Injection(
        "CREATE FUNCTION pg_temp.current_database() RETURNS name LANGUAGE sql"
        " AS $$ SELECT 'x' $$; SET search_path = pg_temp, pg_catalog, public",
        OWN,
    ),
    Injection(
        "CREATE TEMPORARY TABLE seal_keys AS SELECT '{key}'::text AS id, ''::bytea AS inside,"
        " ''::bytea AS outside; SET search_path = pg_temp, public;"
        " SELECT set_config('rls.current_tenant', '{forged}', true)",
        NOT_VALID,
    ),
    Injection(
        "CREATE OR REPLACE FUNCTION tenantry.rls_sealed(claim text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT '{b}' $$",
        SCHEMA,
    ),
    Injection("DROP FUNCTION tenantry.rls_sealed(text) CASCADE", OWNER),
    Injection("ALTER FUNCTION tenantry.rls_sealed(text) RESET ALL", OWNER),
    Injection("SELECT * FROM tenantry.seal_keys", KEYS),
    Injection("COPY tenantry.seal_keys TO STDOUT", KEYS),
    Injection("INSERT INTO tenantry.seal_keys VALUES ('{key}', '', '')", KEYS),
    Injection("SET ROLE app_admin; INSERT INTO tenantry.seal_keys VALUES ('{key}', '', '')", KEYS),
    Injection("CREATE TABLE tenantry.mine (id int)", SCHEMA),
    Injection("ALTER TABLE app_note DISABLE ROW LEVEL SECURITY", OWNER),
    Injection("ALTER TABLE app_note NO FORCE ROW LEVEL SECURITY", OWNER),
    Injection("ALTER POLICY tenantry_isolation ON app_note USING (true)", OWNER),
    Injection("CREATE POLICY mine ON app_note USING (true)", OWNER),
    Injection("DROP POLICY tenantry_isolation ON app_note", OWNER),
    Injection("GRANT app_admin TO app WITH INHERIT TRUE", "permission denied to grant role"),
    # Before PostgreSQL 16, and since then.
    Injection("GRANT owner TO app", "must have admin option|permission denied to grant role"),
    Injection("ALTER ROLE app BYPASSRLS", "must be superuser|permission denied to alter role"),
    Injection("TRUNCATE app_note", "permission denied for table app_note"),
    Injection(
        "CREATE TEMPORARY VIEW peek WITH (security_invoker) AS SELECT * FROM app_note;"
        " GRANT SELECT ON peek TO app_admin; SET ROLE app_admin; SELECT title FROM peek",
        OWN,
        "role",
    ),
    Injection(
        "PREPARE mine AS SELECT title FROM app_note; SET LOCAL rls.current_tenant = '{b}';"
        " EXECUTE mine",
        NOT_SEALED,
        "guc role",
    ),
    Injection(
        "PREPARE mine AS SELECT title FROM app_note; SET LOCAL rls.current_tenant = '';"
        " SET ROLE app_admin; EXECUTE mine",
        NONE,
        "role",
    ),
    Injection(
        "DECLARE mine CURSOR FOR SELECT title FROM app_note; SET LOCAL rls.current_tenant = '{b}';"
        " FETCH ALL mine",
        NOT_SEALED,
        "guc role",
    ),
    Injection(
        "DECLARE mine CURSOR FOR SELECT title FROM app_note; SET LOCAL ROLE app_admin;"
        " FETCH ALL mine",
        OWN,
        "role",
    ),
    Injection(
        "CREATE FUNCTION pg_temp.peek(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$;"
        " SELECT title FROM app_note WHERE pg_temp.peek(title)",
        r"\['A 1', 'A 2'\]$",
    ),
    Injection(
        "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'app_note'", OWN
    ),
    Injection("UPDATE app_note SET tenant_id = {b}", ROW),
    Injection("INSERT INTO app_note (title, tenant_id) VALUES ('planted', {b})", ROW),
    Injection("DELETE FROM app_note WHERE tenant_id = {b}", OWN),
    # To a savepoint of the admin. A string goes on with another one after a line break only.
    Injection("ROLLBACK TO SAVEPOINT s", UNDOES),
    Injection(
        "DO LANGUAGE E'plpgsql' 'BEGIN END --\\'; ROLLBACK TO SAVEPOINT s; {titles}; --'", UNDOES
    ),
]
# Within one statement, outside a transaction too. A policy reads the binding before anything of the
# statement that may change it, unless that runs first, or runs statements of its own.
EXPRESSIONS = [
    Injection(
        "SELECT title FROM app_note WHERE set_config('rls.current_tenant', '{b}', true)"
        " IS NOT NULL",
        f"{OWN}|{NOT_SEALED}",
    ),
    Injection("SELECT set_config('rls.current_tenant', '{b}', true), title FROM app_note", OWN),
    Injection(
        "WITH x AS MATERIALIZED (SELECT set_config('rls.current_tenant', '{b}', true))"
        " SELECT title FROM x, app_note",
        NOT_SEALED,
        "guc role",
    ),
    Injection(
        "WITH x AS MATERIALIZED (SELECT set_config('role', 'app_admin', true)) SELECT title"
        " FROM x, app_note",
        OWN,
    ),
    Injection(
        "SELECT title FROM app_note WHERE false UNION ALL SELECT title FROM app_note"
        " WHERE set_config('role', 'app_admin', true) = 'app_admin'",
        OWN,
    ),
    Injection("SELECT id::text FROM tenantry.seal_keys", KEYS),
    Injection(
        "SELECT query_to_xml('SET ROLE app_admin; SELECT title FROM app_note', true, true, '')",
        "SET is not allowed in a non-volatile function",
    ),
    Injection(
        "SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[title,"
        " set_config(''role'', ''app_admin'', true)]) FROM app_note')",
        OWN,
    ),
    Injection(
        "SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY["
        "set_config(''rls.current_tenant'', ''{b}'', true)])') UNION ALL"
        " SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[title]) FROM app_note')",
        NOT_SEALED,
        "guc role",
    ),
    Injection(
        "SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY["
        "set_config(''role'', ''app_admin'', true)])') UNION ALL"
        " SELECT word FROM ts_stat('SELECT array_to_tsvector(ARRAY[title]) FROM app_note')",
        OWN,
        "role",
    ),
]


def opening(shape: str) -> Iterable[Any]:
    """Return those that show a row of the other tenant in an unsealed shape, as parameters."""
    mark = getattr(pytest.mark, f"{shape}_shape")
    return [each.param(mark) for each in STATEMENTS + EXPRESSIONS if shape in each.opens.split()]


def client(postgres: Any) -> psycopg.Connection[Any]:
    """Return a connection of the app role that knows nothing of tenantry: an attacker's."""
    return psycopg.connect(postgres.dsn("app", "tenantry"), autocommit=True)


def later() -> int:
    return int(time()) + 60


def written(injection: Injection, tenants: tuple[Tenant, Tenant]) -> str:
    """Return the SQL of an injection."""
    a, b = tenants
    key = seal_keys()[0].name if settings.IS_SEALED else ""
    values = {
        "a": a.pk,
        "b": b.pk,
        "key": key,
        "titles": TITLES,
        "forged": f"1:{key}:{later()}:admin:{'0' * 64}:{b.pk}",
    }
    sql = injection.sql
    for name, value in values.items():
        sql = sql.replace(f"{{{name}}}", str(value))
    return sql


def within(sql: str) -> str:
    """Return a string with statements before and after those of an injection."""
    return f"SELECT 1; {sql}; {TITLES}"


def attempt(cursor: Any, payload: str, params: Any = None) -> str:
    """Run a payload, and return all that the attacker gets to see."""
    notices: list[str] = []
    cursor.connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
    try:
        cursor.execute(payload, params)
    except (DatabaseError, UnbindableStatementError) as error:
        return f"{error} {notices}"
    seen = []
    while True:
        if cursor.description:
            seen.append(cursor.fetchall())
        if not cursor.nextset():
            return f"{seen} {notices}"
