"""Paths to the servers that faults happen on, and databases of every kind at their ends.

Each alias is "<path>_<kind>": the path is ``direct`` to PostgreSQL or ``bounced`` through a
PgBouncer of its own. The kinds whose names begin with "stock" have Django's own ENGINE, which says
what a fault has to look like; the others are ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import close_old_connections, connections

from example_asgi.servers import PgBouncer, Postgres
from tenantry import tenant_context
from tests import settings
from tests.app.models import Note, Tenant
from tests.fix_cut import Cut, path_to

SIZE = 2
# Seconds that PgBouncer lets a client wait for a server.
PATIENCE = 3
KINDS = ["plain", "session", "transaction"]
STOCK_OF = {
    "plain": "stock",
    "session": "stock_pool",
    "transaction": "stock_pool",
    "server_side": "stock_server_side",
}
ALL_KINDS = [*STOCK_OF, *dict.fromkeys(STOCK_OF.values())]
PATHS = ["direct", "bounced"]
GUCS = (
    "SELECT coalesce(current_setting('rls.current_tenant', true), '') || " + settings.IS_ADMIN
).encode()
OTHERS = "FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database()"

Outcome = tuple[type[BaseException], type[BaseException] | None, str | None] | None


@dataclass
class Site:
    """Where the faults happen."""

    superuser: psycopg.Connection[Any]
    bouncer: PgBouncer
    paths: dict[str, Cut]

    def terminate(self) -> None:
        """Terminate every server session of the app role, and wait until clients could know."""
        direct = self.paths["direct"]
        links, servers = set(direct.links), self.servers()

        def gone() -> bool:
            # More than once: whoever is connecting is not seen before it is connected.
            there = self.superuser.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}").fetchall()
            return not there and not links & set(direct.links)

        wait_for(gone)
        wait_for(lambda: not servers & self.servers())

    def servers(self) -> set[int]:
        """Return the server sessions that PgBouncer knows of."""
        rows = self.bouncer.admin("SHOW SERVERS")
        return {row["remote_pid"] for row in rows if row["user"] == "app"}

    def lose_clients(self, lose: Callable[[], object]) -> None:
        """Let PgBouncer do something that ends its clients, and wait until they could know."""
        links = set(self.paths["bounced"].links)
        lose()
        self.paths["bounced"].wait_until_closed(links)

    def wait_for_activity(self, statement: str, count: int = 1) -> None:
        """Wait until `count` sessions of the app role run `statement`."""
        query = f"SELECT count(*) {OTHERS} AND state = 'active' AND query LIKE %s"
        wait_for(lambda: self.value(query, f"%{statement}%") >= count)

    def value(self, query: str, *params: Any) -> Any:
        """Return the one value that `query` returns to the superuser."""
        row = self.superuser.execute(query.encode(), params).fetchone()
        assert row
        return row[0]

    def settle(self) -> None:
        """Bring back what a fault has taken away."""
        for path in self.paths.values():
            path.cut()
        if self.bouncer._child is None:
            self.bouncer.start()
        self.superuser.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}")


def wait_for(ready: Callable[[], object], timeout: float = 10) -> None:
    """Ask until it is so."""
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def database(kind: str, path: Cut, *, bounced: bool) -> dict[str, Any]:
    """Return an entry of DATABASES, with Django's defaults filled in."""
    options: dict[str, Any] = {
        "sslmode": "disable",
        "gssencmode": "disable",
        "connect_timeout": 2,
        "tcp_user_timeout": 500,
    }
    if kind in ("session", "transaction", "stock_pool"):
        options["pool"] = {"min_size": SIZE, "max_size": SIZE, "timeout": 2}
    if kind == "transaction":
        options["pool_mode"] = "transaction"
    if kind.endswith("server_side"):
        options["server_side_binding"] = True
    ours = not kind.startswith("stock")
    return {
        **connections.settings["default"],
        "ENGINE": "tenantry.backends.postgresql" if ours else "django.db.backends.postgresql",
        "HOST": path.host,
        "PORT": str(path.port),
        "OPTIONS": options,
        "CONN_HEALTH_CHECKS": "pool" in options,
        "DISABLE_SERVER_SIDE_CURSORS": bounced,
    }


