"""The tenant that the database writes where a row names none, and what it refuses."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, ProgrammingError, connections, models
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ModelState, ProjectState
from django.db.migrations.writer import MigrationWriter
from django.test.utils import override_settings

from tenantry import CurrentTenant, admin_context, tenant_context
from tests.app.models import Author, Note, Tenant
from tests.fix_wire import Wire

Tenants = tuple[Tenant, Tenant]
NULLABLE = ["author", "parent"]


def create() -> list[Note]:
    return [Note.objects.create(title="new")]


def save() -> list[Note]:
    note = Note(title="new")
    note.full_clean(exclude=NULLABLE)
    note.save()
    return [note]


def bulk_create() -> list[Note]:
    notes: list[Note] = Note.objects.bulk_create([Note(title="new"), Note(title="newer")])
    return notes


def upsert() -> list[Note]:
    notes: list[Note] = Note.objects.bulk_create(
        [Note(title="new")],
        update_conflicts=True,
        unique_fields=["tenant", "title"],
        update_fields=["parent"],
    )
    return notes


def get_or_create() -> list[Note]:
    return [Note.objects.get_or_create(title="new")[0]]


def update_or_create() -> list[Note]:
    return [Note.objects.update_or_create(title="new", defaults={"parent": None})[0]]


def through_a_relation() -> list[Note]:
    author = Author.objects.create(name="new")
    return [author, author.note_set.create(title="new")]


def raw() -> list[Note]:
    with connections["default"].cursor() as cursor:
        cursor.execute("INSERT INTO app_note (title) VALUES (%s)", ["new"])
    return list(Note.objects.filter(title="new"))


WAYS = [create, save, bulk_create, upsert, get_or_create, update_or_create, through_a_relation, raw]


@pytest.mark.parametrize("write", WAYS)
def test_a_row_without_a_tenant_is_the_current_ones(
    write: Callable[[], list[Note]], tenants: Tenants
) -> None:
    for tenant in tenants:
        with tenant_context(tenant.pk):
            written = write()
            assert [row.tenant_id for row in written] == [tenant.pk] * len(written)
            for row in written:
                assert type(row)._default_manager.filter(pk=row.pk).exists()


@pytest.mark.parametrize("write", [create, bulk_create, upsert, raw])
@pytest.mark.parametrize("scope", [None, admin_context])
def test_where_there_is_no_tenant_the_row_is_refused(
    write: Callable[[], list[Note]], scope: Any, tenants: Tenants
) -> None:
    def refused() -> None:
        # The policy speaks first, or the column, which is NOT NULL.
        with pytest.raises((IntegrityError, ProgrammingError), match=r"row-level|null value"):
            write()

    if scope is None:
        refused()
    else:
        with scope():
            refused()
    with admin_context():
        assert not Note.objects.filter(title="new").exists()


@pytest.mark.parametrize(
    "write",
    [
        lambda tenant: Note.objects.create(title="new", tenant=tenant),
        lambda tenant: Note.objects.bulk_create([Note(title="a"), Note(title="b", tenant=tenant)]),
        lambda tenant: Note.objects.filter(title__endswith="1").update(tenant=tenant),
        lambda tenant: Note.objects.bulk_update(
            [Note(pk=note.pk, tenant=tenant) for note in Note.objects.all()], ["tenant"]
        ),
    ],
    ids=["create", "bulk_create", "update", "bulk_update"],
)
def test_the_tenant_of_somebody_else_is_refused(
    write: Callable[[Tenant], object], tenants: Tenants
) -> None:
    a, b = tenants
    with tenant_context(a.pk):
        with pytest.raises(ProgrammingError, match="row-level security policy"):
            write(b)
        assert Note.objects.count() == 2
    with tenant_context(b.pk):
        assert Note.objects.count() == 2


def test_an_admin_names_the_tenant(tenants: Tenants) -> None:
    with admin_context():
        note = Note.objects.create(title="new", tenant=tenants[1])
    with tenant_context(tenants[1].pk):
        assert Note.objects.get(title="new") == note


@pytest.mark.unsealed
def test_the_stamp_costs_no_round_trip(wire: Wire, tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        note = Note.objects.using("wire").create(title="new")
    assert wire.kinds == "Q"
    # From Django 6.1 on, a column with its default is not named.
    _, statement = wire.queries[0].splitlines()
    assert str(tenants[0].pk) not in statement
    assert 'RETURNING "app_note"."id", "app_note"."tenant_id"' in wire.queries[0]
    assert note.tenant_id == tenants[0].pk


def test_before_it_is_saved_a_row_is_validated_as_the_current_tenants(tenants: Tenants) -> None:
    a, b = tenants
    Note(title="A 1").full_clean(exclude=NULLABLE)
    with tenant_context(b.pk):
        Note(title="A 1").full_clean(exclude=NULLABLE)
    with tenant_context(a.pk):
        with pytest.raises(ValidationError, match=r"already exists|is violated"):
            Note(title="A 1").full_clean(exclude=NULLABLE)
        note: Any = Note(title="new")
        assert note.tenant == a


def test_the_expression_is_the_tenant_of_the_statement(tenants: Tenants) -> None:
    def seen() -> list[object]:
        tenants = Tenant.objects.annotate(me=CurrentTenant())
        return list(tenants.values_list("me", flat=True).distinct())

    assert seen() == [None]
    for tenant in tenants:
        with tenant_context(tenant.pk):
            assert seen() == [tenant.pk]
    with admin_context():
        assert seen() == [None]


@pytest.mark.parametrize(
    ("key_type", "tenant_id"),
    [("int", 7), ("bigint", 2**40), ("uuid", uuid.uuid4()), ("text", "seven %s")],
)
def test_the_expression_has_the_type_of_the_key(
    key_type: str, tenant_id: object, tenants: Tenants
) -> None:
    settings = {"TENANT_MODEL": "app.Tenant", "TENANT_PK_TYPE": key_type}
    with override_settings(RLS_TENANTS=settings), tenant_context(tenant_id):
        assert Tenant.objects.values_list(CurrentTenant(), flat=True)[0] == tenant_id


@pytest.mark.unsealed
def test_migrations_spell_the_settings_out_and_follow_them() -> None:
    expression = CurrentTenant()
    text, imports = MigrationWriter.serialize(expression)
    assert text == "tenantry.CurrentTenant(guc_prefix='rls', key_type='bigint')"
    assert imports == {"import tenantry"}

    def state(field: models.Field[Any, Any]) -> ProjectState:
        return ProjectState({("app", "thing"): ModelState("app", "Thing", [("owner", field)])})

    pinned = state(models.BigIntegerField(db_default=CurrentTenant("rls", "bigint")))
    followed = state(models.BigIntegerField(db_default=CurrentTenant()))
    detector: Any = MigrationAutodetector(pinned, followed)
    assert not detector._detect_changes()
    settings = {"TENANT_MODEL": "app.Tenant", "GUC_PREFIX": "other"}
    with override_settings(RLS_TENANTS=settings):
        detector = MigrationAutodetector(pinned, followed)
        changes = detector._detect_changes()
    [migration] = changes["app"]
    [operation] = migration.operations
    assert operation.field.db_default.guc_prefix is None
    assert "guc_prefix='other'" in MigrationWriter.serialize(CurrentTenant("other", "int"))[0]
