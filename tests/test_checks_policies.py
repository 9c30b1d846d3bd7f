"""Policies of tables, compared with those that the models ask for."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connections

from tenantry.checks import policies as inspecting
from tests.app.models import Note, Tenant
from tests.fix_checks import broken, findings
from tests.settings import IS_SEALED

Tenants = tuple[Tenant, Tenant]

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
