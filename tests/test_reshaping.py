"""Policies that change under the rows of a table: who sees which of them stays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from django.db import DataError, ProgrammingError, connections
from django.db.migrations import CreateModel, RunPython
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.migration import Migration
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter

from example_asgi.servers import ensure_admin_role
from tenantry import RLSConstraint, admin_context, bypass_flag, tenant_context
from tenantry.policies import ddl
from tenantry.policies.ddl import Policy, Shape
from tests import settings as test_settings
from tests.app.models import Tenant
from tests.fix_migrations import drop_functions, migration_of
from tests.fix_servers import EMPTY
from tests.migrated import (
    SHARE,
    SHARED,
    base,
    check,
    child,
    count,
    manager,
    model,
    paper,
    papers,
    path_to,
    tags,
    titles,
)
from tests.sql import run

pytestmark = pytest.mark.guc_shape

Tenants = tuple[Tenant, Tenant]
ADMIN = "reshaped_admin"
ROLE = {"ADMIN_ROLE": ADMIN, "APP_ROLE": "app"}
SEALED = {"SEALED": True, "SEAL_KEYS": test_settings.SHAPES["sealed"]["SEAL_KEYS"]}
# Each follows the one before it, and comes before it on the way back.
SHAPES: list[dict[str, Any]] = [
    {},
    ROLE,
    ROLE | SEALED,
    SEALED,
    {},
    SEALED | {"APP_ROLE": "app"},
    {"APP_ROLE": "app"},
    {"TENANT_PK_TYPE": "int"},
    {"GUC_PREFIX": "reshaped_again"},
]


@pytest.fixture
def roles(postgres: Any, superuser: psycopg.Connection[Any], tenants: Tenants) -> Iterator[bool]:
    """Return whether the server knows admins that are roles; leave nothing that is made here."""
    has_roles = superuser.info.server_version >= 160000
    if has_roles:
        ensure_admin_role(postgres.dsn(), ADMIN, members=["app"])
    yield has_roles
    connections.close_all()
    drop_functions(superuser, "reshaped")
    superuser.execute("DROP TABLE IF EXISTS tenantry.seal_keys")
    if has_roles:
        superuser.execute(f"DROP OWNED BY {ADMIN}; DROP ROLE {ADMIN}".encode())


@pytest.fixture
def undone(roles: bool) -> Iterator[list[tuple[Migration, ProjectState]]]:
    """Return migrations with the states before them, which are undone after the test."""
    done: list[tuple[Migration, ProjectState]] = []
    yield done
    connections.close_all()
    while done:
        undo(*done.pop())


def configure(settings: Any, **shape: Any) -> None:
    names = {"TENANT_MODEL": "app.Tenant", "GUC_PREFIX": "reshaped", "BYPASS_FLAGS": ["login"]}
    settings.RLS_TENANTS = names | shape
    # What a connection knows of the shape, it learns as it is made.
    for alias in ("default", "owner"):
        connections[alias].close()


def hanging() -> list[CreateModel]:
    """Return models whose policies speak of one another, and of what else a row may be read by."""
    return [
        paper(SHARED),
        SHARE,
        model("Tag", is_open=None),
        model("Doc", is_open=True, tags=tags()),
        child("Report", "Doc"),
        path_to("Doc"),
    ]


def makemigrations(before: ProjectState, models: Sequence[CreateModel] = ()) -> Migration:
    """Return what ``makemigrations`` writes for models that follow the settings: a paper alone."""
    after = base()
    for each in models or [paper()]:
        each.state_forwards("migrated", after)
    questioner = MigrationQuestioner({"ask_initial": True})
    found = MigrationAutodetector(before, after, questioner).changes(MigrationGraph())
    [migration] = found["migrated"]
    scope: dict[str, Any] = {}
    exec(MigrationWriter(migration).as_string(), scope)
    made: Migration = scope["Migration"]("0001", "migrated")
    return made


def migrate(migration: Migration, state: ProjectState) -> ProjectState:
    with connections["owner"].schema_editor() as editor:
        return migration.apply(state.clone(), editor)


def undo(migration: Migration, before: ProjectState) -> None:
    with connections["owner"].schema_editor() as editor:
        migration.unapply(before.clone(), editor)


def check_rows(state: ProjectState, tenants: Tenants, *shared: str) -> None:
    """Check what raw SQL and the ORM read and write, for each tenant, the admin and nobody."""
    read = "SELECT title FROM migrated_paper ORDER BY title"
    for tenant, other in (tenants, tenants[::-1]):
        with tenant_context(tenant.pk):
            assert run(read) == [(title,) for title in sorted({tenant.name, *shared})]
            assert titles(papers(state)) == [tenant.name]
            with pytest.raises(ProgrammingError, match="row-level security"):
                run("UPDATE migrated_paper SET tenant_id = %s", [other.pk])
            run("INSERT INTO migrated_paper (title) VALUES ('new')")
            assert run("DELETE FROM migrated_paper WHERE tenant_id = %s", [other.pk]) == 0
            assert (
                run(
                    "DELETE FROM migrated_paper WHERE tenant_id = %s AND title = 'new'", [tenant.pk]
                )
                == 1
            )
    with admin_context():
        assert run(read) == [("A",), ("B",)]
        assert titles(papers(state)) == ["A", "B"]
    assert run(read) == run(read, alias="owner") == []
    assert titles(papers(state)) == []


# By table, a column, and how many rows are read and written by: the first tenant, who shares one,
# the second, a bypass flag, the admin, and nobody.
COUNTS = {
    "share": ("paper_id", (1, 1, 0, 1, 0), (1, 0, 0, 1, 0)),
    "doc": ("partner_id", (1, 2, 2, 2, 0), (1, 1, 0, 2, 0)),
    "doc_tags": ("tag_id", (1, 2, 2, 2, 0), (1, 1, 0, 2, 0)),
    "report": ("in_report", (1, 2, 2, 2, 0), (1, 1, 0, 2, 0)),
    "line": ("up_id", (1, 1, 0, 2, 0), (1, 1, 0, 2, 0)),
}


def check_hanging(tenants: Tenants) -> None:
    a, b = tenants
    scopes: list[Callable[[], AbstractContextManager[Any]]] = [
        lambda: tenant_context(a.pk),
        lambda: tenant_context(b.pk),
        lambda: bypass_flag("login"),
        admin_context,
        nullcontext,
    ]
    for table, (column, *expected) in COUNTS.items():
        read, written = [], []
        for scope in scopes:
            with scope():
                read.append(count(table))
                written.append(run(f"UPDATE migrated_{table} SET {column} = {column}"))
        assert [tuple(read), tuple(written)] == expected, table


def fill(state: ProjectState, tenants: Tenants) -> None:
    """Make what the first tenant shares, and what the second one does not."""
    a, b = tenants
    tag = manager(state, "Tag").create()
    for tenant, partner in ((a, b.pk), (b, None)):
        with tenant_context(tenant.pk):
            report = manager(state, "Report").create(partner_id=partner)
            report.tags.add(tag)
            manager(state, "Line").create(up_id=report.pk)
    with tenant_context(a.pk):
        manager(state, "Share").create(paper_id=papers(state).get().pk, recipient_id=b.pk)


def policies() -> Any:
    return run(
        "SELECT policyname, tablename, permissive, roles::text, cmd, qual, with_check"
        " FROM pg_policies WHERE starts_with(tablename, 'migrated_') ORDER BY 2, 1"
    )


def grant(superuser: psycopg.Connection[Any], *tables: str) -> None:
    """Let the admin use tables, as `migrate` does."""
    for table in tables:
        superuser.execute(f"GRANT ALL ON migrated_{table} TO {ADMIN}".encode())


@pytest.fixture
def state(
    undone: list[tuple[Migration, ProjectState]],
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
    roles: bool,
    settings: Any,
) -> ProjectState:
    """Return a state with a table that holds a row of each tenant."""
    configure(settings)
    created = makemigrations(base())
    undone.append((created, base()))
    state = migrate(created, base())
    for tenant in tenants:
        with tenant_context(tenant.pk):
            papers(state).create(title=tenant.name)
    if roles:
        grant(superuser, "paper")
    return state


def test_rows_stay_their_tenants_in_every_shape(
    state: ProjectState,
    undone: list[tuple[Migration, ProjectState]],
    roles: bool,
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def check_all(state: ProjectState) -> None:
        check_rows(state, tenants, "A")
        check_hanging(tenants)

    shapes = [shape for shape in SHAPES if roles or "ADMIN_ROLE" not in shape]
    check_rows(state, tenants)
    migration = makemigrations(state, hanging())
    undone.append((migration, state))
    states = [migrate(migration, state)]
    if roles:
        grant(superuser, *COUNTS)
    fill(states[0], tenants)
    check_all(states[0])
    known = [policies()]
    for shape in shapes[1:]:
        configure(settings, **shape)
        migration = makemigrations(states[-1], hanging())
        undone.append((migration, states[-1]))
        states.append(migrate(migration, states[-1]))
        check_all(states[-1])
        names = {"Paper", "Share", "Doc", "Doc_tags", "Report", "Line"}
        check(states[-1], names, monkeypatch)
        known.append(policies())
    assert all(one != next_ for one, next_ in pairwise(known))
    for shape in reversed(shapes[:-1]):
        undo(*undone.pop())
        configure(settings, **shape)
        states.pop(), known.pop()
        check_all(states[-1])
        assert policies() == known[-1]


def test_a_new_version_of_the_policies_makes_a_migration(
    state: ProjectState,
    undone: list[tuple[Migration, ProjectState]],
    tenants: Tenants,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a release will have it: the migrations of before say, and make, version 1."""
    before = policies()
    made = Shape.policies

    def with_one_more(self: Shape, holds: str, *more: Any) -> list[Policy]:
        found = made(self, holds, *more)
        if self.version == 2:
            found.append(Policy("tenantry_second", holds, holds))
        return found

    monkeypatch.setattr(Shape, "policies", with_one_more)
    monkeypatch.setattr(ddl, "VERSIONS", (1, 2))
    defaults: Any = RLSConstraint.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "version", 2)
    migration = makemigrations(state)
    assert [type(each).__name__ for each in migration.operations] == [
        "RemoveConstraint",
        "AddConstraint",
    ]
    undone.append((migration, state))
    after = migrate(migration, state)
    check_rows(after, tenants)
    assert [name for name, *_ in policies()] == ["tenantry_isolation", "tenantry_second"]
    undo(*undone.pop())
    check_rows(state, tenants)
    assert policies() == before
    # As in a database that is made anew, by all migrations that there are.
    created, nothing = undone.pop()
    undo(created, nothing)
    undone.append((created, nothing))
    migrate(created, nothing)
    assert policies() == before


