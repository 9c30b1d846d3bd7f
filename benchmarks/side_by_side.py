"""Requests of tenants, served by stock Django, tenantry and its peers, taking turns.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import plots, report, tables
from benchmarks.candidates import CANDIDATES, OWN
from benchmarks.delay import LOOPBACK
from benchmarks.environments import NotInstalledError, interpreter
from benchmarks.facts import facts
from benchmarks.pipes import Pipe, WorkerError, working
from benchmarks.servers import APP, OWNER, ROUTES, Servers, servers
from benchmarks.turns import Effort, measure, try_out
from benchmarks.wire import counting

FLOOR = "stock"
QUICK_WORKLOADS = ("read", "atomic", "nested", "page", "raw", "report")
ALL_WORKLOADS = (*QUICK_WORKLOADS, "reads", "write", "atomic_request", "bulk")
QUICK_ROUTES = ("direct", "pgbouncer", "1 ms")
# Requests of each workload that are counted on the wire.
COUNTED = 10


class Benchmark:
    """Hold who takes part, on which servers, and what was found."""

    def __init__(self, servers: Servers, options: argparse.Namespace) -> None:
        self.servers = servers
        self.options = options
        self.effort = Effort(options.rounds, options.seconds, options.batch, options.tenants)
        self.pythons: dict[str, str] = {}
        self.not_run: dict[str, str] = {}
        self.facts: dict[str, Any] = {}

    def install(self) -> None:
        """Make the environments; who cannot be installed does not run."""
        if sys.version_info < (3, 12):
            say("newer releases of some candidates need Python 3.12: this one gets older ones")
        for name in self.options.candidates:
            candidate = CANDIDATES[name]
            if reason := candidate.reason("", ""):
                self.not_run[name] = reason
                continue
            say(f"{candidate.title}: environment")
            try:
                self.pythons[name] = interpreter(candidate, upgrade=self.options.upgrade)
            except NotInstalledError as error:
                self.not_run[name] = f"it could not be installed: {error}"

    def place(self, name: str, host: str, port: int, *, user: str, pooled: bool) -> dict[str, Any]:
        """Return what a worker has to know."""
        database = {"HOST": host, "PORT": str(port), "USER": user, "NAME": f"bench_{name}"}
        return {
            "database": database,
            "superuser": self.servers.postgres.dsn(dbname=f"bench_{name}"),
            "pooled": pooled,
            "rows": self.options.rows,
            "tenants": self.options.tenants,
        }

    @contextmanager
    def worker(self, name: str, host: str, port: int, **more: Any) -> Iterator[Pipe]:
        """Run a candidate's worker on a server, or what stands in front of it."""
        place = self.place(name, host, port, **more)
        log = self.servers.directory / f"{name}.log"
        with working(self.pythons[name], name, place, log) as pipe:
            yield pipe

    def create(self) -> None:
        """Give every candidate its database, with its tables and all rows."""
        postgres = self.servers.postgres
        for name in list(self.pythons):
            say(f"{CANDIDATES[name].title}: {self.options.rows} rows")
            self.servers.create_database(f"bench_{name}")
            try:
                with self.worker(
                    name, postgres.host, postgres.port, user=OWNER, pooled=False
                ) as pipe:
                    pipe.ask("create")
                    self.facts[name] = pipe.ask("facts")
            except WorkerError as error:
                self.not_run[name] = f"its tables could not be made: {error}"
                del self.pythons[name]
            else:
                self.servers.grant(f"bench_{name}")

    @contextmanager
    def workers(
        self, route: str, place: tuple[str, int], reasons: dict[str, str]
    ) -> Iterator[dict[str, Pipe]]:
        """Run the workers of all that have a mode for the route; `reasons` gets why not."""
        host, port = place
        pooled = route == "pgbouncer"
        with ExitStack() as stack:
            pipes = {}
            # The process that is started first is a twentieth slower than the same code in a later
            # one, whatever its place in the turns. So the first candidate starts once more.
            for name in [*list(self.pythons)[:1], *self.pythons]:
                if reason := CANDIDATES[name].reason(route, ""):
                    reasons[name] = reason
                    continue
                pipe = stack.enter_context(self.worker(name, host, port, user=APP, pooled=pooled))
                try:
                    pipe.ask("connect")
                except WorkerError as error:
                    reasons[name] = str(error)
                else:
                    pipes[name] = pipe
            yield pipes

    def measure(self, route: str) -> dict[str, Any]:
        """Return the outcomes of all workloads on a route."""
        found: dict[str, Any] = {}
        absent: dict[str, str] = {}
        with self.workers(route, self.servers.places[route], absent) as workers:
            for workload in self.options.workloads:
                reasons = absent | try_out(workers, workload, self.effort)
                able = {name: pipe for name, pipe in workers.items() if name not in reasons}
                if FLOOR in reasons:
                    raise SystemExit(f"{route}: {FLOOR} does not run {workload}: {reasons[FLOOR]}")
                try:
                    found[workload] = self.outcomes(f"{route}: {workload}", able, workload)
                except WorkerError as error:
                    # One that fails late takes this table with it, and not the hour before.
                    reasons |= dict.fromkeys(able, f"one of them failed meanwhile: {error}")
                    found[workload] = {}
                found[workload] |= {name: {"not_run": reason} for name, reason in reasons.items()}
                tables.show(f"{route}: {workload}", found[workload])
            for name, worker in workers.items():
                self.facts[name] = worker.ask("facts")
        return found

    def outcomes(self, title: str, workers: Mapping[str, Pipe], workload: str) -> dict[str, Any]:
        """Return the figures of one workload."""
        rounds = measure(workers, workload, self.effort)
        *_, samples = report.with_progress(title, rounds, self.effort.rounds)
        return {name: each.outcome(samples[FLOOR]) for name, each in samples.items()}

    def count(self, route: str) -> dict[str, Any]:
        """Return the statements and round trips of a request, in the mode for `route`."""
        found: dict[str, Any] = {}
        with (
            counting(self.servers.socket) as wire,
            self.workers(route, (LOOPBACK, wire.port), {}) as workers,
        ):
            for workload in self.options.workloads:
                unable = try_out(workers, workload, self.effort)
                able = {name: pipe for name, pipe in workers.items() if name not in unable}
                found[workload] = {}
                for name, worker in able.items():
                    wire.count()
                    worker.ask("run", workload=workload, tenants=[1] * COUNTED)
                    found[workload][name] = {
                        kind: number / COUNTED for kind, number in wire.count().items()
                    }
        return found


