"""What may be broken in a database and what ``check_rls`` says of it, and what is harmless."""

from __future__ import annotations

from tests.settings import HAS_ADMIN_ROLE

# A role whose privileges are not those of the login role until that becomes it.
OTHER = "ALTER ROLE app NOINHERIT; CREATE ROLE other; GRANT other TO app"
NO_OTHER = "DROP OWNED BY other; DROP ROLE other; ALTER ROLE app INHERIT"

# Its wrapper may do nothing: only what it is called is looked at.
SERVER = (
    "CREATE FOREIGN DATA WRAPPER postgres_fdw; CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw"
    " OPTIONS (dbname '{}'); GRANT USAGE ON FOREIGN SERVER loop TO app; CREATE USER MAPPING FOR app"
    " SERVER loop OPTIONS (user '{}')"
)
NO_SERVER = "DROP FOREIGN DATA WRAPPER postgres_fdw CASCADE"

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
    "E116 of other settings": (
        "CREATE POLICY tenantry_bypass ON app_note FOR SELECT USING (true)",
        "DROP POLICY tenantry_bypass ON app_note",
        "table app_note",
        "has the permissive policy tenantry_bypass, which adds rows to those of the tenant; run"
        " makemigrations and migrate, and if they have nothing to do, drop it",
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
    "E118 of a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN"
        " TABLE t () INHERITS (app_note) SERVER s; GRANT SELECT ON t TO app",
        "DROP FOREIGN DATA WRAPPER w CASCADE",
        "table app_note",
        "has the partition or child t, which this role may use and no policy guards; run REVOKE ALL"
        " ON t FROM PUBLIC and the role, as a foreign table has no policies",
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
        f"{OTHER}; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE"
        " FOREIGN TABLE t (tenant_id bigint) SERVER s; GRANT DELETE ON t TO other",
        f"DROP FOREIGN DATA WRAPPER w CASCADE; {NO_OTHER}",
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
    "W152 of the key that names the tenant": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (tenant_id) REFERENCES app_tenant ON"
        " DELETE SET DEFAULT",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON DELETE SET DEFAULT: PostgreSQL applies no policies to"
        ' that, and deletes or changes the rows of other tenants, too; run ALTER TABLE "app_note"'
        " DROP CONSTRAINT gone, and make it again without ON DELETE",
    ),
    "W152 of an update": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (author_id) REFERENCES app_author ON"
        " DELETE RESTRICT ON UPDATE CASCADE",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON UPDATE CASCADE: PostgreSQL applies no policies to that,"
        ' and deletes or changes the rows of other tenants, too; run ALTER TABLE "app_note" DROP'
        " CONSTRAINT gone, and make it again without ON UPDATE, or add SameTenant(field='author')",
    ),
    "W152 of both": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (author_id) REFERENCES app_author ON"
        " DELETE CASCADE ON UPDATE SET NULL",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON DELETE CASCADE and ON UPDATE SET NULL: ",
    ),
    "W152 of an update of the tenant": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (tenant_id) REFERENCES app_tenant ON"
        " DELETE CASCADE ON UPDATE SET DEFAULT",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON UPDATE SET DEFAULT: ",
    ),
    "W152 of several columns": (
        "ALTER TABLE app_author ADD CONSTRAINT twice UNIQUE (id, name); ALTER TABLE app_note ADD"
        " CONSTRAINT gone FOREIGN KEY (author_id, title) REFERENCES app_author (id, name) ON DELETE"
        " CASCADE NOT VALID",
        "ALTER TABLE app_note DROP CONSTRAINT gone; ALTER TABLE app_author DROP CONSTRAINT twice",
        "table app_note",
        "has the foreign key gone with ON DELETE CASCADE: PostgreSQL applies no policies to that,"
        ' and deletes or changes the rows of other tenants, too; run ALTER TABLE "app_note" DROP'
        " CONSTRAINT gone, and make it again with the columns that name the tenant, or without ON"
        " DELETE",
    ),
    "W152 of a shared table": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (author_id) REFERENCES app_shared ON"
        " DELETE CASCADE NOT VALID",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
        "table app_note",
        "has the foreign key gone with ON DELETE CASCADE: ",
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
    "W114 of a shared table": (
        "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN DELETE FROM \"Odd table\"; RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION spy FROM"
        " PUBLIC; CREATE TRIGGER spies BEFORE INSERT ON app_shared EXECUTE FUNCTION spy();"
        " REVOKE DELETE ON app_shared FROM app",
        "DROP FUNCTION spy CASCADE; GRANT DELETE ON app_shared TO app",
        "table app_shared",
        "has the trigger spies, whose function spy() runs as postgres, whom no policy binds, and"
        ' whose text names "Odd table"; run ALTER FUNCTION spy() SECURITY INVOKER',
    ),
    "W114 of a table that the role may empty": (
        "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN DELETE FROM APP_NOTE; RETURN OLD; END'; REVOKE EXECUTE ON FUNCTION spy FROM"
        " PUBLIC; CREATE TABLE t (n int); GRANT DELETE ON t TO app; CREATE TRIGGER spies BEFORE"
        " DELETE ON t EXECUTE FUNCTION spy()",
        "DROP TABLE t; DROP FUNCTION spy",
        "table t",
        "runs as postgres, whom no policy binds, and whose text names app_note",
    ),
    "W114 of a copy": (
        "CREATE TABLE t (LIKE app_book) PARTITION BY LIST (item_ptr_id); ALTER TABLE t"
        " ATTACH PARTITION app_book DEFAULT; CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS 'BEGIN RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION spy FROM PUBLIC;"
        " CREATE TRIGGER spies BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION spy()",
        "ALTER TABLE t DETACH PARTITION app_book; DROP TABLE t; DROP FUNCTION spy CASCADE",
        "table app_book",
        "has the trigger spies, whose function spy() runs as postgres, whom no policy binds; run",
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
    "E121 of a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN"
        " TABLE t () INHERITS (app_note) SERVER s; ALTER TABLE t OWNER TO owner; CREATE VIEW v AS"
        " SELECT * FROM t; ALTER VIEW v OWNER TO owner; GRANT SELECT ON v TO app",
        "DROP FOREIGN DATA WRAPPER w CASCADE",
        "view v",
        "and no policy of t binds that role; let the view read the protected table, as a foreign"
        " table has no policies",
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
    "E123 of an aggregate": (
        "CREATE FUNCTION f(text, text) RETURNS text LANGUAGE sql SECURITY DEFINER AS"
        " 'SELECT string_agg(title, $$,$$) FROM app_note'; REVOKE EXECUTE ON FUNCTION f FROM"
        " PUBLIC; CREATE AGGREGATE titles(text) (SFUNC = f, STYPE = text)",
        "DROP AGGREGATE titles(text); DROP FUNCTION f",
        "function f(text,text)",
        "is SECURITY DEFINER and runs as postgres, whom no policy binds; run ALTER ROUTINE"
        " f(text,text) SECURITY INVOKER, or REVOKE EXECUTE ON ROUTINE titles(text) FROM PUBLIC and"
        " the role that serves requests",
    ),
    "E123 of an event trigger": (
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN NULL; END'; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; CREATE EVENT TRIGGER e ON"
        " ddl_command_end EXECUTE FUNCTION f()",
        "DROP EVENT TRIGGER e; DROP FUNCTION f",
        "function f()",
        "is SECURITY DEFINER and runs as postgres, whom no policy binds; run ALTER ROUTINE f()"
        " SECURITY INVOKER, or DROP EVENT TRIGGER e",
    ),
    "W123": (
        "CREATE FUNCTION spy(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 LEAKPROOF AS 'BEGIN"
        " RAISE NOTICE $$saw %$$, $1; RETURN true; END'",
        "DROP FUNCTION spy",
        "function spy(text)",
        "is LEAKPROOF, so that PostgreSQL may call it with rows of other tenants, before it asks"
        " their policies; run ALTER FUNCTION spy(text) NOT LEAKPROOF, or REVOKE EXECUTE ON FUNCTION"
        " spy(text) FROM PUBLIC and the role that serves requests",
    ),
    "E126": (
        SERVER.format("tenantry", "postgres"),
        NO_SERVER,
        "foreign server loop",
        "leads back into this database, where it logs app in as postgres, whom no policy binds; run"
        " DROP USER MAPPING FOR app SERVER loop, or let it log in as another role",
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
        "CREATE TABLE bill (amount int, customer bigint REFERENCES app_tenant) PARTITION BY LIST"
        " (customer); GRANT SELECT ON bill TO app",
        "DROP TABLE bill",
        "table bill",
        "has the tenant column customer but no policy",
    ),
    "W124 of a foreign table": (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN"
        " TABLE t (tenant_id bigint) SERVER s; GRANT SELECT ON t TO app",
        "DROP FOREIGN DATA WRAPPER w CASCADE",
        "table t",
        "run REVOKE ALL ON t FROM PUBLIC and the role that serves requests, as a foreign table has"
        " no policies",
    ),
    "W124 behind a view": (
        "CREATE TABLE t AS SELECT * FROM app_note; CREATE VIEW v AS SELECT title FROM t; CREATE"
        " VIEW w AS SELECT * FROM v; GRANT SELECT ON w TO app",
        "DROP TABLE t CASCADE",
        "table t",
        "has the tenant column tenant_id but no policy, and no model whose migrations would create"
        " one; run REVOKE ALL ON t, w FROM PUBLIC and the role that serves requests",
    ),
    "W124 behind a materialized view": (
        "CREATE TABLE t AS SELECT * FROM app_note; CREATE MATERIALIZED VIEW m AS SELECT * FROM t;"
        " GRANT SELECT ON m TO app",
        "DROP TABLE t CASCADE",
        "table t",
        "run REVOKE ALL ON t, m FROM PUBLIC and the role that serves requests",
    ),
    "W124 of a log": (
        "CREATE TABLE log (what jsonb); GRANT SELECT, INSERT ON log TO app; CREATE FUNCTION keep()"
        " RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.log VALUES (to_jsonb(NEW));"
        " RETURN NEW; END'; CREATE TRIGGER keeps AFTER UPDATE ON app_note FOR EACH ROW EXECUTE"
        " FUNCTION keep()",
        "DROP FUNCTION keep CASCADE; DROP TABLE log",
        "table log",
        "gets rows from the trigger keeps of app_note, but has no policy, and no model whose"
        " migrations would create one; run REVOKE ALL ON log FROM PUBLIC",
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
    "E124 of an event trigger": (
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql SET rls.is_admin = 'true' AS"
        " 'BEGIN NULL; END'; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; CREATE EVENT TRIGGER e ON"
        " ddl_command_end EXECUTE FUNCTION f()",
        "DROP EVENT TRIGGER e; DROP FUNCTION f",
        "function f()",
        "runs with rls.is_admin = 'true', whoever calls it in whatever scope",
    ),
    "E124 of an aggregate": (
        "CREATE FUNCTION f(bigint, bigint) RETURNS bigint LANGUAGE sql SET rls.is_admin = 'true' AS"
        " 'SELECT count(*) FROM app_note'; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC; CREATE"
        " AGGREGATE notes(bigint) (SFUNC = f, STYPE = bigint)",
        "DROP AGGREGATE notes(bigint); DROP FUNCTION f",
        "function f(bigint,bigint)",
        "runs with rls.is_admin = 'true', whoever calls it in whatever scope",
    ),
    "E124 in its text": (
        "CREATE FUNCTION every() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config("
        "'rls.is_admin', 'true', true); RETURN (SELECT count(*) FROM app_note); END $$",
        "DROP FUNCTION every()",
        "function every()",
        "sets rls.is_admin in its text, whoever calls it in whatever scope; leave that out, and let"
        " its callers open the scope",
    ),
    "E124 in the text of a trigger": (
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN SET LOCAL"
        " rls.current_tenant TO 7; RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION fill FROM PUBLIC;"
        " CREATE TRIGGER t BEFORE INSERT ON app_shared EXECUTE FUNCTION fill()",
        "DROP FUNCTION fill CASCADE",
        "function fill()",
        "sets rls.current_tenant in its text",
    ),
    "E124 in its parsed text": (
        "CREATE PROCEDURE act(n int) LANGUAGE sql BEGIN ATOMIC SELECT set_config("
        "'rls.current_tenant', n::text, true); END",
        "DROP PROCEDURE act",
        "function act(integer)",
        "sets rls.current_tenant in its text",
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
    "W134": (
        "ALTER ROLE app SET session_replication_role = replica",
        "ALTER ROLE app RESET session_replication_role",
        "role app",
        "starts every session with session_replication_role = replica, in which PostgreSQL checks"
        " no foreign keys, those of SameTenant among them; run ALTER ROLE app RESET session_repl",
    ),
    "W134 by a privilege": (
        f"{OTHER}; GRANT SET ON PARAMETER session_replication_role TO other",
        "REVOKE SET ON PARAMETER session_replication_role FROM other; " + NO_OTHER,
        "role app",
        "may set session_replication_role, and so keep PostgreSQL from checking foreign keys, those"
        " of SameTenant among them; run REVOKE SET ON PARAMETER session_replication_role FROM app,",
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
        " SECURITY DEFINER AS 'BEGIN DELETE FROM app_notes; RETURN NEW; END'; CREATE TRIGGER f"
        " BEFORE INSERT ON app_shared EXECUTE FUNCTION private.f()",
        "DROP SCHEMA private CASCADE",
    ),
    "a trigger of a table that the role may not write": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " 'BEGIN DELETE FROM app_note; RETURN NEW; END'; REVOKE EXECUTE ON FUNCTION f FROM PUBLIC;"
        " CREATE TABLE t (n int); GRANT SELECT ON t TO app; CREATE TRIGGER f BEFORE INSERT ON t"
        " EXECUTE FUNCTION f()",
        "DROP TABLE t; DROP FUNCTION f",
    ),
    "triggers that are bound or switched off": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN DELETE FROM app_note; RETURN NEW; END'; CREATE FUNCTION g() RETURNS trigger"
        " LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN DELETE FROM app_note; RETURN NEW; END';"
        " ALTER FUNCTION g OWNER TO owner; CREATE FUNCTION h() RETURNS trigger LANGUAGE plpgsql"
        " SECURITY DEFINER AS 'BEGIN DELETE FROM app_note; RETURN NEW; END'; REVOKE EXECUTE ON"
        " FUNCTION h FROM PUBLIC; CREATE TRIGGER f BEFORE INSERT ON app_note EXECUTE FUNCTION f();"
        " CREATE TRIGGER g BEFORE INSERT ON app_note EXECUTE FUNCTION g();"
        " CREATE TRIGGER f BEFORE INSERT ON app_shared EXECUTE FUNCTION f();"
        " CREATE TRIGGER g BEFORE INSERT ON app_shared EXECUTE FUNCTION g();"
        " CREATE TRIGGER h BEFORE INSERT ON app_shared EXECUTE FUNCTION h();"
        " ALTER TABLE app_shared DISABLE TRIGGER h",
        "DROP FUNCTION f, g, h CASCADE",
    ),
    "a foreign server of another database": (SERVER.format("postgres", "postgres"), NO_SERVER),
    "a foreign server of the role itself": (SERVER.format("tenantry", "app"), NO_SERVER),
    "a foreign server on another machine": (
        SERVER.format("tenantry", "postgres") + "; ALTER SERVER loop OPTIONS (host 'elsewhere')",
        NO_SERVER,
    ),
    "a foreign server at another port": (
        SERVER.format("tenantry", "postgres") + "; ALTER SERVER loop OPTIONS (port '1')",
        NO_SERVER,
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
    "what goes with what is of the same tenant": (
        "ALTER TABLE app_author ADD CONSTRAINT twice UNIQUE (tenant_id, id); ALTER TABLE app_note"
        " ADD CONSTRAINT gone FOREIGN KEY (tenant_id, author_id) REFERENCES app_author (tenant_id,"
        " id) ON DELETE SET NULL (author_id) ON UPDATE CASCADE",
        "ALTER TABLE app_note DROP CONSTRAINT gone; ALTER TABLE app_author DROP CONSTRAINT twice",
    ),
    "what goes with a row that the role may not delete": (
        "CREATE TABLE others (id bigint PRIMARY KEY); GRANT SELECT ON others TO app; ALTER TABLE"
        " app_note ADD CONSTRAINT gone FOREIGN KEY (author_id) REFERENCES others ON DELETE CASCADE"
        " NOT VALID",
        "ALTER TABLE app_note DROP CONSTRAINT gone; DROP TABLE others",
    ),
    "what goes with the tenant": (
        "ALTER TABLE app_note ADD CONSTRAINT gone FOREIGN KEY (tenant_id) REFERENCES app_tenant ON"
        " DELETE CASCADE",
        "ALTER TABLE app_note DROP CONSTRAINT gone",
    ),
    "a column that a constraint keeps from NULL": (
        "ALTER TABLE app_note ADD CONSTRAINT told CHECK (tenant_id IS NOT NULL);"
        " ALTER TABLE app_note ALTER tenant_id DROP NOT NULL",
        "ALTER TABLE app_note ALTER tenant_id SET NOT NULL; ALTER TABLE app_note DROP CONSTRAINT"
        " told",
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
    "copies of a session, and of an extension": (
        "CREATE TEMP TABLE t AS SELECT * FROM app_note; CREATE TABLE u AS SELECT * FROM app_note;"
        " GRANT SELECT ON t, u TO app; ALTER EXTENSION plpgsql ADD TABLE u",
        "ALTER EXTENSION plpgsql DROP TABLE u; DROP TABLE t, u",
    ),
    "a child of a shared table": (
        "CREATE TABLE t (tenant_id bigint) INHERITS (app_shared); GRANT SELECT ON t TO app",
        "DROP TABLE t",
    ),
    "an invoker's view of a copy that the role may not read": (
        "CREATE TABLE t AS SELECT * FROM app_note; CREATE VIEW v WITH (security_invoker) AS SELECT"
        " * FROM t; GRANT SELECT ON v TO app",
        "DROP TABLE t CASCADE",
    ),
    "a log that the role may not read": (
        "CREATE TABLE log (what jsonb); GRANT INSERT ON log TO app; CREATE FUNCTION keep() RETURNS"
        " trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (to_jsonb(NEW)); RETURN NEW;"
        " END'; CREATE TRIGGER keeps AFTER UPDATE ON app_note FOR EACH ROW EXECUTE FUNCTION keep()",
        "DROP FUNCTION keep CASCADE; DROP TABLE log",
    ),
    "a function whose text lets go of the binding, or reads it": (
        "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config("
        "'rls.is_admin', 'false', true), set_config('rls.current_tenant', '', true); SET LOCAL"
        " rls.is_admin = false; RETURN current_setting('rls.current_tenant'); END $$",
        "DROP FUNCTION f",
    ),
    "a leakproof function that the role may not call": (
        "CREATE FUNCTION f(text) RETURNS bool LANGUAGE sql LEAKPROOF AS 'SELECT true'; REVOKE"
        " EXECUTE ON FUNCTION f FROM PUBLIC",
        "DROP FUNCTION f",
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