@pytest.fixture(scope="module")
def site_of_module(
    postgres: Postgres, superuser: psycopg.Connection[Any], directory: Path, project: None
) -> Iterator[Site]:
    bouncer = PgBouncer(
        postgres, directory / "faults", users=["app"], pool_size=SIZE, query_wait_timeout=PATIENCE
    )
    superuser.execute("ALTER DATABASE tenantry SET deadlock_timeout = '100ms'")
    with ExitStack() as stack:
        stack.enter_context(bouncer)
        socket = f"{postgres.host}/.s.PGSQL.{postgres.port}"
        direct = stack.enter_context(path_to(socket))
        bounced = stack.enter_context(path_to((bouncer.host, bouncer.port)))
        paths = {"direct": direct, "bounced": bounced}
        for name, path in paths.items():
            for kind in ALL_KINDS:
                entry = database(kind, path, bounced=name == "bounced")
                connections.settings[f"{name}_{kind}"] = entry
        try:
            yield Site(superuser, bouncer, paths)
        finally:
            superuser.execute("ALTER DATABASE tenantry RESET deadlock_timeout")
            # Its connections may be among those that were terminated.
            pool: Any = connections["pool"]
            pool.close_pool()
            for wrapper in wrappers():
                del connections[wrapper.alias]
            for name in paths:
                for kind in ALL_KINDS:
                    del connections.settings[f"{name}_{kind}"]


@pytest.fixture
def site(site_of_module: Site, tenants: tuple[Tenant, Tenant]) -> Iterator[Site]:
    """Return the place of the faults, whole again for each test."""
    yield site_of_module
    site_of_module.settle()
    for wrapper in wrappers():
        forget(wrapper)


def forget(wrapper: Any) -> None:
    """Close the connection of `wrapper`, and its pool."""
    wrapper.close()
    if wrapper.pool:
        wrapper.close_pool()


def wrappers() -> list[Any]:
    """Return the wrappers of this thread that end at a path of faults."""
    return [
        wrapper
        for wrapper in connections.all(initialized_only=True)
        if wrapper.alias.partition("_")[0] in PATHS
    ]


def outcome_of(run: Callable[[], object]) -> Outcome:
    """Return what `run` raises: the class, the driver's class, and its SQLSTATE."""
    try:
        run()
    except Exception as error:  # noqa: BLE001 - what it is, is the question
        cause = error.__cause__
        return type(error), type(cause) if cause else None, getattr(cause, "sqlstate", None)
    return None


def titles(alias: str) -> list[str]:
    return [note.title for note in Note.objects.using(alias).order_by("id")]


def assert_whole(site: Site, alias: str, tenants: tuple[Tenant, Tenant]) -> None:
    """Let the next requests run; nothing may be lost, left behind, or anybody else's."""
    close_old_connections()
    for _ in range(SIZE):
        # The last one is bound: an unbound one would clear what a leak leaves behind.
        assert titles(alias) == []
        for tenant in tenants:
            with tenant_context(tenant.pk):
                assert titles(alias) == [f"{tenant.name} 1", f"{tenant.name} 2"]
        close_old_connections()
    wrapper: Any = connections[alias]
    if wrapper.pool:
        assert_pool_is_whole(wrapper)
    if alias.startswith("bounced"):
        assert_no_guc_behind(site.bouncer)


def assert_pool_is_whole(wrapper: Any) -> None:
    """Every connection is back, and none holds a value of ours."""
    pool = wrapper.pool
    wait_for(lambda: pool.get_stats()["pool_available"] == SIZE)
    stats = pool.get_stats()
    assert stats["pool_size"] == SIZE
    assert stats.get("requests_waiting", 0) == 0
    # Where they lie, past psycopg and our cursors: a checkout would check, and so clear, them.
    values = [connection.pgconn.exec_(GUCS).get_value(0, 0) for connection in pool._pool]
    assert values == [b""] * SIZE


def assert_no_guc_behind(bouncer: PgBouncer) -> None:
    """No server session of the pooler holds a value of ours: each is pinned, and looked at."""
    clients = [psycopg.connect(bouncer.dsn("app", "tenantry")) for _ in range(SIZE)]
    try:
        assert [c.execute(GUCS).fetchone() for c in clients] == [("",)] * SIZE
    finally:
        for client in clients:
            client.close()
