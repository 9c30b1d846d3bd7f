"""Benchmarks run, check what they read, and write down what they measured."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from string import hexdigits
from typing import Any

import pytest
from django import get_version

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.load_client import Load, WrongAnswerError, ask
from benchmarks.load_figures import Figures, merged
from benchmarks.shop import Shop

WORKLOADS = {"read", "reads", "write", "atomic", "nested", "atomic_request"}
WORKLOADS |= {"page", "bulk", "raw", "report"}
OURS = ["with_tenantry", "with_tenantry_role"]
OWN = ["stock", "psycopg_alone", *OURS]
# One that runs none of the workloads.
CANNOT = "async_backend"
# Two SETs ride along with each statement of tenantry's.
BINDING = 2
# What a request is on the wire: the statements of stock Django, each a round trip; the round trips
# of tenantry, where BEGIN, SAVEPOINT and RELEASE ride along; and how many of those carry a binding.
WIRE = {
    "read": (1, 1, 1),
    "reads": (5, 5, 5),
    "write": (1, 1, 1),
    "atomic": (3, 2, 1),
    "nested": (12, 5, 4),
    "atomic_request": (4, 3, 2),
    "page": (1, 1, 1),
    "raw": (1, 1, 1),
    "report": (1, 1, 1),
}
FACTS = {"processor", "cpus", "memory_mib", "system", "load_before", "busy_before"}
FACTS |= {"tenantry", "commit", "python", "django", "psycopg"}
FACTS_OF_SERVERS = {"postgresql", "pgbouncer", "fsync", "shared_buffers", "autovacuum"}
FACTS_OF_SERVERS |= {"servers_and_clients"}
ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--rows", "400", "--tenants", "20", "--rounds", "2", "--batch", "2", "--seconds", "0"]


QUICK_BURST = ["--concurrency", "6", "--max-size", "2", "--await-seconds", "0.05", "--tenants"]
QUICK_BURST += ["20", "--rows", "400", "--enough", "3", "--rounds", "1"]


def run(name: str, output: Path, options: Sequence[str] = QUICK, written: str | None = None) -> Any:
    """Run a benchmark in the least that it can be, and return its file of results.

    It is on the embedded PostgreSQL: an older one does not have all shapes of policies.
    """
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("TENANTRY_PG_BINDIR", None)
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *options, "--output", output],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    written_down = json.loads((output / f"{written or name}.json").read_text())
    servers = set() if name.endswith("_cost") else FACTS_OF_SERVERS
    assert written_down["machine"].keys() >= FACTS | servers
    return written_down


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return what was measured without peers, which take a network to install, and its folder."""
    folder = tmp_path_factory.mktemp("side_by_side")
    options = ["--candidates", ",".join([*OWN, CANNOT]), "--rows", "2000", "--tenants", "10"]
    options += ["--rounds", "2", "--batch", "2", "--seconds", "0"]
    options += ["--workloads", "all", "--routes", "direct,pgbouncer,1 ms"]
    return run("side_by_side", folder, options), folder


def test_every_candidate_serves_every_workload_on_every_route(
    side_by_side: tuple[Any, Path],
) -> None:
    result, _ = side_by_side
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]
    for workloads in result["routes"].values():
        assert set(workloads) == WORKLOADS
        for outcomes in workloads.values():
            assert list(outcomes) == OWN
            assert outcomes["stock"]["p50_ratio"] == [1, 1, 1]
            assert outcomes["stock"]["p99_ratio"] == 1
            for outcome in outcomes.values():
                assert (outcome["requests"], outcome["rounds"]) == (8, 2)
                assert 0 < outcome["p50_us"] <= outcome["p99_us"]
                assert outcome["cpu_s_per_1000"] > 0
    # The proxy holds back for as long as it says, once for each round trip.
    assert result["routes"]["1 ms"]["reads"]["psycopg_alone"]["p50_us"] > 5000


@pytest.mark.parametrize("mode", ["direct", "pgbouncer"])
def test_no_workload_takes_a_round_trip_more(mode: str, side_by_side: tuple[Any, Path]) -> None:
    wire = side_by_side[0]["wire"][mode]
    counted = {
        workload: {name: (each["round_trips"], each["statements"]) for name, each in found.items()}
        for workload, found in wire.items()
    }
    assert counted.keys() == WORKLOADS
    # Before Django 6.1, it is in a block of its own.
    bulk = {(1, 1): (1, 1, 1), (3, 3): (3, 2, 1)}[counted["bulk"]["stock"]]
    for workload, (statements, round_trips, bound) in (WIRE | {"bulk": bulk}).items():
        assert round_trips <= statements
        assert counted[workload]["stock"] == (statements, statements)
        for name in OURS:
            assert counted[workload][name] == (round_trips, statements + BINDING * bound)
    assert counted["atomic"]["psycopg_alone"] == (1, 3)


