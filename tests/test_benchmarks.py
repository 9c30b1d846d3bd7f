"""Benchmarks run, check what they read, and write down what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    ("name", "workloads", "candidates"),
    [("orm_read", 1, 3), ("transactions", 4, 2), ("driver_read", 3, 3)],
)
def test_a_benchmark_measures_every_candidate_on_every_route(
    name: str, workloads: int, candidates: int, tmp_path: Path
) -> None:
    result = run(name, tmp_path)
    assert list(result["routes"]) == ["direct", "pgbouncer", "1 ms"]
    for route in result["routes"].values():
        assert len(route) == workloads
        for workload in route.values():
            assert len(workload) == candidates
            first, *others = workload.values()
            assert first["ratio"]["median"] == 1
            assert all(other["microseconds"]["median"] > 0 for other in others)
    # The proxy holds back for as long as it says, and not for much longer.
    assert 1000 <= result["machine"]["round_trip_us"] < 5000


@pytest.mark.parametrize("shape", ["role", "sealed"])
def test_the_other_shapes_are_measured_too(shape: str, tmp_path: Path) -> None:
    if os.environ.get("TENANTRY_PG_BINDIR"):
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
    for dimension in result["dimensions"].values():
        assert len(dimension["exponents"]) == 2
        for size, outcome in dimension["steps"]:
            assert size > 0
            assert all(each["microseconds"]["median"] > 0 for each in outcome.values())
