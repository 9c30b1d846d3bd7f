"""Foreign keys to another tenant's row: the database refuses them, and so does validation."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from django.db import IntegrityError, ProgrammingError, connections, models, transaction
from django.db.migrations import (
    AddConstraint,
    AddField,
    AlterField,
    CreateModel,
    DeleteModel,
    RemoveConstraint,
    RenameField,
    RenameModel,
)
from django.db.migrations.optimizer import MigrationOptimizer
from django.db.migrations.state import ProjectState

from tenantry import SameTenant, admin_context, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tenantry.operations import AddSameTenantNotValid, ValidateSameTenant
from tenantry.seal import send_seal_keys
from tests.fix_checks import broken
from tests.fix_keys import (
    FOREIGN_KEY,
    REFUSED,
    ROWS,
    author,
    authors_of_two_tenants,
    constraints_of,
    errors_of,
    looked_at,
    managers,
    note,
    owner,
    rls,
    same,
    to_author,
)
from tests.fix_migrations import Migrate, written
from tests.sql import run


def test_the_migration_makes_a_key_of_the_tenant_and_the_field(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note(same()))
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    ((name, definition),) = constraints_of("keys_author")
    assert name.startswith("keys_author_owner_id_")
    assert definition == "UNIQUE (owner, id)"
    state = migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == []
    migrate_keys(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_note") == [FOREIGN_KEY]


WRITES: list[Callable[[Any, Any, Any], Any]] = [
    lambda notes, mine, foreign: notes.create(owner=1, author_id=foreign),
    lambda notes, mine, foreign: notes.filter(pk=mine.pk).update(author_id=foreign),
    lambda notes, mine, foreign: notes.bulk_create(
        [notes.model(owner=1), notes.model(owner=1, author_id=foreign)]
    ),
    lambda notes, mine, foreign: notes.bulk_update(
        [notes.model(pk=mine.pk, author_id=foreign)], ["author"]
    ),
    lambda notes, mine, foreign: notes.update_or_create(
        pk=mine.pk, defaults={"author_id": foreign}
    ),
    lambda notes, mine, foreign: run(
        f"INSERT INTO keys_note (owner, author_id) VALUES (1, {foreign})", alias=notes.db
    ),
    lambda notes, mine, foreign: run(f"UPDATE keys_note SET author_id = {foreign}", alias=notes.db),
    lambda notes, mine, foreign: run(
        f"INSERT INTO keys_note (id, owner, author_id) VALUES ({mine.pk}, 1, NULL)"
        f" ON CONFLICT (id) DO UPDATE SET author_id = {foreign}",
        alias=notes.db,
    ),
]


@pytest.mark.parametrize("alias", ["default", "pooled"])
def test_every_write_of_another_tenants_key_is_refused(alias: str, migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note(same()))
    authors, notes = managers(state, "Author", "Note", alias=alias)
    my_author, foreign = authors_of_two_tenants(authors)
    for scope in (tenant_context(1), admin_context()):
        with scope:
            mine = notes.create(owner=1, author=my_author)
            for write in WRITES:
                with pytest.raises(IntegrityError, match=REFUSED):
                    write(notes, mine, foreign.pk)
            assert set(notes.values_list("author", flat=True)) == {my_author.pk}
            notes.filter(pk=mine.pk).update(author=None)
            notes.filter(pk=mine.pk).update(author=my_author)
    with admin_context():
        assert {row.owner for row in notes.all()} == {1}
        # The same rows, once their tenant is the author's.
        notes.update(owner=2, author=foreign)
        with pytest.raises(IntegrityError, match=REFUSED):
            notes.update(owner=1)
        with pytest.raises(IntegrityError, match=REFUSED):
            authors.filter(pk=foreign.pk).update(owner=1)


def test_it_is_checked_at_commit_or_when_somebody_asks(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note(same()))
    authors, notes = managers(state, "Author", "Note")
    my_author, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        with transaction.atomic():
            mine = notes.create(owner=1, author=foreign)
            mine.author = my_author
            mine.save()
        with pytest.raises(IntegrityError, match=REFUSED), transaction.atomic():
            notes.create(owner=1, author=foreign)
            run("SET CONSTRAINTS ALL IMMEDIATE")
        assert notes.count() == 1
        connections["default"].check_constraints()


def test_without_it_a_tenant_points_to_another_tenants_row(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note())
    authors, notes = managers(state, "Author", "Note")
    mine, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        bad = notes.create(owner=1, author=foreign)
        assert bad.author_id == foreign.pk
        notes.create(owner=1, author=mine)
        notes.create(owner=1)
    with pytest.raises(IntegrityError, match=REFUSED):
        migrate_keys(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_%") == []
    # As the guide says.
    with admin_context():
        found = notes.exclude(author=None).exclude(author__owner=models.F("owner"))
        assert list(found) == [bad]
        found.update(author=None)
    migrate_keys(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_deleting_stays_what_django_does(migrate_keys: Migrate) -> None:
    fields = {
        "kept": models.ForeignKey("keys.Author", models.PROTECT, null=True, related_name="+"),
        "cleared": models.ForeignKey("keys.Author", models.SET_NULL, null=True, related_name="+"),
    }
    constraints = [same(), same("kept"), same("cleared")]
    state = migrate_keys(author(), note(*constraints, **fields))
    authors, notes = managers(state, "Author", "Note")
    mine, _ = authors_of_two_tenants(authors)
    with tenant_context(1):
        cleared = notes.create(owner=1, cleared=mine)
        notes.create(owner=1, author=mine)
        kept = notes.create(owner=1, kept=mine)
        with pytest.raises(models.ProtectedError):
            mine.delete()
        with pytest.raises(IntegrityError, match=REFUSED):
            run("DELETE FROM keys_author")
        kept.delete()
        mine.delete()
        assert list(notes.values_list("pk", "cleared")) == [(cleared.pk, None)]
    with admin_context():
        assert authors.count() == 1


def test_names_and_keys_of_every_kind(migrate_keys: Migrate) -> None:
    target = CreateModel(
        "Author",
        [
            ("code", models.UUIDField(primary_key=True, default=uuid.uuid4, db_column="c o'de")),
            ("slug", models.TextField(unique=True, db_column="it's")),
            ("owner", owner(db_column="Cust No")),
        ],
        {"constraints": [rls("author")], "db_table": "keys_Odd 'table'"},
    )
    by_slug = models.ForeignKey(
        "keys.Author", models.CASCADE, to_field="slug", null=True, related_name="+"
    )
    long = SameTenant(field="by_slug", name="ä" * 40)
    parent = models.ForeignKey("self", models.CASCADE, null=True, db_column="Up")
    state = migrate_keys(target, note(same(), long, same("parent"), by_slug=by_slug, parent=parent))
    (short, _), *others = constraints_of("keys_note")[::-1][:1] + constraints_of("keys_note")
    assert len(short.encode()) <= 63
    assert len(others) == 4
    assert len(constraints_of('"keys_Odd%')) == 2
    assert looked_at(state) == []
    authors, notes = managers(state, "Author", "Note")
    made = []
    for tenant in ROWS:
        with tenant_context(tenant):
            made.append(authors.create(owner=tenant, slug=f"slug {tenant}"))
    with tenant_context(1):
        mine = notes.create(owner=1, author=made[0], by_slug=made[0])
        notes.create(owner=1, parent=mine)
        for wrong in ({"author": made[1]}, {"by_slug": made[1]}):
            with pytest.raises(IntegrityError, match=REFUSED):
                notes.create(owner=1, **wrong)
        long.validate(notes.model, notes.model(owner=1, by_slug=made[0]))
        theirs = notes.model(owner=1, by_slug=made[1])
        assert set(errors_of(lambda: long.validate(notes.model, theirs))) == {"by_slug"}
    with tenant_context(2), pytest.raises(IntegrityError, match=REFUSED):
        notes.create(owner=2, parent=mine)
    with admin_context():
        assert notes.count() == 2


@pytest.mark.parametrize("table", ["ä" * 30, "9" * 50, "_" * 50, "a" * 50])
def test_the_unique_constraint_of_any_table_is_found_again(
    table: str, migrate_keys: Migrate
) -> None:
    """PostgreSQL cuts names off, by their bytes, and so what tells whose the constraint is."""
    target = author()
    target.options["db_table"] = table
    state = migrate_keys(target, note(same()))
    unique = (
        "SELECT conname::text FROM pg_constraint"
        f" WHERE conrelid = '\"{table}\"'::regclass AND contype = 'u'"
    )
    ((name,),) = run(unique, alias="owner")
    assert name.endswith("_same_tenant")
    assert len(name.encode()) <= 63
    if table.startswith("a"):
        assert re.fullmatch(r"a{20}_owner_id_[0-9a-f]{8}_same_tenant", name)
    migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert run(unique, alias="owner") == []


def test_a_unique_constraint_that_is_there_is_used_and_kept(migrate_keys: Migrate) -> None:
    own = models.UniqueConstraint(fields=["id", "owner"], name="of_my_own")
    state = migrate_keys(author(own), note(same()))
    assert constraints_of("keys_author") == []
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    names = run("SELECT conname FROM pg_constraint WHERE conname = 'of_my_own'", alias="owner")
    assert names == [("of_my_own",)]


@pytest.mark.parametrize(
    "own",
    [
        models.UniqueConstraint(
            fields=["owner", "id"], name="deferred", deferrable=models.Deferrable.DEFERRED
        ),
        models.UniqueConstraint(
            fields=["owner", "id"], name="partial", condition=models.Q(id__gt=0)
        ),
        models.UniqueConstraint(fields=["owner", "id", "more"], name="wider"),
        models.UniqueConstraint(fields=["owner", "more"], name="other"),
        models.UniqueConstraint(models.F("owner"), models.F("id") + 1, name="expression"),
    ],
    ids=lambda own: own.name,
)
def test_a_unique_constraint_that_does_not_serve_is_not_used(
    own: Any, migrate_keys: Migrate
) -> None:
    migrate_keys(author(own, more=models.IntegerField(default=0)), note(same()))
    assert len(constraints_of("keys_author")) == 1
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_an_index_that_was_built_concurrently_is_used_and_kept(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note())
    run("CREATE UNIQUE INDEX CONCURRENTLY built ON keys_author (id, owner)", alias="owner")
    state = migrate_keys(AddSameTenantNotValid("note", same()), state=state)
    state = migrate_keys(ValidateSameTenant("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == [FOREIGN_KEY]
    migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert run("SELECT to_regclass('built')::text", alias="owner") == [("built",)]


def test_keys_and_tenants_may_be_altered_and_renamed(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(id=models.AutoField(primary_key=True)), note(same()))
    state = migrate_keys(
        AlterField("author", "id", models.BigAutoField(primary_key=True)),
        RenameField("author", "id", "number"),
        RenameField("note", "author", "writer"),
        state=state,
    )
    assert constraints_of("keys_note") == [
        (
            "note_author_same",
            "FOREIGN KEY (owner, writer_id) REFERENCES keys_author(owner, number)"
            " DEFERRABLE INITIALLY DEFERRED",
        )
    ]
    assert looked_at(state) == []
    authors, notes = managers(state, "Author", "Note")
    mine, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        notes.create(owner=1, writer=mine)
        with pytest.raises(IntegrityError, match=REFUSED):
            notes.create(owner=1, writer=foreign)


def test_the_unique_constraint_goes_with_the_last_foreign_key(migrate_keys: Migrate) -> None:
    editor = models.ForeignKey("keys.Author", models.CASCADE, related_name="+", null=True)
    state = migrate_keys(author(), note(same(), same("editor"), editor=editor))
    assert len(constraints_of("keys_author")) == 1
    state = migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert len(constraints_of("keys_author")) == 1
    migrate_keys(DeleteModel("Note"), state=state)
    assert constraints_of("keys_%") == []


def test_a_renamed_table_and_key_are_found_again(migrate_keys: Migrate) -> None:
    # Both in the migration that makes them, and after it.
    state = migrate_keys(author(), [note(same()), RenameModel("Author", "Writer")])
    assert len(constraints_of("keys_writer")) == 1
    state = migrate_keys(RenameModel("Writer", "Poet"), state=state)
    migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == []


def test_what_the_target_gets_later_in_the_migration_is_waited_for(migrate_keys: Migrate) -> None:
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    field = AddField("author", "owner", owner(null=True))
    # PostgreSQL would not drop the column first, as going back would.
    migrate_keys(
        [bare, note(waiting), field, AddConstraint("author", rls("author"))], reverse=False
    )
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    run("DROP TABLE keys_note, keys_author", alias="owner")


def test_a_new_table_with_a_default_of_the_database_waits_too(migrate_keys: Migrate) -> None:
    """Of such a table Django asks for its constraints one by one, and defers what it gets."""
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    field = AddField("author", "owner", owner(null=True))
    kind = models.TextField(db_default="draft")
    operations = [bare, note(waiting, kind=kind), field, AddConstraint("author", rls("author"))]
    migrate_keys(operations, reverse=False)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    run("DROP TABLE keys_note, keys_author", alias="owner")


def test_what_the_target_never_gets_is_an_error(migrate_keys: Migrate) -> None:
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    state = migrate_keys(bare)
    with pytest.raises(RLSConfigurationError, match=r"keys\.Author is not protected; let its"):
        migrate_keys(note(same()), state=state)
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    with pytest.raises(RLSConfigurationError, match="has no field named 'owner'; let its migr"):
        migrate_keys(note(waiting), state=state)


@pytest.mark.parametrize("constraint", [same(), same(target=("keys.author", "later", "id"))])
def test_made_and_removed_in_one_migration(constraint: SameTenant, migrate_keys: Migrate) -> None:
    remove = RemoveConstraint("note", "note_author_same")
    stays = same("other")
    notes = note(constraint, stays, other=to_author(related_name="+"))
    state = migrate_keys([author(), notes, remove])
    names = [name for name, _ in constraints_of("keys_note")]
    assert stays.name in names
    assert "note_author_same" not in names
    migrate_keys(RemoveConstraint("note", stays.name), state=state, reverse=False)
    assert not [name for name, _ in constraints_of("keys_%") if name.endswith("_same_tenant")]


def test_made_and_deleted_in_one_migration(migrate_keys: Migrate) -> None:
    migrate_keys([author(), note(same()), DeleteModel("Note"), DeleteModel("Author")])
    assert constraints_of("keys_%") == []


def test_a_large_table_is_checked_in_a_migration_of_its_own(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note())
    authors, notes = managers(state, "Author", "Note")
    mine, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        bad = notes.create(owner=1, author=foreign)
    add = AddSameTenantNotValid("note", same())
    state = migrate_keys(add, state=state)
    assert constraints_of("keys_note")[0][1].endswith("NOT VALID")
    with tenant_context(1), pytest.raises(IntegrityError, match=REFUSED):
        notes.create(owner=1, author=foreign)
    validate = ValidateSameTenant("note", "note_author_same")
    with pytest.raises(IntegrityError, match=REFUSED):
        migrate_keys(validate, state=state, atomic=False)
    with tenant_context(1):
        bad.author = mine
        bad.save()
    migrate_keys(validate, state=state, atomic=False)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    assert add.describe() == "Create not valid constraint note_author_same on model note"
    assert add.migration_name_fragment == "note_note_author_same_not_valid"
    for operation in (add, validate):
        assert "from tenantry" in written(operation) or "import tenantry" in written(operation)


def test_a_squashed_migration_makes_it_with_its_table(migrate_keys: Migrate) -> None:
    operations: list[Any] = [
        author(),
        note(),
        AddSameTenantNotValid("note", same()),
        ValidateSameTenant("note", "note_author_same"),
    ]
    squashed = MigrationOptimizer().optimize(operations, "keys")
    assert [type(each) for each in squashed] == [CreateModel, CreateModel, ValidateSameTenant]
    migrate_keys(squashed)
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_the_operations_leave_tables_alone_that_are_not_djangos(project: None) -> None:
    state = ProjectState()
    for operation in (author(), note()):
        operation.options["managed"] = False
        operation.state_forwards("keys", state)
    add = AddSameTenantNotValid("note", same())
    after = state.clone()
    add.state_forwards("keys", after)
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        add.database_forwards("keys", editor, state, after)
        ValidateSameTenant("note", "note_author_same").database_forwards(
            "keys", editor, after, after
        )
    assert editor.collected_sql == []


def test_only_this_constraint_is_added_not_valid() -> None:
    wrong: Any = rls("note")
    with pytest.raises(RLSConfigurationError, match=r"takes a SameTenant, not <RLSConstraint"):
        AddSameTenantNotValid("note", wrong)


@pytest.mark.guc_shape
def test_rows_that_are_hidden_are_not_called_good(migrate_keys: Migrate) -> None:
    """The text of sqlmigrate, run by somebody who sees no rows."""
    state = migrate_keys(author(), note())
    authors, notes = managers(state, "Author", "Note")
    foreign = authors_of_two_tenants(authors)[1]
    with tenant_context(1):
        notes.create(owner=1, author=foreign)
    model = state.apps.get_model("keys", "Note")
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        statements = [same().statement(model, editor), same().validation(model, editor)[0][0]]
    for sql in statements:
        for scope in (nullcontext(), tenant_context(1)):
            with scope, pytest.raises(ProgrammingError, match='rows of "keys_note" are hidden'):
                run(str(sql), alias="owner")
    assert constraints_of("keys_%") == []


def test_nor_are_those_that_a_partition_hides(
    migrate_keys: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    state = migrate_keys(author(), note())
    with broken(
        superuser,
        "ALTER TABLE keys_note RENAME TO kept; CREATE TABLE keys_note (LIKE kept) PARTITION BY LIST"
        " (owner); CREATE TABLE part PARTITION OF keys_note DEFAULT; INSERT INTO keys_note (id,"
        " owner) VALUES (1, 1); ALTER TABLE keys_note OWNER TO owner; ALTER TABLE part OWNER TO"
        " owner; ALTER TABLE part ENABLE ROW LEVEL SECURITY",
        "DROP TABLE keys_note; ALTER TABLE kept RENAME TO keys_note",
    ):
        added = migrate_keys(AddConstraint("note", same()), state=state, reverse=False)
        superuser.execute("ALTER TABLE part FORCE ROW LEVEL SECURITY")
        again = [RemoveConstraint("note", "note_author_same"), AddConstraint("note", same())]
        for operations in (again, ValidateSameTenant("note", "note_author_same")):
            with pytest.raises(ProgrammingError, match='partitions of "keys_note" are hidden'):
                migrate_keys(operations, state=added, atomic=False)
    # What the target of the keys has got.
    migrate_keys([AddConstraint("note", same()), again[0]], state=state, reverse=False)


@pytest.mark.sealed_shape
def test_the_migration_that_makes_the_table_of_seal_keys_may_make_foreign_keys(
    migrate_keys: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    """It looks at rows as the admin, with a seal of which that table does not know yet."""
    superuser.execute("DELETE FROM tenantry.seal_keys")
    try:
        migrate_keys([author(), note(same())])
    finally:
        send_seal_keys(connections["owner"])
    assert constraints_of("keys_note") == [FOREIGN_KEY]
