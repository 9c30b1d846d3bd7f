"""Foreign keys to another tenant's row: the database refuses them, and so does validation."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
import pytest
from django.core.exceptions import ValidationError
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
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.migration import Migration
from django.db.migrations.optimizer import MigrationOptimizer
from django.db.migrations.state import ProjectState
from django.db.migrations.writer import MigrationWriter
from django.db.models.functions import Now
from django.forms import modelform_factory
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from tenantry import (
    CurrentTenant,
    RLSConstraint,
    RLSProtectedModel,
    SameTenant,
    admin_context,
    tenant_context,
)
from tenantry.checks.migrations import Migrations
from tenantry.checks.samekeys import inspect_same_tenant
from tenantry.exceptions import RLSConfigurationError
from tenantry.operations import AddSameTenantNotValid, ValidateSameTenant
from tenantry.samekeys import shape_of
from tenantry.seal import send_seal_keys
from tests.app.models import Author, Note, Tenant
from tests.fix_checks import broken, check, findings
from tests.fix_migrations import Migrate, migrating
from tests.sql import run

ROWS = (1, 2)
REFUSED = "violates foreign key constraint"
UNIQUE = "keys_author_%_same_tenant"


def rls(name: str, field: str = "owner") -> RLSConstraint:
    return RLSConstraint(field=field, name=f"{name}_rls")


def owner(**options: Any) -> Any:
    return models.BigIntegerField(db_default=CurrentTenant(), **options)


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
    with migrating("keys") as forwards:
        yield forwards
    assert constraints_of("keys_%") == []


def constraints_of(table: str) -> list[tuple[str, str]]:
    """Return the composite foreign keys and our unique constraints, names and definitions."""
    found: list[tuple[str, str]] = run(
        "SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conrelid::regclass::text LIKE '{table}'"
        " AND (contype = 'f' AND cardinality(conkey) > 1"
        " OR contype = 'u' AND conname LIKE '%_same_tenant') ORDER BY contype, conname",
        alias="owner",
    )
    return found


def inspected(model: Any) -> list[tuple[str, str]]:
    """Return the ids and the texts of what check_rls finds of the foreign keys of a model."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        found = [*inspect_same_tenant(connection, cursor, model, Migrations(connection))]
    return [(each.id, f"{each.message}; {each.fix}") for each in found]


