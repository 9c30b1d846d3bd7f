"""What every benchmark program does: options, servers, rows, tables and a file of results."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import data, report, tables
from .project import ROUTES, SHAPES, project
from .rounds import Candidate, measure
from .stats import outcomes

ROWS_READ = 20


@dataclass(frozen=True, slots=True)
class Workload:
    """Candidates that do the same; `targets` are the ratios to the first that are aimed at."""

    name: str
    candidates: Sequence[Candidate]
    targets: Mapping[str, float]


def run(
    name: str,
    description: str | None,
    workloads: Callable[[str], Iterable[Workload]],
    shapes: Sequence[str] = tuple(SHAPES),
) -> None:
    """Measure the `workloads` of each route, print tables, and write ``<name>.json``.

    `shapes` are those of the policies that may be asked for.
    """
    options = parse_arguments(description, shapes)
    print("starting PostgreSQL and PgBouncer", flush=True)
    with project(options.shape) as facts:
        print(f"writing {options.rows} rows of {options.tenants} tenants, twice", flush=True)
        data.create(rows=options.rows, tenants=options.tenants)
        results: dict[str, object] = {}
        for route in ROUTES:
            data.require_isolation(f"{route} tenantry")
            results[route] = {
                workload.name: outcome_of(route, workload, options) for workload in workloads(route)
            }
    result = {"machine": facts, "options": vars(options), "routes": results}
    name += suffix(options.shape)
    report.write(name, result, directory=options.output, markdown=tables.routes_markdown)


def suffix(shape: str) -> str:
    """Return what the name of a file of results ends with; nothing for the default shape."""
    return "" if shape == "guc" else f"_{shape}"


def outcome_of(route: str, workload: Workload, options: argparse.Namespace) -> object:
    """Measure one workload, and print its table."""
    every = {"tenants": options.tenants, "batch": options.batch, "seconds": options.seconds}
    title = f"{route}: {workload.name}"
    rounds = measure(workload.candidates, rounds=options.rounds, **every)
    found = outcomes(list(report.with_progress(title, rounds, options.rounds)))
    report.print_table(f"{title} ({2 * options.batch} a round)", found, workload.targets)
    return found


def check(tenant: int, notes: Sequence[object]) -> None:
    """Raise RuntimeError unless `notes` are all that was asked for, and of `tenant`."""
    if [getattr(note, "tenant_id", note) for note in notes] != [tenant] * ROWS_READ:
        raise RuntimeError(f"tenant {tenant} was given the wrong notes: {notes!r}")


def parse_arguments(description: str | None, shapes: Sequence[str]) -> argparse.Namespace:
    """Return the options; exit when a tenant would have too few rows to read."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rows", type=int, default=100_000, help="in each of the two tables")
    parser.add_argument("--tenants", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=100, help="for each workload")
    parser.add_argument("--batch", type=int, default=50, help="in a row, twice in a round")
    parser.add_argument("--seconds", type=float, default=15, help="at most, for each workload")
    parser.add_argument("--shape", choices=list(shapes), default="guc", help="of the policies")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    if options.tenants < 1 or options.rounds < 2:
        parser.error("at least one tenant and two rounds are needed")
    if options.rows < ROWS_READ * options.tenants:
        parser.error(f"every tenant needs {ROWS_READ} rows or more")
    return options
