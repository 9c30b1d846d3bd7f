"""Requests per second under Uvicorn as more and more clients ask at once.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import connections

from benchmarks import data, plots, report, tables
from benchmarks.facts import facts
from benchmarks.load_client import Load, Seen, ask, client
from benchmarks.project import APP, STOCK, TENANTRY, database, postgres, set_up
from benchmarks.slow_load import PATIENCE, Sampler, sampling
from example_asgi.servers import Postgres

ROOT = Path(__file__).resolve().parent.parent
FLOOR = "stock"
CANDIDATES = {
    FLOOR: "stock Django, filter by hand",
    "psycopg": "psycopg alone",
    "tenantry": "tenantry, async ORM",
    "arows": "tenantry, arows()",
    "async_backend": "django-async-backend, filter by hand",
}
# Of those that have one of their own.
ENGINES = {"async_backend": "django_async_backend.db.backends.postgresql"}
WORKLOADS = {
    "read": "one read",
    "slow": "a read, something slow, a read",
    "events": "a stream of five events with a read each",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured while so many clients asked at once."""

    clients: int
    rps: float
    p50_ms: float
    p99_ms: float
    connections: int
    cpu_s_per_1000: float
    memory_mib: float
    errors: dict[str, int]


class Server:
    """Uvicorn with one candidate, as a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], socket: str) -> None:
        self.process = process
        self.socket = socket

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind: str) -> float:
        """Return the MiB that it has (``VmRSS``), or had at most (``VmHWM``)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))

    async def wait(self, load: Load) -> None:
        """Wait until it answers; raise RuntimeError if it has ended, or answers wrongly."""
        deadline = time.monotonic() + 30
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server does not answer: its output says why")
            with suppress(FileNotFoundError, ConnectionRefusedError):
                reader, writer = await asyncio.open_unix_connection(self.socket)
                await ask(reader, writer, load, 1)
                writer.close()
                return
            await asyncio.sleep(0.02)


class Benchmark:
    """Hold the servers, and how much is measured."""

    def __init__(
        self, postgres: Postgres, directory: Path, sampler: Sampler, options: argparse.Namespace
    ) -> None:
        self.postgres = postgres
        self.directory = directory
        self.sampler = sampler
        self.options = options

    @contextmanager
    def serving(self, candidate: str) -> Iterator[Server]:
        """Run Uvicorn inside the block."""
        socket = str(self.directory / "uvicorn")
        Path(socket).unlink(missing_ok=True)
        command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.load_app:application"]
        command += ["--uds", socket, "--log-level", "warning", "--no-access-log"]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        environment = {"BENCHMARK": json.dumps(self.place(candidate)), "PYTHONPATH": path}
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)
        try:
            yield Server(process, socket)
        finally:
            process.kill()
            process.wait()

    def place(self, candidate: str) -> dict[str, Any]:
        """Return what the application has to know."""
        size = self.options.connections
        own = candidate in ("tenantry", "arows")
        engine = TENANTRY if own else ENGINES.get(candidate, STOCK)
        entry: dict[str, Any] = database(self.postgres, engine, APP)
        entry["CONN_MAX_AGE"] = 0
        entry["OPTIONS"] |= {
            "application_name": candidate,
            "pool": {"min_size": size, "max_size": size, "timeout": PATIENCE},
        } | ({"pool_mode": "transaction"} if own else {})
        return {
            "candidate": candidate,
            "database": entry,
            "apps": ["django_async_backend"] if candidate == "async_backend" else [],
            "conninfo": f"host={entry['HOST']} port={entry['PORT']} user={APP}"
            f" dbname={entry['NAME']} sslmode=disable application_name=psycopg",
            "size": size,
        }

    def measure(self, candidate: str, load: Load) -> Figures:
        """Return what happens while the clients ask."""
        self.sampler.most.clear()
        with self.serving(candidate) as server:
            return asyncio.run(self.figures(server, candidate, load))

    async def figures(self, server: Server, candidate: str, load: Load) -> Figures:
        """Let the clients ask, for a while that does not count and for one that does."""
        await server.wait(load)
        memory, seen = server.memory("VmRSS"), Seen()
        tasks = [
            asyncio.create_task(client(server.socket, load, seen, number))
            for number in range(load.clients)
        ]
        # So that the clients are apart, and the pool is full.
        await asyncio.sleep(max(self.options.warm_up, 2 * load.seconds))
        cpu, start, seen.counts = server.cpu(), time.perf_counter(), True
        await asyncio.sleep(self.options.seconds)
        seen.counts = False
        taken, cpu = time.perf_counter() - start, server.cpu() - cpu
        peak = server.memory("VmHWM")
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
            connections=self.sampler.most[candidate],
            cpu_s_per_1000=round(1000 * cpu / max(len(answered), 1), 3),
            memory_mib=round(peak - memory, 1),
            errors=dict(seen.errors),
        )


def able(names: list[str]) -> list[str]:
    """Return the candidates that can run here."""
    return [name for name in names if name != "async_backend" or find_spec("django_async_backend")]


def run(benchmark: Benchmark, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all workloads, candidates and numbers of clients."""
    found: dict[str, Any] = {}
    for workload in options.workloads:
        found[workload] = {name: [] for name in options.candidates}
        for clients in options.clients:
            load = Load(workload, clients, options.await_seconds, options.rows, options.tenants)
            print(f"\n{WORKLOADS[workload]}, {clients} at once", flush=True)
            for name, figures in found[workload].items():
                figures.append(benchmark.measure(name, load))
                show(name, figures[-1], found[workload][FLOOR][-1])
    return found


def show(name: str, figures: Figures, floor: Figures) -> None:
    """Print a line."""
    ratio = figures.rps / floor.rps if floor.rps else float("nan")
    print(
        f"  {CANDIDATES[name]:38}{figures.rps:9.1f} requests/s{ratio:7.2f}"
        f"   p50 {figures.p50_ms:8.1f} ms   p99 {figures.p99_ms:8.1f} ms"
        f"{figures.connections:5} connections   {figures.cpu_s_per_1000:7.3f} s/1000"
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
    with tempfile.TemporaryDirectory(prefix="bench-") as name, postgres(Path(name)) as server:
        set_up(server, {"app": database(server, TENANTRY, APP)})
        data.create(rows=options.rows, tenants=options.tenants)
        data.require_isolation("app")
        connections.close_all()
        with sampling(server.dsn()) as sampler:
            found = run(Benchmark(server, Path(name), sampler, options), options)
        machine = facts(server, placement="as they happen")
    result = {
        "machine": machine,
        "options": vars(options),
        "candidates": CANDIDATES,
        "titles": WORKLOADS,
        "workloads": {
            workload: {name: list(map(asdict, figures)) for name, figures in each.items()}
            for workload, each in found.items()
        },
    }
    report.write("load", result, directory=options.output)
    (options.output / "load.md").write_text(tables.load_markdown(result))
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
    parser.add_argument("--seconds", type=float, default=2, help="that are measured, each time")
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
    if min(options.clients) < 1 or options.connections < 1:
        parser.error("there must be at least one of each")
    return options


if __name__ == "__main__":
    main()