def looked_at(state: ProjectState) -> list[tuple[str, str]]:
    return inspected(state.apps.get_model("keys", "Note"))


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
    mine, foreign = authors_of_two_tenants(authors)
    with tenant_context(1):
        bad = notes.create(owner=1, author=foreign)
        assert bad.author_id == foreign.pk
        notes.create(owner=1, author=mine)
        notes.create(owner=1)
    with pytest.raises(IntegrityError, match=REFUSED):
        migrate(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_%") == []
    # As the guide says.
    with admin_context():
        found = notes.exclude(author=None).exclude(author__owner=models.F("owner"))
        assert list(found) == [bad]
        found.update(author=None)
    migrate(AddConstraint("note", same()), state=state)
    assert constraints_of("keys_note") == [FOREIGN_KEY]


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
    state = migrate(target, note(same(), long, same("parent"), by_slug=by_slug, parent=parent))
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
def test_the_unique_constraint_of_any_table_is_found_again(table: str, migrate: Migrate) -> None:
    """PostgreSQL cuts names off, by their bytes, and so what tells whose the constraint is."""
    target = author()
    target.options["db_table"] = table
    state = migrate(target, note(same()))
    unique = (
        "SELECT conname::text FROM pg_constraint"
        f" WHERE conrelid = '\"{table}\"'::regclass AND contype = 'u'"
    )
    ((name,),) = run(unique, alias="owner")
    assert name.endswith("_same_tenant")
    assert len(name.encode()) <= 63
    if table.startswith("a"):
        assert re.fullmatch(r"a{20}_owner_id_[0-9a-f]{8}_same_tenant", name)
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert run(unique, alias="owner") == []


def test_a_unique_constraint_that_is_there_is_used_and_kept(migrate: Migrate) -> None:
    own = models.UniqueConstraint(fields=["id", "owner"], name="of_my_own")
    state = migrate(author(own), note(same()))
    assert constraints_of("keys_author") == []
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
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
def test_a_unique_constraint_that_does_not_serve_is_not_used(own: Any, migrate: Migrate) -> None:
    migrate(author(own, more=models.IntegerField(default=0)), note(same()))
    assert len(constraints_of("keys_author")) == 1
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_an_index_that_was_built_concurrently_is_used_and_kept(migrate: Migrate) -> None:
    state = migrate(author(), note())
    run("CREATE UNIQUE INDEX CONCURRENTLY built ON keys_author (id, owner)", alias="owner")
    state = migrate(AddSameTenantNotValid("note", same()), state=state)
    state = migrate(ValidateSameTenant("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == [FOREIGN_KEY]
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert run("SELECT to_regclass('built')::text", alias="owner") == [("built",)]


def test_keys_and_tenants_may_be_altered_and_renamed(migrate: Migrate) -> None:
    state = migrate(author(id=models.AutoField(primary_key=True)), note(same()))
    state = migrate(
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
    state = migrate(author(), [note(same()), RenameModel("Author", "Writer")])
    assert len(constraints_of("keys_writer")) == 1
    state = migrate(RenameModel("Writer", "Poet"), state=state)
    migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert constraints_of("keys_%") == []


def test_what_the_target_gets_later_in_the_migration_is_waited_for(migrate: Migrate) -> None:
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    field = AddField("author", "owner", owner(null=True))
    # PostgreSQL would not drop the column first, as going back would.
    migrate([bare, note(waiting), field, AddConstraint("author", rls("author"))], reverse=False)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    run("DROP TABLE keys_note, keys_author", alias="owner")


def test_a_new_table_with_a_default_of_the_database_waits_too(migrate: Migrate) -> None:
    """Of such a table Django asks for its constraints one by one, and defers what it gets."""
    bare = CreateModel("Author", [("id", models.BigAutoField(primary_key=True))])
    waiting = same(tenant="owner", target=("keys.author", "owner", "id"))
    field = AddField("author", "owner", owner(null=True))
    kind = models.TextField(db_default="draft")
    operations = [bare, note(waiting, kind=kind), field, AddConstraint("author", rls("author"))]
    migrate(operations, reverse=False)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    run("DROP TABLE keys_note, keys_author", alias="owner")


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
    stays = same("other")
    notes = note(constraint, stays, other=to_author(related_name="+"))
    state = migrate([author(), notes, remove])
    names = [name for name, _ in constraints_of("keys_note")]
    assert stays.name in names
    assert "note_author_same" not in names
    migrate(RemoveConstraint("note", stays.name), state=state, reverse=False)
    assert not [name for name, _ in constraints_of("keys_%") if name.endswith("_same_tenant")]


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
        migrate(validate, state=state, atomic=False)
    with tenant_context(1):
        bad.author = mine
        bad.save()
    migrate(validate, state=state, atomic=False)
    assert constraints_of("keys_note") == [FOREIGN_KEY]
    assert add.describe() == "Create not valid constraint note_author_same on model note"
    assert add.migration_name_fragment == "note_note_author_same_not_valid"
    for operation in (add, validate):
        assert "from tenantry" in written(operation) or "import tenantry" in written(operation)


def test_a_squashed_migration_makes_it_with_its_table(migrate: Migrate) -> None:
    operations: list[Any] = [
        author(),
        note(),
        AddSameTenantNotValid("note", same()),
        ValidateSameTenant("note", "note_author_same"),
    ]
    squashed = MigrationOptimizer().optimize(operations, "keys")
    assert [type(each) for each in squashed] == [CreateModel, CreateModel, ValidateSameTenant]
    migrate(squashed)
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
def test_rows_that_are_hidden_are_not_called_good(migrate: Migrate) -> None:
    """The text of sqlmigrate, run by somebody who sees no rows."""
    state = migrate(author(), note())
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


@pytest.mark.sealed_shape
def test_the_migration_that_makes_the_table_of_seal_keys_may_make_foreign_keys(
    migrate: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    """It looks at rows as the admin, with a seal of which that table does not know yet."""
    superuser.execute("DELETE FROM tenantry.seal_keys")
    try:
        migrate([author(), note(same())])
    finally:
        send_seal_keys(connections["owner"])
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def written(operation: Any) -> str:
    migration: Any = Migration("test", "keys")
    migration.operations = [operation]
    return MigrationWriter(migration).as_string()


# Models of the project.


def test_migrations_spell_out_what_the_models_say() -> None:
    with isolate_apps("tests.app"), override_settings(RLS_TENANTS=EVERYWHERE):
        made = [
            constraint.deconstruct()[2]
            for model in everywhere()
            for constraint in sorted(model._meta.constraints, key=lambda each: each.name)
            if isinstance(constraint, SameTenant)
        ]
    target = ("app.target", "tenant", "id")
    assert made == [
        {
            "name": "0_app_pointer_itself_same_tenant",
            "field": "itself",
            "tenant": "tenant",
            "target": ("app.pointer", "tenant", "id"),
        },
        {
            "name": "0_app_pointer_target_same_tenant",
            "field": "target",
            "tenant": "tenant",
            "target": target,
        },
        {
            "name": "mine",
            "field": "early",
            "tenant": "cust",
            "target": ("app.late", "tenant", "id"),
        },
        {
            "name": "0_app_through_target_same_tenant",
            "field": "target",
            "tenant": "tenant",
            "target": target,
        },
    ]


EVERYWHERE = {"TENANT_MODEL": "app.Tenant", "SAME_TENANT_FOREIGN_KEYS": True}


def everywhere() -> list[Any]:
    """Make models with foreign keys of every kind, some before what they refer to."""

    class Tenant(models.Model):
        """Sees itself only, and the foreign keys to it are what the others are kept by."""

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="id")]

    class Free(models.Model):
        class Meta:
            app_label = "app"

    class Pointer(RLSProtectedModel):
        target = models.ForeignKey("app.Target", models.CASCADE)
        itself = models.ForeignKey("self", models.CASCADE, related_name="+")
        free = models.ForeignKey(Free, models.CASCADE)
        loose = models.ForeignKey(
            "app.Target", models.DO_NOTHING, db_constraint=False, related_name="+"
        )
        targets: Any = models.ManyToManyField("app.Target", related_name="+")  # type: ignore[misc]

        class Meta:
            app_label = "app"

    class Early(models.Model):
        """Its constraint has a name of its own, and its tenant another field."""

        cust = models.ForeignKey(Tenant, models.CASCADE)
        early = models.ForeignKey("app.Late", models.CASCADE)

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="cust"), SameTenant(field="early", name="mine")]

    class Late(RLSProtectedModel):
        class Meta:
            app_label = "app"

    class Target(RLSProtectedModel):
        frees: Any = models.ManyToManyField(Free, through="app.Through")  # type: ignore[misc]

        class Meta:
            app_label = "app"

    class Through(RLSProtectedModel):
        target = models.ForeignKey(Target, models.CASCADE)
        free = models.ForeignKey(Free, models.CASCADE)

        class Meta:
            app_label = "app"

    class Proxy(Pointer):
        class Meta:
            app_label = "app"
            proxy = True

    class Unmanaged(RLSProtectedModel):
        target = models.ForeignKey(Target, models.CASCADE)

        class Meta:
            app_label = "app"
            managed = False

    automatic: Any = Pointer.targets.through
    return [Free, Pointer, Early, Late, Target, Through, Proxy, Unmanaged, automatic]


def test_nothing_is_added_from_or_to_a_model_that_is_protected_by_a_path() -> None:
    with isolate_apps("tests.app"), override_settings(RLS_TENANTS=EVERYWHERE):

        class Tenant(models.Model):
            class Meta:
                app_label = "app"

        class Order(RLSProtectedModel):
            class Meta:
                app_label = "app"

        class Line(models.Model):
            order = models.ForeignKey(Order, models.CASCADE)

            class Meta:
                app_label = "app"
                constraints = [RLSConstraint(path="order__tenant")]

        class Comment(RLSProtectedModel):
            line = models.ForeignKey(Line, models.CASCADE)

            class Meta:
                app_label = "app"

        for model in (Order, Line, Comment):
            assert [type(each) for each in model._meta.constraints] == [RLSConstraint]
            assert model.check(databases=["default"]) == []


def test_nothing_is_added_unless_the_settings_say_so() -> None:
    with isolate_apps("tests.app"):
        found = [
            constraint.name
            for model in everywhere()
            for constraint in model._meta.constraints
            if isinstance(constraint, SameTenant)
        ]
    assert found == ["mine"]


def test_makemigrations_adds_it_and_then_has_nothing_to_do(migrate: Migrate) -> None:
    with isolate_apps("tests.app") as apps, override_settings(RLS_TENANTS=EVERYWHERE):
        models_ = everywhere()[:-1]
        registry: Any = apps
        wanted = ProjectState.from_apps(registry)
    without = wanted.clone()
    for model in models_:
        state = without.models["app", model.__name__.lower()]
        kept = [each for each in state.options["constraints"] if isinstance(each, RLSConstraint)]
        state.options["constraints"] = kept
    found = changes(without, wanted)
    assert [(each.model_name, each.constraint.name) for each in found] == [
        ("early", "mine"),
        ("pointer", "0_app_pointer_itself_same_tenant"),
        ("pointer", "0_app_pointer_target_same_tenant"),
        ("through", "0_app_through_target_same_tenant"),
    ]
    text = written(found[0])
    namespace: dict[str, Any] = {}
    exec(text, namespace)
    (again,) = namespace["Migration"].operations
    assert again.constraint == found[0].constraint
    for operation in found:
        operation.state_forwards("app", without)
    assert changes(without, wanted) == []


def changes(before: ProjectState, after: ProjectState) -> list[Any]:
    detector: Any = MigrationAutodetector(before, after)
    found = detector._detect_changes()
    operations = [each for migration in found.get("app", []) for each in migration.operations]
    assert all(isinstance(each, AddConstraint) for each in operations)
    return sorted(operations, key=lambda each: (each.model_name, each.constraint.name))


def test_old_migrations_keep_what_they_say(project: None) -> None:
    with override_settings(RLS_TENANTS=EVERYWHERE):
        state = ProjectState()
        for operation in (author(), note()):
            operation.state_forwards("keys", state)
        model = state.apps.get_model("keys", "Note")
    (only,) = model._meta.constraints
    assert isinstance(only, RLSConstraint)
    model._meta.constraints = [RLSConstraint(field="owner", name="rls", guc_prefix="older")]
    assert shape_of(model).guc_prefix == "older"


@isolate_apps("tests.app")
def test_a_name_that_is_too_long_is_shortened_and_stays_its_own() -> None:
    class Base(RLSProtectedModel):
        one = models.ForeignKey("self", models.CASCADE, related_name="+")
        other = models.ForeignKey("self", models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            abstract = True
            constraints = [SameTenant(field="one"), SameTenant(field="other")]

    made: list[Any] = [type("ä" * length, (Base,), {"__module__": __name__}) for length in (30, 40)]
    names = [each.name for model in made for each in model._meta.constraints if each.name]
    same_tenant = [name for name in names if not name.endswith("_rls")]
    assert len(set(same_tenant)) == 4
    assert all(56 < len(name.encode()) <= 63 for name in same_tenant)
    again = SameTenant(field="one", name=same_tenant[0])
    assert again.name == same_tenant[0]
    assert len(SameTenant(field="one", name="by hand" * 10).name) == 63
    # Before the class says what it is called.
    assert SameTenant(field="one" * 20).name.endswith("one_same_tenant")


@isolate_apps("tests.app")
def test_a_child_is_kept_in_the_tenant_of_its_parent() -> None:
    class Parent(RLSProtectedModel):
        class Meta:
            app_label = "app"

    with override_settings(RLS_TENANTS=EVERYWHERE):

        class Child(Parent):
            owner = models.ForeignKey("app.Tenant", models.CASCADE, related_name="+")
            fixed = models.ForeignKey(Parent, models.CASCADE, null=True, related_name="+")

            class Meta:
                app_label = "app"
                constraints = [RLSConstraint(field="owner")]

        class Tenant(models.Model):
            class Meta:
                app_label = "app"

    found = {each.field: each for each in Child._meta.constraints if isinstance(each, SameTenant)}
    assert set(found) == {"parent_ptr", "fixed"}
    assert found["parent_ptr"].target == ("app.parent", "tenant", "id")
    assert found["parent_ptr"].tenant == "owner"
    # As Django does not look whether the parent is there, which is saved with the child.
    assert (
        errors_of(lambda: found["parent_ptr"].validate(Child, Child(parent_ptr_id=7, owner_id=1)))
        == {}
    )


def test_a_default_that_is_a_value_is_the_tenant(tenants: tuple[Tenant, Tenant]) -> None:
    a, b = tenants
    with isolate_apps("tests.app"):

        class Valued(models.Model):
            tenant = models.BigIntegerField(db_default=b.pk)
            other = models.BigIntegerField(db_default=Now())
            author = models.ForeignKey(Author, models.CASCADE)

            class Meta:
                app_label = "app"
                constraints = [RLSConstraint(field="tenant"), SameTenant(field="author")]

        by_other = SameTenant(field="author", tenant="other")
        with admin_context():
            authors = {each.tenant_id: each for each in Author.objects.all()}
            assert errors_of(Valued(author=authors[b.pk]).validate_constraints) == {}
            assert set(errors_of(Valued(author=authors[a.pk]).validate_constraints)) == {"author"}
            # Only the database knows.
            assert errors_of(lambda: by_other.validate(Valued, Valued(author=authors[a.pk]))) == {}


def test_sqlmigrate_and_repr(project: None) -> None:
    state = ProjectState()
    for operation in (author(), note()):
        operation.state_forwards("keys", state)
    add = AddConstraint("note", same())
    after = state.clone()
    add.state_forwards("keys", after)
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        add.database_forwards("keys", editor, state, after)
        add.database_backwards("keys", editor, after, state)
    forwards, backwards = editor.collected_sql
    assert 'ALTER TABLE "keys_author" ADD CONSTRAINT "keys_author_owner_id_' in forwards
    assert '_same_tenant" UNIQUE ("owner", "id");' in forwards
    assert 'ALTER TABLE "keys_note" ADD CONSTRAINT "note_author_same"' in forwards
    assert 'FOREIGN KEY ("owner", "author_id") REFERENCES "keys_author" ("owner", "id")' in forwards
    assert 'ALTER TABLE "keys_note" DROP CONSTRAINT IF EXISTS "note_author_same"' in backwards
    assert repr(same()) == "<SameTenant: field='author' name='note_author_same'>"
    assert same() != rls("note")
    assert len({same(), same(), same("other")}) == 2


@pytest.fixture
def noting() -> Iterator[Any]:
    """Return the model of notes, which keeps its authors and parents in its tenant."""
    options: Any = Note._meta
    before = options.constraints
    constraints = [SameTenant(field="author", name="a"), SameTenant(field="parent", name="p")]
    for constraint in constraints:
        constraint.settle(Note)
    options.constraints = [*before, *constraints]
    yield Note
    options.constraints = before


Scope = Callable[[int], AbstractContextManager[Any]]
SCOPES: list[Scope] = [tenant_context, lambda tenant: admin_context(), lambda tenant: nullcontext()]


def errors_of(check: Callable[[], Any]) -> dict[str, list[tuple[str, Any]]]:
    try:
        check()
    except ValidationError as error:
        return {
            field: [(each.messages[0], each.code) for each in found]
            for field, found in error.error_dict.items()
        }
    return {}


def djangos_errors(field: str, key: int) -> list[tuple[str, Any]]:
    """Return what Django says of a key that no row has, as of `key`."""
    nobody = 10**9
    note = Note(title="x", **{f"{field}_id": nobody})
    ((message, code),) = errors_of(note.clean_fields)[field]
    assert str(nobody) in message
    return [(message.replace(str(nobody), str(key)), code)]


@pytest.mark.parametrize("scope", SCOPES, ids=["tenant", "admin", "unbound"])
def test_validation_says_what_django_says_of_a_missing_row(
    scope: Scope, tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    a, b = tenants
    with tenant_context(b.pk):
        foreign, parent = Author.objects.get(), Note.objects.all()[0]
    with tenant_context(a.pk):
        mine = Author.objects.get()
    with scope(a.pk):
        bad = noting(title="x", tenant_id=a.pk, author_id=foreign.pk, parent_id=parent.pk)
        found = errors_of(bad.validate_constraints)
        assert found["author"] == djangos_errors("author", foreign.pk)
        assert set(found) == {"author", "parent"}
        everything = errors_of(bad.full_clean)
        assert everything["author"] == found["author"]
        assert errors_of(lambda: bad.validate_constraints(exclude={"author", "parent"})) == {}
        assert set(errors_of(lambda: bad.validate_constraints(exclude={"parent", "tenant"}))) == {
            "author"
        }
        assert errors_of(noting(title="y", tenant_id=a.pk).validate_constraints) == {}
    if scope is not SCOPES[2]:
        with scope(a.pk):
            good = noting(title="x", tenant_id=a.pk, author_id=mine.pk)
            assert errors_of(good.validate_constraints) == {}
            # Where it would be written.
            good._state.db = "owner"
            with CaptureQueriesContext(connections["owner"]) as sent:
                assert errors_of(good.validate_constraints) == {}
            assert any('"app_author"' in each["sql"] for each in sent)


def test_an_instance_without_a_tenant_is_of_the_bound_one(
    tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    a, b = tenants
    with tenant_context(b.pk):
        foreign = Author.objects.get()
    with tenant_context(a.pk):
        assert set(errors_of(noting(author_id=foreign.pk).validate_constraints)) == {"author"}
        mine = noting(title="z", author=Author.objects.get(), parent=Note.objects.all()[0])
        assert errors_of(mine.validate_constraints) == {}
        # The admin may have changed its mind, and the database will say so.
        assert errors_of(noting(author_id=foreign.pk, tenant=None).validate_constraints) == {}
    with admin_context():
        assert errors_of(noting(author_id=foreign.pk).validate_constraints) == {}


def test_forms_report_it(tenants: tuple[Tenant, Tenant], noting: Any) -> None:
    a, b = tenants
    form_class = modelform_factory(noting, fields=["title", "author"])
    with tenant_context(b.pk):
        foreign = Author.objects.get()
    # The choices of the admin are those of all tenants.
    with admin_context():
        form = form_class({"title": "x", "author": foreign.pk}, instance=noting(tenant=a))
        assert form.errors == {"author": [djangos_errors("author", foreign.pk)[0][0]]}
        assert form_class(
            {"title": "x", "author": foreign.pk}, instance=noting(tenant=b)
        ).is_valid()
    without = modelform_factory(noting, fields=["title"])
    with tenant_context(a.pk):
        hidden = without({"title": "x"}, instance=noting(tenant=a, author_id=foreign.pk))
        assert hidden.is_valid()


def test_validation_fetches_nothing_that_was_deferred(
    tenants: tuple[Tenant, Tenant], noting: Any
) -> None:
    form_class = modelform_factory(noting, fields=["title"])
    with_author = modelform_factory(noting, fields=["title", "author"])
    with tenant_context(tenants[0].pk):
        author = Author.objects.get()
        note = noting.objects.only("title")[0]
        with CaptureQueriesContext(connections["default"]) as queries:
            assert form_class({"title": "new"}, instance=note).is_valid()
        assert len(queries) == 0
        assert with_author({"title": "new", "author": author.pk}, instance=note).is_valid()
        assert {"tenant_id", "parent_id"} <= note.get_deferred_fields()


@isolate_apps("tests.app")
def test_checks_name_what_is_wrong() -> None:
    class Tenant(models.Model):
        class Meta:
            app_label = "app"

    class Free(models.Model):
        class Meta:
            app_label = "app"

    class Parent(RLSProtectedModel):
        above = models.ForeignKey("self", models.CASCADE)
        number = models.IntegerField()
        code = models.IntegerField()

        class Meta:
            app_label = "app"
            constraints = [
                models.UniqueConstraint(fields=["code"], name="code"),
                SameTenant(field="above"),
            ]

    class Child(Parent):
        to_free = models.ForeignKey(Free, models.CASCADE)
        to_parent = models.ForeignKey(Parent, models.CASCADE, related_name="+")
        to_number = models.ForeignKey(
            Parent, models.CASCADE, to_field="number", related_name="+", db_constraint=False
        )
        to_code = models.ForeignKey(Parent, models.CASCADE, to_field="code", related_name="+")
        text = models.TextField()

        class Meta:
            app_label = "app"
            constraints = [
                SameTenant(field=name)
                for name in ("missing", "text", "above", "to_parent", "to_number", "to_code")
            ]

    class Other(RLSProtectedModel):
        free = models.ForeignKey(Free, models.CASCADE)

        class Meta:
            app_label = "app"
            constraints = [SameTenant(field="free")]

    found = [
        (check.id, check.msg)
        for model in (Parent, Child, Other)
        for constraint in model._meta.constraints
        if isinstance(constraint, SameTenant)
        for check in constraint._check(model, connections["default"])
    ]
    child = "cannot be limited to the row's own tenant: app.Child has no tenant."
    assert found == [
        ("tenantry.E010", "app.Child has no field 'missing' to keep in its tenant."),
        (
            "tenantry.E011",
            "app.Child.text is not a foreign key in a column of the model's own table.",
        ),
        (
            "tenantry.E011",
            "app.Child.above is not a foreign key in a column of the model's own table.",
        ),
        ("tenantry.E012", f"app.Child.to_parent {child}"),
        ("tenantry.E012", f"app.Child.to_number {child}"),
        ("tenantry.E014", "app.Child.to_number refers to app.Parent.number, which is not unique."),
        ("tenantry.E012", f"app.Child.to_code {child}"),
        (
            "tenantry.E013",
            "app.Other.free cannot be limited to the row's own tenant: app.Free has no tenant.",
        ),
    ]


def test_checks_run_with_djangos(tenants: Any) -> None:
    with isolate_apps("tests.app"):

        class Wrong(models.Model):
            class Meta:
                app_label = "app"
                constraints = [SameTenant(field="nothing")]

        assert [error.id for error in Wrong.check(databases=["default"])] == ["tenantry.E010"]

        class ToNobody(RLSProtectedModel):
            nobody = models.ForeignKey("app.Nobdy", models.CASCADE)

            class Meta:
                app_label = "app"
                constraints = [SameTenant(field="nobody")]

        found = [str(error.id) for error in ToNobody.check(databases=["default"])]
        assert "fields.E300" in found
        assert not [each for each in found if each.startswith("tenantry")]


# The database.


AGAIN = "ALTER TABLE keys_note DROP CONSTRAINT note_author_same, ADD CONSTRAINT note_author_same"
MISSING = {
    "dropped": "ALTER TABLE keys_note DROP CONSTRAINT note_author_same",
    "of other columns": f"{AGAIN} FOREIGN KEY (author_id) REFERENCES keys_author",
    "of exchanged columns": f"{AGAIN} FOREIGN KEY (author_id, owner) REFERENCES keys_author"
    " (owner, id)",
    "to another table": "CREATE TABLE keys_other (owner bigint, id bigint, UNIQUE (owner, id));"
    f" {AGAIN} FOREIGN KEY (owner, author_id) REFERENCES keys_other (owner, id)",
    "switched off": "ALTER TABLE keys_note DISABLE TRIGGER ALL",
    "switched off at the target": "ALTER TABLE keys_author DISABLE TRIGGER ALL",
    "not enforced, which servers before 18 do not know": """DO $$ BEGIN
      IF current_setting('server_version_num')::int < 180000 THEN
        ALTER TABLE keys_note DROP CONSTRAINT note_author_same;
      ELSE
        EXECUTE 'ALTER TABLE keys_note ALTER CONSTRAINT note_author_same NOT ENFORCED';
      END IF;
    END $$""",
}
E125 = (
    "tenantry.E125",
    "has no foreign key (owner, author_id) to keys_author (owner, id) that is switched on, though"
    " the model has SameTenant(field='author'), so that rows may refer to those of other tenants;"
    " run makemigrations and migrate, and if they have nothing to do, put RemoveConstraint and"
    " AddConstraint of note_author_same into a migration",
)


@pytest.mark.parametrize("how", MISSING)
def test_a_foreign_key_that_the_database_lacks_is_found(
    how: str, migrate: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    state = migrate(author(), note(same()))
    assert looked_at(state) == []
    with broken(superuser, MISSING[how], "DROP TABLE IF EXISTS keys_other CASCADE"):
        assert looked_at(state) == [E125]
        again = [RemoveConstraint("note", "note_author_same"), AddConstraint("note", same())]
        assert looked_at(migrate(again, state=state)) == []
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_a_foreign_key_of_a_partitioned_table_is_one_of_its_partitions(
    migrate: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    state = migrate(author(), note(same()))
    with broken(
        superuser,
        "ALTER TABLE keys_note RENAME TO kept; CREATE TABLE keys_note (owner bigint, author_id"
        " bigint, CONSTRAINT note_author_same FOREIGN KEY (owner, author_id) REFERENCES keys_author"
        " (owner, id)) PARTITION BY LIST (owner); CREATE TABLE part PARTITION OF keys_note DEFAULT",
        "DROP TABLE keys_note; ALTER TABLE kept RENAME TO keys_note",
    ):
        assert looked_at(state) == []
        superuser.execute("ALTER TABLE part DISABLE TRIGGER ALL")
        assert looked_at(state) == [E125]


def test_a_foreign_key_that_is_not_validated_is_found(migrate: Migrate) -> None:
    state = migrate(author(), note())
    state = migrate(AddSameTenantNotValid("note", same()), state=state)
    assert looked_at(state) == [
        (
            "tenantry.W125",
            "has the foreign key note_author_same, which is not validated, so that rows from before"
            " it may refer to those of other tenants; put ValidateSameTenant('note',"
            " 'note_author_same') of tenantry.operations into a migration",
        )
    ]
    validate = ValidateSameTenant("note", "note_author_same")
    assert looked_at(migrate(validate, state=state, atomic=False)) == []


def test_a_foreign_key_of_another_name_is_found(migrate: Migrate) -> None:
    state = migrate(author(), note(same()))
    run('ALTER TABLE keys_note RENAME CONSTRAINT note_author_same TO "Old one"', alias="owner")
    [(identifier, text)] = looked_at(state)
    fix = 'ALTER TABLE "keys_note" RENAME CONSTRAINT "Old one" TO note_author_same'
    assert (identifier, text) == (
        "tenantry.W126",
        "has the foreign key of SameTenant(field='author') under the name Old one, so that no"
        f" migration finds it, to drop it or to validate it; run {fix} as its owner",
    )
    removed = migrate(RemoveConstraint("note", "note_author_same"), state=state)
    assert [name for name, _ in constraints_of("keys_note")] == ["Old one"]
    run(fix, alias="owner")
    assert looked_at(state) == []
    migrate(RemoveConstraint("note", "note_author_same"), state=state, reverse=False)
    assert constraints_of("keys_note") == looked_at(removed) == []


def test_a_foreign_key_of_ones_own_is_enough(migrate: Migrate) -> None:
    state = migrate(author(), note(same()))
    own = "FOREIGN KEY (author_id, owner) REFERENCES keys_author (id, owner)"
    run(
        f"ALTER TABLE keys_note DROP CONSTRAINT note_author_same, ADD CONSTRAINT own {own}",
        alias="owner",
    )
    assert [each for each, _ in looked_at(state)] == ["tenantry.W126"]
    run(f"ALTER TABLE keys_note ADD CONSTRAINT note_author_same {own} NOT VALID", alias="owner")
    # The other one has looked at all rows.
    assert looked_at(state) == []
    run("ALTER TABLE keys_note DROP CONSTRAINT own", alias="owner")
    assert [each for each, _ in looked_at(state)] == ["tenantry.W125"]


@isolate_apps("tests.app")
def test_a_constraint_that_is_misspelled_is_left_to_other_checks(project: None) -> None:
    class Wrong(models.Model):
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        author = models.ForeignKey(Author, models.CASCADE, related_name="+")
        nobody = models.ForeignKey("app.Nobdy", models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(field="tenat"),
                *(SameTenant(field=name) for name in ("nothing", "author", "nobody")),
            ]

    class Child(Note):
        owner = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="owner"), SameTenant(field="author")]

    assert inspected(Wrong) == inspected(Child) == []


def test_check_rls_looks_at_foreign_keys(noting: Any, tenants: tuple[Tenant, Tenant]) -> None:
    found = [each[:2] for each in findings()]
    assert found == [("tenantry.E125", "table app_note")] * 2
    assert check()[1] == 1