def fill_for_tenants(apps: Any, editor: Any) -> None:
    """Write a row of each tenant, as a data migration does."""
    alias = editor.connection.alias
    for tenant in apps.get_model("app", "Tenant").objects.using(alias):
        with tenant_context(tenant.pk):
            papers = apps.get_model("migrated", "Paper").objects.using(alias)
            papers.create(tenant=tenant, title="filled")


def fill_as_admin(apps: Any, editor: Any) -> None:
    """Write a row without asking whether there are tenants."""
    with admin_context():
        papers = apps.get_model("migrated", "Paper").objects.using(editor.connection.alias)
        papers.create(tenant_id=1, title="filled")


def fill_if_there_are_tenants(apps: Any, editor: Any) -> None:
    """Do the same, but nothing in a new database, as the documentation advises."""
    if apps.get_model("app", "Tenant").objects.using(editor.connection.alias).exists():
        fill_as_admin(apps, editor)


@pytest.mark.parametrize("shape", [SEALED, ROLE, {"GUC_PREFIX": "reshaped_again"}])
def test_an_old_data_migration_has_nothing_to_do_in_a_new_database(
    shape: dict[str, Any],
    state: ProjectState,
    roles: bool,
    superuser: psycopg.Connection[Any],
    settings: Any,
) -> None:
    """The table has the policies of before, and the statements are those of today."""
    if roles:
        superuser.execute(f"GRANT {ADMIN} TO owner WITH INHERIT FALSE, SET TRUE".encode())
    old = [fill_for_tenants, fill_as_admin, fill_if_there_are_tenants]
    for code in old:
        migrate(migration_of(RunPython(code)), state)
    configure(settings, **shape)
    superuser.execute(EMPTY)
    with pytest.raises((DataError, ProgrammingError)):
        migrate(migration_of(RunPython(fill_as_admin)), state)
    for code in (fill_for_tenants, fill_if_there_are_tenants):
        migrate(migration_of(RunPython(code)), state)
    configure(settings)