def test_facts_are_those_of_the_run(side_by_side: tuple[Any, Path]) -> None:
    machine = side_by_side[0]["machine"]
    assert (machine["fsync"], machine["autovacuum"]) == ("off", "off")
    assert machine["shared_buffers"] == "512MB"
    assert machine["django"] == get_version()
    assert set(machine["commit"].removesuffix(", and changes")) <= set(hexdigits)


def test_blocks_are_measured_on_every_route(tmp_path: Path) -> None:
    result = run("blocks", tmp_path)
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]
    for route in result["routes"].values():
        assert list(route) == [
            "read",
            "atomic(read)",
            "atomic(atomic(read))",
            "atomic(3 x atomic(read))",
        ]
        for floor, ours in (workload.values() for workload in route.values()):
            assert floor["ratio"]["median"] == 1
            assert ours["microseconds"]["median"] > 0


def test_results_are_a_table_and_plots_too(side_by_side: tuple[Any, Path]) -> None:
    result, folder = side_by_side
    table = (folder / "side_by_side.md").read_text()
    assert f"| tenantry | 1 ({1 + BINDING}) |" in table
    assert "### Not run" not in table
    reason = result["candidates"][CANNOT]["not_run"]
    assert reason == CANDIDATES[CANNOT].reason("direct", "read")
    assert f"| django-async-backend | not run: {reason} |" in table
    for route in ("direct", "pgbouncer", "1_ms"):
        plot = (folder / f"side_by_side_{route}.svg").read_text()
        assert "tenantry" in plot
        assert "stock Django" in plot


@pytest.mark.parametrize("route", ["direct", "pgbouncer"])
def test_reasons_are_for_a_route_a_workload_or_all(route: str) -> None:
    candidate = Candidate("peer", "a peer", not_run={"pgbouncer": "no mode", "bulk": "no rows"})
    assert candidate.reason(route, "read") == ("no mode" if route == "pgbouncer" else "")
    assert candidate.reason("direct", "bulk") == "no rows"


def test_answers_are_known_beforehand() -> None:
    shop = Shop(rows=1000, tenants=10)
    assert shop.answer("read", 3).startswith("993,983,973,")
    assert shop.answer("page", 1).startswith("991:a41:c31,981:a31:c21,")
    assert shop.answer("report", 1) == "c1:25,c11:25,c21:25,c31:25"


def test_a_driver_is_measured_on_every_route(tmp_path: Path) -> None:
    result = run("driver_read", tmp_path)
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]
    for route in result["routes"].values():
        assert len(route) == 3
        for workload in route.values():
            assert len(workload) == 3
            first, *others = workload.values()
            assert first["ratio"]["median"] == 1
            assert all(other["microseconds"]["median"] > 0 for other in others)
    table = (tmp_path / "driver_read.md").read_text()
    assert "### server-side binding\n\n| Candidate | direct | pgbouncer | 1 ms |\n" in table
    assert table.count("| binding and RLS | ") == 3
    # The proxy holds back for as long as it says; with Nagle's algorithm it would be 40 ms.
    assert 1000 <= result["machine"]["round_trip_us"] < 20_000


def test_what_a_policy_costs_is_measured(tmp_path: Path) -> None:
    result = run("policy_cost", tmp_path)
    for route in result["routes"].values():
        assert list(route) == ["without a filter", "with a filter"]
        for workload in route.values():
            assert len(workload) == 7
    assert (tmp_path / "policy_cost.md").read_text().count("| binding, selected setting | ") == 2


@pytest.mark.parametrize(("name", "shape"), [("driver_read", "sealed"), ("blocks", "role")])
def test_the_other_shapes_are_measured_too(name: str, shape: str, tmp_path: Path) -> None:
    result = run(name, tmp_path, [*QUICK, "--shape", shape], f"{name}_{shape}")
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]


def test_requests_that_await_are_measured_with_few_connections_and_enough(tmp_path: Path) -> None:
    few, enough = run("slow_await", tmp_path, QUICK_BURST)["setups"]
    for setup, most in ((few, 2), (enough, 3)):
        assert list(setup["results"]) == ["stock", "tenantry", "native"]
        for result in setup["results"].values():
            assert result["errors"] == {}
            assert 0 < result["connections"] <= most
            assert 0 <= result["in_use"] <= result["most_in_use"] <= most
            assert all(rps > 0 for rps in result["rps"])
    table = (tmp_path / "slow_await.md").read_text()
    assert table.count("| tenantry, arows() | ") == 2


