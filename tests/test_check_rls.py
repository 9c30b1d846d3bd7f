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
from tests.breaks import BREAKS, HARMLESS, NO_OTHER, OTHER
from tests.fix_aliases import Add
from tests.fix_checks import broken, check, findings
from tests.fix_migrations import Migrate
from tests.migrated import FLAG, child, many, model, path_to
from tests.settings import RLS_TENANTS

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


NOTE = 'ALTER TABLE "app_note" '
TENANT = 'ALTER TABLE "app_tenant" '
NONE = "so that its rows may refer to none, and get into the hands of whoever gets the same key"
# As servers before 18 can do no other.
IF_18 = """DO $$ BEGIN
  IF current_setting('server_version_num')::int < 180000 THEN {};
  ELSE EXECUTE '{}'; END IF;
END $$"""
# Of the column that says whose a row is: what it loses, the table, and what is said.
LOSES = {
    "W115": (
        "ALTER TABLE app_note ALTER tenant_id DROP NOT NULL",
        "app_note",
        "has the column tenant_id, which may be null though the model says no, and no tenant sees a"
        f' row where it is; fill it, and run {NOTE}ALTER COLUMN "tenant_id" SET NOT NULL',
    ),
    "W115 of old rows": (
        "ALTER TABLE app_note ALTER tenant_id DROP NOT NULL; "
        + IF_18.format("NULL", "ALTER TABLE app_note ADD NOT NULL tenant_id NOT VALID"),
        "app_note",
        f"which may be null though the model says no, and no tenant sees a row where it is; fill"
        f' it, and run {NOTE}ALTER COLUMN "tenant_id" SET NOT NULL',
    ),
    "W115 default": (
        "ALTER TABLE app_note ALTER tenant_id DROP DEFAULT",
        "app_note",
        "has the column tenant_id without the default that the model says, so that new rows get no"
        f' tenant, and are refused; run {NOTE}ALTER COLUMN "tenant_id" SET DEFAULT ',
    ),
    "W116": (
        "ALTER TABLE app_note DROP CONSTRAINT {}",
        "app_note",
        f"has no foreign key (tenant_id) to app_tenant (id), {NONE}; as a superuser, run {NOTE}ADD"
        ' FOREIGN KEY ("tenant_id") REFERENCES "app_tenant" ("id") DEFERRABLE INITIALLY DEFERRED',
    ),
    "W116 of a child": (
        "ALTER TABLE app_book DROP CONSTRAINT {}",
        "app_book",
        f"has no foreign key (item_ptr_id) to app_item (id), {NONE}",
    ),
    "W116 of old rows": (
        "ALTER TABLE app_note DROP CONSTRAINT {0}; ALTER TABLE app_note ADD CONSTRAINT {0} FOREIGN"
        " KEY (tenant_id) REFERENCES app_tenant NOT VALID",
        "app_note",
        f"which is not validated, {NONE}; as a superuser, run {NOTE}VALIDATE CONSTRAINT ",
    ),
    "W116 triggers": (
        "ALTER TABLE app_note DISABLE TRIGGER ALL",
        "app_note",
        f"which is disabled, {NONE}; as a superuser, run {NOTE}ENABLE TRIGGER ALL and {TENANT}",
    ),
    "W116 not enforced": (
        IF_18.format(
            "ALTER TABLE app_note DISABLE TRIGGER ALL",
            "ALTER TABLE app_note ALTER CONSTRAINT {} NOT ENFORCED",
        ),
        "app_note",
        f", {NONE}; as a superuser, run {NOTE}",
    ),
    "W116 triggers of the other table": (
        "ALTER TABLE app_tenant DISABLE TRIGGER ALL",
        "app_note",
        f"which is disabled, {NONE}; as a superuser, run {NOTE}ENABLE TRIGGER ALL and {TENANT}",
    ),
}


@pytest.mark.parametrize("name", LOSES)
def test_a_column_that_loses_what_its_model_says_is_mended_as_it_is_said(
    name: str, arrange: psycopg.Connection[Any]
) -> None:
    how, table, said = LOSES[name]

    def key() -> str:
        row = arrange.execute(
            "SELECT quote_ident(conname) FROM pg_constraint JOIN pg_attribute ON attnum = conkey[1]"
            " AND attrelid = conrelid WHERE contype = 'f' AND conrelid = %s::regclass"
            " AND attname IN ('tenant_id', 'item_ptr_id')",
            [table],
        ).fetchone()
        assert row
        return str(row[0])

    before = key()
    arrange.execute(how.format(before).encode())
    ((id_, text),) = [(id_, text) for id_, about, text in findings() if about == f"table {table}"]
    assert id_ == f"tenantry.{name[:4]}"
    assert said in text
    for sql in text.partition("run ")[2].split(" and "):
        arrange.execute(sql.encode())
    if key() != before:
        arrange.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {key()} TO {before}".encode())
    assert findings() == []


class ButTenants:
    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return False if hints.get("model") is Tenant else None


def test_what_migrate_would_not_make_of_a_column_is_no_finding(
    arrange: psycopg.Connection[Any], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> set[str]:
        return {id_ for id_, _, _ in findings()} & {"tenantry.W115", "tenantry.W116"}

    with (
        broken(
            arrange,
            "ALTER TABLE app_tenant DISABLE TRIGGER ALL",
            "ALTER TABLE app_tenant ENABLE TRIGGER ALL",
        ),
        broken(
            arrange,
            "ALTER TABLE app_note ALTER tenant_id DROP NOT NULL",
            "ALTER TABLE app_note ALTER tenant_id SET NOT NULL",
        ),
    ):
        assert found() == {"tenantry.W115", "tenantry.W116"}
        settings.DATABASE_ROUTERS = [ButTenants()]
        assert found() == {"tenantry.W115"}
        monkeypatch.setattr(Note._meta, "managed", False)
        assert found() == set()


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


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_harmless_is_not_found(name: str, arrange: psycopg.Connection[Any]) -> None:
    with broken(arrange, *HARMLESS[name]):
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
    ids = ["tenantry.E103", "tenantry.W101", "tenantry.E135", "tenantry.E117"]
    other = f"CREATE ROLE other {attributes}; GRANT TRUNCATE ON app_note TO other"
    with broken(arrange, f"{other}; GRANT other TO app", "DROP OWNED BY other; DROP ROLE other"):
        assert [each[0] for each in findings()] == ids
        # Before, a member can always become what it is a member of.
        if arrange.info.server_version >= 160000:
            # Attributes are not inherited, and privileges are.
            arrange.execute("GRANT other TO app WITH INHERIT TRUE, SET FALSE")
            assert [each[0] for each in findings()] == ["tenantry.E117"]
            arrange.execute("GRANT other TO app WITH INHERIT FALSE, SET FALSE")
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
        ("-c rls.is_admin=true -c rls.bypass=", "rls.is_admin"),
        ("-c rls.is_admin=false -c rls.current_tenant=7", "rls.current_tenant"),
        ("-c rls.bypass=login", "rls.bypass"),
    ],
)
def test_a_default_that_no_catalog_has_is_found(
    options: str, name: str, tenants: Tenants, alias: Add, settings: Any
) -> None:
    """A configuration file sets it as well."""
    settings.RLS_TENANTS = RLS_TENANTS | {"BYPASS_FLAGS": ["login"]}
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
