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
from typing import Any

import pytest

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.load_client import Load, WrongAnswerError, ask
from benchmarks.shop import Shop

WORKLOADS = {"read", "reads", "write", "atomic", "nested", "atomic_request"}
WORKLOADS |= {"page", "bulk", "raw", "report"}
# An admin that is a role needs PostgreSQL 16.
OLD = bool(os.environ.get("TENANTRY_PG_BINDIR"))
OURS = ["with_tenantry"] if OLD else ["with_tenantry", "with_tenantry_role"]
# A SELECT, and from PostgreSQL 18 on two SETs, ride along with each statement of tenantry's.
BINDING = 1 if OLD else 2
ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--rows", "400", "--tenants", "20", "--rounds", "2", "--batch", "2", "--seconds", "0"]


QUICK_BURST = ["--concurrency", "6", "--max-size", "2", "--await-seconds", "0.05", "--tenants"]
QUICK_BURST += ["20", "--rows", "400", "--enough", "3", "--rounds", "1"]


def run(name: str, output: Path, options: Sequence[str] = QUICK, written: str | None = None) -> Any:
    """Run a benchmark in the least that it can be, and return its file of results."""
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{name}.py", *options, "--output", output],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return json.loads((output / f"{written or name}.json").read_text())


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Return what was measured without peers, which take a network to install, and its folder."""
    folder = tmp_path_factory.mktemp("side_by_side")
    options = ["--own", "--rows", "2000", "--tenants", "10", "--rounds", "2", "--batch", "2"]
    options += ["--seconds", "0", "--workloads", "all", "--routes", "direct,pgbouncer,1 ms"]
    return run("side_by_side", folder, options), folder


def test_every_candidate_serves_every_workload_on_every_route(
    side_by_side: tuple[Any, Path],
) -> None:
    result, _ = side_by_side
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]
    for workloads in result["routes"].values():
        assert set(workloads) == WORKLOADS
        for outcomes in workloads.values():
            assert list(outcomes) == ["stock", "psycopg_alone", *OURS]
            assert outcomes["stock"]["p50_ratio"] == [1, 1, 1]
            assert outcomes["stock"]["p99_ratio"] == 1
            for outcome in outcomes.values():
                assert outcome["requests"] == 8
                assert 0 < outcome["p50_us"] <= outcome["p99_us"]
                assert outcome["cpu_s_per_1000"] > 0
    # The proxy holds back for as long as it says, once for each round trip.
    assert result["routes"]["1 ms"]["reads"]["psycopg_alone"]["p50_us"] > 5000


def test_statements_and_round_trips_are_counted_on_the_wire(
    side_by_side: tuple[Any, Path],
) -> None:
    result, _ = side_by_side
    for mode in ("direct", "pgbouncer"):
        counted = {
            workload: {
                name: (each["round_trips"], each["statements"]) for name, each in found.items()
            }
            for workload, found in result["wire"][mode].items()
        }
        # BEGIN rides along with the first statement.
        assert counted["read"] == {
            "stock": (1, 1),
            "psycopg_alone": (1, 1),
            **dict.fromkeys(OURS, (1, 1 + BINDING)),
        }
        assert counted["atomic"] == {
            "stock": (3, 3),
            "psycopg_alone": (1, 3),
            **dict.fromkeys(OURS, (2, 3 + BINDING)),
        }
        assert counted["nested"]["stock"] == (12, 12)
        assert {counted["nested"][name][0] for name in OURS} == {5}


def test_results_are_a_table_and_plots_too(side_by_side: tuple[Any, Path]) -> None:
    _, folder = side_by_side
    table = (folder / "side_by_side.md").read_text()
    assert f"| tenantry | 1 ({1 + BINDING}) |" in table
    assert "### Not run" not in table
    for route in ("direct", "pgbouncer", "1_ms"):
        plot = (folder / f"side_by_side_{route}.svg").read_text()
        assert "tenantry" in plot
        assert "stock Django" in plot


def test_a_candidate_that_cannot_run_is_named_with_the_reason(tmp_path: Path) -> None:
    options = ["--candidates", "stock,async_backend", "--rows", "1000", "--tenants", "10"]
    options += ["--rounds", "2", "--batch", "1", "--seconds", "0", "--workloads", "read"]
    result = run("side_by_side", tmp_path, [*options, "--routes", "direct"])
    reason = CANDIDATES["async_backend"].reason("direct", "read")
    assert result["candidates"]["async_backend"]["not_run"] == reason
    table = (tmp_path / "side_by_side.md").read_text()
    assert f"| django-async-backend | not run: {reason} |" in table


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


@pytest.mark.parametrize(
    ("name", "route", "rows", "reason"),
    [
        ("stock", "direct", "10", "every tenant needs 100 rows or more"),
        ("with_tenantry", "direct", "1000", "add it to --candidates"),
        ("stock", "carrier pigeon", "1000", "unknown: carrier pigeon; choose from direct"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    name: str, route: str, rows: str, reason: str, tmp_path: Path
) -> None:
    options = ["--candidates", name, "--routes", route, "--rows", rows, "--tenants", "10"]
    with pytest.raises(AssertionError, match=reason):
        run("side_by_side", tmp_path, options)


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
    # The proxy holds back for as long as it says, and not for much longer.
    assert 1000 <= result["machine"]["round_trip_us"] < 5000


@pytest.mark.parametrize("shape", ["role", "sealed"])
def test_the_other_shapes_are_measured_too(shape: str, tmp_path: Path) -> None:
    if OLD:
        return  # Its PostgreSQL is too old for them.
    result = run("driver_read", tmp_path, [*QUICK, "--shape", shape], f"driver_read_{shape}")
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]


def test_requests_that_await_are_measured_with_few_connections_and_enough(tmp_path: Path) -> None:
    few, enough = run("slow_await", tmp_path, QUICK_BURST)["setups"]
    for setup, connections in ((few, 2), (enough, 3)):
        assert list(setup["results"]) == ["stock", "tenantry", "native"]
        for result in setup["results"].values():
            assert result["errors"] == {}
            assert 0 < result["connections"] <= connections
            assert all(rps > 0 for rps in result["rps"])


def test_servers_are_measured_under_load(tmp_path: Path) -> None:
    options = ["--clients", "3", "--connections", "2", "--seconds", "0.3"]
    options += ["--await-seconds", "0.02", "--warm-up", "0.3", "--rows", "400", "--tenants", "20"]
    names = ["stock", "psycopg", "tenantry", "arows"]
    result = run("load", tmp_path, [*options, "--candidates", ",".join(names)])
    assert list(result["workloads"]) == ["read", "slow", "events"]
    for candidates in result["workloads"].values():
        assert list(candidates) == names
        for figures in candidates.values():
            [each] = figures
            assert each["clients"] == 3
            assert each["errors"] == {}
            assert each["rps"] > 0
            assert each["p99_ms"] >= each["p50_ms"] > 0
            assert 0 < each["connections"] <= 2
            assert each["cpu_s_per_1000"] > 0
    assert "tenantry, arows()" in (tmp_path / "load.svg").read_text()
    table = (tmp_path / "load.md").read_text()
    assert "### a read, something slow, a read" in table
    assert "| psycopg alone | " in table


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--candidates", "tenantry"], "let --candidates begin with it"),
        (["--candidates", "stock,them"], "unknown: them; choose from stock"),
        (["--rows", "10"], "every tenant needs 20 rows or more"),
        (["--clients", "0"], "at least one of each"),
    ],
)
def test_loads_that_make_no_sense_are_refused(
    option: list[str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=reason):
        run("load", tmp_path, option)


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


def test_the_cost_of_the_middleware_is_measured() -> None:
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "middleware_cost.py", "--rounds", "2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["sync", "async"]


def test_growth_is_measured_in_every_dimension(tmp_path: Path) -> None:
    least = ["--rows", "10000", "--tenants", "10", "--concurrency", "10", "--rounds", "2"]
    result = run("growth", tmp_path, [*least, "--batch", "2", "--seconds", "0"])
    assert len(result["dimensions"]) == 7
    assert "by concurrent tasks" in (tmp_path / "growth.svg").read_text()
    for dimension in result["dimensions"].values():
        assert len(dimension["exponents"]) == 2
        for size, outcome in dimension["steps"]:
            assert size > 0
            assert all(each["microseconds"]["median"] > 0 for each in outcome.values())