def test_servers_are_measured_under_load(tmp_path: Path) -> None:
    options = ["--clients", "3", "--connections", "2", "--seconds", "0.3", "--turns", "1"]
    options += ["--await-seconds", "0.02", "--warm-up", "0.3", "--rows", "400", "--tenants", "20"]
    names = ["stock", "tenantry", "arows"]
    result = run("load", tmp_path, [*options, "--candidates", ",".join(names)])
    assert list(result["workloads"]) == ["read", "slow", "events"]
    for candidates in result["workloads"].values():
        assert list(candidates) == names
        for figures in candidates.values():
            [each] = figures
            assert each["clients"] == 3
            assert each["errors"] == {}
            assert each["turns"] == [pytest.approx(each["rps"])]
            assert len(each["ratios"]) == 1
            assert each["rps"] > 0
            assert each["p99_ms"] >= each["p50_ms"] > 0
            assert 0 < each["connections"] <= 2
            assert 0 <= each["in_use"] <= each["most_in_use"] <= 2
            assert each["cpu_s_per_1000"] > 0
    assert result["not_run"] == {}
    for name, wire in result["wire"].items():
        bound = BINDING if name in ("tenantry", "arows") else 0
        for workload, reads in (("read", 1), ("slow", 2), ("events", 5)):
            assert wire[workload] == {"round_trips": reads, "statements": reads * (1 + bound)}
    assert "tenantry, arows()" in (tmp_path / "load.svg").read_text()
    table = (tmp_path / "load.md").read_text()
    assert "### a read, something slow, a read" in table
    assert f"| tenantry, arows() | 2 ({2 + 2 * BINDING}) | " in table
    assert "| MiB per 1,000 at once, taken from 3 |" in table


def test_turns_under_load_are_compared_with_the_floor_of_the_same_turn() -> None:
    floor = [Figures(20, rps=100), Figures(20, rps=0), Figures(20, rps=50)]
    ours = [
        Figures(20, rps=110, connections=2, memory_mib=3, errors={"late": 1}),
        Figures(20, rps=30, connections=1, memory_mib=5, errors={"late": 2}),
        Figures(20, rps=60, connections=1, memory_mib=4),
    ]
    found = merged(ours, floor)
    assert (found.clients, found.rps, found.connections, found.memory_mib) == (20, 60, 2, 5)
    assert (found.turns, found.ratios, found.ratio) == ([110, 30, 60], [1.1, 1.2], 1.15)
    assert found.errors == {"late": 3}


@pytest.mark.parametrize(
    ("status", "answered", "right"),
    [("200 OK", 3, True), ("200 OK", 4, False), ("500 Internal Server Error", 3, False)],
)
async def test_a_client_knows_a_wrong_answer(
    status: str, answered: int, right: bool, tmp_path: Path
) -> None:
    load = Load("read", clients=1, seconds=0, rows=400, tenants=20)
    assert load.answer(1).startswith("400,380,")
    assert load.answer(3).startswith("382,362,")

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = load.answer(answered)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_unix_server(respond, tmp_path / "server"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "server")
        with nullcontext() if right else pytest.raises(WrongAnswerError, match=status):
            await ask(reader, writer, load, 3)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("name", "options", "figures", "found"),
    [
        ("middleware_cost", [], "microseconds", ["sync", "async"]),
        ("compile_cost", ["--draws", "2"], "protected_models", ["6", "300"]),
    ],
)
def test_what_needs_no_server_is_measured(
    name: str, options: list[str], figures: str, found: list[str], tmp_path: Path
) -> None:
    result = run(name, tmp_path, ["--rounds", "2", *options])
    assert list(result[figures]) == found
    if name == "compile_cost":
        table = (tmp_path / "compile_cost.md").read_text()
        assert "| Candidate | 6 protected models | 300 protected models |" in table
        assert table.count("| tenantry, bound | ") == 2
        assert result["protected_models"]["6"]["simple"]["stock once more"]["ratio"]["median"] > 0


def test_growth_is_measured_in_every_dimension(tmp_path: Path) -> None:
    least = ["--rows", "10000", "--tenants", "10", "--concurrency", "10", "--rounds", "2"]
    result = run("growth", tmp_path, [*least, "--batch", "2", "--seconds", "0"])
    assert len(result["dimensions"]) == 9
    assert result["machine"]["shared_buffers"] == "2GB"
    plot = (tmp_path / "growth.svg").read_text()
    assert "by concurrent tasks" in plot
    assert "by skewed tenants, as the largest" in plot
    for dimension in result["dimensions"].values():
        assert len(dimension["exponents"]) == 2
        for size, outcome in dimension["steps"]:
            assert size > 0
            assert all(each["microseconds"]["median"] > 0 for each in outcome.values())
    table = (tmp_path / "growth.md").read_text()
    assert table.count("\n| exponent | ") == len(result["dimensions"])
