"""Results as tables: for a terminal, and in Markdown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .candidates import CANDIDATES

WORKLOADS = {
    "read": "one read",
    "reads": "five reads",
    "write": "one insert",
    "atomic": "a read in an atomic block",
    "nested": "a read and three nested saves",
    "atomic_request": "an atomic view: a read, an insert",
    "page": "20 rows with two joins",
    "bulk": "500 rows in bulk",
    "raw": "20 rows in raw SQL",
    "report": "a report in raw SQL",
}


def show(title: str, outcomes: Mapping[str, Any]) -> None:
    """Print one line for each candidate."""
    print(f"\n{title:32}{'p50':>10}{'p99':>10}{'ratio':>8}   middle half    p99 ratio")
    for name, outcome in outcomes.items():
        label = f"  {CANDIDATES[name].title:30}"
        if "not_run" in outcome:
            print(f"{label}not run: {outcome['not_run']}")
            continue
        low, middle, high = outcome["p50_ratio"]
        print(
            f"{label}{outcome['p50_us']:7.0f} us{outcome['p99_us']:7.0f} us{middle:8.2f}"
            f"   {low:.2f} to {high:.2f}{outcome['p99_ratio']:11.2f}"
        )
    sys.stdout.flush()


def markdown(result: Mapping[str, Any]) -> str:
    """Return the whole result."""
    return "\n".join([*candidates(result), *ratios(result), *wire(result), *notes(result)]) + "\n"


def row(*cells: object) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def head(*cells: object) -> Iterator[str]:
    """Yield the head of a table."""
    yield ""
    yield row(*cells)
    yield row(*("---" for _ in cells))


def candidates(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield who ran, and on what."""
    yield "### Machine and candidates"
    yield ""
    yield machine(result)
    yield from head("Candidate", "Release", "Django", "psycopg", "Most memory")
    for each in result["candidates"].values():
        if "not_run" in each:
            yield row(each["title"], f"not run: {each['not_run']}", "", "", "")
            continue
        release = each["package"] or "-"
        memory = f"{each['most_memory_mib']} MiB"
        yield row(each["title"], release, each["django"], each["psycopg"], memory)


