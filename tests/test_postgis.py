"""The PostGIS backend is bound like the PostgreSQL one, on a server of its own that has PostGIS."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.contrib.gis.geos import Point, Polygon
from django.contrib.gis.measure import D
from django.core.management import call_command
from django.db import ProgrammingError, connections, transaction
from django.db.models import QuerySet
from django.test import modify_settings
from pytest_django.plugin import DjangoDbBlocker

from example_asgi.servers import Postgres
from tenantry import aclose_pools, admin_context, arows, tenant_context
from tests.app.models import Tenant
from tests.fix_wire import Wire, recording
from tests.places import bindirs

# Its server may be too old for the other shapes.
pytestmark = pytest.mark.guc_shape
ENGINE = "tenantry.backends.postgis"
ALIASES = ["postgis", "postgis_pool", "postgis_server_side"]
NEAR = Point(0, 0, srid=4326)
AROUND = Polygon.from_bbox((-1, -1, 1, 1))
AROUND.srid = 4326

Tenants = tuple[Tenant, Tenant]


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Postgres]:
    [bindir, *_] = bindirs()
    with Postgres(directory / "postgis", bindir=bindir, fsync="off") as postgres:
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE owner LOGIN")
            connection.execute("CREATE ROLE app LOGIN")
            connection.execute("CREATE DATABASE places OWNER owner")
        with psycopg.connect(postgres.dsn(dbname="places"), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION postgis")
            connection.execute("CREATE EXTENSION postgis_raster")
            for what, which in (
                ("SELECT, INSERT, UPDATE, DELETE", "TABLES"),
                ("USAGE", "SEQUENCES"),
            ):
                connection.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT {what} ON {which} TO app"
                )
        yield postgres


@pytest.fixture(scope="module")
def proxy(server: Postgres) -> Iterator[Wire]:
    with recording(server) as wire:
        yield wire


@pytest.fixture(scope="module")
def database(server: Postgres, proxy: Wire, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Install the app and the aliases for the tests of this module, and migrate."""
    plain: dict[str, Any] = {"sslmode": "disable", "gssencmode": "disable"}
    pool = {"pool": {"min_size": 1, "max_size": 2}, "pool_mode": "transaction"}
    entries: dict[str, dict[str, Any]] = {
        "postgis_owner": {"USER": "owner", "OPTIONS": plain},
        "postgis": {"OPTIONS": plain},
        "postgis_server_side": {"OPTIONS": plain | {"server_side_binding": True}},
        "postgis_pool": {"OPTIONS": plain | pool},
        "postgis_scarce": {
            "OPTIONS": plain | pool | {"pool": {"min_size": 1, "max_size": 1, "timeout": 2}}
        },
    }
    for alias, entry in entries.items():
        entry = {"ENGINE": ENGINE, "NAME": "places", "USER": "app"} | entry
        entry |= {"HOST": "127.0.0.1", "PORT": str(proxy.port)}
        connections.settings[alias] = connections.configure_settings({"default": entry})["default"]
    with (
        django_db_blocker.unblock(),
        modify_settings(INSTALLED_APPS={"append": ["django.contrib.gis", "tests.places"]}),
    ):
        call_command("migrate", database="postgis_owner", verbosity=0)
        yield
    for alias in entries:
        wrapper(alias).close()
        wrapper(alias).close_pool()
        del connections[alias]
        del connections.settings[alias]


@pytest.fixture
def tenants(database: None, server: Postgres) -> Iterator[Tenants]:
    with psycopg.connect(server.dsn(dbname="places"), autocommit=True) as connection:
        connection.execute("TRUNCATE app_tenant RESTART IDENTITY CASCADE")
    a, b = (Tenant.objects.using("postgis").create(name=name) for name in "AB")
    for tenant in (a, b):
        with tenant_context(tenant.pk):
            for number in (0, 5):
                point = Point(number, 0, srid=4326)
                places("postgis").create(
                    name=f"{tenant.name} {number}", tenant_id=tenant.pk, point=point, spot=point
                )
    yield a, b
    for alias in ALIASES:
        connections[alias].close()


def wrapper(alias: str) -> Any:
    return connections[alias]


def places(alias: str) -> QuerySet[Any]:
    place: Any = apps.get_app_config("places").get_model("Place")
    queryset: QuerySet[Any] = place.objects.using(alias)
    return queryset


def names(queryset: QuerySet[Any]) -> list[str]:
    return [place.name for place in queryset]


def lookups(alias: str) -> list[QuerySet[Any]]:
    """Return three ways to ask for what is near."""
    everything = places(alias)
    return [
        everything.filter(point__dwithin=(NEAR, 1)),
        everything.filter(point__within=AROUND),
        everything.filter(spot__distance_lte=(NEAR, D(km=10))),
    ]