def say(what: str) -> None:
    """Show what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return all results."""
    with servers(options.routes) as started:
        benchmark = Benchmark(started, options)
        machine = facts(started.postgres, started.pgbouncer, placement=started.placement)
        benchmark.install()
        benchmark.create()
        say("counting on the wire")
        modes = [route for route in ("direct", "pgbouncer") if route in options.routes]
        wire = {route: benchmark.count(route) for route in modes}
        routes = {}
        for route in options.routes:
            say(f"measuring: {route}")
            routes[route] = benchmark.measure(route)
        return {
            "machine": machine,
            "options": vars(options),
            "candidates": {
                name: {"title": CANDIDATES[name].title}
                | benchmark.facts.get(name, {})
                | ({"not_run": benchmark.not_run[name]} if name in benchmark.not_run else {})
                for name in options.candidates
            },
            "routes": routes,
            "wire": wire,
        }


def names(allowed: Iterable[str]) -> Any:
    """Return a reader of comma-separated names out of `allowed`."""
    allowed = list(allowed)

    def read(text: str) -> list[str]:
        chosen = allowed if text == "all" else text.split(",")
        if unknown := [name for name in chosen if name not in allowed]:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; choose from {', '.join(allowed)}"
            )
        return [name for name in allowed if name in chosen]

    return read


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of notes")
    parser.add_argument("--tenants", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=200, help="of each workload, at most")
    parser.add_argument("--batch", type=int, default=10, help="requests in a row, twice a round")
    parser.add_argument("--seconds", type=float, default=20, help="for each workload, about")
    parser.add_argument("--candidates", type=names(CANDIDATES), default=list(CANDIDATES))
    parser.add_argument("--own", action="store_true", help=f"only {', '.join(OWN)}: no network")
    parser.add_argument("--workloads", type=names(ALL_WORKLOADS), default=list(QUICK_WORKLOADS))
    parser.add_argument("--routes", type=names(ROUTES), default=list(QUICK_ROUTES))
    parser.add_argument("--upgrade", action="store_true", help="install newer releases")
    parser.add_argument("--name", default="side_by_side", help="of the files of results")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="their folder")
    options = parser.parse_args()
    if options.own:
        options.candidates = list(OWN)
    if FLOOR not in options.candidates:
        parser.error(f"ratios are to {FLOOR}: add it to --candidates")
    if options.rows < 100 * options.tenants or options.tenants < 1:
        parser.error("every tenant needs 100 rows or more")
    if options.rounds < 2:
        parser.error("a spread needs two rounds or more")
    return options


def main() -> None:
    """Measure, and write the results."""
    options = parse_arguments()
    result = run(options)
    report.write(options.name, result, directory=options.output, markdown=tables.markdown)
    plots.draw(result, options.output, options.name)
    say(f"{options.output / options.name}.json, .md and .svg")


if __name__ == "__main__":
    main()
