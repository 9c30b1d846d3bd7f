"""PostgreSQL, PgBouncer and slow networks, with a database for each candidate."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from example_asgi.servers import PgBouncer, Postgres, ensure_database, ensure_role

from . import processors
from .delay import LOOPBACK, delayed

OWNER, APP = "owner", "app"
# How statements reach the server, with the milliseconds of a round trip that are added.
ROUTES: dict[str, float] = {"direct": 0, "pgbouncer": 0, "0.5 ms": 0.5, "1 ms": 1, "3 ms": 3}
# What a user of the tables needs, in every schema.
GRANTS = """
DO $$ DECLARE s text; BEGIN
FOR s IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)' LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO {role}', s);
    EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA %1$I TO {role}', s);
    EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA %1$I TO {role}', s);
END LOOP; END $$
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers that run, and the host and port of each route."""

    postgres: Postgres
    pgbouncer: PgBouncer | None
    places: Mapping[str, tuple[str, int]]
    directory: Path
    placement: str

    @property
    def socket(self) -> str:
        """The path of PostgreSQL's Unix socket."""
        return f"{self.postgres.host}/.s.PGSQL.{self.postgres.port}"

    def create_database(self, name: str) -> None:
        """Create a database that the owner's tables will be in, and that the app may use."""
        ensure_database(self.postgres.dsn(), name, owner=OWNER)
        with psycopg.connect(self.postgres.dsn(dbname=name)) as connection:
            connection.execute(f"GRANT CREATE ON SCHEMA public TO {OWNER}")

    def grant(self, name: str) -> None:
        """Let the app work with what is in the database."""
        with psycopg.connect(self.postgres.dsn(dbname=name)) as connection:
            connection.execute(GRANTS.format(role=APP))


@contextmanager
def servers(routes: Iterable[str]) -> Iterator[Servers]:
    """Start what the routes need; ``TENANTRY_PG_BINDIR`` names another PostgreSQL's programs."""
    bindir = os.environ.get("TENANTRY_PG_BINDIR")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        processors.apart() as apart,
        ExitStack() as stack,
    ):
        directory = Path(name)
        postgres = stack.enter_context(
            Postgres(
                directory / "pg",
                bindir=Path(bindir) if bindir else None,
                fsync="off",
                # It would wake up in the middle of a round.
                autovacuum="off",
                max_connections=300,
                shared_buffers="512MB",
            )
        )
        for role in (OWNER, APP):
            ensure_role(postgres.dsn(), role)
        places: dict[str, tuple[str, int]] = {}
        pgbouncer = None
        for route in routes:
            if route == "pgbouncer":
                pgbouncer = stack.enter_context(
                    PgBouncer(postgres, directory / "pgbouncer", users=[APP])
                )
                places[route] = pgbouncer.host, pgbouncer.port
            elif delay := ROUTES[route]:
                target = f"{postgres.host}/.s.PGSQL.{postgres.port}"
                places[route] = LOOPBACK, stack.enter_context(delayed(target, delay))
            else:
                places[route] = postgres.host, postgres.port
        apart.leave()
        yield Servers(postgres, pgbouncer, places, directory, apart.placement)