def ratios(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table for each route: ratios to the floor, and its microseconds."""
    for route, workloads in result["routes"].items():
        shown = list(workloads)
        yield ""
        yield f"### {route}: p50 (p99) as a ratio to the floor"
        yield from head("Candidate", *(WORKLOADS[name] for name in shown))
        for name, each in result["candidates"].items():
            if name in next(iter(workloads.values())):
                yield row(each["title"], *(cell(workloads[work][name], name) for work in shown))
        yield ""
        yield f"### {route}: CPU seconds of the client's process per 1,000 requests"
        yield from head("Candidate", *(WORKLOADS[name] for name in shown))
        for name, each in result["candidates"].items():
            if name in next(iter(workloads.values())):
                found = (workloads[work][name].get("cpu_s_per_1000", "-") for work in shown)
                yield row(each["title"], *found)


def cell(outcome: Mapping[str, Any], name: str) -> str:
    """Return a ratio; of the floor, the microseconds; a dash with a note where it was not run."""
    if "not_run" in outcome:
        return "not run"
    if name == "stock":
        return f"{outcome['p50_us']:.0f} µs ({outcome['p99_us']:.0f} µs)"
    return f"{outcome['p50_ratio'][1]:.2f} ({outcome['p99_ratio']:.2f})"


def wire(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the statements and round trips of a request."""
    for route, workloads in result["wire"].items():
        shown = list(workloads)
        yield ""
        yield f"### {route}: round trips (statements) of a request"
        yield from head("Candidate", *(WORKLOADS[name] for name in shown))
        for name, each in result["candidates"].items():
            counts = [workloads[work].get(name) for work in shown]
            if any(counts):
                yield row(each["title"], *(counted(count) for count in counts))


def counted(count: Mapping[str, float] | None) -> str:
    """Return the numbers of a cell."""
    return f"{count['round_trips']:g} ({count['statements']:g})" if count else "not run"


def notes(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield why candidates did not run."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for route, workloads in result["routes"].items():
        for workload, outcomes in workloads.items():
            for name, outcome in outcomes.items():
                if "not_run" in outcome:
                    key = (result["candidates"][name]["title"], outcome["not_run"], route)
                    reasons.setdefault(key, []).append(WORKLOADS[workload])
    if reasons:
        yield from ("", "### Not run", "")
    for (title, reason, route), which in reasons.items():
        every = len(which) == len(result["routes"][route])
        yield f"- {title}, {route}, {'everything' if every else ', '.join(which)}: {reason}"


def load_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for each workload of servers under load."""
    lines = [machine(result)]
    for workload, candidates in result["workloads"].items():
        floor = next(iter(candidates.values()))
        clients = floor[-1]["clients"]
        lines += ["", f"### {result['titles'][workload]}"]
        lines += head(
            "Candidate",
            "Round trips (statements)",
            *(f"requests/s, {each['clients']} at once" for each in floor),
            f"p50 of {clients}, ms",
            "server connections (in use on average, at most)",
            "CPU s per 1,000 requests",
            f"MiB per 1,000 at once, taken from {clients}",
        )
        for name, figures in candidates.items():
            last = figures[-1]
            rates = (f"{each['rps']:g} ({median(each['ratios'])})" for each in figures)
            in_use = f"{last['connections']} ({last['in_use']:g}, {last['most_in_use']})"
            lines.append(
                row(
                    result["candidates"][name],
                    counted(result["wire"][name][workload]),
                    *rates,
                    last["p50_ms"],
                    in_use,
                    last["cpu_s_per_1000"],
                    round(1000 * last["memory_mib"] / last["clients"]),
                )
            )
    if result["not_run"]:
        lines += ["", "### Not run", ""]
    lines += (f"- {result['candidates'][name]}: {why}" for name, why in result["not_run"].items())
    return "\n".join(lines) + "\n"


def routes_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for each workload, with a column for each route."""
    return ratio_tables(result, result["routes"])


def compile_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for each query, with a column for each number of models."""
    found = result["protected_models"].items()
    return ratio_tables(result, {f"{count} protected models": each for count, each in found})


def ratio_tables(result: Mapping[str, Any], columns: Mapping[str, Any]) -> str:
    """Return a table for each workload: the first candidate's microseconds, and ratios to it."""
    lines = [machine(result)]
    for workload, candidates in next(iter(columns.values())).items():
        lines += ["", f"### {workload}"]
        lines += head("Candidate", *columns)
        floor = next(iter(candidates))
        for name in candidates:
            found = (each[workload][name] for each in columns.values())
            lines.append(row(name, *(middle(each, is_floor=name == floor) for each in found)))
    return "\n".join(lines) + "\n"


def middle(outcome: Mapping[str, Any], *, is_floor: bool) -> str:
    """Return a ratio with its quartiles; of the floor, the microseconds."""
    if is_floor:
        return f"{outcome['microseconds']['median']:.0f} µs"
    return quartiles(outcome["ratio"])


def quartiles(found: Mapping[str, float]) -> str:
    """Return a median and its quartiles."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def slow_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for each setup of requests that await something slow."""
    lines = [machine(result)]
    for each in result["setups"]:
        setup = each["setup"]
        title = f"{setup['concurrency']} requests at once, {setup['max_size']} connections"
        lines += ["", f"### {title}"]
        lines += head(
            "Candidate", "requests/s", "ratio", "errors", "connections (in use on average, at most)"
        )
        for name, found in each["results"].items():
            in_use = f"{found['connections']} ({found['in_use']:g}, {found['most_in_use']})"
            rate = f"{statistics.median(found['rps']):.1f}"
            errors = sum(found["errors"].values())
            lines.append(
                row(result["titles"][name], rate, quartiles(found["ratio"]), errors, in_use)
            )
    return "\n".join(lines) + "\n"


def works_markdown(result: Mapping[str, Any]) -> str:
    """Return a table of the instructions of each work."""
    lines = [machine(result), *head("Work", "stock Django", "tenantry", "ratio")]
    for work, found in result["works"].items():
        counts = (f"{found[name]:,}" for name in ("stock", "tenantry"))
        lines.append(row(work, *counts, f"{found['ratio']:.3f}"))
    return "\n".join(lines) + "\n"


def growth_markdown(result: Mapping[str, Any]) -> str:
    """Return a table for each dimension: its steps, and the exponents."""
    lines = [machine(result)]
    for dimension, found in result["dimensions"].items():
        lines += ["", f"### {dimension}"]
        lines += head("", *next(iter(found["steps"]))[1], "ratio")
        for size, candidates in found["steps"]:
            times = (f"{each['microseconds']['median']:.0f} µs" for each in candidates.values())
            *_, ours = candidates.values()
            lines.append(row(f"{size:,}", *times, quartiles(ours["ratio"])))
        lines.append(row("exponent", *found["exponents"].values(), ""))
    return "\n".join(lines) + "\n"


def shares_markdown(result: Mapping[str, Any]) -> str:
    """Return a table of what each profile is made of."""
    profiles = result["profiles"]
    titles = (f"{name} ({found['microseconds']:.0f} µs)" for name, found in profiles.items())
    lines = [machine(result), *head("Samples that end in", *titles)]
    owners = dict.fromkeys(owner for found in profiles.values() for owner in found["shares"])
    for owner in owners:
        shares = (found["shares"].get(owner, 0) for found in profiles.values())
        lines.append(row(owner, *(f"{share:.1%}" for share in shares)))
    return "\n".join(lines) + "\n"


def machine(result: Mapping[str, Any]) -> str:
    """Return what the results depend on, in a line."""
    return "; ".join(f"{key.replace('_', ' ')}: {each}" for key, each in result["machine"].items())


def median(ratios: Sequence[float]) -> str:
    """Return the median of ratios; a dash where the floor did nothing."""
    return f"{statistics.median(ratios):.2f}" if ratios else "-"
