"""Tables that are called like an alias in their own policies, which would hide them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import ProgrammingError, connections, models
from django.db.migrations import CreateModel

from tenantry import RawPredicate, RLSConstraint, admin_context, tenant_context
from tenantry.checks import inspection
from tenantry.checks import policies as inspecting
from tenantry.checks.migrations import Migrations
from tenantry.checks.policies import inspect_policies
from tenantry.checks.tables import inspect_table
from tenantry.policies.predicates import unlike
from tenantry.policy_tests import protected_tables
from tests.app.models import Tenant
from tests.fix_checks import broken
from tests.fix_migrations import Migrate
from tests.migrated import (
    FLAG,
    ORDER,
    SHARE,
    SHARED,
    base,
    child,
    line,
    manager,
    many,
    model,
    paper,
    paper_alter,
    papers,
    tenant,
    titles,
)
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
DENIED = pytest.raises(ProgrammingError, match="row-level security")


@pytest.fixture(autouse=True)
def _flag(settings: Any) -> None:
    settings.RLS_TENANTS = FLAG


@pytest.fixture
def elsewhere(superuser: psycopg.Connection[Any]) -> Iterator[None]:
    """Make a schema where the owner may create what the app may use, and drop it at the end."""
    superuser.execute(
        "CREATE SCHEMA elsewhere; GRANT ALL ON SCHEMA elsewhere TO owner;"
        " GRANT USAGE ON SCHEMA elsewhere TO PUBLIC; ALTER DEFAULT PRIVILEGES FOR ROLE owner"
        " IN SCHEMA elsewhere GRANT ALL ON TABLES TO app"
    )
    yield
    superuser.execute("DROP SCHEMA elsewhere")


def called(table: str, operation: Any) -> Any:
    """Return the operation, which creates a model, with another name for its table."""
    operation.options["db_table"] = table
    return operation


def expected(state: Any, *names: str) -> bool:
    """Return whether check_rls finds the policies that the models ask for."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        tables = [state.apps.get_model("migrated", name) for name in names]
        return [[*inspect_policies(connection, cursor, each)] for each in tables] == [[]] * len(
            tables
        )


