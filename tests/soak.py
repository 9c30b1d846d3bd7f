"""Run the state machine for minutes, in all configurations, on servers of its own.

From the folder of the project: ``python -m tests.soak --minutes 10 --seed 1``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import psycopg
from django.core.management import call_command
from django.db import connections

from example_asgi.servers import (
    PgBouncer,
    Postgres,
    ensure_database,
    ensure_role,
    grant_by_default,
)

if TYPE_CHECKING:
    from tests.machine import Machine

DATABASE = "tenantry"
NAMES = ("A", "B")
ONE_SESSION = "one_session"
REPORT_SECONDS = 5
Execute = Callable[[bytes], list[tuple[bytes, ...]]]


@contextmanager
def another(like: str, name: str, **changes: Any) -> Iterator[str]:
    """Register a database alias that differs from another one in `changes`."""
    connections.settings[name] = {**connections.settings[like], **changes}
    try:
        yield name
    finally:
        connections[name].close()
        del connections[name]
        del connections.settings[name]


@dataclass
class World:
    """Be what machines run in: a database alias, and who arranges the rows.

    `foreign` is another client of the alias's pooler. Without a pooler, statements that know
    nothing of bindings go straight to libpq, on the session that the alias uses next.
    """

    alias: str
    superuser: psycopg.Connection[Any]
    foreign: psycopg.Connection[Any] | None = None
    operations: int = 0
    # How often each kind of rule was done.
    done: Counter[str] = field(default_factory=Counter)
    tenants: dict[str, int] = field(default_factory=dict)
    authors: dict[str, int] = field(default_factory=dict)
    # The event loop of its async connections; one that sets no loop of the thread.
    runner: asyncio.Runner = field(
        default_factory=lambda: asyncio.Runner(loop_factory=asyncio.new_event_loop)
    )

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run `coroutine` in the scope that is open here."""
        return self.runner.run(coroutine, context=copy_context())

    def machine(self) -> type[Machine]:
        """Return the machine of this world."""
        from tests.machine import Machine  # It needs the models.

        return type(f"Machine_{self.alias}", (Machine,), {"world": self})

    def prepare(self) -> None:
        """Make the two tenants and their authors, in tables that hold nothing else."""
        self.superuser.execute("TRUNCATE app_tenant, app_user RESTART IDENTITY CASCADE")
        for name in NAMES:
            tenant = "INSERT INTO app_tenant (name) VALUES (%s) RETURNING id"
            self.tenants[name] = self._insert(tenant, [name])
            author = "INSERT INTO app_author (name, tenant_id) VALUES (%s, %s) RETURNING id"
            self.authors[name] = self._insert(author, [name, self.tenants[name]])

    def _insert(self, statement: Any, values: list[Any]) -> int:
        row = self.superuser.execute(statement, values).fetchone()
        assert row is not None
        return int(row[0])

    @contextmanager
    def session(self) -> Iterator[Execute]:
        """Return what runs statements on the alias's session as they are."""
        wrapper: Any = connections[self.alias]
        # What is checked out may be all that the pool has.
        pool = None if self.foreign or wrapper.connection else wrapper.pool
        if pool:
            pool.open()
            driver = pool.getconn()
        else:
            wrapper.ensure_connection()
            driver = self.foreign or wrapper.connection

        def execute(statement: bytes) -> list[tuple[bytes, ...]]:
            result = driver.pgconn.exec_(statement)
            assert not result.error_message, result.error_message
            return [
                tuple(result.get_value(row, column) or b"" for column in range(result.nfields))
                for row in range(result.ntuples)
            ]

        try:
            yield execute
        finally:
            if pool:
                pool.putconn(driver)


