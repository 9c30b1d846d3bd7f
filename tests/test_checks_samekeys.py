"""What Django's checks and ``check_rls`` find of foreign keys that keep the tenant."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.db import connections, models
from django.db.migrations import AddConstraint, RemoveConstraint
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, RLSProtectedModel, SameTenant
from tenantry.operations import AddSameTenantNotValid, ValidateSameTenant
from tests.app.models import Author, Note, Tenant
from tests.fix_checks import broken, check, findings
from tests.fix_keys import FOREIGN_KEY, author, constraints_of, inspected, looked_at, note, same
from tests.fix_migrations import Migrate
from tests.sql import run


@isolate_apps("tests.app")
def test_checks_name_what_is_wrong() -> None:
    class Tenant(models.Model):
        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="id")]

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
        partner = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [SameTenant(field="free"), SameTenant(field="partner")]

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
        (
            "tenantry.E013",
            "app.Other.partner cannot be limited to the row's own tenant: it names one itself.",
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
    how: str, migrate_keys: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    state = migrate_keys(author(), note(same()))
    assert looked_at(state) == []
    with broken(superuser, MISSING[how], "DROP TABLE IF EXISTS keys_other CASCADE"):
        assert looked_at(state) == [E125]
        again = [RemoveConstraint("note", "note_author_same"), AddConstraint("note", same())]
        assert looked_at(migrate_keys(again, state=state)) == []
    assert constraints_of("keys_note") == [FOREIGN_KEY]


def test_a_foreign_key_of_a_partitioned_table_is_one_of_its_partitions(
    migrate_keys: Migrate, superuser: psycopg.Connection[Any]
) -> None:
    state = migrate_keys(author(), note(same()))
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


def test_a_foreign_key_that_is_not_validated_is_found(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note())
    state = migrate_keys(AddSameTenantNotValid("note", same()), state=state)
    assert looked_at(state) == [
        (
            "tenantry.W125",
            "has the foreign key note_author_same, which is not validated, so that rows from before"
            " it may refer to those of other tenants; put ValidateSameTenant('note',"
            " 'note_author_same') of tenantry.operations into a migration",
        )
    ]
    validate = ValidateSameTenant("note", "note_author_same")
    assert looked_at(migrate_keys(validate, state=state, atomic=False)) == []


def test_a_foreign_key_of_another_name_is_found(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note(same()))
    run('ALTER TABLE keys_note RENAME CONSTRAINT note_author_same TO "Old one"', alias="owner")
    [(identifier, text)] = looked_at(state)
    fix = 'ALTER TABLE "keys_note" RENAME CONSTRAINT "Old one" TO note_author_same'
    assert (identifier, text) == (
        "tenantry.W126",
        "has the foreign key of SameTenant(field='author') under the name Old one, so that no"
        f" migration finds it, to drop it or to validate it; run {fix} as its owner",
    )
    removed = migrate_keys(RemoveConstraint("note", "note_author_same"), state=state)
    assert [name for name, _ in constraints_of("keys_note")] == ["Old one"]
    run(fix, alias="owner")
    assert looked_at(state) == []
    migrate_keys(RemoveConstraint("note", "note_author_same"), state=state, reverse=False)
    assert constraints_of("keys_note") == looked_at(removed) == []


def test_a_foreign_key_of_ones_own_is_enough(migrate_keys: Migrate) -> None:
    state = migrate_keys(author(), note(same()))
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
