"""Requests that await something slow between two reads: a pool for a transaction, and Django's.

``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.core.handlers.asgi import ASGIHandler
from django.db import connections

from benchmarks import data, processors, report, tables
from benchmarks.facts import facts
from benchmarks.project import APP, STOCK, TENANTRY, database, postgres, set_up
from benchmarks.slow_load import PATIENCE, Sampler, burst, sampling
from benchmarks.slow_views import ROWS_READ
from benchmarks.stats import Spread, spread
from example_asgi.servers import Postgres
from tenantry import aclose_pools
from tenantry.backends.postgresql.loops import expect_requests

WARM_UP = 2
# With few connections, a round of stock Django takes half a minute.
FEW_ROUNDS = 3
# How much faster than stock when connections are scarce.
TARGET = 10.0
# The view, its ENGINE, and what to call it.
CANDIDATES = {
    "stock": (STOCK, "stock, with a filter"),
    "tenantry": (TENANTRY, "tenantry, async ORM"),
    "native": (TENANTRY, "tenantry, arows()"),
}


@dataclass(frozen=True, slots=True)
class Setup:
    """How many requests at once share how many connections, measured how often."""

    name: str
    concurrency: int
    max_size: int
    rounds: int

    @property
    def scarce(self) -> bool:
        """Whether requests have to share connections."""
        return self.max_size < self.concurrency

    def alias(self, candidate: str) -> str:
        """Return the alias, and the application_name, of `candidate`."""
        return f"{self.name}-{candidate}"


@dataclass(slots=True)
class Result:
    """What one candidate did in all rounds of one setup.

    Of the `connections`, `in_use` on average, and `most_in_use` at a time, were in a statement or a
    transaction.
    """

    rps: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    connections: int = 0
    in_use: float = 0
    most_in_use: int = 0
    ratio: Spread | None = None


@contextmanager
def project(setups: list[Setup]) -> Iterator[tuple[Postgres, dict[str, str | int]]]:
    """Start PostgreSQL and set Django up on it, with an alias for each candidate and setup."""
    # Those of the candidate before may still be closing.
    most = 2 * max(setup.max_size for setup in setups) + 20
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        processors.apart() as apart,
        postgres(Path(name), max_connections=most) as server,
    ):
        apart.leave()
        set_up(
            server,
            {
                setup.alias(candidate): pooled(server, engine, setup, candidate)
                for setup in setups
                for candidate, (engine, _) in CANDIDATES.items()
            },
            ROOT_URLCONF="benchmarks.slow_views",
            ALLOWED_HOSTS=["localhost"],
        )
        try:
            yield server, facts(server, placement=apart.placement)
        finally:
            connections.close_all()


def pooled(server: Postgres, engine: str, setup: Setup, candidate: str) -> dict[str, object]:
    """Return an entry of DATABASES with a pool that is as large at first as it may become."""
    size = setup.max_size
    options: dict[str, object] = {
        "application_name": setup.alias(candidate),
        "pool": {"min_size": size, "max_size": size, "timeout": PATIENCE},
    }
    if engine == TENANTRY:
        options["pool_mode"] = "transaction"
    return database(server, engine, APP) | {"CONN_MAX_AGE": 0, "OPTIONS": options}


async def one_burst(
    setup: Setup, candidate: str, sampler: Sampler, options: argparse.Namespace
) -> tuple[float, Counter[str]]:
    """Fill the pool and send the requests; return requests per second, and the errors."""
    alias, handler = setup.alias(candidate), ASGIHandler()

    async def send(seconds: float) -> tuple[float, Counter[str]]:
        return await burst(
            handler,
            f"/{candidate}/{alias}",
            requests=setup.concurrency,
            tenants=options.tenants,
            seconds=seconds,
        )

    # As PoolLifespan says of the event loop of a server.
    expect_requests()
    try:
        await send(0)
        await asyncio.to_thread(sampler.wait_for, alias, setup.max_size)
        # A server process reads its catalogs at its first statements: that is nobody's cost.
        for _ in range(WARM_UP):
            await send(0)
        gc.collect()
        taken, errors = await send(options.await_seconds)
        return setup.concurrency / taken, errors
    finally:
        await aclose_pools()
        # The other candidates are to find the server as this one has.
        connections[alias].close_pool()


def measure(setup: Setup, sampler: Sampler, options: argparse.Namespace) -> dict[str, Result]:
    """Let the candidates take turns, forwards and then backwards."""
    results = {candidate: Result() for candidate in CANDIDATES}
    order = list(CANDIDATES)
    for number in range(1, setup.rounds + 1):
        for candidate in order:
            rps, errors = asyncio.run(one_burst(setup, candidate, sampler, options))
            results[candidate].rps.append(round(rps, 1))
            results[candidate].errors += errors
            print(
                f"{setup.name}, round {number} of {setup.rounds}: {candidate} {rps:.1f} requests/s"
            )
            sys.stdout.flush()
        order.reverse()
    for candidate, result in results.items():
        result.connections = sampler.most[setup.alias(candidate)]
        in_use = sampler.in_use[setup.alias(candidate)]
        result.in_use, result.most_in_use = round(statistics.mean(in_use), 1), max(in_use)
        ratios = [a / b for a, b in zip(result.rps, results["stock"].rps, strict=True)]
        result.ratio = spread(ratios * 2 if len(ratios) == 1 else ratios)
    return results


def targets(setup: Setup, result: Result) -> dict[str, bool]:
    """Return which targets a candidate of tenantry's has met."""
    assert result.ratio is not None
    speed = (
        {f">= {TARGET:g} x stock": result.ratio.median >= TARGET}
        if setup.scarce
        # Rounds of the same code differ by more than this says, hence the upper quartile.
        else {">= 1.0 x stock, within the middle half of the rounds": result.ratio.high >= 1}
    )
    return speed | {
        "no errors": not result.errors,
        f"<= {setup.max_size} connections": result.connections <= setup.max_size,
    }


