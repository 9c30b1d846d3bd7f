"""``check_rls`` finds what is wrong with roles, tables and policies, and says how to mend it."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

import psycopg
import pytest
from django.core import checks
from django.core.management import CommandError
from django.db import connections

from tenantry import RawPredicate, RLSConstraint, TenantField
from tenantry.checks import policies as inspecting
from tenantry.checks.migrations import Migrations
from tenantry.checks.schema import inspect_publications
from tenantry.checks.tables import inspect_comparable, problems_of
from tests.app.models import Item, Note, Tag, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import broken, check, findings
from tests.fix_migrations import Migrate
from tests.settings import HAS_ADMIN_ROLE, IS_SEALED, RLS_TENANTS
from tests.test_dependents_shared import FLAG, child, many, model, path_to

Tenants = tuple[Tenant, Tenant]


@pytest.mark.parametrize("alias", ["default", "pool", "pooled"])
def test_a_healthy_database_is_ok(alias: str, tenants: Tenants) -> None:
    output, status = check("--database", alias, "--fail-level", "WARNING")
    assert status == 0, output
    for subject in ("role app", "table app_note", "table Odd table", "table app_book"):
        assert f"{subject}: OK" in output
    assert "app_shared" not in output
    assert output.endswith(" OK, 0 wrong\n")
    connections[alias].close()


# A role whose privileges are not those of the login role until that becomes it.
OTHER = "ALTER ROLE app NOINHERIT; CREATE ROLE other; GRANT other TO app"
NO_OTHER = "DROP OWNED BY other; DROP ROLE other; ALTER ROLE app INHERIT"

# By id: how, back, subject, and what is said.
BREAKS = {
    "E111": (
        "ALTER TABLE app_note DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE app_note ENABLE ROW LEVEL SECURITY",
        "table app_note",
        'has Row-Level Security switched off; run ALTER TABLE "app_note" ENABLE',
    ),
    "E112": (
        "ALTER TABLE app_note NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE app_note FORCE ROW LEVEL SECURITY",
        "table app_note",
        'does not bind its owner; run ALTER TABLE "app_note" FORCE',
    ),
    "E113": (
        "GRANT owner TO app",
        "REVOKE owner FROM app",
        "table app_note",
        "belongs to owner, which this role is or can become",
    ),
    "E113 through another": (
        "CREATE ROLE between; GRANT owner TO between; GRANT between TO app",
        "DROP ROLE between",
        "table app_note",
        "belongs to owner, which this role is or can become",
    ),
    "E114": (
        "ALTER POLICY tenantry_isolation ON app_note RENAME TO other",
        "ALTER POLICY other ON app_note RENAME TO tenantry_isolation",
        "table app_note",
        "has no policy tenantry_isolation of tenantry; run makemigrations and migrate",
    ),
    "E114 of a child": (
        "ALTER POLICY tenantry_isolation ON app_book RENAME TO other",
        "ALTER POLICY other ON app_book RENAME TO tenantry_isolation",
        "table app_book",
        "if they have nothing to do, run as the owner of the table what check_rls --generate",
    ),
    "E115": (
        "ALTER POLICY tenantry_isolation ON app_note USING (true)",
        "ALTER POLICY tenantry_isolation ON app_note USING ({})",
        "table app_note",
        "ask for: it is permissive for all commands to PUBLIC using 'true' with the check",
    ),
    "E115 of the check": (
        "ALTER POLICY tenantry_isolation ON app_book WITH CHECK (true)",
        "ALTER POLICY tenantry_isolation ON app_book WITH CHECK ({})",
        "table app_book",
        "differs from what the models ask for",
    ),
    "E116": (
        "CREATE POLICY stray ON app_note USING (true)",
        "DROP POLICY stray ON app_note",
        "table app_note",
        "has the permissive policy stray",
    ),
    "E117": (
        "GRANT TRUNCATE ON app_note TO app",
        "REVOKE TRUNCATE ON app_note FROM app",
        "table app_note",
        "can be truncated by this role, which removes the rows of all tenants; run REVOKE"
        " TRUNCATE ON",
    ),
    "E120": (
        "ALTER SCHEMA public OWNER TO app",
        "ALTER SCHEMA public OWNER TO pg_database_owner",
        "schema public",
        "belongs to app, which this role is or can become, and so can drop protected tables, with"
        " the rows of all tenants; run ALTER SCHEMA public OWNER TO the owner of the tables",
    ),
    "E120 of the database": (
        "CREATE ROLE between; GRANT between TO app; ALTER DATABASE tenantry OWNER TO between",
        "ALTER DATABASE tenantry OWNER TO owner; DROP ROLE between",
        "database tenantry",
        "belongs to between, which this role is or can become",
    ),
    "E120 by the database": (
        "ALTER DATABASE tenantry OWNER TO app",
        "ALTER DATABASE tenantry OWNER TO owner",
        "schema public",
        "belongs to pg_database_owner, which this role is or can become",
    ),
    "W111": (
        "GRANT REFERENCES (id) ON app_note TO app",
        "REVOKE REFERENCES (id) ON app_note FROM app",
        "table app_note",
        "can be referred to by tables of this role",
    ),
    "W112": (
        "GRANT TRIGGER ON app_note TO app",
        "REVOKE TRIGGER ON app_note FROM app",
        "table app_note",
        "can be given triggers by this role",
    ),
    "E118": (
        "CREATE TABLE old_note () INHERITS (app_note); GRANT SELECT ON old_note TO app",
        "DROP TABLE old_note",
        "table app_note",
        "has the partition or child old_note, which this role may use and no policy guards",
    ),
    "E118 of a parent": (
        "CREATE TABLE t (title text); CREATE TABLE u () INHERITS (t); ALTER TABLE app_note INHERIT"
        " u; GRANT SELECT ON t TO app",
        "ALTER TABLE app_note NO INHERIT u; DROP TABLE t CASCADE",
        "table app_note",
        "is a partition or child of t, which this role may use and no policy guards; run REVOKE ALL"
        " ON t FROM PUBLIC and the role, or ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    ),
    "E117 of a parent": (
        "CREATE TABLE t (title text); ALTER TABLE app_note INHERIT t; GRANT TRUNCATE ON t TO app",
        "ALTER TABLE app_note NO INHERIT t; DROP TABLE t",
        "table t",
        "can be truncated by this role, which removes the rows of all tenants",
    ),
    "E116 of a parent": (
        "CREATE TABLE t (title text); ALTER TABLE app_note INHERIT t; GRANT SELECT ON t TO app;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (true)",
        "ALTER TABLE app_note NO INHERIT t; DROP TABLE t",
        "table t",
        "has the permissive policy p, which adds rows",
    ),
    "E115 of a parent": (
        "CREATE TABLE t (tenant_id bigint); ALTER TABLE app_note INHERIT t; GRANT SELECT ON t TO"
        " app; ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY tenantry_isolation ON t"
        " USING (true)",
        "ALTER TABLE app_note NO INHERIT t; DROP TABLE t",
        "table t",
        "differs from what the models ask for of its child: it is permissive for all commands",
    ),
    "E117 of a child": (
        "CREATE TABLE t () INHERITS (app_note); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        " GRANT TRUNCATE ON t TO app",
        "DROP TABLE t",
        "table t",
        "can be truncated by this role, which removes the rows of all tenants; run REVOKE"
        " TRUNCATE ON t FROM",
    ),
    "E116 of a child": (
        'CREATE SCHEMA "Old" CREATE TABLE t () INHERITS (public.app_note); GRANT USAGE ON SCHEMA'
        ' "Old" TO app; ALTER TABLE "Old".t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON "Old".t'
        ' TO app; CREATE POLICY p ON "Old".t USING (true)',
        'DROP SCHEMA "Old" CASCADE',
        'table "Old".t',
        "has the permissive policy p, which adds rows",
    ),
    "E115 of a child": (
        "CREATE TABLE t () INHERITS (app_note); CREATE TABLE u () INHERITS (t); ALTER TABLE u"
        " ENABLE ROW LEVEL SECURITY; GRANT SELECT ON u TO app; CREATE POLICY tenantry_isolation"
        " ON u USING (true)",
        "DROP TABLE t CASCADE",
        "table u",
        "has a policy tenantry_isolation that differs from what the models ask for of its parent:"
        " it is permissive for all commands to PUBLIC using 'true'",
    ),
    "E113 of a child": (
        "CREATE ROLE other; CREATE TABLE t () INHERITS (app_note); ALTER TABLE t OWNER TO other;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT other TO app",
        "DROP TABLE t; DROP ROLE other",
        "table t",
        "belongs to other, which this role is or can become",
    ),
    "W112 of a child": (
        "CREATE TABLE t () INHERITS (app_note); GRANT TRIGGER ON t TO app",
        "DROP TABLE t",
        "table t",
        "can be given triggers by this role",
    ),
    "W113 of a child": (
        "CREATE TABLE t () INHERITS (app_note); ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT"
        " INSERT ON t TO app; CREATE RULE copied AS ON INSERT TO t DO ALSO NOTHING",
        "DROP TABLE t",
        "table t",
        "has the rule copied",
    ),
    "W114 of a child": (
        "CREATE TABLE t () INHERITS (app_note); CREATE FUNCTION spy() RETURNS trigger LANGUAGE"
        " plpgsql SECURITY DEFINER AS 'BEGIN RETURN OLD; END'; REVOKE EXECUTE ON FUNCTION spy FROM"
        " PUBLIC; CREATE TRIGGER spies BEFORE DELETE ON t EXECUTE FUNCTION spy()",
        "DROP TABLE t; DROP FUNCTION spy",
        "table t",
        "has the trigger spies, whose function spy() runs as postgres",
    ),
    "E117 of a role that it can become": (
        f"{OTHER}; GRANT TRUNCATE ON app_note TO other",
        NO_OTHER,
        "table app_note",
        "can be truncated by this role",
    ),
    "W111 of a role that it can become": (
        f"{OTHER}; GRANT REFERENCES ON app_note TO other",
        NO_OTHER,
        "table app_note",
        "can be referred to by tables of this role",
    ),
    "E118 of a role that it can become": (
        f"{OTHER}; CREATE TABLE t () INHERITS (app_note); GRANT SELECT (title) ON t TO other",
        f"DROP TABLE t; {NO_OTHER}",
        "table app_note",
        "has the partition or child t, which this role may use",
    ),
    "E121 of a role that it can become": (
        f"{OTHER}; CREATE VIEW v AS SELECT * FROM app_note; GRANT SELECT ON v TO other",
        f"DROP VIEW v; {NO_OTHER}",
        "view v",
        "reads protected tables as its owner postgres",
    ),
    "E123 of a role that it can become": (
        f"{OTHER}; CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"
        " REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; GRANT EXECUTE ON FUNCTION f TO other",
        f"DROP FUNCTION f; {NO_OTHER}",
        "function f()",
        "is SECURITY DEFINER and runs as postgres",
    ),
    "E124 of a role that it can become": (
        f"{OTHER}; CREATE FUNCTION f() RETURNS int LANGUAGE sql SET rls.is_admin = 'true' AS"
        " $$ SELECT 1 $$; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; GRANT EXECUTE ON FUNCTION f TO"
        " other",
        f"DROP FUNCTION f; {NO_OTHER}",
        "function f()",
        "runs with rls.is_admin = 'true'",
    ),
    "W124 of a role that it can become": (
        f"{OTHER}; CREATE TABLE t AS SELECT * FROM app_note; GRANT DELETE ON t TO other",
        f"DROP TABLE t; {NO_OTHER}",
        "table t",
        "has the tenant column tenant_id but no policy",
    ),
    "W152": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (author_id) REFERENCES app_author ON"
        " DELETE SET NULL",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON DELETE SET NULL: PostgreSQL applies no policies to that,"
        ' and deletes or changes the rows of other tenants, too; run ALTER TABLE "app_note" DROP'
        " CONSTRAINT gone, and make it again without ON DELETE, or add SameTenant(field='author')",
    ),
    "W113": (
        "CREATE RULE copied AS ON INSERT TO app_note DO ALSO NOTHING",
        "DROP RULE copied ON app_note",
        "table app_note",
        "has the rule copied, whose statements run with the rights of the owner; drop it",
    ),
    "W114": (
        "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION spy FROM PUBLIC;"
        " CREATE TRIGGER spies BEFORE INSERT ON app_note EXECUTE FUNCTION spy()",
        "DROP FUNCTION spy CASCADE",
        "table app_note",
        "has the trigger spies, whose function spy() runs as postgres, whom no policy binds; run"
        f" ALTER FUNCTION spy() SECURITY INVOKER{'' if HAS_ADMIN_ROLE else ', or give it to an'}",
    ),
    "E121": (
        "CREATE VIEW every_note AS SELECT * FROM app_note; GRANT SELECT ON every_note TO app",
        "DROP VIEW every_note",
        "view every_note",
        "reads protected tables as its owner postgres, whom no policy binds;"
        " run ALTER VIEW every_note SET (security_invoker = true)",
    ),
    "E121 below another view": (
        "CREATE VIEW every_note AS SELECT * FROM app_note;"
        " CREATE VIEW harmless AS SELECT * FROM every_note; ALTER VIEW harmless OWNER TO owner;"
        " GRANT SELECT ON every_note TO owner; GRANT SELECT ON harmless TO app",
        "DROP VIEW every_note CASCADE",
        "view every_note",
        "reads protected tables as its owner postgres",
    ),
    "E121 of a child": (
        "CREATE TABLE t () INHERITS (app_note); ALTER TABLE t OWNER TO owner; CREATE VIEW v AS"
        " SELECT * FROM t; ALTER VIEW v OWNER TO owner; GRANT SELECT ON v TO app",
        "DROP TABLE t CASCADE",
        "view v",
        "reads t, a partition, child or parent of a protected table, as its owner owner, and no"
        " policy of t binds that role; run ALTER TABLE t ENABLE ROW LEVEL SECURITY and ALTER TABLE"
        " t FORCE",
    ),
    "E121 of a child that does not bind its owner": (
        "CREATE TABLE t () INHERITS (app_note); ALTER TABLE t OWNER TO owner; ALTER TABLE t ENABLE"
        " ROW LEVEL SECURITY; CREATE VIEW w AS SELECT * FROM t; ALTER VIEW w OWNER TO owner;"
        " CREATE VIEW v AS SELECT * FROM w; ALTER VIEW v OWNER TO owner; GRANT SELECT ON v TO app",
        "DROP TABLE t CASCADE",
        "view w",
        "reads t, a partition, child or parent of a protected table, as its owner owner",
    ),
    "E121 of a parent": (
        "CREATE TABLE t (title text); ALTER TABLE t OWNER TO owner; ALTER TABLE app_note INHERIT t;"
        " CREATE VIEW v AS SELECT * FROM t; ALTER VIEW v OWNER TO owner; GRANT SELECT ON v TO app",
        "ALTER TABLE app_note NO INHERIT t; DROP TABLE t CASCADE",
        "view v",
        "reads t, a partition, child or parent of a protected table, as its owner owner, and no",
    ),
    "E121 of the rule of a table": (
        "CREATE TABLE t (n int); GRANT INSERT ON t TO app; CREATE RULE r AS ON INSERT TO t DO"
        " INSTEAD SELECT * FROM app_note",
        "DROP TABLE t",
        "table t",
        "has rules that use protected tables as its owner postgres, whom no policy binds; drop the",
    ),
    "E121 of another rule of a view": (
        "CREATE VIEW v AS SELECT 1 AS n; GRANT INSERT ON v TO app; CREATE RULE r AS ON INSERT TO v"
        " DO INSTEAD DELETE FROM app_note",
        "DROP VIEW v",
        "view v",
        "reads protected tables as its owner postgres, whom no policy binds",
    ),
    "E122": (
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM app_note; GRANT SELECT ON kept TO app",
        "DROP MATERIALIZED VIEW kept",
        "materialized view kept",
        "to what it holds; run REVOKE ALL ON kept FROM PUBLIC and the role that serves requests",
    ),
    "E122 of a child": (
        "CREATE TABLE t () INHERITS (app_note); CREATE MATERIALIZED VIEW m AS SELECT * FROM t;"
        " GRANT SELECT ON m TO app",
        "DROP TABLE t CASCADE",
        "materialized view m",
        "holds rows of protected tables",
    ),
    "E123": (
        "CREATE FUNCTION all_notes() RETURNS SETOF app_note LANGUAGE sql SECURITY DEFINER AS"
        " 'SELECT * FROM app_note'",
        "DROP FUNCTION all_notes",
        "function all_notes()",
        "is SECURITY DEFINER and runs as postgres, whom no policy binds; run ALTER ROUTINE",
    ),
    "E123 of a procedure": (
        "CREATE PROCEDURE fill() LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "DROP PROCEDURE fill",
        "function fill()",
        "run ALTER ROUTINE fill() SECURITY INVOKER, or REVOKE EXECUTE ON ROUTINE fill() FROM",
    ),
    "E123 behind a view": (
        "CREATE SCHEMA private; CREATE FUNCTION private.f() RETURNS SETOF app_note LANGUAGE sql"
        " SECURITY DEFINER AS 'SELECT * FROM public.app_note'; CREATE VIEW v WITH"
        " (security_invoker) AS SELECT * FROM private.f(); GRANT SELECT ON v TO app",
        "DROP VIEW v; DROP SCHEMA private CASCADE",
        "function private.f()",
        "is SECURITY DEFINER and runs as postgres, whom no policy binds",
    ),
    "W124": (
        "CREATE TABLE note_copy AS SELECT * FROM app_note; GRANT SELECT ON note_copy TO app",
        "DROP TABLE note_copy",
        "table note_copy",
        "has the tenant column tenant_id but no policy, and no model whose migrations would create"
        " one; run REVOKE ALL ON note_copy FROM PUBLIC and the role that serves requests",
    ),
    "W124 of a partition": (
        "CREATE TABLE t (tenant_id bigint) PARTITION BY LIST (tenant_id); ALTER TABLE t ENABLE ROW"
        " LEVEL SECURITY; CREATE TABLE part PARTITION OF t DEFAULT; GRANT SELECT ON part TO app",
        "DROP TABLE t",
        "table part",
        "has the tenant column tenant_id but no policy",
    ),
    "W124 by a foreign key": (
        "CREATE TABLE bill (customer bigint REFERENCES app_tenant); GRANT SELECT ON bill TO app",
        "DROP TABLE bill",
        "table bill",
        "has the tenant column customer but no policy",
    ),
    "E124": (
        "CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SET rls.is_admin = 'true'"
        " AS $$ SELECT count(*) FROM app_note $$",
        "DROP FUNCTION peek",
        "function peek()",
        "runs with rls.is_admin = 'true', whoever calls it in whatever scope;"
        " run ALTER ROUTINE peek() RESET rls.is_admin",
    ),
    "E124 behind a default": (
        "CREATE SCHEMA private; CREATE FUNCTION private.f() RETURNS int LANGUAGE sql SET"
        " rls.is_admin = 'true' AS 'SELECT 1'; CREATE TABLE t (n int DEFAULT private.f())",
        "DROP TABLE t; DROP SCHEMA private CASCADE",
        "function private.f()",
        "runs with rls.is_admin = 'true'",
    ),
    "E124 of a trigger": (
        "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SET rls.is_admin = 'true' AS"
        " 'BEGIN RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION spy FROM PUBLIC;"
        " CREATE TRIGGER spies BEFORE INSERT ON app_note EXECUTE FUNCTION spy()",
        "DROP FUNCTION spy CASCADE",
        "function spy()",
        "runs with rls.is_admin = 'true', whoever calls it in whatever scope",
    ),
    "E124 as a tenant": (
        "CREATE PROCEDURE fill(n int) LANGUAGE sql SET rls.current_tenant = '1' AS $$ SELECT 1 $$",
        "DROP PROCEDURE fill",
        "function fill(integer)",
        "run ALTER ROUTINE fill(integer) RESET rls.current_tenant",
    ),
    "E124 as a tenant of a strange name": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET rls.current_tenant = 'none'"
        " AS $$ SELECT 1 $$",
        "DROP FUNCTION f",
        "function f()",
        "runs with rls.current_tenant = 'none'",
    ),
    "E124 as a role": (
        "CREATE FUNCTION own() RETURNS int LANGUAGE sql SET role = 'owner' AS $$ SELECT 1 $$",
        "DROP FUNCTION own",
        "function own()",
        "runs with role = 'owner'",
    ),
    "W121": (
        "CREATE PUBLICATION stream FOR TABLE app_note",
        "DROP PUBLICATION stream",
        "publication stream",
        "streams all tenants' rows of app_note, whatever its policy says",
    ),
    "W121 with a filter": (
        "CREATE PUBLICATION stream FOR TABLE app_note WHERE (id > 7)",
        "DROP PUBLICATION stream",
        "publication stream",
        "streams rows WHERE (id > 7) of app_note",
    ),
    "W121 of all tables": (
        "CREATE PUBLICATION stream FOR ALL TABLES",
        "DROP PUBLICATION stream",
        "publication stream",
        "run DROP PUBLICATION stream, and create it again FOR TABLE with the other tables,"
        " or let only roles",
    ),
    "E131": (
        "ALTER ROLE app SET rls.is_admin = 'true'",
        "ALTER ROLE app RESET rls.is_admin",
        "role app",
        "starts every session with rls.is_admin = 'true', so that code without a scope is bound;"
        " run ALTER ROLE app RESET rls.is_admin",
    ),
    "E131 of the database": (
        "ALTER DATABASE tenantry SET rls.current_tenant = '1'",
        "ALTER DATABASE tenantry RESET rls.current_tenant",
        "database tenantry",
        "run ALTER DATABASE tenantry RESET rls.current_tenant",
    ),
    "E131 of both": (
        "ALTER ROLE app IN DATABASE tenantry SET rls.current_tenant = '1'",
        "ALTER ROLE app IN DATABASE tenantry RESET rls.current_tenant",
        "role app in database tenantry",
        "run ALTER ROLE app IN DATABASE tenantry RESET rls.current_tenant",
    ),
    "E131 of all": (
        "ALTER ROLE ALL SET rls.is_admin = 'true'",
        "ALTER ROLE ALL RESET rls.is_admin",
        "all roles",
        "start every session with rls.is_admin = 'true', so that code without a scope is bound;"
        " run ALTER ROLE ALL RESET rls.is_admin",
    ),
    "E135": (
        "ALTER ROLE app REPLICATION",
        "ALTER ROLE app NOREPLICATION",
        "role app",
        "to which no policy applies; run ALTER ROLE app NOREPLICATION",
    ),
    "E135 of a role that it can become": (
        f"{OTHER}; ALTER ROLE other REPLICATION",
        NO_OTHER,
        "role app",
        "can become other, which has REPLICATION, and may copy the whole server, or stream all"
        " changes of it, to which no policy applies; run REVOKE other FROM app, or from the role",
    ),
    "E136": (
        "GRANT pg_read_server_files TO app",
        "REVOKE pg_read_server_files FROM app",
        "role app",
        "is a member of pg_read_server_files, so it can reach the server's files, where no policy"
        " applies; run REVOKE pg_read_server_files FROM app",
    ),
    "E136 through another": (
        "CREATE ROLE between; GRANT pg_execute_server_program, pg_write_server_files TO between;"
        " GRANT between TO app",
        "DROP ROLE between",
        "role app",
        "is a member of pg_write_server_files, so it can reach the server's files",
    ),
    "E136 by a function": (
        f"{OTHER}; GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO other",
        NO_OTHER,
        "role app",
        "may execute pg_read_binary_file(text), so it can reach the server's files, where no policy"
        " applies; run REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM app, or from",
    ),
    "E139": (
        "GRANT pg_read_all_data TO app",
        "REVOKE pg_read_all_data FROM app",
        "role app",
        "may read the statistics of the server, which hold the most common values of all tenants'"
        " rows, and to which no policy applies; run REVOKE pg_read_all_data FROM app, or from the",
    ),
    "E139 of a role that it can become": (
        f"{OTHER}; GRANT SELECT (stavalues1) ON pg_statistic TO other",
        NO_OTHER,
        "role app",
        "run REVOKE SELECT ON pg_statistic, pg_statistic_ext_data FROM app, or from the role",
    ),
    "W131": (
        "ALTER ROLE app SET role = 'owner'",
        "ALTER ROLE app RESET role",
        "role app",
        "starts every session as the role 'owner', and not as the one that logs in",
    ),
    "E101": (
        "ALTER ROLE app SUPERUSER",
        "ALTER ROLE app NOSUPERUSER",
        "role app",
        "is a superuser, whom no policy binds; log in as another role",
    ),
    "E102": (
        "ALTER ROLE app BYPASSRLS",
        "ALTER ROLE app NOBYPASSRLS",
        "role app",
        "has BYPASSRLS, so that no policy binds it; run ALTER ROLE app NOBYPASSRLS",
    ),
    "E103": (
        "CREATE ROLE seesall BYPASSRLS; CREATE ROLE between; GRANT seesall TO between;"
        " GRANT between TO app",
        "DROP ROLE between, seesall",
        "role app",
        "can become seesall, whom no policy binds; run REVOKE seesall FROM app",
    ),
    "E103 of a quoted name": (
        'CREATE ROLE "Sees-all" BYPASSRLS; GRANT "Sees-all" TO app',
        'DROP ROLE "Sees-all"',
        "role app",
        'can become Sees-all, whom no policy binds; run REVOKE "Sees-all" FROM app',
    ),
    "W101 of a role that it can become": (
        "CREATE ROLE dba CREATEROLE; CREATE ROLE between; GRANT dba TO between; GRANT between TO"
        " app",
        "DROP ROLE between, dba",
        "role app",
        "can become dba, which has CREATEROLE, and may make itself a member of roles that no policy"
        " binds; run REVOKE dba FROM app",
    ),
    "W101": (
        "ALTER ROLE app CREATEROLE",
        "ALTER ROLE app NOCREATEROLE",
        "role app",
        "has CREATEROLE, and may make itself a member",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found_with_the_fix(name: str, arrange: psycopg.Connection[Any]) -> None:
    how, back, subject, message = BREAKS[name]
    identifier = f"tenantry.{name[:4]}"
    row = arrange.execute(
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
        " WHERE polname = 'tenantry_isolation' AND polrelid = %s::regclass",
        ["app_book" if "app_book" in how else "app_note"],
    ).fetchone()
    assert row
    with broken(arrange, how, back.format(row[0])):
        output, status = check()
    (about,) = re.findall(rf"^{re.escape(subject)}:\n((?:  .+\n)+)", output, re.MULTILINE)
    assert any(
        line.startswith(f"  {identifier} ") and message in line for line in about.splitlines()
    ), output
    assert status == (1 if ".E" in identifier else 0)
    assert findings() == []


# By what is published, what takes the protected tables out of it.
ONE, TWO, OUT = "TABLE ONLY app_note", "TABLE ONLY old_note", 'TABLE ONLY "Old".child'
PUBLISHED = {
    "TABLE app_note, app_shared": {ONE, TWO, OUT},
    "TABLE ONLY app_note, TABLE app_shared": {ONE},
    "TABLE old_note, app_shared": {TWO},
    'TABLES IN SCHEMA "Old"': {'TABLES IN SCHEMA "Old"'},
    "TABLE app_shared, TABLES IN SCHEMA public": {"TABLES IN SCHEMA public"},
    'TABLE app_note, TABLES IN SCHEMA "Old"': {ONE, TWO, f'{OUT}, TABLES IN SCHEMA "Old"'},
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_a_publication_is_mended_as_it_is_said(
    published: str, arrange: psycopg.Connection[Any]
) -> None:
    with broken(
        arrange,
        'CREATE SCHEMA "Old"; CREATE TABLE old_note () INHERITS (app_note);'
        ' CREATE TABLE "Old".child () INHERITS (app_note);'
        f' CREATE PUBLICATION "Stream" FOR {published}',
        'DROP PUBLICATION "Stream"; DROP TABLE old_note, "Old".child; DROP SCHEMA "Old"',
    ):
        end = ", or let only roles subscribe that may see every tenant"
        found = [text for id_, _, text in findings() if id_ == "tenantry.W121"]
        advice = {text.partition("; run ")[2].removesuffix(end) for text in found}
        begin = 'ALTER PUBLICATION "Stream" DROP '
        assert advice == {f"{begin}{each}" for each in PUBLISHED[published]}
        for each in advice:
            arrange.execute(each.encode())
        assert findings() == []


def test_the_partitions_of_a_published_table_are_streamed_by_it(
    arrange: psycopg.Connection[Any],
) -> None:
    with broken(
        arrange,
        "CREATE TABLE parts (id int, tenant_id bigint) PARTITION BY RANGE (id);"
        " CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (2);"
        " CREATE PUBLICATION stream FOR TABLE parts",
        "DROP TABLE parts; DROP PUBLICATION stream",
    ):
        with connections["default"].cursor() as cursor:
            (found,) = inspect_publications(cursor, ["parts"])
        assert "all tenants' rows of part," in found.message
        assert found.fix.startswith(
            "run ALTER PUBLICATION stream DROP TABLE ONLY parts, or let only"
        )


# By table, and what the text of its policy becomes.
ALMOST = {
    "another parameter": ("app_note", ".current_tenant", ".other_tenant"),
    "another column": ("app_note", "tenant_id =", "id ="),
    "another operator": ("app_note", "tenant_id =", "tenant_id <>"),
    "one more alternative": ("app_note", "tenant_id =", "(title = 'x') OR (tenant_id) ="),
    "another column of the owner": ("app_book", "owner.id =", "owner.replaces_id ="),
    "any owner": ("app_book", "owner.id = ", "app_book.item_ptr_id = "),
}


@pytest.mark.guc_shape
@pytest.mark.parametrize("name", ALMOST)
def test_what_is_almost_the_policy_is_found(name: str, arrange: psycopg.Connection[Any]) -> None:
    table, old, new = ALMOST[name]
    row = arrange.execute(
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
        " WHERE polname = 'tenantry_isolation' AND polrelid = %s::regclass",
        [table],
    ).fetchone()
    assert row
    assert old in row[0]
    alter = f"ALTER POLICY tenantry_isolation ON {table} USING ({{}})"
    with broken(arrange, alter.format(row[0].replace(old, new)), alter.format(row[0])):
        assert [each[:2] for each in findings()] == [("tenantry.E115", f"table {table}")]
    # PostgreSQL makes the same of it, however it is written.
    with broken(arrange, alter.format(f"({row[0]}) AND true"), alter.format(row[0])):
        assert findings() == []


@pytest.mark.role_shape
def test_a_restriction_that_says_less_than_the_policy_is_found(
    arrange: psycopg.Connection[Any],
) -> None:
    alter = "ALTER POLICY tenantry_restriction ON app_note USING ({0}) WITH CHECK ({0})"
    how, back = alter.format("true"), "tenant_id = (SELECT tenantry.rls_current_tenant_bigint())"
    with broken(arrange, how, alter.format(back)):
        ((identifier, _, text),) = findings()
    assert identifier == "tenantry.E115"
    assert "it is restrictive for all commands to app using 'true'" in text
    assert 'should be restrictive for all commands to app using \'"tenant_id" =' in text


# Of a policy that keeps its predicates: what it is made again with, and what is said of that.
OTHERWISE = {
    "other roles": ("PERMISSIVE FOR ALL TO owner", "it is permissive for all commands to owner"),
    "one command": ("PERMISSIVE FOR UPDATE TO PUBLIC", "it is permissive for UPDATE to PUBLIC"),
    "kind": ("RESTRICTIVE FOR ALL TO PUBLIC", "it is restrictive for all commands to PUBLIC"),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_policy_is_compared_by_its_roles_command_and_kind_too(
    name: str, arrange: psycopg.Connection[Any]
) -> None:
    how, said = OTHERWISE[name]
    row = arrange.execute(
        "SELECT qual, with_check FROM pg_policies WHERE tablename = 'app_note'"
        " AND policyname = 'tenantry_isolation'"
    ).fetchone()
    assert row
    again = (
        "DROP POLICY tenantry_isolation ON app_note; CREATE POLICY tenantry_isolation ON app_note"
        f" AS {{}} USING ({row[0]}) WITH CHECK ({row[1]})"
    )
    with broken(arrange, again.format(how), again.format("PERMISSIVE FOR ALL TO PUBLIC")):
        ((identifier, subject, text),) = findings()
    assert (identifier, subject) == ("tenantry.E115", "table app_note")
    assert f"tenantry_isolation that differs from what the models ask for: {said}" in text
    assert findings() == []


@pytest.mark.admin_role
def test_the_policy_of_the_admin_for_the_app_role_is_found(
    arrange: psycopg.Connection[Any],
) -> None:
    """Where nothing restricts the app role besides, it reads every row by that."""
    alter = "ALTER POLICY tenantry_admin ON app_note TO {}"
    with broken(arrange, alter.format("app"), alter.format("app_admin")):
        ((identifier, subject, text),) = findings()
    assert (identifier, subject) == ("tenantry.E115", "table app_note")
    assert "has a policy tenantry_admin that differs" in text
    assert "it is permissive for all commands to app using" in text


def test_policies_are_compared_without_temporary_tables(arrange: psycopg.Connection[Any]) -> None:
    with broken(
        arrange,
        "REVOKE TEMPORARY ON DATABASE tenantry FROM PUBLIC",
        f"{'REVOKE' if IS_SEALED else 'GRANT'} TEMPORARY ON DATABASE tenantry"
        f" {'FROM' if IS_SEALED else 'TO'} PUBLIC",
    ):
        assert findings() == []
        alter = "ALTER POLICY tenantry_isolation ON app_book WITH CHECK ({})"
        row = arrange.execute(
            "SELECT with_check FROM pg_policies WHERE tablename = 'app_book'"
            " AND policyname = 'tenantry_isolation'"
        ).fetchone()
        assert row
        with broken(arrange, alter.format("true"), alter.format(row[0])):
            assert [each[:2] for each in findings()] == [("tenantry.E115", "table app_book")]


HARMLESS = {
    "a view of the owner": (
        "CREATE VIEW v AS SELECT * FROM app_note; ALTER VIEW v OWNER TO owner;"
        " GRANT SELECT ON v TO app",
        "DROP VIEW v",
    ),
    "an invoker's view": (
        "CREATE VIEW v WITH (security_invoker) AS SELECT * FROM app_note; GRANT SELECT ON v TO app",
        "DROP VIEW v",
    ),
    "a view of a child that binds its owner": (
        "CREATE TABLE t () INHERITS (app_note); ALTER TABLE t OWNER TO owner; ALTER TABLE t ENABLE"
        " ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE VIEW v AS SELECT * FROM t;"
        " ALTER VIEW v OWNER TO owner; GRANT SELECT ON v TO app",
        "DROP TABLE t CASCADE",
    ),
    "a child with a policy in a schema that the role may not use": (
        "CREATE SCHEMA parts CREATE TABLE t () INHERITS (public.app_note); ALTER TABLE parts.t"
        " ENABLE ROW LEVEL SECURITY; GRANT SELECT ON parts.t TO app",
        "DROP SCHEMA parts CASCADE",
    ),
    "an invoker's view of a child": (
        "CREATE TABLE t () INHERITS (app_note); CREATE VIEW v WITH (security_invoker) AS"
        " SELECT * FROM t; GRANT SELECT ON v TO app",
        "DROP TABLE t CASCADE",
    ),
    "a view that the role may not read": (
        "CREATE VIEW v AS SELECT * FROM app_note",
        "DROP VIEW v",
    ),
    "a function that the role may not call": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"
        " REVOKE EXECUTE ON FUNCTION f FROM PUBLIC",
        "DROP FUNCTION f",
    ),
    "a function in a schema that the role may not use": (
        "CREATE SCHEMA private; CREATE FUNCTION private.f() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS 'BEGIN RETURN NEW; END'; CREATE TABLE t (n int); CREATE TRIGGER f"
        " BEFORE INSERT ON t EXECUTE FUNCTION private.f()",
        "DROP TABLE t; DROP SCHEMA private CASCADE",
    ),
    "a partition without grants": (
        "CREATE TABLE t () INHERITS (app_note)",
        "DROP TABLE t",
    ),
    "a partition with a policy": (
        "CREATE TABLE t () INHERITS (app_note); GRANT SELECT ON t TO app;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "DROP TABLE t",
    ),
    "a parent that the role may not read": (
        "CREATE TABLE t (title text); ALTER TABLE app_note INHERIT t; CREATE TABLE u () INHERITS"
        " (t); GRANT SELECT ON u TO app",
        "ALTER TABLE app_note NO INHERIT t; DROP TABLE t CASCADE",
    ),
    "what goes with the row that it is a part of": (
        "ALTER TABLE app_book ADD CONSTRAINT gone FOREIGN KEY (item_ptr_id) REFERENCES app_item ON"
        " DELETE CASCADE",
        "ALTER TABLE app_book DROP CONSTRAINT gone",
    ),
    "what goes with the tenant": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (tenant_id) REFERENCES app_tenant ON"
        " DELETE CASCADE",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
    ),
    "a copy that the role may not read": (
        "CREATE TABLE t AS SELECT * FROM app_note",
        "DROP TABLE t",
    ),
    "a copy with a policy": (
        "CREATE TABLE t AS SELECT * FROM app_note; GRANT SELECT ON t TO app;"
        " ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "DROP TABLE t",
    ),
    "a child of a shared table": (
        "CREATE TABLE t (tenant_id bigint) INHERITS (app_shared); GRANT SELECT ON t TO app",
        "DROP TABLE t",
    ),
    "a table that names no tenant": (
        "CREATE TABLE t (tenants int); GRANT SELECT ON t TO app",
        "DROP TABLE t",
    ),
    "a publication of a shared table": (
        "CREATE PUBLICATION p FOR TABLE app_shared",
        "DROP PUBLICATION p",
    ),
    "a default of another role": (
        "ALTER ROLE owner SET rls.is_admin = 'true'",
        "ALTER ROLE owner RESET rls.is_admin",
    ),
    "a function with other settings": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET rls.is_admin = 'off' SET"
        " rls.current_tenant = '' SET role = 'none' SET rlsx.is_admin = 'true'"
        " SET search_path = 'public' AS $$ SELECT 1 $$",
        "DROP FUNCTION f",
    ),
    "a function with settings that the role may not call": (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET rls.is_admin = 'true' AS $$ SELECT 1 $$;"
        " REVOKE EXECUTE ON FUNCTION f FROM PUBLIC",
        "DROP FUNCTION f",
    ),
    "a default of another parameter": (
        "ALTER ROLE app SET rlsx.is_admin = 'true'",
        "ALTER ROLE app RESET rlsx.is_admin",
    ),
    "a restrictive policy": (
        "CREATE POLICY more ON app_note AS RESTRICTIVE USING (true)",
        "DROP POLICY more ON app_note",
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_not_found(name: str, arrange: psycopg.Connection[Any]) -> None:
    with broken(arrange, *HARMLESS[name]):
        assert findings() == []


def test_a_child_with_the_policies_of_its_parent_is_harmless(
    arrange: psycopg.Connection[Any],
) -> None:
    model: Any = Note
    sql = "; ".join(
        policy.create("old_note")
        for policy in inspecting.wanted_policies(
            model, connections["default"].ops.quote_name, "old_note"
        )
    )
    with broken(
        arrange,
        "CREATE TABLE old_note () INHERITS (app_note); GRANT SELECT ON old_note TO app;"
        f" ALTER TABLE old_note ENABLE ROW LEVEL SECURITY; {sql}",
        "DROP TABLE old_note",
    ):
        assert findings() == []
        arrange.execute("REVOKE SELECT ON old_note FROM app; GRANT INSERT ON old_note TO app")
        assert findings() == []


def test_a_child_of_which_a_model_tells_is_not_looked_at_twice(
    arrange: psycopg.Connection[Any],
) -> None:
    with broken(
        arrange,
        "ALTER TABLE app_tag INHERIT app_author",
        "ALTER TABLE app_tag NO INHERIT app_author",
    ):
        assert findings() == []


def test_what_is_not_inherited_counts_for_who_can_become_it(
    arrange: psycopg.Connection[Any],
) -> None:
    attributes = "BYPASSRLS REPLICATION CREATEROLE"
    ids = ["tenantry.E103", "tenantry.W101", "tenantry.E135"]
    with broken(arrange, f"CREATE ROLE other {attributes}; GRANT other TO app", "DROP ROLE other"):
        assert [each[0] for each in findings()] == ids
        # Before, a member can always become what it is a member of.
        if arrange.info.server_version >= 160000:
            arrange.execute("GRANT other TO app WITH INHERIT TRUE, SET FALSE")
            assert findings() == []
            # By which it grants itself the rest.
            arrange.execute("GRANT other TO app WITH INHERIT FALSE, ADMIN TRUE")
            assert [each[0] for each in findings()] == ids


@pytest.mark.parametrize("bypasses", ["NOBYPASSRLS", "BYPASSRLS"])
def test_a_superuser_is_one_finding(bypasses: str, arrange: psycopg.Connection[Any]) -> None:
    with broken(
        arrange,
        f"CREATE TABLE old_note () INHERITS (app_note); ALTER TABLE old_note OWNER TO owner;"
        f" ALTER ROLE app SUPERUSER {bypasses}",
        "ALTER ROLE app NOSUPERUSER NOBYPASSRLS; DROP TABLE old_note",
    ):
        assert [each[:2] for each in findings()] == [("tenantry.E101", "role app")]


def test_nobody_is_told_to_revoke_what_an_owner_has(arrange: psycopg.Connection[Any]) -> None:
    with broken(
        arrange,
        "CREATE TABLE old_note () INHERITS (app_note); ALTER TABLE old_note OWNER TO owner;"
        " GRANT TRUNCATE ON app_note TO app",
        "REVOKE TRUNCATE ON app_note FROM app; DROP TABLE old_note",
    ):
        found = {each[0] for each in findings("--database", "owner")}
        assert found == {"tenantry.E113"}
        assert [each[0] for each in findings()] == ["tenantry.E117"]
    connections["owner"].close()


def test_django_tells_the_owner_of_nothing_else(arrange: psycopg.Connection[Any]) -> None:
    of_django = partial(checks.run_checks, tags=["database"])
    # Who may create what migrations make.
    with broken(arrange, "GRANT CREATE ON SCHEMA public TO owner", "SELECT"):
        assert {each.id for each in of_django(databases=["owner"])} == {"tenantry.E113"}
    with broken(arrange, "GRANT owner TO app", "REVOKE owner FROM app"):
        assert {each.id for each in of_django(databases=["default"])} == {"tenantry.E113"}
    connections["owner"].close()


def test_a_child_of_another_owner_is_not_the_owners(arrange: psycopg.Connection[Any]) -> None:
    with broken(
        arrange,
        "CREATE TABLE old_note () INHERITS (app_note); GRANT SELECT ON old_note TO owner",
        "DROP TABLE old_note",
    ):
        found = {each[0] for each in findings("--database", "owner")}
        assert found == {"tenantry.E113", "tenantry.E118"}
    connections["owner"].close()


def test_a_check_that_cannot_run_says_so_and_hides_nothing(arrange: Any) -> None:
    with (
        broken(
            arrange,
            "REVOKE SELECT ON app_note FROM app",
            "GRANT SELECT ON app_note TO app",
        ),
        broken(arrange, "ALTER ROLE app CREATEROLE", "ALTER ROLE app NOCREATEROLE"),
    ):
        found = findings()
        assert check()[1] == 1
    assert found[0][:2] == ("tenantry.W101", "role app")
    assert ("tenantry.E190", "table app_note") in [each[:2] for each in found]
    assert "could not be checked: permission denied" in found[1][2]


WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "field": ({"field": "tenat"}, "app.Note has no field 'tenat' to protect its rows by"),
    "path": ({"path": "title__tenant"}, "app.Note.title is not a foreign key, so a path"),
    "predicate": (
        {"field": "tenant", "extra_predicates": [TenantField("partner")]},
        "app.Note cannot be shared: app.Note has no field 'partner'",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_constraint_that_is_misspelled_hides_nothing(
    way: str, arrange: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given, said = WAYS[way]
    monkeypatch.setattr(Note._meta, "constraints", [RLSConstraint(**given, name="app_note_rls")])
    grant = "GRANT TRUNCATE ON app_tag TO app", "REVOKE TRUNCATE ON app_tag FROM app"
    with broken(arrange, *grant):
        found = findings()
    assert [each[:2] for each in found if each[0].startswith("tenantry.E")] == [
        ("tenantry.E190", "table app_note"),
        ("tenantry.E117", "table app_tag"),
    ]
    assert f"could not be compared with its model: {said}" in found[0][2]
    # With a database, Django asks the constraints, too.
    errors = [each for each in checks.run_checks(databases=["default"]) if each.level >= 40]
    assert [(each.obj, said in each.msg, bool(each.hint)) for each in errors] == [
        (Note, True, True)
    ]
    monkeypatch.undo()
    assert findings() == []


@pytest.mark.parametrize("options", [["--generate"], ["--policy-tests", "1", "2"]])
def test_nothing_is_made_of_a_constraint_that_is_misspelled(
    options: list[str], arrange: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    how, back, *_ = BREAKS["E111"]
    monkeypatch.setattr(Note._meta, "constraints", [RLSConstraint(field="tenat", name="n")])
    said = r"app.Note has no field 'tenat' .* Name the foreign key to the tenant in RLSConstraint"
    with broken(arrange, how, back), pytest.raises(CommandError, match=said):
        check(*options)


def test_a_child_of_a_model_whose_constraint_is_misspelled_is_told_so(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the parent is open, its child names its tenant, too."""
    wrong = RLSConstraint(field="tenat", name="n", extra_predicates=[RawPredicate("true")])
    monkeypatch.setattr(Item._meta, "constraints", [wrong])
    found = {subject: text for id_, subject, text in findings() if id_ == "tenantry.E190"}
    for table in ("app_item", "app_book"):
        assert "app.Item has no field 'tenat'" in found[f"table {table}"]
    assert list(problems_of(Tag)) == []


