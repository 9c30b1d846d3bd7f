"""How the cost of a read grows: with rows, tenants, joins, models, scopes and concurrency.

Each step is measured beside stock Django with a hand-written filter, which reads the same rows from
tables without policies. ``benchmarks/README.md`` says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import connections, models, transaction

from benchmarks import data, plots, report, tables
from benchmarks.program import ROWS_READ, check
from benchmarks.project import project
from benchmarks.rounds import Candidate, measure
from benchmarks.stats import LEAST, Outcome, Round, outcomes
from tenantry import admin_context, tenant_context

STOCK, TENANTRY = "direct stock", "direct tenantry"
FLOOR, OURS = "stock, with a filter", "tenantry"
# Some tenants have very many rows, most have few.
SKEW = 3
FILL = """
SELECT setseed(0.5);
TRUNCATE benchmarks_plainnote, benchmarks_protectednote, benchmarks_tenant CASCADE;
INSERT INTO benchmarks_tenant (id, name)
SELECT i, format('tenant %%s', i) FROM generate_series(1, %(tenants)s) i;
INSERT INTO benchmarks_plainnote (id, tenant_id, title, body, created_at)
SELECT i, {tenant}, format('note %%s', i), repeat(md5(i::text), 4),
    '2026-01-01Z'::timestamptz + i * interval '1 second'
FROM generate_series(1, %(rows)s) i;
INSERT INTO benchmarks_protectednote SELECT * FROM benchmarks_plainnote ORDER BY id;
"""
EQUAL = "1 + i %% %(tenants)s"
SKEWED = f"least(%(tenants)s, 1 + floor(%(tenants)s * power(random(), {SKEW}))::bigint)"
JOINS, JOINED_ROWS = 6, 20_000
MOST_MODELS = 300


@dataclass(frozen=True, slots=True)
class Limits:
    """How far each dimension goes, and how long a step may take."""

    rows: int
    tenants: int
    concurrency: int
    rounds: int
    batch: int
    seconds: float


Step = tuple[float, dict[str, Outcome]]
Steps = Iterator[Step]


def fill(rows: int, tenants: int, tenant: str = EQUAL) -> None:
    """Write other notes, whose tenant is an SQL expression of ``i``."""
    with (
        admin_context(),
        transaction.atomic(using="owner"),
        connections["owner"].cursor() as cursor,
    ):
        cursor.execute(FILL.format(tenant=tenant), {"rows": rows, "tenants": tenants})
    with connections["owner"].cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
        # Its writes would come in the middle of a round.
        cursor.execute("SELECT pg_stat_force_next_flush()")


def newest(
    tenants: Sequence[int], read_in: Callable[[int], Any] = tenant_context
) -> list[Candidate]:
    """Return the candidates that read the newest notes of one of `tenants`."""
    plain, protected = data.rows("PlainNote", STOCK), data.rows("ProtectedNote", TENANTRY)

    def stock(number: int) -> list[Any]:
        tenant = tenants[number - 1]
        return list(plain.filter(tenant_id=tenant).order_by("-created_at")[:ROWS_READ])

    def ours(number: int) -> list[Any]:
        with read_in(tenants[number - 1]):
            return list(protected.order_by("-created_at")[:ROWS_READ])

    def checked(number: int, notes: Sequence[object]) -> None:
        check(tenants[number - 1], notes)

    return [Candidate(FLOOR, stock, checked), Candidate(OURS, ours, checked)]


def measured(candidates: Sequence[Candidate], tenants: int, limits: Limits) -> dict[str, Outcome]:
    """Return the outcomes of candidates that take turns."""
    every = {"tenants": tenants, "batch": limits.batch, "seconds": limits.seconds}
    return outcomes(list(measure(candidates, rounds=limits.rounds, **every)))


def powers(first: int, last: int) -> Iterator[int]:
    """Yield `first` and what is ten times as much, up to `last`."""
    while first <= last:
        yield first
        first *= 10


# The dimensions.


def by_rows(limits: Limits) -> Steps:
    """Let the table grow, with a hundred tenants."""
    tenants = 100
    for rows in powers(10_000, limits.rows):
        fill(rows, tenants)
        yield rows, measured(newest(range(1, tenants + 1)), tenants, limits)


def by_tenants(limits: Limits) -> Steps:
    """Let there be more tenants, of thirty rows each."""
    for tenants in powers(10, limits.tenants):
        fill(30 * tenants, tenants)
        yield tenants, measured(newest(range(1, tenants + 1)), tenants, limits)


def skewed(place: float) -> Callable[[Limits], Steps]:
    """Return a dimension: more tenants, of thirty rows each on average, as one of them reads."""

    def by_skewed_tenants(limits: Limits) -> Steps:
        for tenants in powers(10, limits.tenants):
            fill(30 * tenants, tenants, SKEWED)
            tenant, _ = at(place, by_size())
            yield tenants, measured(newest([tenant]), 1, limits)

    return by_skewed_tenants


def by_size() -> list[tuple[int, int]]:
    """Return the tenants that have rows enough, and how many, the smallest first."""
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "SELECT tenant_id, count(*) FROM benchmarks_plainnote GROUP BY 1"
            " HAVING count(*) >= %s ORDER BY 2, 1",
            [ROWS_READ],
        )
        return list(cursor.fetchall())


def at(place: float, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return one of `sizes`: the first for a `place` of 0, the last for 1."""
    return sizes[round(place * (len(sizes) - 1))]


