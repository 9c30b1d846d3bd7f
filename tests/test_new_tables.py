"""What a migration may do with a table that it has created itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections, models
from django.db.migrations import AddConstraint, AddField, RunPython, RunSQL

from tenantry import RawPredicate, RLSConstraint, admin_context, tenant_context
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, is_protected
from tests.migrated import base, child, manager, many, model, path_to, tags, tenant
from tests.sql import run
from tests.test_non_atomic import KEYS, Superuser, Tenants, apply, looks, migration_with


class Interrupted(Exception):
    """What a data migration raises."""


def interrupt(apps: Any, editor: Any) -> None:
    raise Interrupted


@pytest.fixture(autouse=True)
def dropped(tenants: Tenants, superuser: Superuser) -> Iterator[None]:
    """Drop what a migration has left that cannot be undone, because it has failed."""
    yield
    connections.close_all()
    left = superuser.execute(
        "SELECT string_agg(oid::regclass::text, ', ') FROM pg_class"
        " WHERE relkind = 'r' AND starts_with(relname, 'migrated_')"
    ).fetchone()
    if left and left[0]:
        superuser.execute(f"DROP TABLE {left[0]}".encode())


def fill(*tenants: Tenant) -> Callable[[Any, Any], None]:
    """Return what writes rows of tenants to each of the tables, on the connection of the owner."""

    def written(apps: Any, editor: Any) -> None:
        def objects(name: str) -> Any:
            return apps.get_model("migrated", name)._default_manager.using("owner")

        for each in tenants:
            with tenant_context(each.pk):
                report = objects("Report").create()
                objects("Line").create(up_id=report.pk)
                objects("Doc").get(pk=report.pk).tags.add(objects("Tag").create())

    return written


CREATED = [
    model("Tag", is_open=False),
    model("Doc", is_open=True, tags=tags()),
    child("Report", "Doc"),
    path_to("Doc"),
]


def test_new_tables_are_protected_before_the_migration_ends(
    tenants: Tenants, superuser: Superuser
) -> None:
    """Also one of a relation, to the table of the same migration that is created first."""
    change = migration_with(*CREATED, RunPython(fill(*tenants)), RunPython(interrupt))
    with pytest.raises(Interrupted):
        apply(change, base())
    assert [len(rows) for rows in looks(tenants)] == [0, 5, 5]
    for table in KEYS:
        assert superuser.execute(f"SELECT count(*) FROM migrated_{table}".encode()).fetchone() == (
            len(tenants),
        )
        assert is_protected(f"migrated_{table}")[:2] == (True, True)


def test_a_new_relation_of_a_model_that_is_there_is_protected_at_once(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = many(migrate, model("Tag", is_open=False), model("Doc", is_open=False))
    with tenant_context(tenants[0].pk):
        tag, doc = (manager(state, name).create() for name in ("Tag", "Doc"))
    relate = f"INSERT INTO migrated_doc_tags (doc_id, tag_id) VALUES ({doc.pk}, {tag.pk})"

    def related(apps: Any, editor: Any) -> None:
        with tenant_context(tenants[0].pk):
            run(relate, alias="owner")

    change = migration_with(
        AddField("doc", "tags", tags()), RunPython(related), RunPython(interrupt)
    )
    with pytest.raises(Interrupted):
        apply(change, state)
    assert [len(rows) for rows in looks(tenants, {"doc_tags": "id"})] == [0, 1, 0]


@pytest.mark.parametrize("has_parameters", [False, True])
def test_a_new_table_shows_nothing_until_its_constraint_can_be_made(
    has_parameters: bool, tenants: Tenants
) -> None:
    """It names what the next operation adds: a field, or a table that only SQL knows."""
    of = RLSConstraint(field="tenant", name="doc_rls")
    listed = RLSConstraint(
        field="tenant",
        name="tag_rls",
        extra_predicates=[RawPredicate("id IN (SELECT listed FROM migrated_list)")],
    )
    doc, tag = model("Doc", is_open=None), model("Tag", is_open=None, tenant=tenant())
    if has_parameters:
        doc.fields.append(("text", models.TextField(db_default="100%")))
    doc.options["constraints"], tag.options["constraints"] = [of], [listed]

    def check(apps: Any, editor: Any) -> None:
        for table in ("doc", "tag"):
            assert is_protected(f"migrated_{table}") == (True, True, 0)

    change = migration_with(
        doc,
        tag,
        RunPython(check),
        AddField("doc", "tenant", tenant()),
        RunSQL("CREATE TABLE migrated_list (listed bigint)"),
    )
    state = apply(change, base())
    for name in ("Doc", "Tag"):
        assert is_protected(f"migrated_{name.lower()}")[2] >= 1
        with tenant_context(tenants[0].pk):
            manager(state, name).create()
    assert [len(rows) for rows in looks(tenants, {"doc": "id", "tag": "id"})] == [0, 2, 0]


def test_a_new_table_that_is_protected_by_nothing_is_open(tenants: Tenants) -> None:
    """Until an operation of the same migration adds a constraint."""

    def check(apps: Any, editor: Any) -> None:
        assert is_protected("migrated_doc") == (False, False, 0)

    of = RLSConstraint(field="tenant", name="doc_rls")
    doc = model("Doc", is_open=None, tenant=tenant())
    apply(migration_with(doc, RunPython(check), AddConstraint("doc", of)), base())
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_sqlmigrate_prints_the_protection_after_the_table(tenants: Tenants) -> None:
    with connections["owner"].schema_editor(collect_sql=True, atomic=False) as editor:
        migration_with(*CREATED).apply(base(), editor)
    printed = "\n".join(map(str, editor.collected_sql))
    places = []
    for table in ("tag", "doc", "line"):
        places.append(printed.index(f'CREATE TABLE "migrated_{table}"'))
        places.append(printed.index(f'CREATE POLICY tenantry_isolation ON "migrated_{table}"'))
    assert places == sorted(places)


@pytest.mark.admin_role
@pytest.mark.parametrize("is_atomic", [False, True])
def test_the_admin_may_use_a_new_table_at_once(is_atomic: bool, tenants: Tenants) -> None:
    """A data migration may be one of those that `migrate` does in one go on a new database."""

    def filled(apps: Any, editor: Any) -> None:
        def objects(name: str) -> Any:
            return apps.get_model("migrated", name)._default_manager.using("owner")

        with admin_context():
            made = [objects(name).create(tenant_id=tenants[0].pk) for name in ("Tag", "Doc")]
            made[1].tags.add(made[0])
            assert objects("Doc").filter(tags__isnull=False).update(partner=tenants[1].pk) == 1

    state = base()
    for migration in (migration_with(*CREATED[:2]), migration_with(RunPython(filled))):
        with connections["owner"].schema_editor(atomic=is_atomic) as editor:
            state = migration.apply(state, editor)
    keys = dict.fromkeys(("doc", "tag", "doc_tags"), "id")
    assert [len(rows) for rows in looks(tenants, keys)] == [0, 3, 1]