@contextmanager
def servers() -> Iterator[list[World]]:
    """Start servers, migrate, and return a world for each configuration."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tenantry-")))
        directory.chmod(0o755)
        bindir = os.environ.get("TENANTRY_PG_BINDIR")
        quick = dict.fromkeys(("fsync", "synchronous_commit", "full_page_writes"), "off")
        postgres = Postgres(directory / "pg", bindir=Path(bindir) if bindir else None, **quick)
        stack.enter_context(postgres)
        for role in ("owner", "app"):
            ensure_role(postgres.dsn(), role)
        ensure_database(postgres.dsn(), DATABASE, owner="owner")
        dsn = postgres.dsn(dbname=DATABASE)
        grant_by_default(dsn, owner="owner", to="app")
        for alias in ("default", "owner", "pool", "wire_server_side"):
            connections.settings[alias].update(HOST=postgres.host, PORT=str(postgres.port))
        call_command("migrate", database="owner", verbosity=0)
        superuser = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        yield [
            World("default", superuser),
            World("pool", superuser),
            World("wire_server_side", superuser),
            stack.enter_context(world_without_riding(superuser)),
            stack.enter_context(world_of_one_connection(superuser)),
            stack.enter_context(pooled_world(postgres, directory / "one", superuser)),
        ]
        connections.close_all()


@contextmanager
def world_without_riding(superuser: psycopg.Connection[Any]) -> Iterator[World]:
    """Return a world in which transaction control does not ride along."""
    options = {**connections.settings["default"]["OPTIONS"], "ride_along": False}
    with another("default", "not_riding", OPTIONS=options) as alias:
        yield World(alias, superuser)


@contextmanager
def world_of_one_connection(superuser: psycopg.Connection[Any]) -> Iterator[World]:
    """Return a world whose pool has one connection, which everything goes through."""
    options = dict(connections.settings["pool"]["OPTIONS"])
    options["pool"] = {**options["pool"], "min_size": 1, "max_size": 1}
    with another("pool", "pool_of_one", OPTIONS=options) as alias:
        yield World(alias, superuser)


@contextmanager
def pooled_world(
    postgres: Postgres, directory: Path, superuser: psycopg.Connection[Any]
) -> Iterator[World]:
    """Return a world behind a PgBouncer that has one server session."""
    with (
        PgBouncer(postgres, directory, users=["app"], pool_size=1) as pooler,
        another("pooled", ONE_SESSION, HOST=pooler.host, PORT=str(pooler.port)) as alias,
        psycopg.connect(pooler.dsn("app", DATABASE), autocommit=True) as foreign,
    ):
        yield World(alias, superuser, foreign)


def soak(
    worlds: list[World], seconds: float, seeds: random.Random, examples: int
) -> tuple[int, int]:
    """Run the machine with seed after seed; return how many operations and leaks there were."""
    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    options = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        database=None,
        # Shrinking takes minutes, and what is found has to show at once.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    leaks = operations = 0
    end = time.monotonic() + seconds
    report = 0.0
    while time.monotonic() < end:
        for world in worlds:
            number = seeds.randrange(2**32)
            world.prepare()
            try:
                run_state_machine_as_test(seed(number)(world.machine()), settings=options)
            except Exception:  # noqa: BLE001 - whatever the model did not foresee counts
                leaks += 1
                print(f"{world.alias}, seed {number}:\n{traceback.format_exc()}", flush=True)
            operations = sum(each.operations for each in worlds)
            if time.monotonic() > report:
                report = time.monotonic() + REPORT_SECONDS
                print(f"operations so far: {operations}, leaks: {leaks}", flush=True)
    return operations, leaks


def judge(worlds: list[World], seconds: float, seed: int, *, examples: int = 20) -> int:
    """Soak, and say what was found; return the exit status."""
    with ExitStack() as stack:
        for world in worlds:
            stack.enter_context(world.runner)
        operations, leaks = soak(worlds, seconds, random.Random(seed), examples)
    print(f"operations: {operations}, leaks: {leaks}")
    return 1 if leaks else 0


def main() -> int:
    """Soak for as long as the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed: {arguments.seed}", flush=True)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    # Statements fail here on purpose, and psycopg warns of each pipeline that one has ended.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with servers() as worlds:
        return judge(worlds, arguments.minutes * 60, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