def test_a_constraint_that_leads_to_no_model_is_left_to_django(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    author: Any = Note._meta.get_field("author")
    monkeypatch.setattr(author.remote_field, "model", "app.Nobody")
    wrong = RLSConstraint(path="author__tenant", name="n")
    monkeypatch.setattr(Note._meta, "constraints", [wrong])
    connection = connections["default"]
    with connection.cursor() as cursor:
        (found,) = inspect_comparable(connection, cursor, Note, [], Migrations(connection))
    assert found.id == "tenantry.E190"
    assert found.message.startswith("could not be compared with its model: 'str' object has no")
    assert found.fix == "correct the model: see what manage.py check says of it"


def test_a_database_that_cannot_be_reached_is_one_finding(arrange: Any) -> None:
    connections["default"].close()
    with broken(arrange, "ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"):
        output, status = check()
    assert status == 1
    assert output.count("tenantry.E190") == 1
    assert "could not be reached" in output
    assert "is not permitted to log in" in output


def test_json_names_id_level_and_fix(arrange: psycopg.Connection[Any]) -> None:
    with broken(arrange, "ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"):
        report = json.loads(check("--json")[0])
    assert report[0] == {
        "subject": "role app",
        "findings": [
            {
                "id": "tenantry.E102",
                "level": "ERROR",
                "message": "has BYPASSRLS, so that no policy binds it",
                "fix": "run ALTER ROLE app NOBYPASSRLS",
            }
        ],
        "silenced": [],
    }


def test_a_label_that_names_no_model_is_found(tenants: Tenants, settings: Any) -> None:
    labels = ["app.Document", "app.Shared", "app.Shard"]
    settings.RLS_TENANTS = RLS_TENANTS | {"SHARED_MODELS": labels}
    said = "names 'app.Shard', which is not installed; write 'app.Shared'"
    assert findings() == [("tenantry.W157", "RLS_TENANTS['SHARED_MODELS']", said)]


def test_warnings_are_counted(arrange: psycopg.Connection[Any]) -> None:
    with broken(arrange, "ALTER ROLE app CREATEROLE", "ALTER ROLE app NOCREATEROLE"):
        output, status = check()
        assert check("--fail-level", "WARNING") == (output, 1)
    assert output.endswith(" OK, 0 wrong, 1 with warnings\n")
    assert status == 0


def test_what_is_silenced_is_left_out_and_counted(
    arrange: psycopg.Connection[Any], settings: Any
) -> None:
    settings.SILENCED_SYSTEM_CHECKS = ["tenantry.E117", "tenantry.W101"]
    how = "ALTER ROLE app CREATEROLE; GRANT TRUNCATE ON app_note, app_tag TO app"
    back = "ALTER ROLE app NOCREATEROLE; REVOKE TRUNCATE ON app_note, app_tag FROM app"
    with broken(arrange, how, back):
        output, status = check("--verbose", "--fail-level", "WARNING")
        assert status == 0
        assert "table app_note:\n  tenantry.E117 is silenced\n" in output
        left_out = "silenced by SILENCED_SYSTEM_CHECKS: 3 (tenantry.E117, tenantry.W101)\n"
        assert output.endswith(f" OK, 0 wrong, 3 silenced\n{left_out}")
        quiet, _ = check()
        assert "app_note" not in quiet
        assert quiet.endswith(left_out)
        report = json.loads(check("--json")[0])
        assert not any(each["findings"] for each in report)
        assert {each["subject"]: each["silenced"] for each in report if each["silenced"]} == {
            "role app": ["tenantry.W101"],
            "table app_note": ["tenantry.E117"],
            "table app_tag": ["tenantry.E117"],
        }
        # What is not silenced of the same subject is reported, and fails.
        with broken(
            arrange, "GRANT REFERENCES ON app_tag TO app", "REVOKE REFERENCES ON app_tag FROM app"
        ):
            output, status = check("--fail-level", "WARNING")
        assert status == 1
        assert "table app_tag:\n  tenantry.W111" in output
        assert f" OK, 0 wrong, 1 with warnings, 2 silenced\n{left_out}" in output


def test_that_nobody_has_looked_is_told_whatever_is_silenced(arrange: Any, settings: Any) -> None:
    settings.SILENCED_SYSTEM_CHECKS = ["tenantry.E190"]
    connections["default"].close()
    with broken(arrange, "ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"):
        output, status = check()
    assert status == 1
    assert "tenantry.E190" in output
    assert "SILENCED" not in output


def test_what_the_login_role_may_do_counts_where_another_one_is_assumed(
    arrange: psycopg.Connection[Any], alias: Add
) -> None:
    how = f"{OTHER}; GRANT TRUNCATE ON app_note TO app"
    with broken(arrange, how, f"REVOKE TRUNCATE ON app_note FROM app; {NO_OTHER}"):
        name = alias("default", {"assume_role": "other"})
        found = [each[:2] for each in findings("--database", name)]
        assert ("tenantry.E117", "table app_note") in found
        connections[name].close()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("-c rls.is_admin=true -c rls.bypass=login", "rls.is_admin"),
        ("-c rls.is_admin=false -c rls.current_tenant=7", "rls.current_tenant"),
    ],
)
def test_a_default_that_no_catalog_has_is_found(
    options: str, name: str, tenants: Tenants, alias: Add
) -> None:
    """A configuration file sets it as well."""
    database = alias("default", {"options": options})
    ((identifier, subject, text),) = findings("--database", database)
    assert (identifier, subject) == ("tenantry.E131", "server")
    assert text.startswith(f"starts every session with {name} = ")
    assert "; remove it from postgresql.conf" in text


