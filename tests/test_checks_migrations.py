"""A table that is missing: whether ``migrate`` is about to make it, and what else can be done."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.core import checks
from django.db import connections, models
from django.test.utils import isolate_apps

from tenantry import SameTenant
from tenantry.checks.migrations import Migrations
from tenantry.checks.seal import inspect_seal
from tests import settings as test_settings
from tests.app.models import Note, Payment, Tag, User
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


def of_django(identifier: str = "tenantry.E110") -> list[str]:
    """Return what ``migrate`` and ``check --database`` print, by default of missing tables."""
    found = checks.run_checks(tags=["database"], databases=["default"])
    return [f"{each.msg} {each.hint}" for each in found if each.id == identifier]


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
    arrange: psycopg.Connection[Any], settings: Any, monkeypatch: pytest.MonkeyPatch
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

    def told() -> list[tuple[str, int]]:
        """Return what is found, and how often Django tells it."""
        return [(each, len(of_django(each))) for each, *_ in findings()]

    assert told() == [("tenantry.E125", 1)]
    with broken(arrange, *not_valid):
        assert told() == [("tenantry.W125", 1)]
        settings.MIGRATION_MODULES = {"app": "tests.later"}
        assert told() == [("tenantry.W125", 0)]
    assert told() == [("tenantry.E125", 0)]
