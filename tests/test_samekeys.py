"""Foreign keys to another tenant's row: the database refuses them, and so does validation."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, ProgrammingError, connections, models, transaction
from django.db.migrations import (
    AddConstraint,
    AddField,
    CreateModel,
    DeleteModel,
    RemoveConstraint,
    RenameModel,
)
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.migration import Migration
from django.db.migrations.state import ModelState, ProjectState
from django.db.migrations.writer import MigrationWriter
from django.forms import modelform_factory
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry import CurrentTenant, RLSConstraint, SameTenant, admin_context, tenant_context
from tenantry.exceptions import RLSConfigurationError
from tenantry.operations import AddSameTenantNotValid, ValidateSameTenant
from tests.app.models import Author, Item, Note, Tag, Tagging, Tenant

Migrate = Callable[..., ProjectState]
ROWS = (1, 2)
REFUSED = "violates foreign key constraint"
UNIQUE = "keys_author_%_same_tenant"


def rls(name: str, field: str = "owner") -> RLSConstraint:
    return RLSConstraint(field=field, name=f"{name}_rls", key_type="bigint", guc_prefix="rls")


def owner(**options: Any) -> Any:
    return models.BigIntegerField(db_default=CurrentTenant("rls", "bigint"), **options)


def author(*constraints: Any, **more: Any) -> CreateModel:
    fields = {"id": models.BigAutoField(primary_key=True), "owner": owner(), **more}
    return CreateModel(
        "Author", list(fields.items()), {"constraints": [rls("author"), *constraints]}
    )


def to_author(**options: Any) -> Any:
    return models.ForeignKey("keys.Author", models.CASCADE, null=True, **options)


def note(*constraints: Any, **more: Any) -> CreateModel:
    fields = {
        "id": models.BigAutoField(primary_key=True),
        "owner": owner(),
        "author": to_author(),
        **more,
    }
    return CreateModel("Note", list(fields.items()), {"constraints": [rls("note"), *constraints]})


def same(field: str = "author", **more: Any) -> SameTenant:
    return SameTenant(field=field, name=f"note_{field}_same", **more)


@pytest.fixture
def migrate(project: None) -> Iterator[Migrate]:
    """Return a function that applies operations, each list as one migration."""
    states: list[tuple[Any, ProjectState]] = []

    def forwards(*operations: Any, state: ProjectState | None = None) -> ProjectState:
        state = state or ProjectState()
        for operation in operations:
            migration: Any = Migration("test", "keys")
            migration.operations = operation if isinstance(operation, list) else [operation]
            with connections["owner"].schema_editor() as editor:
                after = migration.apply(state.clone(), editor)
            states.append((migration, state))
            state = after
        return state

    yield forwards
    for migration, before in reversed(states):
        with connections["owner"].schema_editor() as editor:
            migration.unapply(before.clone(), editor)
    assert constraints_of("keys_%") == []


def run(sql: str, alias: str = "default") -> list[Any]:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def constraints_of(table: str) -> list[tuple[str, str]]:
    """Return the composite foreign keys and our unique constraints, names and definitions."""
    return run(
        "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conrelid::regclass::text LIKE '{table}'"
        " AND (contype = 'f' AND cardinality(conkey) > 1"
        " OR contype = 'u' AND conname LIKE '%_same_tenant') ORDER BY contype, conname",
        alias="owner",
    )


def managers(state: ProjectState, *names: str, alias: str = "default") -> list[Any]:
    return [state.apps.get_model("keys", name)._default_manager.using(alias) for name in names]


def authors_of_two_tenants(authors: Any) -> tuple[Any, Any]:
    made = []
    for tenant in ROWS:
        with tenant_context(tenant):
            made.append(authors.create(owner=tenant))
    return made[0], made[1]


FOREIGN_KEY = (
    "note_author_same",
    "FOREIGN KEY (owner, author_id) REFERENCES keys_author(owner, id)"
    " DEFERRABLE INITIALLY DEFERRED",
)


def test_the_migration_makes_a_key_of_the_tenant_and_the_field(migrate: Migrate) -> None:
    state = migrate(author(), note(same()))
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    ((name, definition),) = constraints_of("keys_author")
    assert name.startswith("keys_author_owner_id_")
    assert definition == "UNIQUE (owner, id)"
    state = migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == []
    migrate(AddConstraint("note", same()), state=state)
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
        f"INSERT INTO keys_note (owner, author_id) VALUES (1, {foreign})", notes.db
    ),
    lambda notes, mine, foreign: run(f"UPDATE keys_note SET author_id = {foreign}", notes.db),
    lambda notes, mine, foreign: run(
        f"INSERT INTO keys_note (id, author_id) VALUES ({mine.pk}, NULL)"
        f" ON CONFLICT (id) DO UPDATE SET author_id = {foreign}",
        notes.db,
    ),
]


@pytest.mark.parametrize("alias", ["default", "pooled"])
def test_every_write_of_another_tenants_key_is_refused(alias: str, migrate: Migrate) -> None:
    state = migrate(author(), note(same()))
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


def test_it_is_checked_at_commit_or_when_somebody_asks(migrate: Migrate) -> None:
    state = migrate(author(), note(same()))
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


def test_without_it_a_tenant_points_to_another_tenants_row(migrate: Migrate) -> None:
    state = migrate(author(), note())
    authors, notes = managers(state, "Author", "Note")
    foreign = authors_of_two_tenants(authors)[1]
    with tenant_context(1):
        assert notes.create(owner=1, author=foreign).author_id == foreign.pk
    with pytest.raises(IntegrityError, match=REFUSED):
        migrate(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_%") == []


def test_deleting_stays_what_django_does(migrate: Migrate) -> None:
    fields = {
        "kept": models.ForeignKey("keys.Author", models.PROTECT, null=True, related_name="+"),
        "cleared": models.ForeignKey("keys.Author", models.SET_NULL, null=True, related_name="+"),
    }
    constraints = [same(), same("kept"), same("cleared")]
    state = migrate(author(), note(*constraints, **fields))
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


def test_names_and_keys_of_every_kind(migrate: Migrate) -> None:
    target = CreateModel(
        "Author",
        [
            ("code", models.UUIDField(primary_key=True, default=uuid.uuid4, db_column='c"o de')),
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
    state = migrate(target, note(same(), long, same("parent"), by_slug=by_slug, parent=parent))
    (short, _), *others = constraints_of("keys_note")[::-1][:1] + constraints_of("keys_note")
    assert len(short.encode()) <= 63
    assert len(others) == 4
    assert len(constraints_of('"keys_Odd%')) == 2
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
    with tenant_context(2), pytest.raises(IntegrityError, match=REFUSED):
        notes.create(owner=2, parent=mine)
    with admin_context():
        assert notes.count() == 2


def test_a_unique_constraint_that_is_there_is_used_and_kept(migrate: Migrate) -> None:
    own = models.UniqueConstraint(fields=["id", "owner"], name="of_my_own")
    state = migrate(author(own), note(same()))
    assert constraints_of("keys_author") == []
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
    names = run("SELECT conname FROM pg_constraint WHERE conname = 'of_my_own'", "owner")
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
def test_a_unique_constraint_that_does_not_serve_is_not_used(own: Any, migrate: Migrate) -> None:
    migrate(author(own, more=models.IntegerField(default=0)), note(same()))
    assert len(constraints_of("keys_author")) == 1
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_the_unique_constraint_goes_with_the_last_foreign_key(migrate: Migrate) -> None:
    editor = models.ForeignKey("keys.Author", models.CASCADE, related_name="+", null=True)
    state = migrate(author(), note(same(), same("editor"), editor=editor))
    assert len(constraints_of("keys_author")) == 1
    state = migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert len(constraints_of("keys_author")) == 1
    migrate(DeleteModel("Note"), state=state)
    assert constraints_of("keys_%") == []


def test_a_renamed_table_and_key_are_found_again(migrate: Migrate) -> None:
    # Both in the migration that makes them, and after it.
    state = migrate([author(), note(same()), RenameModel("Author", "Writer")])
    assert len(constraints_of("keys_writer")) == 1
    state = migrate(RenameModel("Writer", "Poet"), state=state)
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == []


def test_what_the_target_gets_later_in_the_migration_is_waited_for(migrate: Migrate) -> None:
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    field = AddField("author", "owner", owner(null=True))
    migrate([bare, note(waiting), field, AddConstraint("author", rls("author"))])
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_what_the_target_never_gets_is_an_error(migrate: Migrate) -> None:
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    state = migrate(bare)
    with pytest.raises(RLSConfigurationError, match=r"keys\.Author is not protected; let its"):
        migrate(note(same()), state=state)
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    with pytest.raises(RLSConfigurationError, match="has no field named 'owner'; let its migr"):
        migrate(note(waiting), state=state)


@pytest.mark.parametrize("constraint", [same(), same(target=("keys.author", "later", "id"))])
def test_made_and_removed_in_one_migration(constraint: SameTenant, migrate: Migrate) -> None:
    remove = RemoveConstraint("note", "note_author_same")
    migrate([author(), note(constraint), remove])
    assert constraints_of("keys_%") == []


def test_made_and_deleted_in_one_migration(migrate: Migrate) -> None:
    migrate([author(), note(same()), DeleteModel("Note"), DeleteModel("Author")])
    assert constraints_of("keys_%") == []


def test_a_large_table_is_checked_in_a_migration_of_its_own(migrate: Migrate) -> None:
    state = migrate(author(), note())
    authors, notes = managers(state, "Author", "Note")
    mine, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        bad = notes.create(owner=1, author=foreign)
    add = AddSameTenantNotValid("note", same())
    state = migrate(add, state=state)
    assert constraints_of("keys_note")[0][1].endswith("NOT VALID")
    with tenant_context(1), pytest.raises(IntegrityError, match=REFUSED):
        notes.create(owner=1, author=foreign)
    validate = ValidateSameTenant("note", "note_author_same")
    with pytest.raises(IntegrityError, match=REFUSED):
        migrate(validate, state=state)
    with tenant_context(1):
        bad.author = mine
        bad.save()
    migrate(validate, state=state)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    assert add.describe() == "Create not valid constraint note_author_same on model note"
    assert add.migration_name_fragment == "note_note_author_same_not_valid"
    for operation in (add, validate):
        assert "from tenantry" in written(operation) or "import tenantry" in written(operation)


def test_only_this_constraint_is_added_not_valid() -> None:
    wrong: Any = rls("note")
    with pytest.raises(RLSConfigurationError, match=r"takes a SameTenant, not <RLSConstraint"):
        AddSameTenantNotValid("note", wrong)


def test_rows_that_are_hidden_are_not_called_good(migrate: Migrate) -> None:
    """The text of sqlmigrate, run by somebody who sees no rows."""
    state = migrate(author(), note())
    authors, notes = managers(state, "Author", "Note")
    foreign = authors_of_two_tenants(authors)[1]
    with tenant_context(1):
        notes.create(owner=1, author=foreign)
    model = state.apps.get_model("keys", "Note")
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        for sql in (same().statement(model, editor), same().validation(model, editor)):
            for scope in (nullcontext(), tenant_context(1)):
                with (
                    scope,
                    pytest.raises(ProgrammingError, match="are hidden")
                    if not sql
                    else pytest.raises(Exception, match="are hidden"),
                ):
                    run(str(sql), "owner")


def written(operation: Any) -> str:
    migration: Any = Migration("test", "keys")
    migration.operations = [operation]
    return MigrationWriter(migration).as_string()


# Models of the project.


def no_scope() -> AbstractContextManager[Any]:
    return nullcontext()


@isolate_apps("tests.app")
def abstract_models() -> Any:
    return None