def test_a_database_of_another_engine_is_refused(tenants: Tenants, alias: Add) -> None:
    name = alias("default", ENGINE="django.db.backends.postgresql")
    with pytest.raises(CommandError, match="not inherit from tenantry's; name another one with"):
        check("--database", name)


def test_a_database_of_an_engine_that_inherits_from_ours_is_checked(
    tenants: Tenants, alias: Add
) -> None:
    output, status = check("--database", alias("default", ENGINE="tests.heir"))
    assert " 0 wrong" in output
    assert status == 0


@pytest.mark.parametrize("name", ["E111", "E112", "E114", "E115", "E115 of the check", "E116"])
def test_what_is_generated_mends_what_is_broken(
    name: str, arrange: psycopg.Connection[Any], postgres: Any
) -> None:
    how, _, subject, _ = BREAKS[name]
    assert check("--generate") == ("", 0)
    arrange.execute(how.encode())
    sql, status = check("--generate")
    assert status == 0
    assert f'ALTER TABLE "{subject.removeprefix("table ")}" FORCE ROW LEVEL SECURITY' in sql
    # It is for the owner of the tables, who needs no more.
    with psycopg.connect(postgres.dsn("owner", "tenantry"), autocommit=True) as owner:
        owner.execute(sql.encode())
    assert findings() == []


def test_tables_of_another_schema_are_ok(
    project: None,
    superuser: psycopg.Connection[Any],
    migrate: Migrate,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within its policies PostgreSQL names a table without its schema."""
    superuser.execute(
        'CREATE SCHEMA "Else" AUTHORIZATION owner; GRANT USAGE ON SCHEMA "Else" TO PUBLIC'
    )
    settings.RLS_TENANTS = FLAG
    doc = model("Doc", is_open=True)
    report, line = child("Report", "Doc"), path_to("Doc")
    report.options["db_table"] = '"Else"."A report"'
    line.options["db_table"] = '"Else"."line"'
    state = many(migrate, doc, report, line)
    monkeypatch.setattr(inspecting, "apps", state.apps)
    connection = connections["default"]
    with connection.cursor() as cursor:
        for name in ("Report", "Line"):
            table = state.apps.get_model("migrated", name)
            assert list(inspecting.inspect_policies(connection, cursor, table)) == []
