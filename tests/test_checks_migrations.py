"""What is missing or differs: whether ``migrate`` is about to mend it, and what else may help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from django.core import checks
from django.core.management import call_command
from django.db import connections, models
from django.db.migrations import AddConstraint, Migration, RemoveConstraint
from django.db.migrations.writer import MigrationWriter
from django.test.utils import isolate_apps

from tenantry import SameTenant
from tenantry.checks.bodies import inspect_bodies
from tenantry.checks.migrations import Migrations
from tenantry.checks.seal import inspect_seal
from tenantry.declared import constraint_of
from tenantry.operations import AddRLSPolicy, AlterRLSPolicy, ValidateSameTenant
from tenantry.shapes import current
from tests import sabotage
from tests import settings as test_settings
from tests.app.models import Book, Item, Label, Note, Payment, Tag, User
from tests.fix_checks import broken, findings

# In the others the tables of the tests are not made by migrations.
pytestmark = pytest.mark.guc_shape

AWAY = (
    "ALTER TABLE app_payment RENAME TO elsewhere",
    "ALTER TABLE elsewhere RENAME TO app_payment",
)
UNAPPLIED = (
    "UPDATE django_migrations SET app = '-' WHERE app = 'app' AND name = '0002_library'",
    "UPDATE django_migrations SET app = 'app' WHERE app = '-'",
)
SUBJECT = "table app_payment"
Later = Callable[..., None]
PACKAGE = "from tests.app import migrations\n\n__path__.extend(migrations.__path__)\n"


@pytest.fixture
def later(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Later:
    """Return a function that gives the test project a migration that no database has run."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(*operations: Any, **attributes: Any) -> None:
        migration: Any = Migration("0003_later", "app")
        migration.dependencies = [("app", "0002_library")]
        migration.operations = [*operations]
        for name, value in attributes.items():
            setattr(migration, name, value)
        # Of its own name, so that Python does not take it for one before it.
        package = f"later_{uuid4().hex}"
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(PACKAGE)
        path = tmp_path / package / "0003_later.py"
        path.write_text(MigrationWriter(migration).as_string())
        settings.MIGRATION_MODULES = {"app": package}

    return write


def of_django(identifier: str = "tenantry.E110") -> list[str]:
    """Return what ``migrate`` and ``check --database`` print, by default of missing tables."""
    found = checks.run_checks(tags=["database"], databases=["default"])
    return [f"{each.msg} {each.hint}" for each in found if each.id == identifier]


def told(about: str) -> tuple[set[str], set[str]]:
    """Return the ids of what is found about something, and of what Django tells of it."""
    messages = checks.run_checks(tags=["database"], databases=["default"])
    ids = {each.id or "" for each in messages if each.msg.startswith(f"{about} ")}
    return {identifier for identifier, subject, _ in findings() if subject == about}, ids


def test_a_table_that_migrate_is_about_to_make_is_no_finding_of_it(
    arrange: psycopg.Connection[Any],
) -> None:
    with broken(arrange, *AWAY), broken(arrange, *UNAPPLIED):
        assert findings() == [("tenantry.E110", SUBJECT, "does not exist; run migrate")]
        assert of_django() == []


def test_a_table_whose_migration_has_run_is_missing(arrange: psycopg.Connection[Any]) -> None:
    with broken(arrange, *AWAY):
        ((identifier, subject, text),) = findings()
        (found,) = of_django()
    assert (identifier, subject) == ("tenantry.E110", SUBJECT)
    assert text == (
        "does not exist; give the role USAGE on its schema and a search_path that finds it, or"
        " restore it: its migrations have run"
    )
    assert found.startswith(f"{SUBJECT} does not exist. give the role USAGE on its schema")


@isolate_apps("tests.app")
def test_a_model_without_a_migration_needs_one(arrange: psycopg.Connection[Any]) -> None:
    class Thing(models.Model):
        tags = models.ManyToManyField(Tag)

        class Meta:
            app_label = "app"

    with broken(arrange, *UNAPPLIED):
        migrations = Migrations(connections["default"])
        for model in (Thing, Thing.tags.through):
            found = migrations.missing_table(model)
            assert found.fix == "run makemigrations app and migrate"
            assert not found.awaited
        assert migrations.missing_table(Payment).awaited
        assert migrations.missing_table(User.groups.through).awaited


def test_an_app_without_migrations_needs_them(
    arrange: psycopg.Connection[Any], settings: Any
) -> None:
    settings.MIGRATION_MODULES = {"app": "tests.app.nowhere"}
    with broken(arrange, *AWAY):
        text = "does not exist; run makemigrations app and migrate"
        assert findings() == [("tenantry.E110", SUBJECT, text)]
        assert len(of_django()) == 1