def by_size_of_the_tenant(limits: Limits) -> Steps:
    """Read as a small tenant and as a large one of the same table, whose sizes are skewed."""
    fill(min(limits.rows, 1_000_000), 2000, SKEWED)
    sizes = by_size()
    for place in (0.0, 0.5, 0.9, 0.99, 1.0):
        tenant, size = at(place, sizes)
        yield size, measured(newest([tenant]), 1, limits)


def by_scopes(limits: Limits) -> Steps:
    """Read inside of scopes that are nested."""
    fill(10_000, 100)

    class Nested(ExitStack):
        def __init__(self, tenant: int) -> None:
            super().__init__()
            for _ in range(depth):
                self.enter_context(tenant_context(tenant))

    for depth in (1, 2, 5, 10, 20, 50):
        yield depth, measured(newest(range(1, 101), Nested), 100, limits)


def by_joins(limits: Limits) -> Steps:
    """Read a page of rows that are joined with more protected tables."""
    plain, protected = chain("Plain", models.Model), chain("Protected", protected_base())
    tenants = 100
    fill(10_000, tenants)
    fill_chain("plain")
    fill_chain("protected")

    def page(model: Any, alias: str, joins: int) -> Any:
        related = "__".join(["up"] * joins)
        return model.objects.using(alias).select_related(related).order_by("-id")

    for joins in range(1, JOINS + 1):
        stock_page, our_page = page(plain, STOCK, joins), page(protected, TENANTRY, joins)
        paths = ["up__" * depth for depth in range(joins + 1)]

        def stock(tenant: int, stock_page: Any = stock_page, paths: Any = paths) -> list[Any]:
            return list(
                stock_page.filter(**{f"{path}tenant_id": tenant for path in paths})[:ROWS_READ]
            )

        def ours(tenant: int, our_page: Any = our_page) -> list[Any]:
            with tenant_context(tenant):
                return list(our_page[:ROWS_READ])

        candidates = [Candidate(FLOOR, stock, check), Candidate(OURS, ours, check)]
        yield joins, measured(candidates, tenants, limits)


def protected_base() -> type[models.Model]:
    """Return what protected models inherit, which can be imported once Django is set up."""
    from tenantry import RLSProtectedModel  # noqa: PLC0415

    return RLSProtectedModel


def chain(name: str, base: type[models.Model]) -> Any:
    """Return the last of a chain of models, made with their tables."""
    model: Any = None
    for number in range(JOINS + 1):
        body: dict[str, Any] = {"__module__": "benchmarks.models", "title": models.TextField()}
        if base is models.Model:
            body["tenant"] = models.ForeignKey(
                "benchmarks.Tenant", models.CASCADE, db_index=False, related_name="+"
            )
        if model is not None:
            body["up"] = models.ForeignKey(model, models.CASCADE, related_name="+")
        options = {"indexes": [models.Index("tenant", "id", name=f"{name.lower()}_{number}")]}
        body["Meta"] = type("Meta", (), {"app_label": "benchmarks", **options})
        model = type(f"{name}Chain{number}", (base,), body)
        with connections["owner"].schema_editor() as editor:
            editor.create_model(model)
    return model


def fill_chain(name: str) -> None:
    """Write rows of a hundred tenants, each of which refers to one of the same tenant."""
    with (
        admin_context(),
        transaction.atomic(using="owner"),
        connections["owner"].cursor() as cursor,
    ):
        for number in range(JOINS + 1):
            up = ("", "") if number == 0 else (", up_id", ", i")
            cursor.execute(
                f"INSERT INTO benchmarks_{name}chain{number} (id, tenant_id, title{up[0]})"
                f" SELECT i, 1 + i %% 100, format('row %%s', i){up[1]}"
                " FROM generate_series(1, %s) i",
                [JOINED_ROWS],
            )
    with connections["owner"].cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")


def by_models(limits: Limits) -> Steps:
    """Read one table while more models are protected."""
    fill(10_000, 100)
    made = 0
    for count in (1, 10, 100, MOST_MODELS):
        while made < count:
            body: dict[str, Any] = {"__module__": "benchmarks.models", "title": models.TextField()}
            type(f"Growing{made}", (protected_base(),), body)
            made += 1
        yield count, measured(newest(range(1, 101)), 100, limits)


