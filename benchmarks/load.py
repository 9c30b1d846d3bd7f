"""Requests per second under Uvicorn as more and more clients ask at once.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg
from django.db import connections

from benchmarks import data, plots, processors, report, tables
from benchmarks.candidates import Candidate
from benchmarks.delay import LOOPBACK
from benchmarks.environments import SAME, NotInstalledError, interpreter
from benchmarks.facts import facts
from benchmarks.load_client import Load, Seen, client
from benchmarks.load_figures import Figures, merged
from benchmarks.load_server import NotServedError, Server, create_tables, serving
from benchmarks.project import (
    APP,
    DATABASE,
    OWNER,
    STOCK,
    TENANTRY,
    Address,
    Place,
    database,
    postgres,
    set_up,
)
from benchmarks.slow_load import PATIENCE, Sampler, sampling
from benchmarks.wire import counting
from example_asgi.servers import Postgres

FLOOR = "stock"
CANDIDATES = {
    FLOOR: "stock Django, filter by hand",
    "psycopg": "psycopg alone",
    "tenantry": "tenantry, async ORM",
    "arows": "tenantry, arows()",
    "async_backend": "django-async-backend, filter by hand",
    "rls_tenants": "django-rls-tenants, async ORM",
}
# Of those that have one of their own.
ENGINES = {
    "tenantry": TENANTRY,
    "arows": TENANTRY,
    "async_backend": "django_async_backend.db.backends.postgresql",
}
# Those that have an environment of their own.
PEERS = {
    "rls_tenants": Candidate("load_rls_tenants", CANDIDATES["rls_tenants"], "django-rls-tenants")
}
WORKLOADS = {
    "read": "one read",
    "slow": "a read, something slow, a read",
    "events": "a stream of five events with a read each",
}
# Requests of each workload that are counted on the wire.
COUNTED = 5
# What a candidate takes to start and to end, and the least that it is measured, in seconds.
START, LEAST = 3.0, 0.5
# Seconds until it counts, for each client: all of them begin at once.
EACH = 0.005
# Seconds that are measured at least in all turns, for each client: what waits in turn is answered
# in turn, so that less than some rounds of all clients would count a burst of answers, or none.
ROUNDS = 3 * EACH
PEER_ROWS = """
INSERT INTO load_rls_tenants_tenant (id, name) SELECT id, name FROM benchmarks_tenant;
INSERT INTO load_rls_tenants_note (id, tenant_id, title, body, created_at)
SELECT id, tenant_id, title, body, created_at FROM benchmarks_plainnote ORDER BY id
"""


class Benchmark:
    """Hold the servers, and how much is measured."""

    def __init__(
        self,
        server: Postgres,
        directory: Path,
        apart: processors.Apart,
        sampler: Sampler,
        options: argparse.Namespace,
    ) -> None:
        self.server = server
        self.directory = directory
        self.apart = apart
        self.sampler = sampler
        self.options = options
        self.pythons = dict.fromkeys(CANDIDATES, sys.executable)

    def install(self, name: str) -> None:
        """Make the environment and the tables of a candidate that has its own."""
        if name not in PEERS:
            return
        print(f"{CANDIDATES[name]}: environment", flush=True)
        same = (*SAME, "psycopg-pool", "uvicorn")
        self.pythons[name] = interpreter(PEERS[name], same=same)
        create_tables(self.pythons[name], self.place(name, self.server, size=1, user=OWNER))
        with psycopg.connect(self.server.dsn(dbname=DATABASE), autocommit=True) as connection:
            connection.execute(PEER_ROWS)
            connection.execute("VACUUM (ANALYZE)")
        with psycopg.connect(self.server.dsn(APP, DATABASE)) as connection:
            rows = connection.execute("SELECT count(*) FROM load_rls_tenants_note").fetchone()
        if rows != (0,):
            raise NotServedError(f"{rows} notes are seen without a tenant: no policy works")

    @contextmanager
    def serving(self, name: str, place: Place, size: int) -> Iterator[Server]:
        """Run Uvicorn with a candidate inside the block."""
        known, socket = self.place(name, place, size=size), self.directory / "uvicorn"
        with serving(self.pythons[name], known, socket, self.apart) as server:
            yield server

    def place(self, name: str, place: Place, *, size: int, user: str = APP) -> dict[str, Any]:
        """Return what the application has to know."""
        engine = ENGINES.get(name, STOCK)
        entry: dict[str, Any] = database(place, engine, user)
        entry["CONN_MAX_AGE"] = 0
        entry["OPTIONS"] |= {
            "application_name": name,
            "pool": {"min_size": size, "max_size": size, "timeout": PATIENCE},
        } | ({"pool_mode": "transaction"} if engine == TENANTRY else {})
        return {
            "candidate": name,
            "database": entry,
            "conninfo": f"host={entry['HOST']} port={entry['PORT']} user={user}"
            f" dbname={entry['NAME']} sslmode=disable gssencmode=disable application_name={name}",
            "size": size,
        }

    def load(self, workload: str, clients: int, seconds: float | None = None) -> Load:
        """Return what so many clients ask for."""
        options = self.options
        if seconds is None:
            seconds = options.await_seconds
        return Load(workload, clients, seconds, options.rows, options.tenants)

    def count(self, name: str) -> dict[str, dict[str, float]]:
        """Return the statements and round trips of a request of each workload."""
        with (
            counting(f"{self.server.host}/.s.PGSQL.{self.server.port}") as wire,
            self.serving(name, Address(LOOPBACK, wire.port), 1) as server,
        ):
            found = {}
            for workload in self.options.workloads:
                load = self.load(workload, 1, 0)
                asyncio.run(server.wait(load))
                # What a candidate sends once it has answered is part of a request, too.
                time.sleep(0.1)
                wire.count()
                asyncio.run(server.ask(load, COUNTED))
                time.sleep(0.1)
                found[workload] = {kind: n / COUNTED for kind, n in wire.count().items()}
        return found

    def measure(self, name: str, load: Load) -> Figures:
        """Return what happens while the clients ask; nothing but the error if it takes too long."""
        self.sampler.most.clear()
        patience = 60 + warm_up(self.options, load.clients) + measured(self.options, load.clients)

        async def within() -> Figures:
            async with asyncio.timeout(patience):
                return await self.figures(server, name, load)

        with self.serving(name, self.server, self.options.connections) as server:
            try:
                return asyncio.run(within())
            except (NotServedError, TimeoutError) as error:
                return Figures(load.clients, errors={f"{type(error).__name__}: {error}": 1})

    async def figures(self, server: Server, name: str, load: Load) -> Figures:
        """Let the clients ask, for a while that does not count and for one that does."""
        await server.wait(load)
        memory, seen = server.memory("VmRSS"), Seen()
        tasks = [
            asyncio.create_task(client(server.socket, load, seen, number))
            for number in range(load.clients)
        ]
        await asyncio.sleep(warm_up(self.options, load.clients))
        self.sampler.in_use.clear()
        cpu, start, seen.counts = server.cpu(), time.perf_counter(), True
        await asyncio.sleep(measured(self.options, load.clients))
        seen.counts = False
        taken, cpu = time.perf_counter() - start, server.cpu() - cpu
        peak, in_use = server.memory("VmHWM"), self.sampler.in_use[name] or [0]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Of one, the quantiles are that one; of none, there is nothing to tell.
        answered = seen.latencies
        cuts = statistics.quantiles(answered * 2 or [0, 0], n=100, method="inclusive")
        return Figures(
            clients=load.clients,
            rps=round(len(answered) / taken, 1),
            p50_ms=round(1000 * cuts[49], 1),
            p99_ms=round(1000 * cuts[98], 1),
            connections=self.sampler.most[name],
            in_use=round(statistics.mean(in_use), 1),
            most_in_use=max(in_use),
            cpu_s_per_1000=round(1000 * cpu / len(answered), 3) if answered else 0,
            memory_mib=round(peak - memory, 1),
            errors=dict(seen.errors),
        )


def run(benchmark: Benchmark, options: argparse.Namespace) -> dict[str, Any]:
    """Return who does not run, what was counted on the wire, and all figures."""
    wire: dict[str, Any] = {}
    not_run: dict[str, str] = {}
    for name in options.candidates:
        try:
            benchmark.install(name)
            wire[name] = benchmark.count(name)
        except (NotInstalledError, NotServedError) as error:
            if name == FLOOR:
                raise
            not_run[name] = str(error)
            print(f"{CANDIDATES[name]} does not run: {error}", flush=True)
    found: dict[str, Any] = {workload: {name: [] for name in wire} for workload in WORKLOADS}
    options.seconds = affordable(options, len(wire))
    for workload in options.workloads:
        for clients in options.clients:
            print(f"\n{WORKLOADS[workload]}, {clients} at once", flush=True)
            turns = take_turns(benchmark, benchmark.load(workload, clients), list(wire))
            for name, figures in found[workload].items():
                figures.append(merged(turns[name], turns[FLOOR]))
                show(name, figures[-1])
    measured = {
        workload: {name: list(map(asdict, figures)) for name, figures in found[workload].items()}
        for workload in options.workloads
    }
    return {"not_run": not_run, "wire": wire, "workloads": measured}


def take_turns(benchmark: Benchmark, load: Load, names: list[str]) -> dict[str, list[Figures]]:
    """Return what was measured of each candidate in each turn, forwards and then backwards."""
    turns: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(benchmark.options.turns):
        for name in reversed(names) if number % 2 else names:
            turns[name].append(benchmark.measure(name, load))
    return turns


def warm_up(options: argparse.Namespace, clients: int) -> float:
    """Return for how many seconds clients ask until they are apart, and the pool is full."""
    return float(max(options.warm_up, 2 * options.await_seconds, EACH * clients))


def measured(options: argparse.Namespace, clients: int) -> float:
    """Return for how many seconds so many clients are measured in a turn."""
    return float(max(options.seconds, ROUNDS * clients / options.turns))


def affordable(options: argparse.Namespace, candidates: int) -> float:
    """Return for how many seconds a turn can be measured so that all take ``--minutes``.

    Many clients are measured for longer, whatever that takes.
    """
    left = 60 * float(options.minutes) / (len(options.workloads) * candidates * options.turns)
    left -= sum(START + warm_up(options, clients) for clients in options.clients)
    few = sorted(options.clients)
    while few and left / len(few) < (least := ROUNDS * few[-1] / options.turns):
        left -= least
        few.pop()
    return min(float(options.seconds), max(LEAST, left / len(few) if few else LEAST))


def able(names: list[str]) -> list[str]:
    """Return the candidates that can run here."""
    return [name for name in names if name != "async_backend" or find_spec("django_async_backend")]


def show(name: str, figures: Figures) -> None:
    """Print a line."""
    print(
        f"  {CANDIDATES[name]:38}{figures.rps:9.1f} requests/s{figures.ratio:7.2f}"
        f"   p50 {figures.p50_ms:8.1f} ms   p99 {figures.p99_ms:8.1f} ms"
        f"{figures.connections:5} connections, {figures.in_use:g} in use"
        f"   {figures.cpu_s_per_1000:7.3f} s/1000"
        f"{figures.memory_mib:8.1f} MiB",
        flush=True,
    )
    for error, count in figures.errors.items():
        print(f"    {count} x {error}", flush=True)


def main() -> None:
    """Run the benchmark."""
    options = parse_arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        processors.apart() as apart,
        postgres(Path(name)) as server,
    ):
        # Uvicorn is the client that is measured; those that ask it stay with PostgreSQL.
        machine = facts(server, placement=f"{apart.placement}; the client is Uvicorn")
        set_up(server, {"app": database(server, TENANTRY, APP)})
        data.create(rows=options.rows, tenants=options.tenants)
        data.require_isolation("app")
        connections.close_all()
        with sampling(server.dsn()) as sampler:
            found = run(Benchmark(server, Path(name), apart, sampler, options), options)
    result = {
        "machine": machine,
        "options": vars(options),
        "candidates": CANDIDATES,
        "titles": WORKLOADS,
        **found,
    }
    report.write("load", result, directory=options.output, markdown=tables.load_markdown)
    plots.draw_load(result, options.output)


def listed(allowed: dict[str, str]) -> Any:
    """Return a reader of comma-separated names out of `allowed`."""

    def read(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(allowed):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(allowed)}"
            )
        return text.split(",")

    return read


def parse_arguments() -> argparse.Namespace:
    """Return the options; exit when they make no sense."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 20, 200])
    parser.add_argument("--connections", type=int, default=10, help="of each candidate's pool")
    parser.add_argument("--seconds", type=float, default=2, help="that are measured in a turn")
    parser.add_argument("--turns", type=int, default=2, help="of each, forwards and backwards")
    parser.add_argument(
        "--minutes", type=float, default=10, help="for everything, about: measures for less then"
    )
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before that, at least")
    parser.add_argument("--await-seconds", type=float, default=0.5, help="of something slow")
    parser.add_argument("--tenants", type=int, default=500)
    parser.add_argument("--rows", type=int, default=100_000, help="in each of the two tables")
    parser.add_argument("--candidates", type=listed(CANDIDATES), default=able(list(CANDIDATES)))
    parser.add_argument("--workloads", type=listed(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR")
    options = parser.parse_args()
    if options.candidates[0] != FLOOR:
        parser.error(f"ratios are to {FLOOR}: let --candidates begin with it")
    if options.rows < 20 * options.tenants or options.tenants < 1:
        parser.error("every tenant needs 20 rows or more")
    if min(*options.clients, options.connections, options.turns) < 1:
        parser.error("there must be at least one of each")
    return options


if __name__ == "__main__":
    main()
