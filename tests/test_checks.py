"""Django's system checks find what ``check_rls`` finds, at the start and in ``migrate``."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections, models
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry.checks.options import inspect_options
from tenantry.checks.role import inspect_unlimited
from tenantry.checks.server import FIXED, inspect_version
from tests.app.models import Note, Tenant
from tests.fix_aliases import Add
from tests.fix_checks import broken

Tenants = tuple[Tenant, Tenant]
ALIASES = ["default"]
EXEMPT = {
    "tenantry.E101": ("ALTER ROLE app SUPERUSER", "ALTER ROLE app NOSUPERUSER"),
    "tenantry.E102": ("ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"),
    "tenantry.E103": (
        "CREATE ROLE seesall BYPASSRLS; GRANT seesall TO app",
        "DROP ROLE seesall",
    ),
}


def run(*tags: str, databases: list[str] = ALIASES) -> list[checks.CheckMessage]:
    """Return what our checks with one of `tags` find in the database "default", or in others."""
    found = checks.run_checks(tags=tags, databases=databases)
    return [each for each in found if str(each.id).startswith("tenantry.")]


@pytest.mark.parametrize("tag", ["security", "models", "database"])
def test_a_healthy_project_has_no_findings(tag: str, tenants: Tenants) -> None:
    assert run(tag) == []


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("identifier", EXEMPT)
def test_an_exempt_role_is_an_error_unless_debugging(
    identifier: str, debug: bool, arrange: psycopg.Connection[Any]
) -> None:
    with broken(arrange, *EXEMPT[identifier]), override_settings(DEBUG=debug):
        (found,) = run("security")
        assert run("database") == [] or identifier == "tenantry.E101"
    assert found.id == identifier
    assert found.level == (checks.WARNING if debug else checks.ERROR)
    assert found.msg.startswith("role app ")
    assert found.hint
    assert run("security") == []


def test_the_command_stops_at_an_exempt_role(arrange: psycopg.Connection[Any]) -> None:
    with (
        broken(arrange, "ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"),
        pytest.raises(SystemCheckError, match=r"\(tenantry.E102\) role app has BYPASSRLS"),
    ):
        call_command("check", databases=ALIASES, tags=["security"])


def test_silenced_checks_are_silent(arrange: psycopg.Connection[Any]) -> None:
    with (
        broken(arrange, "ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"),
        override_settings(SILENCED_SYSTEM_CHECKS=["tenantry.E102"]),
    ):
        call_command("check", databases=ALIASES, tags=["security"])


def test_what_migrate_may_mend_does_not_stop_it(arrange: psycopg.Connection[Any]) -> None:
    with broken(
        arrange,
        "ALTER TABLE app_note DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE app_note ENABLE ROW LEVEL SECURITY",
    ):
        (found,) = run("database")
    assert found.id == "tenantry.E111"
    assert found.level == checks.WARNING
    assert found.msg == "table app_note has Row-Level Security switched off."
    assert found.hint == 'run ALTER TABLE "app_note" ENABLE ROW LEVEL SECURITY.'


def test_the_server_is_not_asked_about_tables_at_the_start(
    arrange: psycopg.Connection[Any],
) -> None:
    with broken(
        arrange,
        "ALTER TABLE app_note DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE app_note ENABLE ROW LEVEL SECURITY",
    ):
        found = {str(each.id) for each in checks.run_checks()}
    # Django may still know the admin's sites of other tests.
    assert {name for name in found if name.startswith("tenantry.")} <= {"tenantry.W156"}


def test_the_check_leaves_no_connection_open(tenants: Tenants) -> None:
    connections["default"].close()
    assert run("security") == []
    assert connections["default"].connection is None
    connections["default"].ensure_connection()
    assert run("security") == []
    assert connections["default"].connection is not None


def test_a_database_that_cannot_be_reached_is_a_warning(arrange: Any) -> None:
    connections["default"].close()
    with broken(arrange, "ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"):
        (found,) = run("security")
        assert found.id not in {each.id for each in run("models", databases=[])}
    assert (found.id, found.level) == ("tenantry.E190", checks.WARNING)


STOCK = "django.db.backends.postgresql"


def test_a_database_of_django_is_left_alone_unless_it_shows_every_row(
    arrange: psycopg.Connection[Any], alias: Add
) -> None:
    name = alias("default", ENGINE=STOCK)
    assert run("security", "database", databases=[name]) == []
    bypass = "ALTER ROLE app BYPASSRLS", "ALTER ROLE app NOBYPASSRLS"
    with broken(arrange, *bypass):
        (found,) = run("security", databases=[name])
        assert (found.id, found.level) == ("tenantry.W104", checks.WARNING)
        assert found.msg.startswith(
            f"database '{name}' has the ENGINE '{STOCK}', which limits no query to a tenant, and"
            " logs in as app, whom no policy binds, so that all code that uses it"
        )
        assert connections[name].connection is None
    # One of that server that is not ours, nor has policies of ours where its name is.
    other = alias("default", ENGINE=STOCK, USER="postgres", NAME="template1")
    assert run("security", databases=[other]) == []
    with connections[other].cursor() as cursor:
        assert list(inspect_unlimited(cursor, "database", STOCK)) == []


def test_databases_of_an_engine_that_inherits_from_ours_are_looked_at(
    tenants: Tenants, alias: Add
) -> None:
    heir = alias("default", ENGINE="tests.heir", USER="postgres")
    assert [each.id for each in run("security", databases=[heir])] == ["tenantry.E101"]


# Poolers and versions.


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"PORT": "5432"}, []),
        ({"PORT": 6432}, ["tenantry.W141"]),
        ({"PORT": "6432", "DISABLE_SERVER_SIDE_CURSORS": True}, []),
        ({"PORT": "5432", "OPTIONS": {"assume_role": "x"}}, []),
        ({"PORT": "6432", "OPTIONS": {"assume_role": "x"}}, ["tenantry.W141", "tenantry.W142"]),
        (
            {"DISABLE_SERVER_SIDE_CURSORS": True, "OPTIONS": {"assume_role": "x"}},
            ["tenantry.W142"],
        ),
    ],
)
def test_options_that_a_pooler_breaks_are_found(settings: dict[str, Any], found: list[str]) -> None:
    assert [each.id for each in inspect_options("default", settings)] == found


def test_an_alias_that_reads_in_parts_beside_another_one_is_left_alone(alias: Add) -> None:
    pooled = alias("default", PORT="6432", DISABLE_SERVER_SIDE_CURSORS=True)
    second = {**connections.settings[pooled], "PORT": 6432, "DISABLE_SERVER_SIDE_CURSORS": False}
    assert list(inspect_options("second", second)) == []
    for key in ("HOST", "NAME", "USER"):
        (found,) = inspect_options("second", {**second, key: "other"})
        assert found.id == "tenantry.W141"
    # The one that is used by whoever names none is not.
    (found,) = inspect_options("default", second)
    assert found.id == "tenantry.W141"


def test_a_time_zone_that_django_sets_behind_a_pooler_is_found(
    arrange: psycopg.Connection[Any],
) -> None:
    connection = connections["default"]

    def found_when(name: str, pooled: bool) -> list[str]:
        connection.close()
        with broken(arrange, f"ALTER ROLE app SET timezone = '{name}'", "ALTER ROLE app RESET ALL"):
            connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = pooled
            try:
                return [f"{each.id} {each.msg} {each.hint}" for each in run("database")]
            finally:
                connection.settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = False
                connection.close()

    (found,) = found_when("Europe/Berlin", pooled=True)
    assert found.startswith(
        "tenantry.W143 database 'default' has sessions that start in the time zone 'Europe/Berlin',"
        " so that Django sets 'UTC', which a transaction pooler may lose"
    )
    assert found.endswith("run ALTER ROLE app SET timezone = 'UTC'.")
    assert found_when("Etc/UCT", pooled=True) == []
    assert found_when("Europe/Berlin", pooled=False) == []


def install(monkeypatch: Any, model: Any) -> None:
    """Let the checks find a model that is in no app."""
    installed = list(apps.get_models(include_auto_created=True))
    monkeypatch.setattr(apps, "get_models", lambda **options: [*installed, model])


def about_table() -> list[Any]:
    # The admin role, where there is one, may not use a table that SQL has made either.
    return [each for each in run("database") if each.id != "tenantry.W103"]


@isolate_apps("tests.app")
def test_an_unmanaged_table_that_names_the_tenant_is_found(
    arrange: psycopg.Connection[Any], monkeypatch: Any, settings: Any
) -> None:
    class Legacy(models.Model):
        customer = models.ForeignKey(Tenant, models.DO_NOTHING, related_name="+")

        class Meta:
            app_label = "app"
            managed = False
            db_table = "legacy"

    install(monkeypatch, Legacy)
    create = "CREATE {} GRANT SELECT ON legacy TO app"
    with broken(arrange, create.format("TABLE legacy (customer_id int);"), "DROP TABLE legacy"):
        (found,) = about_table()
        assert found.id == "tenantry.W124"
        assert found.msg.startswith("table legacy has the tenant column customer_id but no policy,")
        settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARED_MODELS": ["app.Legacy"]}
        assert about_table() == []
        settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARED_MODELS": []}
    view = "VIEW legacy WITH (security_invoker) AS SELECT tenant_id AS customer_id FROM app_note;"
    with broken(arrange, create.format(view), "DROP VIEW legacy"):
        assert about_table() == []


@isolate_apps("tests.app")
def test_an_unmanaged_part_of_a_protected_row_is_found(
    arrange: psycopg.Connection[Any], monkeypatch: Any, settings: Any
) -> None:
    class Line(models.Model):
        note = models.ForeignKey(Note, models.DO_NOTHING, related_name="+")

        class Meta:
            app_label = "app"
            managed = False
            db_table = "line"

    install(monkeypatch, Line)
    create = "CREATE {} GRANT SELECT ON line TO app"
    with broken(arrange, create.format("TABLE line (note_id bigint);"), "DROP TABLE line"):
        (found,) = about_table()
        assert found.id == "tenantry.W158"
        assert found.msg.startswith("model app.Line refers to the protected app.Note by note, and")
        assert "RLSConstraint(path='note__tenant')" in found.hint
        arrange.execute("ALTER TABLE line ENABLE ROW LEVEL SECURITY")
        assert about_table() == []
        arrange.execute("ALTER TABLE line DISABLE ROW LEVEL SECURITY")
        settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARED_MODELS": ["app.Line"]}
        assert about_table() == []
        settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARED_MODELS": []}
    view = "VIEW line WITH (security_invoker) AS SELECT id AS note_id FROM app_note;"
    with broken(arrange, create.format(view), "DROP VIEW line"):
        assert about_table() == []


@pytest.mark.parametrize(
    ("version", "upgrade"),
    [
        (150019, "15.20"),
        (150020, None),
        (160015, "16.16"),
        (160016, None),
        (170011, "17.12"),
        (170012, None),
        (180006, "18.7"),
        (180007, None),
        (190000, None),
    ],
)
def test_servers_with_known_ways_around_policies_are_found(
    version: int, upgrade: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.checks.server.FIXED", FIXED)
    found = [(each.id, each.fix) for each in inspect_version(version)]
    assert [name for name, _ in found] == ["tenantry.W132"] * (upgrade is not None)
    assert all(f"upgrade to {upgrade} or newer" in fix for _, fix in found)