def print_results(setup: Setup, results: dict[str, Result]) -> None:
    """Print a line for each candidate, then the targets."""
    title = f"{setup.concurrency} requests at once, {setup.max_size} connections"
    print(f"\n{title:46}{'rps':>8}{'ratio':>8}{'errors':>8}{'connections':>13}{'in use':>8}")
    for candidate, result in results.items():
        assert result.ratio is not None
        print(
            f"  {CANDIDATES[candidate][1]:44}{statistics.median(result.rps):8.1f}"
            f"{result.ratio.median:8.2f}{result.errors.total():8}{result.connections:13}{result.in_use:8g}"
        )
        for error, count in result.errors.most_common(3):
            print(f"    {count} x {error}")
    for candidate in ("tenantry", "native"):
        ratio = results[candidate].ratio
        assert ratio is not None
        for target, met in targets(setup, results[candidate]).items():
            print(f"{'pass' if met else 'MISS'}  {CANDIDATES[candidate][1]}: {target}")
        if setup.rounds > 1:
            print(f"      (middle half of the ratios: {ratio.low:.2f} to {ratio.high:.2f})")
    print(flush=True)


def main() -> None:
    """Run the benchmark."""
    options = parse_arguments()
    rounds = min(options.rounds, FEW_ROUNDS)
    setups = [Setup("few", options.concurrency, options.max_size, rounds)]
    if options.enough:
        setups.append(Setup("enough", options.enough, options.enough, options.rounds))
    print("starting PostgreSQL", flush=True)
    with project(setups) as (server, machine):
        print(f"writing {options.rows} rows of {options.tenants} tenants, twice", flush=True)
        data.create(rows=options.rows, tenants=options.tenants)
        found = []
        with sampling(server.dsn()) as sampler:
            for setup in setups:
                data.require_isolation(setup.alias("tenantry"))
                connections[setup.alias("tenantry")].close_pool()
                results = measure(setup, sampler, options)
                print_results(setup, results)
                met = {name: targets(setup, results[name]) for name in ("tenantry", "native")}
                found.append({"setup": asdict(setup), "results": results, "targets": met})
    titles = {candidate: title for candidate, (_, title) in CANDIDATES.items()}
    result = {"machine": machine, "options": vars(options), "titles": titles, "setups": found}
    report.write("slow_await", result, directory=options.output, markdown=tables.slow_markdown)


def parse_arguments() -> argparse.Namespace:
    """Return the options; exit when a tenant would have too few rows to read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--concurrency", type=int, default=500, help="requests at once")
    parser.add_argument("--max-size", type=int, default=10, help="of each candidate's pool")
    parser.add_argument("--await-seconds", type=float, default=0.5, help="between the reads")
    parser.add_argument("--tenants", type=int, default=500)
    parser.add_argument("--rows", type=int, default=100_000, help="in each of the two tables")
    parser.add_argument(
        "--enough", type=int, default=100, help="requests, with a connection for each; 0 for none"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help=f"of each; {FEW_ROUNDS} with few connections, at most",
    )
    parser.add_argument("--output", type=Path, default=report.RESULTS, metavar="DIR")
    options = parser.parse_args()
    if min(options.concurrency, options.max_size, options.tenants, options.rounds) < 1:
        parser.error("there must be at least one of each")
    if options.rows < ROWS_READ * options.tenants:
        parser.error(f"every tenant needs {ROWS_READ} rows or more")
    return options


if __name__ == "__main__":
    main()
