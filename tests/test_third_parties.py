"""Programs of third parties judge the schema that the models make, and find what is broken."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from example_asgi.servers import Postgres
from tenantry.binding import ADMIN as ADMIN_BINDING
from tenantry.seal import token
from tests.app.models import Tenant
from tests.fix_example import ADMIN, APP, DATABASE, EXAMPLE, Example, environment
from tests.fix_migrations import Migrate
from tests.judges import MODES, Judge, try_policies, write_config
from tests.migrated import many, model, tags
from tests.sabotage import Connection, broken
from tests.settings import RLS_TENANTS, SHAPE, SHAPES

Tenants = tuple[Tenant, Tenant]

ISOLATION, ADMINS, TWIN = "tenantry_isolation", "tenantry_admin", "tenantry_restriction"
DIRECT = {
    "Odd table",
    "app_author",
    "app_comment",
    "app_contract",
    "app_invoice",
    "app_item",
    "app_note",
    "app_payment",
    "app_tag",
    "app_tagging",
}
# Its rows belong to rows of app_item.
DEPENDENT = {"app_book"}
SHARED = {
    "app_document",
    "app_shared",
    "app_tenant",
    "app_user",
    "app_user_groups",
    "app_user_user_permissions",
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "django_content_type",
    "django_migrations",
    "django_session",
}
NOTES = {"notes_note", "notes_notetag", "notes_tag"}
NOTES_SHARED = {
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "django_admin_log",
    "django_content_type",
    "django_migrations",
    "django_session",
    "notes_tenant",
    "notes_user",
    "notes_user_groups",
    "notes_user_user_permissions",
}
# What a definition asks of a table: nine times as either tenant, four unbound, five as the admin.
CHECKS = 2 * 9 + 4 + 5
# What it says before that of a table: that it is protected, and that it has rows.
FACTS = 2
# Foreign keys between tables of tenants that do not have the tenant in them.
CROSSING = {"app_book", "app_item", "app_note", "app_shared", "app_tagging"}
NOTES_CROSSING = {"notes_notetag"}


def places(tables: set[str], policy: str = "") -> set[str]:
    """Return how pgrls names tables, or a policy of each."""
    return {f"public.{table}{policy and '.'}{policy}" for table in tables}


def allowed(shape: str, protected: set[str], direct: set[str], shared: set[str]) -> dict[str, Any]:
    """Return the errors of pgrls that the documentation explains; by rule, where they are meant."""
    meant = {"SEC001": places(shared), "SEC003": places(protected, ISOLATION)}
    if shape == "role":
        meant["SEC038"] = places(direct, ADMINS)
    if "SEALED" in SHAPES[shape]:
        meant["SEC002"] = {"tenantry.seal_keys"}
    return meant


def remarks(
    shape: str, protected: set[str], direct: set[str], crossing: set[str]
) -> dict[str, set[tuple[str, str]]]:
    """Return the findings that the documentation explains."""
    warnings = {("SEC047", each) for each in places(crossing)}
    infos = set()
    if "SEALED" in SHAPES[shape]:
        warnings |= {("SEC009", "tenantry.seal_keys"), ("SEC014", "tenantry.rls_sealed")}
    if "ADMIN_ROLE" in SHAPES[shape]:
        rules = {"role": ["SEC005", "SEC008", "SEC028"], "sealed": ["SEC005"]}[shape]
        warnings |= {(rule, each) for rule in rules for each in places(direct, ADMINS)}
    else:
        infos = {("SEC007", each) for each in places(protected)}
    return {"error": set(), "warning": warnings, "info": infos}


def proven(
    shape: str, mode: str, direct: set[str], dependent: set[str]
) -> dict[str, dict[str, str]]:
    """Return what pgrls proves of the policies of each table."""
    # Neither a CASE nor a subquery that reads a table is anything that it understands.
    nothing = {"": "unverified", ISOLATION: "unverified"}
    if "ADMIN_ROLE" not in SHAPES[shape]:
        return {table: dict(nothing) for table in direct | dependent}
    # An admin reads rows of every tenant, so nothing can prove otherwise.
    admin = "isolated" if mode == "anon" else "unverified"
    verdicts = {table: {"": admin, ISOLATION: "isolated", ADMINS: admin} for table in direct}
    return verdicts | {table: dict(nothing) for table in dependent}


@pytest.fixture
def arrange(library: Tenants, postgres: Postgres) -> Iterator[Connection]:
    """Return a connection that may break things, in a database with rows in every table."""
    dsn = postgres.dsn("postgres", "tenantry")
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def judge(project: None, postgres: Postgres, tmp_path: Path) -> Judge:
    config = write_config(
        tmp_path / "pgrls.toml",
        app_role="app",
        columns=["tenant_id", "cust_no"],
        allowed=allowed(SHAPE, DIRECT | DEPENDENT, DIRECT, SHARED),
    )
    functions = ("tenantry.rls_current_tenant_bigint", "tenantry.rls_sealed")
    return Judge(postgres.dsn("postgres", "tenantry"), config, functions)


@pytest.fixture
def definition(library: Tenants, tmp_path: Path) -> Path:
    path = tmp_path / "definition.json"
    path.write_text(define(*library))
    return path


def wrong(checks: list[Any]) -> set[str]:
    """Return the names of the checks that did not end well."""
    return {each["id"] for each in checks if each["status"] != "PASS"}


def define(*tenants: Tenant | str) -> str:
    output = io.StringIO()
    keys = [str(getattr(tenant, "pk", tenant)) for tenant in tenants]
    call_command("check_rls", "--policy-tests", *keys, stdout=output)
    return output.getvalue()


def test_lint_finds_no_error_that_is_not_explained(judge: Judge) -> None:
    assert judge.lint() == remarks(SHAPE, DIRECT | DEPENDENT, DIRECT, CROSSING)


@pytest.mark.parametrize("mode", MODES)
def test_every_policy_is_proven_as_far_as_can_be(
    mode: str, judge: Judge, arrange: Connection
) -> None:
    assert judge.verify(mode) == proven(SHAPE, mode, DIRECT, DEPENDENT)


LINTED = {
    "off": ("ALTER TABLE app_note DISABLE ROW LEVEL SECURITY", "SEC032", ""),
    "owner": ("ALTER TABLE app_note NO FORCE ROW LEVEL SECURITY", "SEC002", ""),
    "open": (f"ALTER POLICY {ISOLATION} ON app_note USING (true)", "SEC038", f".{ISOLATION}"),
    "stray": ("CREATE POLICY stray ON app_note FOR DELETE USING (true)", "SEC003", ".stray"),
    "stray of the app role": (
        "CREATE POLICY stray ON app_note FOR DELETE TO app USING (id = 7)",
        "SEC039",
        ".stray",
    ),
}


@pytest.mark.parametrize("name", LINTED)
def test_lint_finds_what_is_broken(name: str, judge: Judge, arrange: Connection) -> None:
    how, rule, place = LINTED[name]
    with broken(arrange, "app_note", how):
        assert judge.lint()["error"] == {(rule, f"public.app_note{place}")}


def test_lint_finds_a_function_for_the_app_role_that_no_policy_binds(
    judge: Judge, arrange: Connection
) -> None:
    arrange.execute(
        "CREATE FUNCTION peek() RETURNS SETOF app_note LANGUAGE sql SECURITY DEFINER"
        " SET search_path = public, pg_temp AS 'SELECT * FROM app_note';"
        " REVOKE EXECUTE ON FUNCTION peek FROM PUBLIC; GRANT EXECUTE ON FUNCTION peek TO app"
    )
    try:
        assert judge.lint()["error"] == {("SEC042", "public.peek")}
    finally:
        arrange.execute("DROP FUNCTION peek")


def test_a_proof_of_no_table_is_none(judge: Judge, arrange: Connection) -> None:
    with broken(arrange, "app_note", "ALTER TABLE app_note DISABLE ROW LEVEL SECURITY"):
        assert set(judge.verify("anon")) == (DIRECT | DEPENDENT) - {"app_note"}
    with broken(arrange, "app_note", f"DROP POLICY {ISOLATION} ON app_note"):
        assert ISOLATION not in judge.verify("anon")["app_note"]
    with broken(arrange, "app_note", f"ALTER POLICY {ISOLATION} ON app_note USING (true)"):
        assert judge.verify("anon")["app_note"][ISOLATION] == "leak"


UNPROVEN = {
    "cross-tenant": f"ALTER POLICY {ISOLATION} ON {{}} USING ({{}} OR name = 'x')",
    "write": f"ALTER POLICY {ISOLATION} ON {{}} WITH CHECK (true)",
}


def unproven(mode: str, table: str, connection: Connection) -> str:
    """Return what breaks the policy of a table for a mode; the prover is sure of its leak."""
    row = connection.execute(
        "SELECT qual FROM pg_policies WHERE tablename = %s AND policyname = %s", [table, ISOLATION]
    ).fetchone()
    assert row
    return UNPROVEN[mode].format(table, row[0])


@pytest.mark.admin_role
@pytest.mark.parametrize("mode", UNPROVEN)
def test_the_prover_finds_a_tenant_that_gets_at_others(
    mode: str, judge: Judge, arrange: Connection
) -> None:
    with broken(arrange, "app_tag", unproven(mode, "app_tag", arrange)):
        found = judge.verify(mode)
    assert {found[table][ISOLATION] for table in DIRECT - {"app_tag"}} == {"isolated"}
    assert found["app_tag"][ISOLATION] == "leak"


def test_a_table_of_relations_is_judged_as_one_that_hangs_on_others(
    migrate: Migrate, judge: Judge
) -> None:
    many(migrate, model("Tag", is_open=False), model("Doc", is_open=False, tags=tags()))
    direct, dependent = {"migrated_tag", "migrated_doc"}, {"migrated_doc_tags"}
    found = judge.verify("cross-tenant")
    made = {table: found[table] for table in direct | dependent}
    assert made == proven(SHAPE, "cross-tenant", direct, dependent)
    # The configuration says of other tables only what is meant.
    meant = allowed(SHAPE, direct | dependent, direct, set())
    assert judge.lint()["error"] == {
        (rule, place) for rule in meant if rule != "SEC002" for place in meant[rule]
    }


def test_a_tenant_an_unbound_session_and_the_admin_do_what_they_may(
    definition: Path, postgres: Postgres
) -> None:
    status, facts, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    assert wrong(checks) == set()
    assert len(checks) == CHECKS * len(DIRECT | DEPENDENT)
    assert {each["table"].strip('"') for each in checks} == DIRECT | DEPENDENT
    passed = [each for each in facts if each["status"] == "PASS"]
    assert len(passed) == 1 + FACTS * len(DIRECT | DEPENDENT)
    assert status == 0


VERBS = ("select", "update", "delete", "insert")
TENANTS = ("tenant_a", "tenant_b")
OWN = {f"{tenant}: {verb} own" for tenant in TENANTS for verb in VERBS}
AWAY = {f"{tenant}: update away" for tenant in TENANTS}
FOREIGN = {f"{tenant}: {verb} foreign" for tenant in TENANTS for verb in VERBS} | AWAY
UNBOUND = {f"unbound: {verb}" for verb in VERBS}
INSERTED = {each for each in FOREIGN | UNBOUND if each.endswith(("insert", "insert foreign"))}
TRIED = {
    "off": ("ALTER TABLE {} DISABLE ROW LEVEL SECURITY", FOREIGN | UNBOUND),
    "open": (f"ALTER POLICY {ISOLATION} ON {{}} USING (true) WITH CHECK (true)", FOREIGN | UNBOUND),
    "unchecked": (f"ALTER POLICY {ISOLATION} ON {{}} WITH CHECK (true)", INSERTED),
    "stray": ("CREATE POLICY stray ON {} FOR DELETE USING (true)", {"unbound: delete"}),
}
NO_TWIN = f"DROP POLICY IF EXISTS {TWIN} ON {{}};"


@pytest.mark.parametrize("table", ["app_note", "app_book"])
@pytest.mark.parametrize("name", TRIED)
def test_statements_find_what_is_broken(
    name: str, table: str, definition: Path, postgres: Postgres, arrange: Connection
) -> None:
    how, expected = TRIED[name]
    with broken(arrange, table, (NO_TWIN + how).format(table, table)):
        status, facts, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    assert wrong(checks) == {f"{table}: {each}" for each in expected}
    assert status == 1
    assert any(each["status"] == "FAIL" for each in facts) == (name == "off")


def test_statements_find_a_table_that_shows_nobody_anything(
    definition: Path, postgres: Postgres, arrange: Connection
) -> None:
    with broken(arrange, "app_note", f"ALTER POLICY {ISOLATION} ON app_note USING (false)"):
        status, _, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    found = {each.removeprefix("app_note: ") for each in wrong(checks)}
    assert {each for each in found if not each.startswith("admin: ")} == OWN | AWAY
    assert status == 1


def test_statements_find_a_table_without_rows(
    definition: Path, postgres: Postgres, arrange: Connection
) -> None:
    arrange.execute("DELETE FROM app_payment")
    status, facts, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    assert {each.partition(":")[0] for each in wrong(checks)} == {"app_payment"}
    assert [each["target"] for each in facts if each["status"] == "FAIL"] == ['"app_payment"']
    assert status == 1


@pytest.mark.role_shape
def test_the_restrictive_policy_holds_where_a_permissive_one_is_open(
    definition: Path, postgres: Postgres, arrange: Connection
) -> None:
    with broken(arrange, "app_note", TRIED["open"][0].format("app_note")):
        status, _, checks = try_policies(postgres.dsn("postgres", "tenantry"), definition)
    assert (status, wrong(checks)) == (0, set())


@pytest.mark.parametrize(
    ("settings", "tenants", "message"),
    [
        ({}, ["1", "1"], "both tenants are 1; name two"),
        ({}, ["1", "x"], "'x'"),
        ({"TENANT_PK_TYPE": "text"}, ["a", "b c"], "'b c' has a space in it"),
        ({"APP_ROLE": "My-App"}, ["1", "2"], "cannot become the role 'My-App'; name it"),
    ],
)
def test_what_the_program_cannot_run_as_is_refused(
    settings: dict[str, str], tenants: list[str], message: str
) -> None:
    with (
        override_settings(RLS_TENANTS={**RLS_TENANTS, **settings}),
        pytest.raises(CommandError, match=message),
    ):
        define(*tenants)


@pytest.mark.guc_shape
def test_a_tenant_that_is_no_number_is_text() -> None:
    with override_settings(RLS_TENANTS={**RLS_TENANTS, "TENANT_PK_TYPE": "text"}):
        found = json.loads(define("a", "b"))
    assert found["params"] == {"tenant_a": "a", "tenant_b": "b"}
    assert found["identities"]["tenant_b"]["dsn"] == "options=-crls.current_tenant=b"


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_has_its_identities(shape: str) -> None:
    with override_settings(RLS_TENANTS={"TENANT_MODEL": "app.Tenant", **SHAPES[shape]}):
        found = json.loads(define("1", "2"))["identities"]
        seal = token(ADMIN_BINDING, "tenantry") if "SEALED" in SHAPES[shape] else ""
    admin = {
        "guc": {"role": "app", "dsn": "options=-crls.is_admin=true"},
        "role": {"role": "app_admin"},
        "sealed": {"role": "app_admin", "dsn": f"options=-crls.current_tenant={seal}"},
        "sealed_guc": {"role": "app", "dsn": f"options=-crls.current_tenant={seal}"},
    }
    assert found["admin"] == admin[shape]
    assert found["unbound"] == {"role": "app"}
    assert {found[name]["role"] for name in TENANTS} == {"app"}
    assert found["tenant_a"]["dsn"].endswith(":1" if seal else "=1")


# It has a shape of its own, whichever the tests run in.
of_the_example = pytest.mark.guc_shape


@pytest.fixture
def notes(example: Example, modern: Postgres, tmp_path: Path) -> Judge:
    config = write_config(
        tmp_path / "pgrls.toml",
        app_role=APP,
        columns=["tenant_id"],
        allowed=allowed("role", NOTES, NOTES, NOTES_SHARED),
    )
    dsn = modern.dsn("postgres", DATABASE)
    return Judge(dsn, config, ("tenantry.rls_current_tenant_bigint",))


@pytest.fixture
def notes_connection(notes: Judge) -> Iterator[Connection]:
    with psycopg.connect(notes.dsn, autocommit=True) as connection:
        yield connection


@of_the_example
def test_lint_finds_no_error_in_the_example(notes: Judge) -> None:
    assert notes.lint() == remarks("role", NOTES, NOTES, NOTES_CROSSING)


@of_the_example
@pytest.mark.parametrize("mode", MODES)
def test_every_policy_of_the_example_is_proven(
    mode: str, notes: Judge, notes_connection: Connection
) -> None:
    assert notes.verify(mode) == proven("role", mode, NOTES, set())


@of_the_example
@pytest.mark.parametrize("mode", UNPROVEN)
def test_the_prover_finds_a_tenant_of_the_example_that_gets_at_others(
    mode: str, notes: Judge, notes_connection: Connection
) -> None:
    how = unproven(mode, "notes_tag", notes_connection)
    with broken(notes_connection, "notes_tag", how):
        assert notes.verify(mode)["notes_tag"][ISOLATION] == "leak"


@of_the_example
@pytest.mark.parametrize(
    ("how", "back", "policy"),
    [
        (f"ALTER POLICY {ISOLATION} ON notes_tag USING (true)", "SELECT", ISOLATION),
        (
            f"GRANT {ADMIN} TO {APP} WITH INHERIT TRUE",
            f"GRANT {ADMIN} TO {APP} WITH INHERIT FALSE",
            ADMINS,
        ),
    ],
)
def test_the_prover_finds_what_is_broken(
    how: str, back: str, policy: str, notes: Judge, notes_connection: Connection
) -> None:
    with broken(notes_connection, "notes_tag", how):
        assert notes.verify("anon")["notes_tag"][policy] == "leak"
        notes_connection.execute(back.encode())


@of_the_example
def test_the_example_does_what_it_may(
    example: Example, notes: Judge, modern: Postgres, notes_connection: Connection, tmp_path: Path
) -> None:
    rows = notes_connection.execute("SELECT id FROM notes_tenant ORDER BY id LIMIT 2").fetchall()
    result = subprocess.run(
        [sys.executable, str(EXAMPLE / "manage.py"), "check_rls", "--policy-tests"]
        + [str(tenant) for (tenant,) in rows],
        env=environment(APP, modern.host, modern.port),
        capture_output=True,
        text=True,
        check=True,
    )
    path = tmp_path / "definition.json"
    path.write_text(result.stdout)
    status, _, checks = try_policies(notes.dsn, path)
    assert wrong(checks) == set()
    assert len(checks) == CHECKS * len(NOTES)
    assert status == 0
