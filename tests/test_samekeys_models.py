"""``SAME_TENANT_FOREIGN_KEYS``: what is added to models, and how migrations say it."""

from __future__ import annotations

from typing import Any

from django.db import connections, models
from django.db.migrations import AddConstraint
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.state import ProjectState
from django.db.models.functions import Now
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, RLSProtectedModel, SameTenant, admin_context
from tenantry.samekeys import shape_of
from tests.app.models import Author, Tenant
from tests.fix_keys import author, errors_of, note, rls, same
from tests.fix_migrations import Migrate, written


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
        # Whom a row is shared with, which is another tenant.
        partner = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

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


def test_makemigrations_adds_it_and_then_has_nothing_to_do(migrate_keys: Migrate) -> None:
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
    assert same() == same() != same("other")