def by_concurrency(limits: Limits) -> Steps:
    """Read in tasks that are all there at once, and share ten connections."""
    fill(10_000, 100)
    plain, protected = data.rows("PlainNote", STOCK), data.rows("ProtectedNote", TENANTRY)

    def stock(tenant: int) -> list[Any]:
        return list(plain.filter(tenant_id=tenant).order_by("-created_at")[:ROWS_READ])

    def ours(tenant: int) -> list[Any]:
        return list(protected.order_by("-created_at")[:ROWS_READ])

    for count in (1, 10, 100, 1000, 2000):
        if count > limits.concurrency:
            return
        rounds = []
        with ThreadPoolExecutor(10) as executor:
            for number in range(2 + (LEAST if count >= 1000 else 2 * LEAST)):
                turn = [(FLOOR, stock, None), (OURS, ours, tenant_context)]
                result: Round = {FLOOR: 0.0, OURS: 0.0}
                for name, read, scope in turn if number % 2 else reversed(turn):
                    result[name] = asyncio.run(burst(count, read, scope, executor))
                rounds.append(result)
            list(executor.map(lambda _: connections.close_all(), range(50)))
        yield count, outcomes(rounds[2:])


async def burst(count: int, read: Any, scope: Any, executor: ThreadPoolExecutor) -> float:
    """Return the microseconds of each of `count` reads that begin at once."""
    everybody = asyncio.Barrier(count + 1)
    loop = asyncio.get_running_loop()

    async def visit(tenant: int) -> None:
        with ExitStack() as stack:
            if scope:
                stack.enter_context(scope(tenant))
            await everybody.wait()
            rows = await loop.run_in_executor(executor, copy_context().run, read, tenant)
        check(tenant, rows)

    tasks = [asyncio.create_task(visit(1 + number % 100)) for number in range(count)]
    await everybody.wait()
    start = time.perf_counter()
    await asyncio.gather(*tasks)
    return 1e6 * (time.perf_counter() - start) / count


DIMENSIONS: dict[str, Callable[[Limits], Steps]] = {
    "rows": by_rows,
    "tenants": by_tenants,
    "skewed tenants, as a small one": skewed(0),
    "skewed tenants, as the largest": skewed(1),
    "rows of the tenant": by_size_of_the_tenant,
    "joins": by_joins,
    "protected models": by_models,
    "nested scopes": by_scopes,
    "concurrent tasks": by_concurrency,
}


def exponent(steps: Sequence[Step], name: str) -> float:
    """Return e where the time grows like n to the power of e, by least squares; 0 for one size."""
    sizes = [math.log(size) for size, _ in steps]
    if len({*sizes}) < 2:
        return 0.0
    times = [math.log(outcome[name].microseconds.median) for _, outcome in steps]
    return statistics.linear_regression(sizes, times).slope


def run(name: str, limits: Limits) -> dict[str, Any]:
    """Measure one dimension, and print a line for each step."""
    print(f"\n{name}\n{'':>20} {'stock':>10} {'tenantry':>10} {'ratio':>7}", flush=True)
    steps = []
    for size, outcome in DIMENSIONS[name](limits):
        steps.append((size, outcome))
        floor, ours = (outcome[each].microseconds.median for each in (FLOOR, OURS))
        ratio = outcome[OURS].ratio.median
        print(f"{size:>20,} {floor:>7.0f} us {ours:>7.0f} us {ratio:>7.3f}", flush=True)
    exponents = {each: round(exponent(steps, each), 3) for each in (FLOOR, OURS)}
    print(f"{'exponent':>20} {exponents[FLOOR]:>10.3f} {exponents[OURS]:>10.3f}", flush=True)
    return {"exponents": exponents, "steps": [[size, outcome] for size, outcome in steps]}


def main() -> None:
    """Measure all dimensions, or some; write ``growth.json``, or what the name says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="at most")
    parser.add_argument("--tenants", type=int, default=100_000, help="at most")
    parser.add_argument("--concurrency", type=int, default=2000, help="at most")
    parser.add_argument("--rounds", type=int, default=20, help="for each step")
    parser.add_argument("--batch", type=int, default=50, help="in a row, twice in a round")
    parser.add_argument("--seconds", type=float, default=5, help="at most, for each step")
    parser.add_argument("--only", action="append", choices=list(DIMENSIONS))
    parser.add_argument("--name", default="growth", help="of the files of results")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    limits = Limits(**{name: getattr(options, name) for name in Limits.__annotations__})
    print("starting PostgreSQL", flush=True)
    # Tables that outgrow it would show how fast the system reads files.
    with project(shared_buffers="2GB") as facts:
        data.create(rows=1000, tenants=10)
        data.require_isolation(TENANTRY)
        grown = {name: run(name, limits) for name in options.only or DIMENSIONS}
    result = {"machine": facts, "options": vars(options), "dimensions": grown}
    report.write(options.name, result, directory=options.output, markdown=tables.growth_markdown)
    # As it was written: numbers and names.
    written = json.loads((options.output / f"{options.name}.json").read_text())
    plots.draw_growth(written, options.output, options.name)


if __name__ == "__main__":
    main()
