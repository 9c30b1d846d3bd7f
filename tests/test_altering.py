"""What a migration does to the rows of a protected table: it sees those of every tenant."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, connections, models
from django.db.migrations import AddField, AlterField, CreateModel
from django.db.migrations.state import ProjectState

from tenantry import CurrentTenant, admin_context, tenant_context
from tenantry.grants import grant_on, keep_up
from tests.app.models import Tenant
from tests.fix_migrations import Migrate, editing, is_protected, migration_of
from tests.migrated import base, child, count, key, manager, model
from tests.settings import HAS_ADMIN_ROLE
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


def number(**options: Any) -> Any:
    return models.IntegerField(**options)


def docs(tenants: Tenants, migrate: Migrate, *operations: Any, **fields: Any) -> ProjectState:
    """Return a state with a Doc of each tenant, both with the key of the tenant."""
    state = migrate(model("Doc", is_open=False, **fields), base())
    for operation in operations:
        state = migrate(operation, state)
    for tenant in tenants:
        with tenant_context(tenant.pk):
            manager(state, "Doc").create(id=tenant.pk)
    return state


def test_a_column_with_nulls_becomes_not_null(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    state = migrate(AlterField("doc", "n", number(default=3)), state)
    with admin_context():
        assert run("SELECT n FROM migrated_doc") == [(3,), (3,)]
    assert count("doc") == 0
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_a_table_that_its_owner_sees_stays_so(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    with connections["owner"].cursor() as cursor:
        cursor.execute("ALTER TABLE migrated_doc NO FORCE ROW LEVEL SECURITY")
    migrate(AlterField("doc", "n", number(default=3)), state)
    assert is_protected("migrated_doc")[:2] == (True, False)


def test_what_the_migration_has_written_is_checked_before(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    operation = migration_of(AlterField("doc", "n", number(default=3)))
    with connections["owner"].schema_editor() as editor:
        with tenant_context(tenants[0].pk):
            manager(state, "Doc").using("owner").create(id=0)
        operation.apply(state.clone(), editor)
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_so_does_a_column_of_a_child(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(model("Doc", is_open=False), base())
    state = migrate(child("Report", "Doc"), state)
    state = migrate(AddField("report", "n", number(null=True)), state)
    with tenant_context(tenants[0].pk):
        report = manager(state, "Report").create()
    state = migrate(AlterField("report", "n", number(default=3)), state)
    with admin_context():
        assert run("SELECT n FROM migrated_report") == [(3,)]
        report.delete()
    assert count("report") == 0


def test_what_made_a_column_nullable_is_undone(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, n=number(default=3))
    operation = migration_of(AlterField("doc", "n", number(default=3, null=True)))
    with connections["owner"].schema_editor() as editor:
        operation.apply(state.clone(), editor)
    with admin_context():
        run("UPDATE migrated_doc SET n = NULL")
    with connections["owner"].schema_editor() as editor:
        operation.unapply(state.clone(), editor)
    with admin_context():
        assert run("SELECT n FROM migrated_doc") == [(3,), (3,)]


# One that is dropped and made again has another number, and all rows were looked at meanwhile.
FOREIGN_KEYS = """\
SELECT oid, conname::text FROM pg_constraint
WHERE contype = 'f' AND conrelid = 'migrated_doc'::regclass ORDER BY 1"""


def test_a_foreign_key_stays_while_its_default_changes(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(model("Doc", is_open=False), base())
    before = run(FOREIGN_KEYS)
    assert len(before) == 2
    partner = key(null=True, db_default=CurrentTenant())
    state = migrate(AlterField("doc", "partner", partner), state)
    assert run(FOREIGN_KEYS) == before
    with tenant_context(tenants[0].pk):
        assert manager(state, "Doc").create().partner_id == tenants[0].pk
    state = migrate(AlterField("doc", "partner", key(null=True)), state)
    assert run(FOREIGN_KEYS) == before
    # Any other change is Django's.
    migrate(AlterField("doc", "partner", key(null=True, db_constraint=False)), state)
    assert len(run(FOREIGN_KEYS)) == 1


def test_tables_are_made_in_the_scope_of_a_tenant(tenants: Tenants, migrate: Migrate) -> None:
    """What else is kept up then is several statements, which cannot carry it where it is sealed."""
    a, b = tenants
    with tenant_context(a.pk):
        state = migrate(model("Doc", is_open=False), base())
        keep_up(None, "owner")
        manager(state, "Doc").create()
        assert count("doc") == 1
    with tenant_context(b.pk):
        assert count("doc") == 0


def test_a_foreign_key_to_missing_rows_is_refused(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, model("Label", is_open=None), label_id=number(default=3))
    key = models.ForeignKey("migrated.Label", models.CASCADE, null=True, db_column="label_id")
    with pytest.raises(IntegrityError, match="not present"):
        migrate(AlterField("doc", "label_id", key), state)
    added: Any = models.ForeignKey("migrated.Label", models.CASCADE, default=3)
    with pytest.raises(IntegrityError, match="not present"):
        migrate(AddField("doc", "added", added), state)


def test_a_foreign_key_to_hidden_rows_is_made(tenants: Tenants, migrate: Migrate) -> None:
    fields = [("id", models.AutoField(primary_key=True)), ("doc", number())]
    state = docs(tenants, migrate, CreateModel("Line", fields))
    manager(state, "Line").create(doc=tenants[0].pk)
    key: Any = models.ForeignKey("migrated.Doc", models.CASCADE, db_column="doc")
    state = migrate(AlterField("line", "doc", key), state)
    with pytest.raises(IntegrityError):
        run("INSERT INTO migrated_line (doc) VALUES (0)")


def test_a_key_that_a_shared_table_refers_to_becomes_wider(
    tenants: Tenants, migrate: Migrate
) -> None:
    key: Any = models.ForeignKey("migrated.Doc", models.CASCADE)
    line = CreateModel("Line", [("id", models.AutoField(primary_key=True)), ("doc", key)])
    small: Any = models.AutoField(primary_key=True)
    state = docs(tenants, migrate, line, id=small)
    manager(state, "Line").create(doc_id=tenants[0].pk)
    big: Any = models.BigAutoField(primary_key=True)
    state = migrate(AlterField("doc", "id", big), state)
    with pytest.raises(IntegrityError):
        run("INSERT INTO migrated_line (doc_id) VALUES (0)")


def partition(state: ProjectState, name: str) -> None:
    """Put a partitioned table in the place of that of a model, with its rows and policies."""
    model = state.apps.get_model("migrated", name)
    table = model._meta.db_table
    with connections["owner"].schema_editor() as editor:
        for sql in (
            f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
            f"CREATE TABLE parted (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES)"
            " PARTITION BY HASH (id)",
            f"CREATE TABLE part_of_{table} PARTITION OF parted"
            " FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            f"INSERT INTO parted SELECT * FROM {table}",
            f"DROP TABLE {table} CASCADE",
            f"ALTER TABLE parted RENAME TO {table}",
        ):
            editor.execute(sql)
        for constraint in model._meta.constraints:
            editor.add_constraint(model, constraint)
    if HAS_ADMIN_ROLE:
        grant_on([table], connections["owner"], "app_admin")


def test_so_does_a_column_of_a_partitioned_table(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    partition(state, "Doc")
    state = migrate(AlterField("doc", "n", number(default=3)), state)
    with admin_context():
        assert run("SELECT n FROM migrated_doc") == [(3,), (3,)]
    assert count("doc") == 0
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_a_foreign_key_of_a_partitioned_table_to_hidden_rows_is_made(
    tenants: Tenants, migrate: Migrate
) -> None:
    fields = [("id", models.AutoField(primary_key=True)), ("doc", number())]
    state = docs(tenants, migrate, CreateModel("Line", fields))
    manager(state, "Line").create(doc=tenants[0].pk)
    partition(state, "Line")
    key: Any = models.ForeignKey("migrated.Doc", models.CASCADE, db_column="doc")
    state = migrate(AlterField("line", "doc", key), state)
    with pytest.raises(IntegrityError):
        run("INSERT INTO migrated_line (id, doc) VALUES (7, 0)")
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_a_partition_hides_no_row_from_a_foreign_key(tenants: Tenants, migrate: Migrate) -> None:
    fields = [("id", models.AutoField(primary_key=True)), ("doc", number())]
    state = docs(tenants, migrate, CreateModel("Line", fields))
    manager(state, "Line").create(doc=0)
    partition(state, "Line")
    part = "ALTER TABLE part_of_migrated_line"
    run(f"{part} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", alias="owner")
    key: Any = models.ForeignKey("migrated.Doc", models.CASCADE, db_column="doc")
    with pytest.raises(IntegrityError), editing() as editor:
        migration_of(AlterField("line", "doc", key)).apply(state, editor)
    assert is_protected("part_of_migrated_line")[:2] == (True, True)


@pytest.mark.parametrize("atomic", [True, False])
def test_the_sql_says_so(*, atomic: bool, tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    migration = migration_of(AlterField("doc", "n", number(default=3)))
    with connections["owner"].schema_editor(collect_sql=True, atomic=atomic) as editor:
        migration.apply(state.clone(), editor)
    words = {"NO FORCE": "release", "UPDATE": "fill", " FORCE": "force"}
    said = [
        name
        for sql in editor.collected_sql
        if (name := next((name for word, name in words.items() if word in sql), None))
    ]
    assert said == ["release", "fill", "force"]
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_a_failure_outside_of_a_transaction_binds_the_owner_again(
    tenants: Tenants, migrate: Migrate
) -> None:
    state = docs(tenants, migrate, n=number(null=True))
    with admin_context():
        run("UPDATE migrated_doc SET n = 9 WHERE id = %s", [tenants[0].pk])
    migration = migration_of(AlterField("doc", "n", number(default=9, unique=True)))
    with (
        pytest.raises(IntegrityError),
        connections["owner"].schema_editor(atomic=False) as editor,
    ):
        migration.apply(state.clone(), editor)
    assert is_protected("migrated_doc")[:2] == (True, True)


def test_empty_tables_are_left_alone(tenants: Tenants, migrate: Migrate) -> None:
    state = docs(tenants, migrate)
    key: Any = models.ForeignKey("migrated.Doc", models.CASCADE)
    line = CreateModel("Line", [("id", models.AutoField(primary_key=True)), ("doc", key)])
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        migration_of(line).apply(state.clone(), editor)
    assert any("REFERENCES" in sql for sql in editor.collected_sql)
    assert not any("FORCE" in sql for sql in editor.collected_sql)
