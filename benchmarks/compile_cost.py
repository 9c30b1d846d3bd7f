"""What compiling a queryset costs with tenantry's ENGINE and with Django's; nothing is sent.

It needs no server. ``benchmarks/README.md`` says how to read the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import django
from django.conf import settings

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report, tables
from benchmarks.facts import software
from benchmarks.forks import forked
from benchmarks.project import STOCK, TENANTRY
from benchmarks.rounds import WARM_UP, no_collection
from benchmarks.stats import Round, outcomes

settings.configure(
    DATABASES={
        alias: {"ENGINE": engine, "NAME": "none"}
        for alias, engine in (("default", TENANTRY), ("stock", STOCK), ("tenantry", TENANTRY))
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["tenantry", "benchmarks"],
    RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
)
django.setup()

from django.db import models  # noqa: E402

from tenantry import RLSProtectedModel, admin_context, tenant_context  # noqa: E402

Compile = Callable[[], Any]
CALLS = 200


def protected(name: str, **fields: models.Field[Any, Any]) -> type[models.Model]:
    """Return a new protected model."""
    body = {"__module__": "benchmarks.models", "title": models.TextField(), **fields}
    return type(name, (RLSProtectedModel,), body)


def chain(name: str, length: int) -> Any:
    """Return the last of `length` protected models, each with a foreign key to the one before."""
    model = protected(f"{name}0")
    for number in range(1, length):
        up = models.ForeignKey(model, models.CASCADE, null=number % 2 == 0)
        model = protected(f"{name}{number}", up=up)
    return model


def compiled(queryset: Any, alias: str) -> Compile:
    """Return a function that compiles `queryset` for a database."""
    return lambda: queryset.query.get_compiler(alias).as_sql()


def candidates(model: Any) -> dict[str, dict[str, tuple[Compile, Any]]]:
    """Return what is compared: for each query, a function and its scope by name, stock first."""
    simple, joined = model.objects.filter(title="x"), model.objects.select_related("up__up__up")
    return {
        name: {
            "stock": (compiled(queryset, "stock"), admin_context),
            "stock once more": (compiled(queryset, "stock"), admin_context),
            "stock, filtered": (
                compiled(queryset.filter(**{f"{path}tenant_id": 1 for path in paths}), "stock"),
                admin_context,
            ),
            "tenantry, admin": (compiled(queryset, "tenantry"), admin_context),
            "tenantry, bound": (compiled(queryset, "tenantry"), lambda: tenant_context(1)),
        }
        for name, queryset, paths in (
            ("simple", simple, [""]),
            ("3 joins", joined, ["", "up__", "up__up__", "up__up__up__"]),
        )
    }


def timed(compile_it: Compile) -> float:
    """Return the microseconds of processor time of one call: it waits for nothing."""
    start = process_time()
    for _ in range(CALLS):
        compile_it()
    return (process_time() - start) / CALLS * 1e6


def serving(compile_it: Compile, scope: Any) -> Callable[[bool], float]:
    """Return a function that returns the microseconds of one call in a scope."""

    def serve(_: bool) -> float:
        with no_collection(), scope():
            return timed(compile_it)

    return serve


def measure(contenders: Mapping[str, tuple[Compile, Any]], rounds: int) -> list[Round]:
    """Return what each contender took, round by round, forwards and backwards in turn.

    Chance makes one process slower than another that does the same, for as long as they live, so
    the caller makes them several times.
    """
    results = []
    with forked({name: serving(*each) for name, each in contenders.items()}) as asking:
        for number in range(rounds + WARM_UP):
            names = list(asking)
            result: Round = dict.fromkeys(names, 0.0)
            for name in names if number % 2 else reversed(names):
                result[name] = asking[name](True)
            results.append(result)
    return results[WARM_UP:]


def main() -> None:
    """Measure, print a table, and write ``compile_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10, help="how often processes are made")
    parser.add_argument("--rounds", type=int, default=20, help="with each of these")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    machine = software()
    model = chain("Few", 4)
    found: dict[int, Any] = {}
    for count in (6, 300):
        if count > 6:
            chain("Many", count - 6)
        print(f"{count} protected models")
        found[count] = {}
        for query, contenders in candidates(model).items():
            found[count][query] = outcomes(
                [each for _ in range(options.draws) for each in measure(contenders, options.rounds)]
            )
            for name, outcome in found[count][query].items():
                ratio = outcome.ratio
                print(
                    f"  {query:8} {name:16} {outcome.microseconds.median:7.1f} us"
                    f"  x {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
                )
    result = {"machine": machine, "options": vars(options), "protected_models": found}
    report.write("compile_cost", result, directory=options.output, markdown=tables.compile_markdown)


if __name__ == "__main__":
    main()