def test_where_migrations_cannot_be_read_the_table_is_missing(
    arrange: psycopg.Connection[Any],
) -> None:
    with (
        broken(arrange, *AWAY),
        broken(
            arrange,
            "REVOKE SELECT ON django_migrations FROM app",
            "GRANT SELECT ON django_migrations TO app",
        ),
    ):
        assert findings() == [("tenantry.E110", SUBJECT, "does not exist; run migrate")]
        assert len(of_django()) == 1
        with sabotage.broken(arrange, "app_note", BREAKS["E111"].format("app_note")):
            assert told("table app_note") == ({"tenantry.E111"}, {"tenantry.E111"})


def test_keys_of_seals_are_awaited_while_a_migration_is_yet_to_run(
    arrange: psycopg.Connection[Any], settings: Any
) -> None:
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | {
        "SEALED": True,
        "SEAL_KEYS": ["a secret that is long enough for a test"],
    }
    connection = connections["default"]

    def awaited() -> bool:
        with connection.cursor() as cursor:
            (found,) = inspect_seal(cursor, Migrations(connection), ["app_note"])
        assert found.id == "tenantry.E107"
        return found.awaited

    assert not awaited()
    with broken(arrange, *UNAPPLIED):
        assert awaited()


def test_a_foreign_key_that_migrate_is_about_to_make_is_no_finding_of_it(
    arrange: psycopg.Connection[Any], later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = SameTenant(field="author", name="note_author_same")
    same.settle(Note)
    monkeypatch.setattr(Note._meta, "constraints", [*Note._meta.constraints, same])
    not_valid = (
        "ALTER TABLE app_author ADD CONSTRAINT once UNIQUE (tenant_id, id); ALTER TABLE app_note"
        " ADD CONSTRAINT note_author_same FOREIGN KEY (tenant_id, author_id) REFERENCES app_author"
        " (tenant_id, id) NOT VALID",
        "ALTER TABLE app_note DROP CONSTRAINT note_author_same;"
        " ALTER TABLE app_author DROP CONSTRAINT once",
    )

    table = "table app_note"
    assert told(table) == ({"tenantry.E125"}, {"tenantry.E125"})
    with broken(arrange, *not_valid):
        assert told(table) == ({"tenantry.W125"}, {"tenantry.W125"})
        later(AddConstraint("note", same), ValidateSameTenant("note", same.name))
        assert told(table) == ({"tenantry.W125"}, set())
    assert told(table) == ({"tenantry.E125"}, set())


def again(model: Any, **changes: Any) -> list[Any]:
    """Return the operations that protect a model anew, as it asks for now, or otherwise."""
    constraint: Any = constraint_of(model)
    wanted = constraint.clone()
    for name, value in changes.items():
        setattr(wanted, name, value)
    name = model._meta.model_name
    return [RemoveConstraint(name, constraint.name), AddConstraint(name, wanted)]


BREAKS = {
    "E111": "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "E112": "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
    "E114": "DROP POLICY tenantry_isolation ON {}",
    "E115": "ALTER POLICY tenantry_isolation ON {} USING (true)",
}


@pytest.mark.parametrize("identifier", BREAKS)
@pytest.mark.parametrize("model", [Note, Book])
def test_what_migrate_is_about_to_mend_is_no_finding_of_it(
    model: Any, identifier: str, arrange: psycopg.Connection[Any], later: Later
) -> None:
    table = model._meta.db_table
    found = {f"tenantry.{identifier}"}
    with sabotage.broken(arrange, table, BREAKS[identifier].format(table)):
        assert told(f"table {table}") == (found, found)
        # A book belongs to an item.
        later(*again(Item if model is Book else model))
        assert told(f"table {table}") == (found, set())
        with broken(arrange, "SELECT", "DELETE FROM django_migrations WHERE name = '0003_later'"):
            call_command("migrate", "app", database="owner", verbosity=0)
            assert findings() == []


def test_a_column_that_migrate_is_about_to_make_is_no_finding_of_it(
    arrange: psycopg.Connection[Any], later: Later
) -> None:
    column = (
        "ALTER TABLE app_note RENAME tenant_id TO elsewhere",
        "ALTER TABLE app_note RENAME elsewhere TO tenant_id",
    )
    found = {"tenantry.E190"}
    with broken(arrange, *column):
        assert told("table app_note") == (found, found)
        later(*again(Tag))
        assert told("table app_note") == (found, found)
        later(*again(Note))
        assert told("table app_note") == (found, set())


OTHERS = {
    "another table": again(Tag),
    "another constraint": again(Note, extra_bypass_flags=["login"]),
    "another name": again(Note, name="other"),
    "settings of before": again(Note, guc_prefix="before"),
    "one that it takes back": [*again(Note), RemoveConstraint("note", "app_note_rls")],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_migration_that_makes_something_else_mends_nothing(
    name: str, arrange: psycopg.Connection[Any], later: Later
) -> None:
    later(*OTHERS[name])
    with sabotage.broken(arrange, "app_note", BREAKS["E111"].format("app_note")):
        assert told("table app_note") == ({"tenantry.E111"}, {"tenantry.E111"})


LEFT = {
    "E116": ("CREATE POLICY tenantry_admin ON app_note USING (true)", "table app_note"),
    "E118": (
        "CREATE TABLE old_note () INHERITS (app_note); GRANT SELECT ON old_note TO app",
        "table app_note",
    ),
    "E115": (
        "CREATE TABLE old_note () INHERITS (app_note); GRANT SELECT ON old_note TO app;"
        " ALTER TABLE old_note ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY tenantry_isolation ON old_note USING (true)",
        "table old_note",
    ),
}


@pytest.mark.parametrize("identifier", LEFT)
def test_what_it_does_not_mend_is_told(
    identifier: str, arrange: psycopg.Connection[Any], later: Later
) -> None:
    how, about = LEFT[identifier]
    later(*again(Note))
    with (
        broken(arrange, "SELECT", "DROP TABLE IF EXISTS old_note"),
        sabotage.broken(arrange, "app_note", how),
    ):
        found = told(about)
    assert found == ({f"tenantry.{identifier}"}, {f"tenantry.{identifier}"})


@pytest.mark.parametrize("attributes", [{"initial": True}, {"dependencies": []}])
def test_what_may_be_taken_for_done_mends_nothing(
    attributes: dict[str, Any], arrange: psycopg.Connection[Any], later: Later
) -> None:
    later(*again(Note), **attributes)
    with sabotage.broken(arrange, "app_note", BREAKS["E111"].format("app_note")):
        assert told("table app_note") == ({"tenantry.E111"}, {"tenantry.E111"})


def test_migrations_that_cannot_run_mend_nothing(
    arrange: psycopg.Connection[Any], later: Later
) -> None:
    later(*again(Note))
    # Though the one that depends on it has run.
    unapplied = [each.replace("0002_library", "0001_initial") for each in UNAPPLIED]
    with (
        sabotage.broken(arrange, "app_note", BREAKS["E111"].format("app_note")),
        broken(arrange, *unapplied),
    ):
        assert told("table app_note") == ({"tenantry.E111"}, {"tenantry.E111"})


def test_a_model_that_django_does_not_migrate_is_not_mended(
    later: Later, monkeypatch: pytest.MonkeyPatch, project: None
) -> None:
    later(*again(Note))
    assert Migrations(connections["default"]).protects(Note)
    monkeypatch.setattr(Note._meta, "managed", False)
    assert not Migrations(connections["default"]).protects(Note)


def test_settings_that_no_migration_follows_are_told_of(
    arrange: psycopg.Connection[Any], later: Later, settings: Any
) -> None:
    later(*again(Note), *again(Label))
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "APP_ROLE": "app"}
    assert told("table app_note") == ({"tenantry.E114"}, {"tenantry.E114"})
    later(*again(Note))
    assert told("table app_note") == ({"tenantry.E114"}, set())
    assert told("table Odd table") == ({"tenantry.E114"}, {"tenantry.E114"})


@pytest.mark.parametrize(
    ("last", "is_told"),
    [
        (None, False),
        ({"guc_prefix": "other"}, True),
        ({}, False),
    ],
)
def test_a_table_of_another_package_that_is_about_to_be_protected(
    last: dict[str, str] | None,
    is_told: bool,
    arrange: psycopg.Connection[Any],
    later: Later,
    settings: Any,
) -> None:
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "id"},
        "SHARED_MODELS": ["auth.Group_permissions"],
    }
    found = {"tenantry.E111", "tenantry.E112", "tenantry.E114"}
    assert told("table auth_group") == (found, found)
    how: dict[str, Any] = {"create_column": False, **current()}
    operations: list[Any] = [AddRLSPolicy("auth.Group", "id", **how)]
    if last is not None:
        operations.append(AlterRLSPolicy("auth.Group", "id", before=current(), **how | last))
    later(*operations)
    assert told("table auth_group") == (found, found if is_told else set())


def test_a_function_comes_with_the_policies_that_call_it(
    project: None, later: Later, settings: Any
) -> None:
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "ADMIN_ROLE": "app_admin"}
    connection = connections["default"]

    def awaited() -> bool:
        with connection.cursor() as cursor:
            # Here it is that of another shape.
            (found,) = inspect_bodies(cursor, [Note, Tag], set(), Migrations(connection))
        assert found.subject == "function tenantry.rls_current_tenant_bigint()"
        return found.awaited

    assert not awaited()
    later(*again(Note))
    assert awaited()