@pytest.mark.parametrize("alias", ALIASES)
def test_spatial_lookups_find_rows_of_the_tenant(alias: str, tenants: Tenants) -> None:
    for queryset in lookups(alias):
        for tenant in tenants:
            with tenant_context(tenant.pk):
                assert names(queryset.all()) == [f"{tenant.name} 0"]
        assert names(queryset.all()) == []
        with admin_context():
            assert names(queryset.all()) == ["A 0", "B 0"]
        with tenant_context(tenants[0].pk), transaction.atomic(using=alias):
            assert names(queryset.all()) == ["A 0"]
            [place] = queryset.all()
            assert place.point == NEAR
            with tenant_context(tenants[1].pk), transaction.atomic(using=alias):
                assert names(queryset.all()) == ["B 0"]
        if alias == "postgis_pool":
            assert connections[alias].connection is None


def test_the_predicate_is_in_the_sql_for_the_planner(tenants: Tenants) -> None:
    with tenant_context(tenants[1].pk):
        for queryset in lookups("postgis"):
            sql, params = queryset.query.get_compiler("postgis").as_sql()
            assert '"places_place"."tenant_id" = %s' in sql
            assert params[-1] == tenants[1].pk


@pytest.mark.parametrize("alias", ALIASES)
def test_the_policy_decides_for_raw_sql(alias: str, tenants: Tenants) -> None:
    statement = "SELECT name FROM places_place WHERE ST_DWithin(point, %s, 1) ORDER BY id"
    near = wrapper(alias).ops.Adapter(NEAR)

    def raw() -> list[str]:
        with connections[alias].cursor() as cursor:
            cursor.execute(statement, [near])
            return [name for (name,) in cursor.fetchall()]

    assert raw() == []
    with tenant_context(tenants[0].pk):
        assert raw() == ["A 0"]
        with pytest.raises(ProgrammingError, match="row-level security"):
            places(alias).create(name="x", tenant_id=tenants[1].pk, point=NEAR, spot=NEAR)
        assert places(alias).filter(point__dwithin=(NEAR, 9)).update(name="mine") == 2
    with admin_context():
        assert sorted(names(places(alias))) == ["B 0", "B 5", "mine", "mine"]


def test_the_binding_rides_in_the_message_of_the_statement(proxy: Wire, tenants: Tenants) -> None:
    nearby = lookups("postgis")[0]
    with tenant_context(tenants[0].pk):
        names(nearby.all())
        proxy.clear()
        names(nearby.all())
        assert (proxy.kinds, proxy.round_trips) == ("Q", 1)
        assert proxy.queries[0].startswith(
            f"SELECT pg_catalog.set_config('rls.current_tenant','{tenants[0].pk}',true)"
        )
        assert "ST_DWithin" in proxy.queries[0]
        proxy.clear()
        with transaction.atomic(using="postgis"), transaction.atomic(using="postgis"):
            names(nearby.all())
        assert (proxy.kinds, proxy.round_trips) == ("QQ", 2)
        assert proxy.queries[0].startswith("BEGIN;SAVEPOINT ")


def test_a_checkout_of_the_pool_sends_nothing_of_its_own(proxy: Wire, tenants: Tenants) -> None:
    nearby = lookups("postgis_pool")[0]
    names(nearby.all())
    proxy.clear()
    with tenant_context(tenants[0].pk):
        assert names(nearby.all()) == ["A 0"]
    assert (proxy.kinds, proxy.round_trips) == ("Q", 1)


def test_a_connection_that_comes_late_knows_the_types(tenants: Tenants) -> None:
    holding, late = ([connections.create_connection("postgis_scarce")] for _ in range(2))
    holding[0].set_autocommit(False)
    holding[0].cursor().close()

    def let_go(*_: Any) -> None:
        holding.clear()

    # The pool has nothing until what nobody refers to is collected, and then a new connection.
    gc.disable()
    gc.callbacks.append(let_go)
    try:
        with late[0].cursor() as cursor:
            assert not holding
            near = wrapper("postgis_scarce").ops.Adapter(NEAR)
            cursor.execute("SELECT ST_AsText(%s)", [near])
            assert cursor.fetchone() == ("POINT(0 0)",)
    finally:
        gc.callbacks.remove(let_go)
        gc.enable()
        late[0].close()


def test_server_side_cursors_are_bound(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), transaction.atomic(using="postgis"):
        found = places("postgis").filter(point__dwithin=(NEAR, 9)).iterator(chunk_size=1)
        assert next(found).name == "A 0"
        with tenant_context(tenants[1].pk):
            assert [place.name for place in found] == ["A 5"]


@pytest.mark.parametrize("alias", ALIASES)
async def test_rows_without_a_thread(alias: str, tenants: Tenants) -> None:
    # The pool asks itself, and does not rely on a sync connection that has.
    for infos in wrapper(alias)._type_infos.values():
        infos.pop(alias, None)
    try:
        async with tenant_context(tenants[1].pk):
            for queryset in lookups(alias):
                rows = await arows(queryset.values_list("name", "point"))
                assert rows == [("B 0", NEAR)]
        assert await arows(lookups(alias)[0]) == []
    finally:
        await aclose_pools()
