"""Checks of the admin role and of the keys of seals."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.core.checks import ERROR
from django.db import ProgrammingError, connections

from tenantry import admin_context
from tenantry.checks.admin import inspect_admin
from tenantry.checks.inspection import inspect_database, inspect_login
from tenantry.checks.models import inspect_models
from tenantry.checks.policies import shape_for
from tenantry.checks.registry import check_database, check_login
from tenantry.seal import seal_keys, send_seal_keys
from tenantry.testing import assert_role_is_bound
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import broken, check
from tests.fix_checks import broken as changed

Tenants = tuple[Tenant, Tenant]
Superuser = psycopg.Connection[Any]
# Whom the session can be.
ROLES = "app, app_admin" if test_settings.HAS_ADMIN_ROLE else "app"


def found() -> dict[str, str]:
    return {each.id: f"{each.subject} {each.message}; {each.fix}" for each in findings()}


def findings() -> list[Any]:
    return list(inspect_database(connections["default"]))


def assert_found(id_: str, message: str, broken: AbstractContextManager[None]) -> None:
    """See that a check finds what is broken, and nothing before and after."""
    assert findings() == []
    with broken:
        assert message in found()[id_]
    assert findings() == []


@pytest.mark.role_shape
@pytest.mark.parametrize(
    ("id_", "how", "back", "message"),
    [
        (
            "tenantry.W102",
            "REVOKE app_admin FROM app",
            "GRANT app_admin TO app WITH INHERIT FALSE, SET TRUE",
            "role app_admin is the ADMIN_ROLE, which the role that logs in cannot become",
        ),
        (
            "tenantry.W102",
            "GRANT app_admin TO app WITH SET FALSE",
            "GRANT app_admin TO app WITH SET TRUE",
            "run GRANT app_admin TO the role that serves requests WITH INHERIT FALSE, SET TRUE",
        ),
        (
            "tenantry.E105",
            "GRANT app_admin TO app WITH INHERIT TRUE",
            "GRANT app_admin TO app WITH INHERIT FALSE, SET TRUE",
            "and app inherits from it, so app sees every tenant's rows",
        ),
        (
            "tenantry.E105",
            'CREATE ROLE "Heir-1"; GRANT app_admin TO "Heir-1" WITH INHERIT TRUE',
            'DROP ROLE "Heir-1"',
            'run GRANT app_admin TO "Heir-1" WITH INHERIT FALSE, SET TRUE',
        ),
        (
            "tenantry.W103",
            "REVOKE SELECT ON app_author FROM app_admin; REVOKE INSERT ON app_note FROM app_admin;"
            "REVOKE UPDATE ON app_shared FROM app_admin; REVOKE DELETE ON app_tag FROM app_admin",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON app_author, app_note, app_shared, app_tag TO"
            " app_admin",
            'may not use "app_author", "app_note", "app_shared", "app_tag"; run migrate',
        ),
        (
            "tenantry.W103",
            'CREATE SEQUENCE "Numbers"; ALTER SEQUENCE "Numbers" OWNER TO owner;'
            ' ALTER SEQUENCE "Numbers" OWNED BY app_shared.id',
            'DROP SEQUENCE "Numbers"',
            'may not use the sequence "Numbers"; run migrate as the owner of the tables, and of',
        ),
        (
            "tenantry.W103",
            "REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO app",
            "REVOKE USAGE ON SCHEMA public FROM app; GRANT USAGE ON SCHEMA public TO PUBLIC",
            "may not use the schema public; run migrate as the owner of the tables, and of their",
        ),
    ],
)
def test_what_is_wrong_with_the_admin_role_is_found(
    id_: str, how: str, back: str, message: str, tenants: Tenants, superuser: Superuser
) -> None:
    assert_found(id_, message, broken(superuser, how, back))


@pytest.mark.role_shape
@pytest.mark.parametrize(
    ("how", "back", "is_told"),
    [
        ("REVOKE UPDATE ON app_tag FROM app_admin", "GRANT UPDATE ON app_tag TO app_admin", False),
        (
            "ALTER TABLE app_tag OWNER TO postgres; REVOKE UPDATE ON app_tag FROM app_admin",
            "ALTER TABLE app_tag OWNER TO owner; GRANT UPDATE ON app_tag TO app_admin",
            True,
        ),
    ],
)
def test_who_can_grant_what_the_admin_lacks_is_not_told_by_migrate(
    how: str, back: str, is_told: bool, tenants: Tenants, superuser: Superuser
) -> None:
    with broken(superuser, how, back):
        assert "tenantry.W103" in {each.id for each in inspect_database(connections["owner"])}
        told = [each.id for each in check_database(databases=["owner"])]
        assert ("tenantry.W103" in told) is is_told
        assert "tenantry.W103" in {each.id for each in check_database(databases=["default"])}


def heirs(findings: Iterable[Any]) -> list[str]:
    return [each.message for each in findings if each.id == "tenantry.E105"]


ALWAYS_ADMIN = "is the ADMIN_ROLE, and requests run as it, so they see every tenant's rows"


def test_who_logs_in_as_the_admin_role_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": "app", "APP_ROLE": None}
    connection = connections["default"]
    told = heirs(inspect_login(connection))
    sealed = test_settings.IS_SEALED
    # The seal is what its policy asks for.
    assert told == heirs(findings()) == ([] if sealed else [ALWAYS_ADMIN])
    with nullcontext() if sealed else pytest.raises(AssertionError, match="requests run as it"):
        assert_role_is_bound()
    settings.DEBUG = False
    messages = [each for each in check_login() if each.id == "tenantry.E105"]
    # As the role of every database of the tests but one, and once for each.
    assert {each.level for each in messages} == (set() if sealed else {ERROR})
    of_database = check_database(databases=["default"])
    assert [each for each in of_database if each.id == "tenantry.E105"] == []


@pytest.mark.role_shape
def test_who_assumes_the_admin_role_is_found(tenants: Tenants, alias: Add) -> None:
    connection = connections[alias("default", {"assume_role": "app_admin"})]
    assert heirs(inspect_database(connection)) == [ALWAYS_ADMIN]
    # But not who is the admin for a while.
    with admin_context():
        assert heirs(inspect_login(connections["default"])) == []
        assert_role_is_bound()


@pytest.mark.role_shape
def test_who_assumes_an_heir_of_the_admin_role_is_found_once(
    arrange: psycopg.Connection[Any], alias: Add
) -> None:
    how = "CREATE ROLE boss; GRANT app_admin TO boss; GRANT boss TO app WITH INHERIT FALSE"
    with changed(arrange, how, "DROP ROLE boss"):
        connection = connections[alias("default", {"assume_role": "boss"})]
        said = "is the ADMIN_ROLE, and boss inherits from it, so boss sees every tenant's rows"
        assert heirs(inspect_database(connection)) == [said]
        assert heirs(inspect_login(connection)) == [said]
        # Of a role that does not serve requests the start tells nothing.
        assert heirs(findings()) == [said]
        assert heirs(inspect_login(connections["default"])) == []
        connection.close()


@pytest.mark.role_shape
@pytest.mark.parametrize("owner", ["app_admin", "heir"])
@pytest.mark.parametrize(
    ("id_", "create", "message"),
    [
        (
            "tenantry.E121",
            "CREATE VIEW leak AS SELECT * FROM app_note; ALTER VIEW leak OWNER TO {};"
            " GRANT SELECT ON leak TO app",
            "view leak reads protected tables as its owner {}, whom no policy binds",
        ),
        (
            "tenantry.E123",
            "CREATE FUNCTION leak() RETURNS SETOF app_note LANGUAGE sql SECURITY DEFINER"
            " AS 'SELECT * FROM app_note'; ALTER FUNCTION leak() OWNER TO {}",
            "function leak() is SECURITY DEFINER and runs as {}, whom no policy binds",
        ),
        (
            "tenantry.W114",
            "CREATE FUNCTION leak() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
            " AS 'BEGIN RETURN NEW; END'; ALTER FUNCTION leak() OWNER TO {};"
            " CREATE TRIGGER leaks BEFORE INSERT ON app_note EXECUTE FUNCTION leak()",
            "has the trigger leaks, whose function leak() runs as {}, whom no policy binds",
        ),
    ],
)
def test_what_runs_as_the_admin_role_is_found(
    id_: str, create: str, message: str, owner: str, tenants: Tenants, superuser: Superuser
) -> None:
    how = f"CREATE ROLE heir; GRANT app_admin TO heir WITH INHERIT TRUE; {create.format(owner)}"
    back = "DROP OWNED BY heir; DROP ROLE heir"
    if owner == "app_admin":
        kind = "VIEW leak" if id_ == "tenantry.E121" else "FUNCTION leak() CASCADE"
        back = f"DROP {kind}; {back}"
    elif id_ == "tenantry.W114":
        back = f"DROP TRIGGER leaks ON app_note; {back}"
    with broken(superuser, how, back):
        assert message.format(owner) in found()[id_]
    assert findings() == []


@pytest.mark.sealed_shape
def test_the_function_that_reads_the_keys_may_be_of_a_superuser(
    tenants: Tenants, superuser: Superuser
) -> None:
    how = "ALTER FUNCTION tenantry.rls_sealed(text) OWNER TO {}"
    with broken(superuser, how.format("postgres"), how.format("owner")):
        assert "tenantry.E123" not in found()


@pytest.mark.parametrize("privilege", ["TRUNCATE", "TRIGGER"])
@pytest.mark.role_shape
def test_the_admin_role_may_do_everything(
    privilege: str, tenants: Tenants, superuser: Superuser
) -> None:
    how = f"GRANT {privilege} ON app_note TO app_admin"
    with broken(superuser, how, f"REVOKE {privilege} ON app_note FROM app_admin"):
        assert findings() == []


@pytest.mark.parametrize(("privilege", "id_"), [("TRUNCATE", "E117"), ("TRIGGER", "W112")])
@pytest.mark.sealed_shape
@pytest.mark.admin_role
def test_who_becomes_the_admin_role_without_a_seal_is_bound(
    privilege: str, id_: str, tenants: Tenants, superuser: Superuser
) -> None:
    how = f"GRANT {privilege} ON app_note TO app_admin"
    with broken(superuser, how, f"REVOKE {privilege} ON app_note FROM app_admin"):
        found = [(each.id, each.subject) for each in findings()]
        assert found == [(f"tenantry.{id_}", "table app_note")]


@pytest.mark.sealed_shape
@pytest.mark.admin_role
def test_what_runs_as_the_admin_role_without_a_seal_is_not_found(
    tenants: Tenants, superuser: Superuser
) -> None:
    how = (
        "CREATE VIEW harmless AS SELECT * FROM app_note; ALTER VIEW harmless OWNER TO app_admin;"
        " GRANT SELECT ON harmless TO app"
    )
    with broken(superuser, how, "DROP VIEW harmless"):
        assert findings() == []


@pytest.mark.sealed_shape
@pytest.mark.parametrize(
    ("id_", "how", "back", "message"),
    [
        (
            "tenantry.E134",
            "GRANT TEMPORARY ON DATABASE tenantry TO PUBLIC",
            "REVOKE TEMPORARY ON DATABASE tenantry FROM PUBLIC",
            f"database tenantry lets {ROLES} create temporary tables and views, which can shadow"
            " those that the next tenant's statements name, and so read its seal; run REVOKE"
            " TEMPORARY ON DATABASE tenantry FROM PUBLIC",
        ),
        pytest.param(
            "tenantry.E134",
            "GRANT TEMPORARY ON DATABASE tenantry TO app_admin",
            "REVOKE TEMPORARY ON DATABASE tenantry FROM app_admin",
            "run REVOKE TEMPORARY ON DATABASE tenantry FROM app_admin",
            marks=pytest.mark.admin_role,
        ),
        (
            "tenantry.E137",
            "GRANT CREATE ON SCHEMA public TO app",
            "REVOKE CREATE ON SCHEMA public FROM app",
            "schema public lets app create objects, which can shadow those that the next",
        ),
        pytest.param(
            "tenantry.E137",
            "GRANT CREATE ON DATABASE tenantry TO app_admin",
            "REVOKE CREATE ON DATABASE tenantry FROM app_admin",
            "run REVOKE CREATE ON DATABASE tenantry FROM app_admin, or from the role",
            marks=pytest.mark.admin_role,
        ),
    ],
)
def test_by_what_a_seal_could_be_read_is_found(
    id_: str, how: str, back: str, message: str, tenants: Tenants, superuser: Superuser
) -> None:
    assert_found(id_, message, broken(superuser, how, back))


OF_ROLE, OF_SEAL = "tenantry.rls_current_tenant_bigint()", "tenantry.rls_sealed(text)"
REPLACED = (
    "CREATE OR REPLACE FUNCTION tenantry.{} LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path ="
    " pg_catalog, pg_temp AS 'BEGIN RETURN 1; END'"
)
CHANGES_OF_ROLE = [
    (OF_ROLE, REPLACED.format("rls_current_tenant_bigint() RETURNS bigint")),
    (OF_ROLE, f"ALTER FUNCTION {OF_ROLE} SET search_path = public"),
    (OF_ROLE, f"ALTER FUNCTION {OF_ROLE} SECURITY DEFINER"),
    (OF_ROLE, f"ALTER FUNCTION {OF_ROLE} IMMUTABLE"),
]
CHANGES_OF_SEAL = [
    (OF_SEAL, REPLACED.format("rls_sealed(claim text) RETURNS text SECURITY DEFINER")),
    (OF_SEAL, f"ALTER FUNCTION {OF_SEAL} RESET search_path"),
    (OF_SEAL, f"ALTER FUNCTION {OF_SEAL} SECURITY INVOKER"),
    (OF_SEAL, f"ALTER FUNCTION {OF_SEAL} IMMUTABLE"),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(pytest.param(*each, marks=pytest.mark.role_shape) for each in CHANGES_OF_ROLE),
        *(pytest.param(*each, marks=pytest.mark.sealed_shape) for each in CHANGES_OF_SEAL),
    ],
)
def test_the_functions_that_policies_call_are_compared(
    name: str, change: str, arrange: psycopg.Connection[Any]
) -> None:
    model: Any = Note
    assert findings() == []
    with changed(arrange, change, shape_for(model).functions()):
        subjects = [each.subject for each in findings() if each.id == "tenantry.E115"]
        connections["default"].close()
        assert subjects == [f"function {name}"]
        sql, status = check("--generate")
        assert status == 0
        arrange.execute(f"SET ROLE owner; {sql} RESET ROLE".encode())
        connections["default"].close()
        assert findings() == []
    assert check("--generate") == ("", 0)


@pytest.mark.role_shape
@pytest.mark.parametrize(("role", "quoted"), [("nobody", "nobody"), ("NotesAdmin", '"NotesAdmin"')])
def test_an_admin_role_that_does_not_exist_is_found(
    role: str, quoted: str, tenants: Tenants, settings: Any
) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": role}
    connection = connections["default"]
    connection.close()
    # Every statement would want to be the app role, which is there.
    told = found()["tenantry.E104"]
    assert f"as a superuser, run CREATE ROLE {quoted} NOLOGIN" in told
    assert told.endswith("or correct ADMIN_ROLE in RLS_TENANTS")
    # Nor can a policy for it be made, of which no table tells.
    assert list(found()) == ["tenantry.E104"]


@pytest.mark.parametrize("role", ["nobody", "owner"])
def test_an_admin_role_on_an_old_server_is_one_finding(
    role: str, tenants: Tenants, settings: Any
) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": role}
    with connections["default"].cursor() as cursor:
        (one,) = inspect_admin(cursor, 150018, ["app_note"], {})
    assert (one.id, one.subject) == ("tenantry.E108", f"role {role}")
    assert one.message.endswith("needs PostgreSQL 16 or newer; this server is PostgreSQL 15")
    assert one.fix == "leave ADMIN_ROLE out of RLS_TENANTS, or upgrade the server"


@pytest.mark.sealed_shape
@pytest.mark.parametrize("privilege", ["SELECT", "INSERT", "UPDATE (inside)"])
def test_who_reads_or_changes_a_key_is_found(
    privilege: str, tenants: Tenants, superuser: Superuser
) -> None:
    assert findings() == []
    with broken(
        superuser,
        f"GRANT {privilege} ON tenantry.seal_keys TO app",
        f"REVOKE {privilege} ON tenantry.seal_keys FROM app",
    ):
        message = "table tenantry.seal_keys is readable or writable by the role app; whoever has"
        assert message in found()["tenantry.E106"]
    assert findings() == []


@pytest.mark.sealed_shape
@pytest.mark.parametrize("role", ["pg_read_all_data", "pg_write_all_data"])
def test_who_reads_or_changes_everything_is_told_what_to_revoke(
    role: str, tenants: Tenants, superuser: Superuser
) -> None:
    with broken(superuser, f"GRANT {role} TO app", f"REVOKE {role} FROM app"):
        assert found()["tenantry.E106"] == (
            "table tenantry.seal_keys is readable or writable by the role app; whoever has a key"
            f" can act as any tenant; run REVOKE {role} FROM app, or from the role through which it"
            " is a member"
        )
    assert findings() == []


@pytest.mark.sealed_shape
@pytest.mark.parametrize("role", ["app", "between"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("schema", "tenantry"),
        ("table", "tenantry.seal_keys"),
        ("function", "tenantry.rls_sealed(text)"),
    ],
)
def test_who_owns_what_verifies_seals_is_found(
    kind: str, name: str, role: str, tenants: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    alter = f"ALTER {kind} {name} OWNER TO"
    # It has the privileges of the other one only when it becomes that.
    how = f"ALTER ROLE app NOINHERIT; CREATE ROLE between; GRANT between TO app; {alter} {role}"
    back = f"{alter} owner; DROP ROLE between; ALTER ROLE app INHERIT"
    with changed(arrange, how, back):
        texts = [
            f"{each.message}; {each.fix}"
            for each in findings()
            if (each.id, each.subject) == ("tenantry.E106", f"{kind} {name}")
        ]
        connections["default"].close()
    assert texts == [
        f"belongs to {role}, which this role is or can become; its owner can read the keys, or put"
        f" others in their place, and so act as any tenant; run ALTER {kind.upper()} {name} OWNER"
        " TO the owner of the protected tables"
    ]
    assert findings() == []


@pytest.mark.role_shape
def test_sealing_without_a_table_of_keys_is_found(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | test_settings.SHAPES["sealed"]
    assert "does not exist, so the database can verify nothing" in found()["tenantry.E107"]
    assert list(found()) == ["tenantry.E107", "tenantry.E134"]


@pytest.mark.sealed_shape
def test_a_key_that_migrate_has_not_written_is_found(tenants: Tenants, settings: Any) -> None:
    keys = ["a secret that no migrate has written yet"]
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "SEAL_KEYS": keys}
    with pytest.raises(ProgrammingError, match="unknown to this database"), admin_context():
        Note.objects.count()
    connections["default"].close()
    assert list(found()) == ["tenantry.E138"]
    assert found()["tenantry.E138"] == (
        "function tenantry.rls_sealed(text) refuses what is sealed with these settings, so that"
        " every statement of a tenant or of the admin fails: the tenant is sealed with the key"
        f" {seal_keys()[0].name}, unknown to this database; run migrate with the"
        " RLS_TENANTS['SEAL_KEYS'] of whoever sent this"
    )


@pytest.mark.sealed_shape
def test_a_later_key_that_migrate_has_not_written_is_found(tenants: Tenants, settings: Any) -> None:
    known: Any = test_settings.RLS_TENANTS["SEAL_KEYS"]
    keys = [*known, "a secret that no migrate has written yet"]
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "SEAL_KEYS": keys}
    with admin_context():
        assert Note.objects.exists()
    assert list(found()) == ["tenantry.W133"]
    assert found()["tenantry.W133"] == (
        f"table tenantry.seal_keys lacks the key {seal_keys()[-1].name}, which is in SEAL_KEYS and"
        " does not sign yet; once it does, every statement of a tenant or of the admin fails; run"
        " migrate with these SEAL_KEYS as the owner of the tables, before the key is put first"
    )
    assert [each.id for each in check_database(databases=["default"])] == ["tenantry.W133"]
    # The owner's migrate is about to write it.
    assert "tenantry.W133" in {each.id for each in inspect_database(connections["owner"])}
    of_owner = check_database(databases=["owner"])
    assert "tenantry.W133" not in {each.id for each in of_owner}
    send_seal_keys(connections["owner"])
    try:
        assert findings() == []
    finally:
        settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "SEAL_KEYS": known}
        send_seal_keys(connections["owner"])
    assert findings() == []


@pytest.mark.sealed_shape
def test_a_seal_for_another_database_is_found(tenants: Tenants) -> None:
    connection = connections["default"]
    connection.close()
    connection.settings_dict["OPTIONS"]["sealed_database"] = "another"
    try:
        assert "the seal of the tenant is not valid; it was forged, or" in found()["tenantry.E138"]
    finally:
        del connection.settings_dict["OPTIONS"]["sealed_database"]
        connection.close()


@pytest.mark.sealed_shape
def test_that_a_seal_cannot_be_verified_is_found(tenants: Tenants, superuser: Superuser) -> None:
    how = "REVOKE EXECUTE ON FUNCTION tenantry.rls_sealed(text) FROM PUBLIC"
    back = "GRANT EXECUTE ON FUNCTION tenantry.rls_sealed(text) TO PUBLIC"
    with broken(superuser, how, back):
        seal = next(each for each in findings() if each.subject == "seal keys")
        assert seal.id == "tenantry.E190"
        assert seal.message.startswith("could not be checked: permission denied for function")
    assert findings() == []


@pytest.mark.guc_shape
def test_no_table_tells_what_the_admin_role_has_told(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": "nobody"}
    old = connections["default"].pg_version < 160000  # type: ignore[attr-defined]
    assert list(found()) == ["tenantry.E108" if old else "tenantry.E104"]


@pytest.mark.guc_shape
def test_no_table_tells_that_its_key_has_another_type(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "TENANT_PK_TYPE": "uuid"}
    assert "tenantry.E153" in {each.id for each in inspect_models([Note])}
    assert findings() == []