@pytest.mark.parametrize("table", ["share", "Share", '"share"'])
def test_a_table_called_share_shows_what_is_shared(
    table: str, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    state = migrate(SHARE, migrate(called(table, paper()), base()))
    state = migrate(paper_alter(SHARED), state)
    objects = papers(state)
    with tenant_context(a.pk):
        objects.create(title="private")
        row = objects.create(title="chosen")
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    quoted = connections["default"].ops.quote_name(table)
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == ["chosen"]
        assert run(f"SELECT title FROM {quoted}") == [("chosen",)]
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    with tenant_context(a.pk):
        run("DELETE FROM migrated_share")
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == []
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Paper", "Share")
    with connections["owner"].cursor() as owner:
        # As a table has it whose policy was made with the alias that hides it.
        owner.execute(
            f"ALTER POLICY tenantry_sharing ON {quoted} USING (EXISTS (SELECT FROM migrated_share"
            " AS share WHERE share.paper_id = share.id))"
        )
    assert not expected(state, "Paper")


def test_a_table_of_a_schema_has_the_policies_that_it_was_given(
    elsewhere: None, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = called('"elsewhere"."owner"', child("Report", "Doc"))
    lines = called('"elsewhere"."o1"', line("up__tenant"))
    state = many(migrate, model("Doc", is_open=True), report, ORDER, lines)
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Doc", "Report", "Line")


def test_a_table_called_like_an_alias_within_has_the_policies_that_it_was_given(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    thesis = called("owner_of", child("Thesis", "Report"))
    state = many(migrate, model("Doc", is_open=True), child("Report", "Doc"), thesis)
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Doc", "Report", "Thesis")


def test_a_child_called_like_an_alias_of_its_parents_path_has_the_policies_that_it_was_given(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By two steps, whose names PostgreSQL does not find again when it prints the policy.
    words = line("up__up__tenant", "Word", "Line")
    [constraint] = words.options["constraints"]
    constraint.extra_predicates = [RawPredicate("true")]
    state = many(migrate, ORDER, line("up__tenant"), words, called("o1", child("Part", "Word")))
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Word", "Part")


@pytest.mark.parametrize("is_open", [False, True])
def test_a_child_called_owner_belongs_to_its_parent(
    is_open: bool, tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = tenants
    report = called("owner", child("Report", "Doc"))
    state = many(migrate, model("Doc", is_open=is_open), report, child("Thesis", "Report"))
    theses = manager(state, "Thesis")
    with tenant_context(a.pk):
        theses.create(partner_id=b.pk)
        theses.create()
    for table, column in (("owner", "in_report"), ("migrated_thesis", "in_thesis")):
        with tenant_context(a.pk):
            assert run(f"SELECT count(*) FROM {table}") == [(2,)]
            assert run(f"UPDATE {table} SET {column} = {column}") == 2
        with tenant_context(b.pk):
            assert run(f"SELECT count(*) FROM {table}") == [(int(is_open),)]
            assert run(f"UPDATE {table} SET {column} = {column}") == 0
        with admin_context():
            assert run(f"SELECT count(*) FROM {table}") == [(2,)]
    monkeypatch.setattr(inspecting, "apps", state.apps)
    assert expected(state, "Doc", "Report", "Thesis")


def test_a_relation_called_owner_belongs_to_both_ends(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    tags = models.ManyToManyField("migrated.Tag", db_table="owner")
    state = many(migrate, model("Tag", is_open=True), model("Doc", is_open=True, tags=tags))
    docs = manager(state, "Doc")
    with tenant_context(a.pk):
        shared = docs.create(partner_id=b.pk)
        tag = manager(state, "Tag").create(partner_id=b.pk)
        for row in (shared, docs.create()):
            row.tags.add(tag)
        assert run("SELECT count(*) FROM owner") == [(2,)]
    with tenant_context(b.pk):
        assert run("SELECT count(*) FROM owner") == [(1,)]
        assert run("DELETE FROM owner") == 0
        docs.create().tags.add(tag)
        with DENIED:
            run("UPDATE owner SET doc_id = %s", [shared.pk])


@pytest.mark.parametrize("tables", [("o1", "o1_"), ("owner", "o2"), ("share", "o1")])
def test_a_path_leads_from_a_table_of_any_name(
    tables: tuple[str, str],
    tenants: Tenants,
    migrate: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = tenants
    lines, parts = tables
    state = migrate(called(lines, line("up__tenant")), migrate(ORDER, base()))
    state = migrate(called(parts, line("up__up__tenant", "Part", "Line")), state)
    order, row, part = (manager(state, name) for name in ("Order", "Line", "Part"))
    for each in tenants:
        with tenant_context(each.pk):
            part.create(up=row.create(up=order.create()))
    for model_, table in ((row, lines), (part, parts)):
        for each in tenants:
            with tenant_context(each.pk):
                assert (model_.count(), run(f"SELECT count(*) FROM {table}")) == (1, [(1,)])
        with admin_context():
            assert (model_.count(), run(f"SELECT count(*) FROM {table}")) == (2, [(2,)])
    with tenant_context(a.pk):
        with admin_context():
            foreign = order.get(tenant_id=b.pk).pk
        with DENIED:
            row.create(up_id=foreign)
    for module in (inspecting, inspection):
        monkeypatch.setattr(module, "apps", state.apps)
    assert expected(state, "Line", "Part")
    subjects = {each.name: each for each in protected_tables(connections["default"])}
    for table in tables:
        with admin_context():
            own = subjects[table].holds.replace(":tenant", str(a.pk))
            assert run(f"SELECT count(*) FROM {table} WHERE {own}") == [(1,)]


def test_other_tables_have_the_policies_that_they_had() -> None:
    assert unlike("share", '"note"') == unlike("share", '"Share"') == "share"
    assert unlike("share", '"schema.share"') == unlike("share", "schema.my_share") == "share"
    for table in ('"share"', "share", '"schema"."share"', "schema.share"):
        assert unlike("share", table) == "share_"


FOLDER = CreateModel(
    "Folder",
    [
        ("id", models.BigAutoField(primary_key=True)),
        ("tenant", tenant()),
        ("up", models.ForeignKey("self", models.CASCADE, null=True)),
    ],
    {"constraints": [RLSConstraint(field="tenant", name="folder_rls")]},
)
CHILDREN = {
    "o1": ([ORDER, line("up__tenant")], "Line"),
    "owner": ([model("Doc", is_open=True), child("Report", "Doc")], "Report"),
    "share": ([paper(), SHARE, paper_alter(SHARED)], "Paper"),
}


def text_of(rule: Any, table: str) -> str:
    return str(rule.create(f'"{table}"'))


def looked_at(
    model_: Any, table: str, superuser: psycopg.Connection[Any], make: Callable[[Any, str], str]
) -> list[str]:
    """Return what is found of a model whose table has a child with policies."""
    connection = connections["default"]
    quote = connection.ops.quote_name
    parent = quote(model_._meta.db_table)
    policies = [
        make(rule, table) for rule in inspecting.wanted_policies(model_, quote, f'"{table}"')
    ]
    how = (
        f"CREATE TABLE {table} () INHERITS ({parent}); GRANT SELECT ON {table} TO app;"
        f" ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; {'; '.join(policies)}"
    )
    with broken(superuser, how, f"DROP TABLE {table}"), connection.cursor() as cursor:
        found = inspect_table(connection, cursor, model_, [parent], set(), Migrations(connection))
        return [f"{each.id} {each.message}" for each in found]


@pytest.mark.parametrize("table", CHILDREN)
def test_a_partition_called_like_an_alias_is_compared_with_its_parent(
    table: str,
    tenants: Tenants,
    migrate: Migrate,
    superuser: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operations, name = CHILDREN[table]
    state = many(migrate, *operations)
    monkeypatch.setattr(inspecting, "apps", state.apps)
    found = state.apps.get_model("migrated", name)
    assert looked_at(found, table, superuser, text_of) == []


def test_a_partition_that_is_hidden_by_an_alias_is_found(
    tenants: Tenants,
    migrate: Migrate,
    superuser: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not the row of the partition, but the one that it refers to, then refers to that."""
    state = many(migrate, FOLDER, line("up__tenant", to="Folder"))
    monkeypatch.setattr(inspecting, "apps", state.apps)
    found = looked_at(
        state.apps.get_model("migrated", "Line"),
        "o1",
        superuser,
        lambda rule, table: text_of(rule, table).replace("o1_", "o1"),
    )
    assert found
    for each in found:
        assert each.startswith("tenantry.E115 has a policy tenantry_")
        assert 'o1."id" = o1."up_id"' not in each
